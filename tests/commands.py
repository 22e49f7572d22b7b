"""The command line for tests: run in this process, or as one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search import cli


@dataclass(frozen=True)
class Ran:
    """How a command ended: its exit code, and what it printed."""

    code: int
    out: str
    err: str


Prunefront = Callable[..., Ran]


@pytest.fixture
def prunefront(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Prunefront:
    """Run the command line in this process."""

    def run(*arguments: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["prunefront", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return run


def written_json(ran: Ran) -> Any:
    """What a command wrote, which must be JSON and nothing else."""
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def refused(ran: Ran, sentence: str) -> None:
    """Whoever asked can act: exit code 2 and one line of which the sentence is part."""
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran
    assert sentence in ran.err


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command line as a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "search.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "200"},
    )


def finish(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=240)
    return Ran(process.returncode, out, err)
