"""The images, as far as they can be looked at where no Docker engine runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from search.cli import app
from tests.docker.files import DOCKERFILES, FOLDER, ROOT, exec_form, instructions, last, ray_commands

every_image = pytest.mark.parametrize("image", DOCKERFILES, ids=lambda path: path.stem)
BIN = Path(sys.executable).parent


def test_hadolint_has_nothing_to_say_of_them() -> None:
    assert len(DOCKERFILES) == 3
    ran = subprocess.run([BIN / "hadolint", *DOCKERFILES], capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("", 0)


@every_image
def test_every_base_is_of_a_version(image: Path) -> None:
    said = [each.value.partition(" AS ")[0] for each in instructions(image) if each.name == "FROM"]
    by_default = dict(
        each.value.split("=") for each in instructions(image) if each.name == "ARG" and "=" in each.value
    )
    bases = [by_default["BASE"] if base == "${BASE}" else base for base in said]
    assert len(bases) == 2  # one to build in, and one that is kept
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", base) for base in bases)


@every_image
def test_what_runs_in_it_is_nobody_of_importance(image: Path) -> None:
    names = [each.name for each in instructions(image)]
    assert last(image, "USER") == "10001"
    assert not {"RUN", "COPY"} & set(names[names.index("USER") :])


@every_image
def test_it_says_what_is_installed_and_leaves_to_pip_from_where(image: Path) -> None:
    runs = "\n".join(each.value for each in instructions(image) if each.name == "RUN")
    assert not re.search(r"://|--(extra-)?index-url|--find-links", runs)
    assert "--constraint requirements.lock" in runs


@pytest.mark.parametrize("name", ["service", "worker"])
def test_it_asks_for_the_locked_torch_before_anything_else_of_the_lock(name: str) -> None:
    pips = [each.value for each in instructions(FOLDER / f"{name}.Dockerfile") if "bin/pip" in each.value]
    (torch,) = re.findall(r"^torch==\S+$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert pips[0] == f"/opt/prunefront/bin/pip install --no-cache-dir {torch}"


def test_nodes_of_a_cluster_have_the_same_python() -> None:
    """Ray joins no others; the agent is of no cluster."""
    asked = {
        name: set(re.findall(r"python3\.12(?:-venv)?=(\S+)", (FOLDER / f"{name}.Dockerfile").read_text()))
        for name in ("service", "worker")
    }
    assert asked["service"] == asked["worker"] == {"3.12.3-*"}


def test_whatever_is_copied_is_there_and_nothing_else_is_sent_to_be_built() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert lines[0] == "*"
    assert [name for name in sent if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {"pyproject.toml", "requirements.lock", project["project"]["readme"], "LICENSE", *wheel}
    copied = {
        each.value.split()[0]
        for image in DOCKERFILES
        for each in instructions(image)
        if each.name == "COPY" and "--from" not in each.value
    }
    assert sent == needed | (copied - {"."})


@every_image
def test_what_it_starts_and_links_is_what_the_stage_before_it_installs(image: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    linked = re.findall(r"/opt/prunefront/bin/(\w+)", last(image, "RUN"))
    assert set(linked) <= {*scripts, "ray"}
    first, *_ = exec_form(last(image, "ENTRYPOINT"))
    assert first in {*linked, "serve", "sh"}
    assert all((BIN / name).exists() for name in linked)


def test_the_agent_image_starts_an_agent() -> None:
    program, command, *rest = exec_form(last(FOLDER / "agent.Dockerfile", "ENTRYPOINT"))
    assert program == "prunefront"
    parsed = (
        typer.main.get_command(app)
        .commands[command]
        .make_context(command, [*rest, "--server", "https://lab.example", "--token", "secret"])
    )
    assert parsed.params["server"] == "https://lab.example"


def test_the_worker_image_starts_a_node_that_stays() -> None:
    shell, flag, script, name = exec_form(last(FOLDER / "worker.Dockerfile", "ENTRYPOINT"))
    ran = subprocess.run(
        [
            shutil.which(shell) or shell,
            flag,
            script.replace("exec ray", "printf '%s\n'"),
            name,
            "--num-cpus=2",
        ],
        env={"PRUNEFRONT_RAY_ADDRESS": "head:6379"},
        capture_output=True,
        text=True,
        check=True,
    )
    start, *words = ran.stdout.splitlines()
    parsed = ray_commands()[start].make_context(start, words)
    assert (parsed.params["address"], parsed.params["block"]) == ("head:6379", True)
    assert parsed.params["num_cpus"] == 2


def test_the_service_image_takes_the_arguments_of_serve() -> None:
    assert exec_form(last(FOLDER / "service.Dockerfile", "ENTRYPOINT")) == ["serve"]
    ran = subprocess.run(
        [FOLDER / "serve", "--jobs", "2", "--help"],
        env={"PATH": f"{BIN}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "prunefront serve [OPTIONS]" in ran.stdout
