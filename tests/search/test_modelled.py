"""A job on a device whose latencies are modelled: wherever a user reads one, it is not called measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.commands import Prunefront, finish, start

pytestmark = pytest.mark.slow

DEVICE = """
[[devices]]
name = "npu"
runtime = "synthetic"
"""


@pytest.fixture(scope="module")
def modelled_job(small_job: Path) -> Path:
    job = small_job.with_name("modelled.toml")
    text = small_job.read_text().replace('"50%", "75%"', '"75%"')
    job.write_text(text.replace("trials = 12", "trials = 2") + DEVICE)
    return job


@pytest.fixture(scope="module")
def modelled_run(modelled_job: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run, to its end, with what the command line said at that."""
    runs = tmp_path_factory.mktemp("modelled")
    ended = finish(start("run", modelled_job, "--runs", runs))
    assert ended.code == 0, ended.err
    (runs / "small" / "said.txt").write_text(ended.out)
    return runs / "small"


def says_modelled(text: str) -> bool:
    return "modelled" in text and "measured" not in text


def test_a_run_and_its_trials_are_told_as_modelled(modelled_run: Path, prunefront: Prunefront) -> None:
    report = json.loads((modelled_run / "report.json").read_text())
    [number] = [row["trial"] for row in report["rows"] if row["exported"]]
    assert report["modelled"]
    assert says_modelled((modelled_run / "said.txt").read_text())
    for arguments in (
        ["pareto", modelled_run],
        ["show", modelled_run, "--trial", str(number)],
        ["export", modelled_run, "--trial", str(number)],
    ):
        assert says_modelled(prunefront(*arguments).out), arguments[0]


@pytest.mark.parametrize("name", ["report.html", "front.svg"])
def test_the_page_and_the_picture_are_told_as_modelled(modelled_run: Path, name: str) -> None:
    marked_up = (modelled_run / name).read_text()
    assert says_modelled(re.sub(r"<style.*?</style>|<[^>]*>", " ", marked_up, flags=re.DOTALL))


def test_candidates_and_tables_are_told_as_modelled(
    modelled_run: Path, modelled_job: Path, tmp_path: Path, prunefront: Prunefront
) -> None:
    table, picture, widths = (
        modelled_run / "profile.parquet",
        tmp_path / "stairs.svg",
        tmp_path / "widths.json",
    )
    widths.write_text('[{"stem.0": 16}]')
    for arguments in (
        ["trial", modelled_job, "--widths", widths, "--measure", "--runs", modelled_run.parent],
        ["predict", modelled_job, "--device", table, "--widths", widths, "--measure"],
        ["lut", "show", table],
        ["lut", "show", table, "--operator", "2", "--svg", picture],
    ):
        assert says_modelled(prunefront(*arguments).out), arguments[0]
        if "--svg" not in arguments:
            assert '"modelled": true' in prunefront(*arguments, "--json").out
    assert says_modelled(picture.read_text())
