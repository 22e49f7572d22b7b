"""A job of the service that the command line works on."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

from search.job import Job
from search.place import Place
from search.service.supervisor import CONTROLLER, DONE
from tests.commands import Prunefront, refused
from trials.leases import Leases
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.steering import Verb
from trials.store import Store


def test_the_process_of_a_job_that_the_command_line_works_on_waits_and_is_steered(
    planned_runs: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(planned_runs, tmp_path / "runs"))
    with Store.open(Place(runs, "").store) as store, Place(runs, "small").lock():
        jobs = ServiceJobs(store)
        jobs.adopt("small", "ann")
        lease = Leases(store).take("test")
        assert lease
        arguments = [str(runs), "small", lease.holder, str(lease.fence)]
        process = subprocess.Popen([sys.executable, "-m", CONTROLLER, *arguments])
        while not jobs.get("small").progress.get("stage", "").startswith("waiting for another process"):
            assert process.poll() is None
            time.sleep(0.05)
        jobs.steer("small", Verb.CANCEL)
        assert process.wait() == DONE
        assert (store.job("small").state, jobs.get("small").deaths) == (JobState.CANCELLED, 0)


def test_a_job_of_the_service_that_the_command_line_cannot_run_has_failed_for_that_reason(
    tmp_path: Path, prunefront: Prunefront
) -> None:
    (tmp_path / "model.py").write_text('def broken():\n    raise ValueError("no weights here")\n')
    (tmp_path / "job.toml").write_text(
        '[model]\nfactory = "model:broken"\ninput = { shape = [1, 8, 8] }\n'
        '[data]\nsource = "digits"\n[budget]\nmacs = "50%"\n'
    )
    place = Place(tmp_path / "runs", "asked")
    place.runs.mkdir()
    with Store.open(place.store) as store:
        jobs = ServiceJobs(store)
        jobs.submit("ann", place.job, Job.load(tmp_path / "job.toml").to_json(), "")
        refused(prunefront("resume", place.job, "--runs", place.runs), "no weights here")
        assert jobs.get(place.job).record.state is JobState.FAILED
        assert "no weights here" in store.events(place.job)[-1].message
