"""What is installed: our four packages are ours alone, and the wheel carries all that they read."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hwprofiles", "latency_models", "trials", "search")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]


def _plain(name: str) -> str:
    """A distribution's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_other_distribution_provides_a_package_of_our_names() -> None:
    # An editable install provides no package by name; a wheel provides all four.
    providers = packages_distributions()
    assert {owner for name in PACKAGES for owner in providers.get(name, [])} <= {"prunefront"}


def test_a_built_wheel_holds_the_packages_with_their_types_templates_and_migrations(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("prunefront-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= held
    assert {"trials/py.typed", "search/templates/report.html", "trials/migrations/env.py"} <= held
    assert {Path(name).parts[0] for name in held if ".dist-info" not in name} == set(PACKAGES)


def test_the_lock_names_every_dependency_by_exact_version_and_no_place_to_get_it() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line) for line in LOCKED)
    project = PYPROJECT["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    needed += PYPROJECT["build-system"]["requires"]
    locked = {_plain(line.partition("==")[0]) for line in LOCKED}
    assert {_plain(re.split(r"[\[<>=]", text)[0]) for text in needed} <= locked


def test_the_makefile_asks_for_the_torch_that_is_locked() -> None:
    (torch,) = (line for line in LOCKED if line.startswith("torch=="))
    assert torch in PYPROJECT["project"]["dependencies"]
    assert f"pip install --quiet --disable-pip-version-check {torch}\n" in (ROOT / "Makefile").read_text()


SCRIPTS = sorted(path for folder in ("examples", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[str(path.relative_to(ROOT)) for path in SCRIPTS])
def test_what_examples_and_benchmarks_import_of_ours_is_there(path: Path) -> None:
    """By reading, as some of what they import brings Ray, whose settings count from its import on."""
    for node in ast.walk(ast.parse(path.read_text())):
        module = str(node.module) if isinstance(node, ast.ImportFrom) else ""
        if isinstance(node, ast.ImportFrom) and module.split(".")[0] in (*PACKAGES, "benchmarks"):
            wanted = {alias.name for alias in node.names if not _is_module(f"{module}.{alias.name}")}
            assert wanted <= _names(module), module


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # what should hold it is no package
        return False


def _names(module: str) -> set[str]:
    """What a module defines or imports."""
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    found = set()
    for node in ast.walk(ast.parse(Path(spec.origin).read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found
