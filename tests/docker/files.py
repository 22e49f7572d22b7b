"""What lies in `docker/`, as data."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dockerfile_parse import DockerfileParser

from trials.cluster import LOCAL_RAY, QUIET_RAY

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))


@dataclass(frozen=True)
class Instruction:
    name: str
    value: str


def instructions(dockerfile: Path) -> list[Instruction]:
    """Of all stages, in order, comments left out."""
    parser = DockerfileParser(str(dockerfile), cache_content=True)
    return [
        Instruction(each["instruction"], each["value"])
        for each in parser.structure
        if each["instruction"] != "COMMENT"
    ]


def last(dockerfile: Path, name: str) -> str:
    """The value of the last instruction of that name: the one that holds."""
    return [each.value for each in instructions(dockerfile) if each.name == name][-1]


def exec_form(value: str) -> list[str]:
    """The words of a command that is started without a shell, after what precedes it."""
    words: list[str] = json.loads(value[value.index("[") :])
    return words


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def manifests() -> dict[str, dict[str, Any]]:
    """By their kinds, each of which there is one of."""
    return {each["kind"]: each for each in yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())}


def schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "schemas" / name).read_text())
    return found


def ray_commands() -> dict[str, Any]:
    """The commands of Ray, by name.

    Ray reads its environment when it is imported; here it gets that of a pool on this machine, which another
    test of this process may open.
    """
    for name, value in (QUIET_RAY | LOCAL_RAY).items():
        os.environ.setdefault(name, value)
    import ray.scripts.scripts

    commands: dict[str, Any] = ray.scripts.scripts.cli.commands
    return commands
