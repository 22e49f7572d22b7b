"""Sets of models run to their end, in whatever pieces, within what they may cost together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import search
from hwprofiles.errors import RequestError
from search.place import Place
from search.progress import Silent
from search.sets.asked import ModelSet, load
from search.sets.plan import OpenSet, SetPlan
from search.sets.run import export
from tests.commands import Prunefront, refused, written_json
from tests.search.sets.conftest import SET, StopsAt, run
from trials.bundle import read_bundle
from trials.candidate import TrialState
from trials.records import JobState
from trials.store import Store


def with_profiles(finished: Path, runs: Path) -> Path:
    """A folder of runs in which no more is known than what was measured for the finished set."""
    for job in ("pair.first", "pair.second"):
        (runs / job).mkdir(parents=True)
        shutil.copy(finished / job / "profile.parquet", runs / job)
    return runs


def changed(set_file: Path, old: str, new: str) -> Path:
    assert old in SET
    path = set_file.with_name("changed.toml")
    path.write_text(SET.replace(old, new, 1))
    return path


def test_a_set_ends_with_a_network_of_each_model_that_fit_the_budget_together(finished: Path) -> None:
    told = json.loads((finished / "pair" / "report.json").read_text())
    dense, divided, *_ = told["totals"]
    assert sum(divided["costs"]) <= told["limit"] == pytest.approx(0.3 * sum(dense["costs"]))
    assert divided["accuracy"] > 0.8
    assert {"equal shares", "equal shares, uniform"} <= {total["label"] for total in told["totals"]}
    for model in told["models"]:
        network = search.load(finished / "pair" / "export" / model["name"])
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    page = (finished / "pair" / "report.html").read_text()
    assert told["headline"] in page
    assert "pair.second" in page


def test_of_two_alike_the_one_that_counts_more_is_given_more(finished: Path) -> None:
    with Store.open(finished / "prunefront.db") as store:
        shares = store.job("pair").plan["shares"]
        assert [record.state for record in store.jobs()] == [JobState.DONE] * 3
    assert shares["first"]["cost"] > 1.1 * shares["second"]["cost"]
    assert shares["first"]["equal"] == pytest.approx(shares["second"]["equal"], rel=0.03)
    for share in shares.values():
        assert share["cost"] in share["levels"]
        assert share["equal"] in share["levels"]


def test_stopped_again_and_again_a_set_does_nothing_twice_and_is_divided_as_it_would_have_been(
    set_file: Path, finished: Path, tmp_path: Path
) -> None:
    undisturbed = with_profiles(finished, tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt):
        run(set_file, undisturbed, StopsAt("first: searching"))
    plans = []
    for runs in (finished, undisturbed):
        with Store.open(runs / "prunefront.db") as store:
            plans.append(store.job("pair").plan)
    assert [plans[0][key] for key in ("tried", "shares")] == [plans[1][key] for key in ("tried", "shares")]
    with Store.open(finished / "prunefront.db") as store:
        trials = [trial for job in ("pair.first", "pair.second") for trial in store.trials(job)]
    assert [(trial.state, trial.attempts) for trial in trials] == [(TrialState.DONE, 1)] * 10


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('macs = "30%"', "macs = 1000", "cannot be met: the smallest that they reach together is"),
        ('macs = "30%"', "macs = 1e9", "asks for nothing: they cost"),
        ("weight = 8.0", "floor = 0.9999", "the floor of model 'first' is 99.99%, and the dense model gets"),
    ],
)
def test_what_cannot_be_is_refused_and_only_profiles_are_kept(
    set_file: Path, finished: Path, tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    runs = with_profiles(finished, tmp_path / "runs")
    with pytest.raises(RequestError, match=sentence):
        run(changed(set_file, old, new), runs)
    assert not (runs / "prunefront.db").exists()
    assert not (runs / "pair").exists()
    assert (runs / "pair.first" / "profile.parquet").exists()


def test_commands_know_a_set_by_its_name(prunefront: Prunefront, set_file: Path, runs: Path) -> None:
    listed = written_json(prunefront("ls", "--runs", runs, "--json"))
    assert [(job["job"], job["planned"]) for job in listed] == [
        ("pair", 10),
        ("pair.first", 5),
        ("pair.second", 5),
    ]
    shown = prunefront("show", runs / "pair")
    assert "first: " in shown.out
    assert "with equal shares; searched at" in " ".join(shown.out.split())
    for command in (("pareto", runs / "pair"), ("run", set_file, "--runs", runs), ("resume", runs / "pair")):
        ran = prunefront(*command)
        assert ran.code == 0, ran.err
        assert "fewer MACs together" in ran.out
    assert written_json(prunefront("pareto", runs / "pair", "--json"))["unit"] == "MACs"
    refused(prunefront("export", runs / "pair"), "is a set of models; name one of its jobs: pair.first")
    refused(prunefront("inspect", set_file), "asks for a set of [[models]]")


def test_a_set_is_removed_as_a_whole(prunefront: Prunefront, runs: Path) -> None:
    refused(prunefront("rm", runs / "pair.first"), "remove the whole set with: prunefront rm pair")
    assert prunefront("rm", runs / "pair").code == 0
    assert [path.name for path in runs.iterdir() if path.is_dir()] == []
    assert written_json(prunefront("ls", "--runs", runs, "--json")) == []


def test_a_job_in_the_way_is_named(prunefront: Prunefront, set_file: Path, runs: Path) -> None:
    with Store.open(runs / "prunefront.db") as store:
        store.create_job("other.first", {}, {})
    refused(prunefront("run", set_file, "--name", "other", "--runs", runs), "'other.first'")


def test_a_model_that_stays_as_it_is_is_exported_as_it_is(set_file: Path, runs: Path) -> None:
    asked, place = load(set_file), Place(runs, "pair")
    assert isinstance(asked, ModelSet)
    shutil.rmtree(place.export)
    with Store.open(place.store) as store:
        opened = OpenSet(asked, place, store, SetPlan.of(store, "pair"))
        opened.plan.taken["first"] = None
        export(opened, Silent())
    images = torch.rand(5, 1, 8, 8)
    dense = read_bundle(set_file.parent / "digits.bundle").network().eval()
    torch.testing.assert_close(search.load(place.export / "first")(images), dense(images))
