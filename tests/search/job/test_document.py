"""docs/job.md: its jobs load, and its tables have every key with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from search.job import Job
from tests.search.job.conftest import JOB, TABLES, job_with, load, text_of

DOCUMENT = Path(__file__).parents[3] / "docs" / "job.md"


DEFAULTED = ("devices", "search", "finetune", "sparsity", "regularise")
"""The tables that may be left out."""


def documented_jobs() -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)


def documented_keys() -> list[tuple[str, str, str, str]]:
    """Every row of the tables: the name of the job's table, the key, its default, its example."""
    rows, table = [], ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            table = re.sub("[^a-z]", "", line) if "`" in line else ""
        if row := re.fullmatch(r"\| `(\w+)` \|.*\| (.*?) ?\| `([^|]+)` \|", line):
            rows.append((table, row[1], row[2].strip("` "), row[3]))
    return rows


@pytest.mark.parametrize("text", documented_jobs())
def test_the_documented_jobs_load(folder: Path, text: str) -> None:
    assert load(folder, text).budget.asked


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    schema = Job.model_json_schema()
    keys = [key for table in (schema, *schema["$defs"].values()) for key in table["properties"]]
    documented = [key for _, key, *_ in documented_keys()]
    tables = {table for table, *_ in documented_keys()} - {""}
    # Sorted and not made a set: each of the keys called `name` needs a row of its own.
    assert sorted([*documented, *tables, "folder"]) == sorted(keys)


@pytest.mark.parametrize(("table", "key", "default", "example"), documented_keys())
def test_the_example_of_every_key_loads(
    folder: Path, table: str, key: str, default: str, example: str
) -> None:
    assert re.search(rf"\b{key} =", example)
    rivals = {
        ("model", "bundle"): ["factory", "checkpoint", "input"],
        ("model", "inputs"): ["input"],
        ("data", "source"): ["train"],
        ("budget", key): ["latency"],
    }
    if not table:
        text = f"{example}\n{JOB}"
    elif table == "devices":
        name = "" if key == "name" else 'name = "second"\n'
        text = f"{JOB}\n[[devices]]\n[[devices]]\n{name}{example}"
    elif table == "data" and key in ("factory", "args"):
        data = 'source = "factory"\n' + ("" if key == "factory" else 'factory = "data:splits"\n')
        text = text_of(TABLES | {"data": data + example})
    else:
        text = job_with(table, example, *rivals.get((table, key), []))
    load(folder, text)


@pytest.mark.parametrize(
    ("table", "key", "default"),
    [(table, key, default) for table, key, default, _ in documented_keys() if table in DEFAULTED],
)
def test_the_documented_defaults_are_the_real_ones(folder: Path, table: str, key: str, default: str) -> None:
    job = load(folder, JOB)
    real = getattr(job.device if table == "devices" else getattr(job, table), key)
    written = tomllib.loads(f"default = {default}")["default"]
    assert (list(real) if isinstance(real, tuple) else real) == written
