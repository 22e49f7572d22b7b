"""What is a place of this machine, and what only looks like one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.service.places import from_runs, hidden

RUNS = Path("/srv/lab/my runs")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/srv/lab/my runs/mine/export is in /srv/lab/my runs", "mine/export is in my runs"),
        ("/tmp//secret///file, /tmp and /tmp/", "file, tmp and tmp/"),
        ("'/home/some lab/secret/a file.npz' and '/tmp/x'", "'a file.npz' and 'x'"),
        ("file:///home/x/y, at=/home/x/y; /homely/x", "file://y, at=y; /homely/x"),
        *[
            (none, none)
            for none in ("s3://bucket/tmp/x of http://lab/home/x", "3/4 of ../tmp/x, and/or tmp/x")
        ],
    ],
)
def test_a_place_is_named_from_the_folder_of_runs_on_or_by_its_last_name(text: str, told: str) -> None:
    assert hidden(text, RUNS) == told


@pytest.mark.parametrize("space", ["\n", "\t", "\r"])
def test_a_place_behind_a_space_is_found_in_json_too(space: str) -> None:
    told = hidden(json.dumps(f"at{space}/tmp/secret/x and{space}{RUNS}/mine"), RUNS)
    assert json.loads(told) == f"at{space}x and{space}mine"


def test_what_ends_as_the_folder_of_runs_does_is_another() -> None:
    others = "/mnt/runs/mine, s3://bucket/runs/mine, /runs-old/mine, "
    assert from_runs(f"{others}in /runs and /runs/mine", Path("/runs")) == f"{others}in runs and mine"
