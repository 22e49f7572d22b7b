"""Functions that a job names are found beside it, and two jobs do not get each other's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwprofiles.errors import RequestError
from trials.factory import find_factory


def test_a_module_beside_the_job_is_found_and_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_7.py").write_text("ANSWER = 42\n")
    (tmp_path / "factory_7.py").write_text("from neighbour_7 import ANSWER\ndef make(): return ANSWER\n")
    path = list(sys.path)
    assert find_factory("factory_7:make", tmp_path, "[model] factory")() == 42
    assert sys.path == path


def test_two_jobs_may_each_have_a_module_of_one_name(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "namesake_7.py").write_text(f"def make(): return {name!r}\n")
    found = [
        find_factory("namesake_7:make", tmp_path / name, "key")() for name in ("first", "second", "first")
    ]
    assert found == ["first", "second", "first"]


def test_an_installed_module_is_found(tmp_path: Path) -> None:
    assert find_factory("json:dumps", tmp_path, "key")([1]) == "[1]"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json", 'must read "module:function"'),
        ("no_such_module_7:make", "ModuleNotFoundError"),
        ("json:dump_s", "did you mean 'dumps'"),
        ("broken_7:make", "ZeroDivisionError"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_sentence(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken_7.py").write_text("1 / 0\n")
    with pytest.raises(RequestError, match=message):
        find_factory(name, tmp_path, "[model] factory")
