"""What the documents say is there: commands, files, links, and the example of the README."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.core import TyperGroup

from search.cli import app
from search.job import Job
from search.settings import Settings
from trials.data import load
from trials.export import export_model
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
    everything = typer.main.get_command(app)
    assert isinstance(everything, TyperGroup)
    commands = everything.commands
    for line in re.findall(r"prunefront ([a-z]+\b[^\n`]*)", _commands(path.read_text())):
        name, *words = line.split()
        assert name in commands
        command = commands[name]
        if isinstance(command, TyperGroup) and words:
            name, *words = words
            assert name in command.commands
            command = command.commands[name]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options


def test_the_readme_names_every_command() -> None:
    everything = typer.main.get_command(app)
    assert isinstance(everything, TyperGroup)
    named = re.findall(r"`([a-z]+)[` ]|prunefront ([a-z]+)", README)
    assert set(everything.commands) <= {name for pair in named for name in pair}


def _commands(text: str) -> str:
    """What is set as code: blocks indented by four, and words between backticks, on one line or two."""
    between = [words.replace("\n", " ") for words in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return "\n".join([*re.findall(r"^ {4}(.+)$", text, re.MULTILINE), *between])


@EACH_DOCUMENT
def test_every_make_target_and_benchmark_exists(path: Path) -> None:
    code = _commands(path.read_text())
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"\bmake ([a-z-]+)", code)) <= set(targets)
    for module in re.findall(r"-m (benchmarks[.\w]+)", code):
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


ENCODER = """
import torch
from torch import nn

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(30522, 8)
        self.wide, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        words = torch.relu(self.wide(self.words(input_ids))) * attention_mask.unsqueeze(-1)
        return self.head(words.mean(1))

encoder = Encoder
"""


def test_the_documented_model_with_several_inputs_takes_the_documented_data_in_order_or_by_name(
    tmp_path: Path,
) -> None:
    document = (ROOT / "docs" / "job.md").read_text()
    [data_file] = re.findall(r"^```python\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
    [job_file] = [
        text
        for text in re.findall(r"^```toml\n(.*?)^```$", document, re.DOTALL | re.MULTILINE)
        if "inputs" in text
    ]
    (tmp_path / "model.py").write_text(ENCODER)
    (tmp_path / "data.py").write_text(data_file)
    (tmp_path / "encoder.pt").touch()
    (tmp_path / "job.toml").write_text(job_file)
    rng = np.random.default_rng(0)
    arrays = {}
    for name in ("train", "validation", "test"):
        arrays[f"{name}_input_ids"] = rng.integers(0, 30522, (20, 128))
        arrays[f"{name}_attention_mask"] = rng.integers(0, 2, (20, 128))
        arrays[f"{name}_labels"] = np.arange(20) % 2
    np.savez(tmp_path / "sentences.npz", **arrays)

    job = Job.load(tmp_path / "job.toml")
    inputs, labels = load(job.data_spec(), tmp_path, seed=0).test.batch(slice(0, 5))
    assert labels.tolist() == [0, 1, 0, 1, 0]
    model = call_factory(job.model.factory, tmp_path, "model.factory", job.model.args)
    network = export_model(model.eval(), job.model.input_specs).network().eval()
    ids, mask = (torch.from_numpy(values) for values in inputs)
    wanted = model(ids, mask)
    torch.testing.assert_close(network(ids, mask), wanted)
    torch.testing.assert_close(network(attention_mask=mask, input_ids=ids), wanted)


def test_every_environment_variable_is_in_the_readme() -> None:
    told = re.findall(r"^\| `PRUNEFRONT_(\w+)`", README, re.MULTILINE)
    assert sorted(told) == sorted(name.upper() for name in Settings.model_fields)
