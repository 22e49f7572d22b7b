"""What a job leaves for its user: trials as folders to deploy, its report, and pictures of its fronts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwprofiles.errors import RequestError
from search.export import write_export
from search.exported import export_config
from search.finalists import choose_winner
from search.job import Job
from search.on_device import OnDevice
from search.page import draw_front, render_html
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Listener, Silent
from search.report import Report
from search.results import EXPORTED, results
from search.summary import make_report, report_on
from trials.bundle import read_bundle
from trials.store import Store


def export_winner(prepared: Prepared, store: Store, listener: Listener) -> None:
    """Write the winner to the run's export folder, and note which trial it is."""
    number = choose_winner(prepared, store)
    if number is None:
        listener.note("no finalist could be trained and measured, so nothing is exported")
        return
    listener.update(0.0, f"converting and checking trial {number}")
    folder = export_trial(prepared, store, number, prepared.place.export, replace=True)
    if number not in results(store, prepared.job.name, EXPORTED):
        store.add_result(prepared.job.name, number, EXPORTED, {"folder": str(folder)})


def export_trial(prepared: Prepared, store: Store, number: int, folder: Path, *, replace: bool) -> Path:
    """Write one finalist as a folder to deploy, with the report of its job.

    Args:
        replace: whether an export that stands at `folder` may go, as in the folder of the run it may: there
            it is of this job, by an older recipe or an older version.

    Raises:
        RequestError: something else stands at `folder`.
    """
    bundle = read_bundle(prepared.place.finalist(number))
    write_export(folder, bundle=bundle, config=export_config(prepared, store, number), replace=replace)
    (folder / "report.html").write_text(render_html(make_report(prepared, store)), encoding="utf-8")
    return folder


def write_report(prepared: Prepared, store: Store) -> Report:
    """Write the report as page, picture and JSON; returns what is in them."""
    report, place = make_report(prepared, store), prepared.place
    page = render_html(report)
    place.report.write_text(page, encoding="utf-8")
    if place.export.is_dir():
        (place.export / "report.html").write_text(page, encoding="utf-8")
    place.report_json.write_text(json.dumps(report.to_json()), encoding="utf-8")
    draw(report, place.folder, "front")
    for other in report.others:
        draw(other, place.folder, f"front-{other.device.name}")
    return report


def draw(report: Report, folder: Path, stem: str) -> None:
    """Write the picture of the front, for a page and for a slide."""
    for suffix in ("svg", "png"):
        draw_front(report, folder / f"{stem}.{suffix}")


def rescore(prepared: Prepared, store: Store, on: OnDevice) -> Report:
    """What trials and finalists are predicted to take on any device: as a picture and as JSON."""
    report, folder, stem = report_on(prepared, store, on), prepared.place.folder, f"front-{on.device.name}"
    (folder / f"{stem}.json").write_text(json.dumps(report.to_json()), encoding="utf-8")
    draw(report, folder, stem)
    return report


def finished_report(job: Job, place: Place, plan: Mapping[str, Any], store: Store) -> Report:
    """The report of a job that is done, as it was written; needs neither its data nor its device again."""
    try:
        written = json.loads(place.report_json.read_text(encoding="utf-8"))
        if isinstance(written, dict):
            return Report.from_json(written)
    except (OSError, ValueError, RecursionError, RequestError):  # lost, damaged or of an older version
        pass
    return write_report(prepare(job, place, plan, Silent()), store)
