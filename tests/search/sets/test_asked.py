"""A file of several models becomes one frozen set, or one sentence about the first thing wrong in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hwprofiles.errors import RequestError
from search.job import Job, Level
from search.sets.asked import Member, ModelSet, load

DOCUMENT = Path(__file__).parents[3] / "docs" / "models.md"

MEMBER = """
[[models]]
name = "{name}"
model = {{ factory = "model:resnet", input = {{ shape = [1, 8, 8] }} }}
data = {{ source = "digits" }}
{more}
"""
BUDGET = '[budget]\nlatency = "50%"\n'


def text_of(*names: str, more: str = "", rest: str = BUDGET) -> str:
    """A file of members of these names, of which the first has `more` keys."""
    members = [MEMBER.format(name=name, more=more if i == 0 else "") for i, name in enumerate(names)]
    return "\n".join([*members, rest])


def written(folder: Path, text: str) -> Path:
    path = folder / "set.toml"
    path.write_text(text)
    return path


def test_each_model_of_a_set_becomes_a_job_with_its_share_and_all_that_is_said_for_all(
    tmp_path: Path,
) -> None:
    rest = BUDGET + "[search]\ntrials = 7\n[finetune]\nfinal_steps = 3\n"
    asked = load(written(tmp_path, text_of("detector", "depth", more="weight = 2.0\nfloor = 0.9", rest=rest)))
    assert isinstance(asked, ModelSet)
    assert asked.jobs == ["set.detector", "set.depth"]
    assert [(member.weight, member.least_accuracy(0.99)) for member in asked.models] == [(2, 0.9), (1, 0.0)]
    job = asked.job(asked.models[0], [1.5, 2.5])
    assert (job.name, job.search.trials, job.finetune.final_steps) == ("set.detector", 7, 3)
    assert job.budget.leading.levels == (Level(1.5, False), Level(2.5, False))
    assert Job.from_json(job.to_json()) == job
    assert ModelSet.from_json(asked.to_json()) == asked


def test_a_drop_is_points_below_the_dense_model(tmp_path: Path) -> None:
    asked = load(written(tmp_path, text_of("a", "b", more="accuracy_drop = 1.5")))
    assert isinstance(asked, ModelSet)
    assert asked.models[0].least_accuracy(0.98) == pytest.approx(0.965)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (text_of("a", "a"), "has [[models]] named a, a; each needs a name of its own"),
        (text_of("a"), "models = [{"),
        (text_of("a.b", "c"), 'models[0].name = "a.b" is not allowed; allowed: up to 24 letters'),
        (text_of("a", "b", more="floor = 0.9\naccuracy_drop = 1.0"), "models[0] has floor and accuracy_drop"),
        (text_of("a", "b", more="floor = 90.0"), "allowed: a fraction between 0 and 1"),
        (
            text_of("a", "b", rest='[budget]\nlatency = ["40%", "50%"]'),
            "has a budget of 2 levels; allowed: one",
        ),
        (
            text_of("a", "b", rest="[budget]\nmemory_bytes = 5"),
            "has a budget of memory_bytes, which is no sum of what each of [[models]] takes; allowed: lat",
        ),
        (text_of("a", "b", rest=BUDGET + '[data]\nsource = "digits"'), "has [data] beside [[models]]"),
        (
            text_of("a", "b", rest=BUDGET + '[[devices]]\nlatency = "40%"'),
            "has a latency of its own for its device; write it under [budget]",
        ),
        (text_of("a", "b", more="wieght = 2.0"), "wieght = 2.0 is an unknown key; did you mean 'weight'"),
    ],
)
def test_what_is_wrong_with_a_set_is_said_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(RequestError) as refused:
        load(written(tmp_path, text))
    assert sentence in str(refused.value)
    assert str(tmp_path / "set.toml") in str(refused.value)


def test_a_missing_file_of_one_model_is_named_with_its_place(tmp_path: Path) -> None:
    text = text_of("a", "b").replace("model:resnet", 'model:resnet", checkpoint = "absent.pt', 1)
    with pytest.raises(RequestError, match=r'models\[0\]\.model\.checkpoint = "absent\.pt" does not exist'):
        load(written(tmp_path, text))


def test_commands_about_one_job_say_what_a_set_is(tmp_path: Path) -> None:
    path = written(tmp_path, text_of("a", "b"))
    with pytest.raises(RequestError, match=r"asks for a set of \[\[models\]\]"):
        Job.load(path)
    with pytest.raises(RequestError, match=r"'set' is a set of models; name one of its jobs: set\.a, set\.b"):
        Job.from_json(load(path).to_json())


def test_the_documented_set_loads(tmp_path: Path) -> None:
    [text] = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "depth.bundle").touch()
    assert load(written(tmp_path, text)).name == "board"


def test_every_key_of_a_model_is_documented_with_an_example_that_loads(tmp_path: Path) -> None:
    (tmp_path / "detector.bundle").touch()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^|`]+)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.M))
    assert list(rows) == list(Member.model_fields)
    needed = {key: rows[key] for key in ("name", "model", "data")}
    for key, example in rows.items():
        keys = "\n".join({**needed, key: example}.values())
        load(written(tmp_path, f"[[models]]\n{keys}\n{text_of('b')}"))
