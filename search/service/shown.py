"""Jobs as the service tells of them."""

from __future__ import annotations

from typing import Any

from search.job import Budget, DeviceChoice
from search.status import jobs_of
from search.wording import budget_text
from trials.service_jobs import ServiceJob

TOLD = ("stage", "share", "text", "stage_begun_s")
"""Of a job's progress: not where its process is."""


def job_shown(job: ServiceJob, finished: int | None) -> dict[str, Any]:
    """A job as the service tells of it; without the number of its trials where that is not asked for."""
    spec, record = job.record.spec, job.record
    models = spec.get("models", ())
    budget = Budget.checked(spec["budget"], f"the stored job {record.name!r}")
    devices = [DeviceChoice.checked(each, f"the stored job {record.name!r}") for each in spec["devices"]]
    return {
        "name": record.name,
        "owner": job.owner,
        "state": str(record.state),
        "wish": str(job.wish),
        "exports": list(job.exports),
        "reason": job.reason,
        "at_work": job.is_held,
        "copy_outstanding": job.is_to_be_copied,
        "has_front": bool(record.plan) and not models,
        "created_s": record.created_s,
        "worked_s": round(job.worked_s, 1),
        "budget": budget_text(budget, devices),
        "devices": [device.name for device in devices],
        "controller": spec["search"]["controller"],
        "planned": spec["search"]["trials"] * max(1, len(models)),
        "models": jobs_of(record),
        "progress": {key: job.progress[key] for key in TOLD if key in job.progress},
        **({} if finished is None else {"finished": finished}),
    }
