"""What the store says of a job is had without torch, so that looking costs no waiting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from search.place import Place
from search.status import job_facts
from trials.records import JobState
from trials.store import Store


def test_a_planned_job_has_done_nothing_yet(planned_store: Store, tmp_path: Path) -> None:
    facts = job_facts(planned_store, Place(tmp_path, "small"))
    assert (facts["trials"], facts["failed"], facts["planned"], facts["best"]) == (0, 0, 12, None)


def test_a_job_is_at_work_as_long_as_a_process_holds_it_and_stopped_once_that_is_gone(
    planned_store: Store, tmp_path: Path
) -> None:
    place = Place(tmp_path, "small")
    planned_store.set_job_state("small", JobState.SEARCHING)
    assert job_facts(planned_store, place)["state"] == "stopped"  # its folder is gone, too
    with place.lock():
        assert job_facts(planned_store, place)["state"] == "searching"
    assert job_facts(planned_store, place)["state"] == "stopped"
    planned_store.set_job_state("small", JobState.INTERRUPTED)
    assert job_facts(planned_store, place)["state"] == "interrupted"


def test_looking_at_the_store_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, search.cli, search.status; print({'torch', 'ray', 'onnxruntime'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
