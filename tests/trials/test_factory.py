"""Functions that a job names are found beside it, and two jobs do not get each other's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hwprofiles.errors import RequestError
from trials.factory import call_factory, find_factory


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
        ("models/resnet.py:make", 'names a module, not a file: "models.resnet:make"'),
        ("./model.py:make", 'names a module, not a file: "model:make"'),
        ("no_such_module_7:make", "ModuleNotFoundError"),
        ("json:dump_s", "did you mean 'dumps'"),
        ("broken_7:make", "ZeroDivisionError"),
        ("leaving_7:make", "SystemExit: 3"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_sentence(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken_7.py").write_text("1 / 0\n")
    (tmp_path / "leaving_7.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(RequestError, match=message):
        find_factory(name, tmp_path, "[model] factory")


def test_a_call_may_import_its_neighbours_late(tmp_path: Path) -> None:
    (tmp_path / "late_7.py").write_text("ANSWER = 42\n")
    (tmp_path / "caller_7.py").write_text(
        "def make(plus):\n    from late_7 import ANSWER\n    return ANSWER + plus\n"
    )
    assert call_factory("caller_7:make", tmp_path, "key", {"plus": 1}) == 43


def test_a_call_that_fails_quotes_the_arguments_and_the_error() -> None:
    with pytest.raises(RequestError, match=r"json:loads\(s='\{'\) failed with JSONDecodeError"):
        call_factory("json:loads", Path(), "[model] factory", {"s": "{"})


def test_a_call_that_leaves_the_process_is_a_call_that_fails(tmp_path: Path) -> None:
    (tmp_path / "exit_7.py").write_text("import sys\ndef make(): sys.exit('no weights\\n  here')\n")
    with pytest.raises(RequestError, match=r"exit_7:make\(\) failed with SystemExit: no weights here$"):
        call_factory("exit_7:make", tmp_path, "model.factory", {})
