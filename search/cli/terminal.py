"""What all commands share: the options they have in common, and how they speak."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from hwprofiles.errors import RequestError
from search.place import Place

if TYPE_CHECKING:
    from search.report import Report

# In a file or a pipe nothing cuts lines, so tables there are as wide as they need.
_width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
out, err = Console(width=_width), Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Runs = Annotated[
    Path | None, typer.Option("--runs", help="Folder of runs (env: PRUNEFRONT_RUNS; default: runs).")
]

FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
"""What shells expect of a program that Ctrl-C ended, or that was told to end (SIGTERM)."""


class Terminated(KeyboardInterrupt):
    """Whoever runs this process, such as a batch system, tells it to end: it ends as by Ctrl-C."""


def exit_code(stop: KeyboardInterrupt) -> int:
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` in the main thread, the only one that may decide on signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def runs_folder(runs: Path | None) -> Path:
    from search.settings import Settings

    return runs or Settings().runs


def devices_folder(runs: Path | None) -> Path:
    return Place(runs_folder(runs), "").devices


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"the folder of runs {folder} cannot be made: {error.strerror}; choose another with --runs"
        ) from None


def say(console: Console, line: str) -> None:
    """Print a line as it is: paths are not cut, coloured or taken for markup."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2))


def print_networks(report: Report) -> None:
    """What a run prints at its end, and what speaks against it."""
    from search import tables

    out.print(tables.networks(report))
    if report.doubt:
        say(out, f"warning: {report.doubt}")


def fail(sentence: str, code: int) -> None:
    say(err, f"error: {sentence}")
    sys.exit(code)
