"""What the documents say is there: commands, files, links, and the example of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from search.cli import app
from search.job import Job
from search.settings import Settings
from trials.bundle import export_model
from trials.factory import call_factory
from trials.groups import analyse

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")],
)
README = (ROOT / "README.md").read_text()
EACH_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=[str(p.relative_to(ROOT)) for p in DOCUMENTS])


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return str(block)


@EACH_DOCUMENT
def test_every_command_exists_with_its_options(path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"prunefront ([a-z]+\b[^\n`]*)", _commands(path.read_text())):
        name, *words = line.split()
        assert name in commands
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


def _commands(text: str) -> str:
    """What is set as code: blocks indented by four, and words between backticks."""
    return "\n".join([*re.findall(r"^ {4}(.+)$", text, re.MULTILINE), *re.findall(r"`([^`\n]+)`", text)])


@EACH_DOCUMENT
def test_every_make_target_and_benchmark_exists(path: Path) -> None:
    code = _commands(path.read_text())
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(targets)
    for module in re.findall(r"-m (benchmarks\.\w+)", code):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists(), module


@EACH_DOCUMENT
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_of_ours_that_is_named_exists(name: str) -> None:
    ours = r"`((?:hwprofiles|latency_models|trials|search|tests|benchmarks|docs|examples)/[\w./-]*)`"
    named = re.findall(ours, (ROOT / name).read_text())
    assert [file for file in named if not (ROOT / file).exists()] == []


@EACH_DOCUMENT
def test_no_document_names_a_package_index_or_a_path_of_one_machine(path: Path) -> None:
    assert not re.search(r"pypi|index-url|/(home|work|tmp|opt|root|Users)/", path.read_text())


def test_the_own_model_of_the_readme_is_a_job_with_groups_to_prune(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(_block("python"))
    (tmp_path / "job.toml").write_text(_block("toml"))
    for named in ("weights.safetensors", "train.npz", "validation.npz", "test.npz"):
        (tmp_path / named).touch()
    job = Job.load(tmp_path / "job.toml")
    model = call_factory(job.model.factory, tmp_path, "model.factory", job.model.args)
    coupling = analyse(export_model(model, job.model.input_specs).graph)
    assert [group.size for group in coupling.groups] == [64, 64]


def test_every_environment_variable_is_in_the_readme() -> None:
    told = re.findall(r"^\| `PRUNEFRONT_(\w+)`", README, re.MULTILINE)
    assert sorted(told) == sorted(name.upper() for name in Settings.model_fields)
