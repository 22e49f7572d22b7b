"""A short job file, and what becomes of it with other lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.errors import RequestError
from search.job import Job

TABLES = {
    "model": """
factory = "model:resnet"
checkpoint = "resnet.safetensors"
input = { shape = [3, 32, 32] }""",
    "data": """
source = "parquet"
train = "train.parquet"
""",
    "budget": """
latency = "50%"
""",
}


def text_of(tables: dict[str, str]) -> str:
    return "\n".join(f"[{name}]\n{body}" for name, body in tables.items())


JOB = text_of(TABLES)


def job_with(table: str, line: str, *without: str) -> str:
    """The short job with one line more in a table, in place of the lines with the same key or those named."""
    dropped = {line.partition(" = ")[0], *without}
    kept = [old for old in TABLES.get(table, "").splitlines() if old.partition(" = ")[0] not in dropped]
    return text_of(TABLES | {table: "\n".join([*kept, line])})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that holds every file that the examples name."""
    folder = tmp_path / "cifar"
    folder.mkdir()
    for name in ("resnet.safetensors", "encoder.pt", "resnet.bundle", "train.parquet", "test.parquet"):
        (folder / name).touch()
    return folder


def load(folder: Path, text: str, name: str = "job.toml") -> Job:
    (folder / name).write_text(text, encoding="utf-8")
    return Job.load(folder / name)


def refusal(folder: Path, text: str) -> str:
    """The sentence about a job file, after the file's own name."""
    with pytest.raises(RequestError) as refused:
        load(folder, text)
    where, _, sentence = str(refused.value).partition(": ")
    assert where == str(folder / "job.toml")
    return sentence
