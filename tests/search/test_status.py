"""What the store says of a job is had without torch, so that looking costs no waiting."""

from __future__ import annotations

import subprocess
import sys

from search.status import job_facts
from trials.store import Store


def test_a_planned_job_has_done_nothing_yet(planned_store: Store) -> None:
    facts = job_facts(planned_store, "small")
    assert (facts["trials"], facts["failed"], facts["planned"], facts["best"]) == (0, 0, 12, None)


def test_looking_at_the_store_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, search.cli, search.status; print({'torch', 'ray', 'onnxruntime'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
