"""`prunefront serve` as a process, and a database for it, as benchmarks of the service need them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.postgres import postgres

DATABASES = ("sqlite", "postgresql")
END_S = 40


@dataclass(frozen=True)
class Started:
    """A service that runs: its address, the token of an admin, and its process."""

    address: str
    token: str
    process: subprocess.Popen[str]

    @property
    def cpu_s(self) -> float:
        """Seconds of a core that the process has used."""
        return used_s(self.process.pid)


@contextmanager
def database(kind: str, runs: Path) -> Iterator[str]:
    """The URL of a database of that kind: a file in a folder of runs, or a server of our own."""
    if kind == "sqlite":
        yield f"sqlite:///{runs / 'prunefront.db'}"
    else:
        with postgres() as url:
            yield url


@contextmanager
def started(runs: Path, url: str, *, jobs: int) -> Iterator[Started]:
    """Start the service on a free port; it is ended as an operator would end it."""
    command = [sys.executable, "-m", "search.cli", "serve", "--runs", str(runs), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--jobs", str(jobs), "--new-token"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PRUNEFRONT_DATABASE": url},
    )  # fmt: skip
    try:
        assert process.stdout
        address, token = (process.stdout.readline().split()[1] for _ in range(2))
        yield Started(address, token, process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=END_S)


def used_s(pid: int) -> float:
    """Seconds of a core that a process has used, as Linux counts them."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
