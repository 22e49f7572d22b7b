"""Ray Tune searches the recipe of a trial, and asks our controllers in experiments of others."""

from __future__ import annotations

import json
import os
import runpy
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hwprofiles.disk import write_whole
from hwprofiles.errors import RequestError
from search.controllers.evolution import EvolutionController
from search.controllers.protocol import Controller
from search.export import holds_whole
from search.finish import finish_trial
from search.outcome import export_winner
from search.place import Place
from search.plan import Prepared
from search.progress import Silent
from search.recipes import STEPS, TEACHERS, best_recipe, choices, own_choice
from search.results import EXPORTED, FINAL, MEASURED, TUNED, results
from search.tuning import tune_trial
from tests.commands import Prunefront, written_json
from tests.contracts.controller import SPACE, TARGETS, cost, losses
from tests.search.test_finalists import fill
from tests.search.test_score import made_trials
from trials.bundle import read_bundle
from trials.candidate import Candidate, Trial
from trials.cluster import LOCAL_RAY, QUIET_RAY
from trials.finetune import LABEL_RATE, PUPIL_RATE
from trials.requests import Recipe
from trials.run import LOOKS
from trials.store import Store

# Ray reads its environment when it is imported, and other tests of this process have a pool.
for name, value in (QUIET_RAY | LOCAL_RAY).items():
    os.environ.setdefault(name, value)
with warnings.catch_warnings(action="ignore"):  # of Ray's own
    from search.searcher import ControllerSearcher

TRIAL = Trial(number=3, candidate=Candidate((4, 4)), seed=5, target=1.0, origin="auto")
EXAMPLE = Path(__file__).parents[2] / "examples" / "tune" / "experiment.py"


def controller() -> Controller:
    return EvolutionController(SPACE, cost, TARGETS, 0, losses(SPACE))


def result(suggested: Any) -> dict[str, float]:
    units = sum(suggested["widths"].values())
    return {"accuracy": units / 1000, "divergence": 1 / units, "training_iteration": 1}


def test_a_searcher_suggests_what_its_controller_proposes_and_tells_it_what_came_of_it() -> None:
    searcher, alone = ControllerSearcher(controller(), SPACE, cost), controller()
    for number in range(12):
        suggested = searcher.suggest(f"t{number}")
        [proposal] = alone.ask(1)
        assert suggested == {"widths": SPACE.named(proposal.candidate), "target": proposal.target}
        searcher.on_trial_complete(f"t{number}", result(suggested))
        told = ControllerSearcher(alone, SPACE, cost)
        told._proposed["it"] = proposal
        told.on_trial_complete("it", result(suggested))


def test_a_searcher_that_is_restored_goes_on_as_the_one_that_was_saved(tmp_path: Path) -> None:
    searcher, restored = (ControllerSearcher(controller(), SPACE, cost) for _ in range(2))
    suggested = {f"t{number}": searcher.suggest(f"t{number}") for number in range(9)}
    searcher.on_trial_complete("t2", error=True)
    searcher.on_trial_complete("t0", result(suggested["t0"]))
    searcher.on_trial_complete("t1", {"accuracy": float("nan"), "divergence": 0.1})
    searcher.save(str(tmp_path / "state"))
    restored.restore(str(tmp_path / "state"))
    for number in range(9, 15):
        later = searcher.suggest(f"t{number}")
        assert restored.suggest(f"t{number}") == later
        for each in (searcher, restored):
            each.on_trial_complete(f"t{number}", result(later))
    with pytest.raises(RequestError, match="only a new searcher can be restored"):
        restored.restore(str(tmp_path / "state"))


def test_a_searcher_is_finished_when_its_controller_is() -> None:
    class Empty:
        def ask(self, count: int) -> list[Any]:
            return []

        def tell(self, scored: Any) -> None: ...

    assert ControllerSearcher(Empty(), SPACE, cost).suggest("t") == ControllerSearcher.FINISHED


@pytest.mark.parametrize("distill", [0.0, 0.9])
def test_recipes_lie_around_the_jobs_own_which_is_first(distill: float) -> None:
    recipe = Recipe(final_steps=100, distill=distill, learning_rate=0.0)
    drawn = choices(recipe, 40, seed=1)
    assert drawn[0] == own_choice(recipe)
    assert drawn[:10] == choices(recipe, 10, seed=1)
    for each in drawn[1:]:
        base = PUPIL_RATE if each["distill"] else LABEL_RATE
        assert base / 4 <= each["learning_rate"] <= base * 4
        assert each["final_steps"] in [100 * times for times in STEPS]
        assert each["distill"] in (TEACHERS if distill else (0.0, *TEACHERS))


def test_recipes_that_have_ended_are_not_tried_again_and_the_best_that_was_trained_whole_is_taken(
    prepared: Prepared, tmp_path: Path
) -> None:
    prepared, trial = replace(prepared, place=Place(tmp_path, "small")), TRIAL
    drawn = choices(prepared.recipe, 3, trial.seed)
    ended = {
        "0": [drawn[0], LOOKS, 0.7, ""],
        "1": [drawn[1], LOOKS - 1, 0.9, ""],
        "2": [drawn[2], LOOKS, 0.8, ""],
        "3": [drawn[2], LOOKS, 0.99, ""],  # of another recipe
    }
    path = prepared.place.recipes(trial.number)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ended))
    best, known = best_recipe(prepared, trial, count=3, minutes=0, listener=Silent())
    assert best.choice == drawn[2]
    assert sorted(known) == [0, 1, 2]


def test_a_job_that_trains_nothing_has_no_recipe(prepared: Prepared) -> None:
    untrained = replace(prepared, recipe=replace(prepared.recipe, final_steps=0))
    with pytest.raises(RequestError, match=r"finetune\.final_steps = 0, so there is no training to tune"):
        best_recipe(untrained, TRIAL, count=3, minutes=0, listener=Silent())


def test_the_winners_export_is_that_of_the_best_recipe(
    prepared: Prepared, planned_store: Store, tmp_path: Path
) -> None:
    prepared = replace(prepared, place=Place(tmp_path, "small"))
    place, [trial] = prepared.place, made_trials(prepared, 1)
    fill(planned_store, [trial])
    finish_trial(prepared, planned_store, trial.number, Silent())
    export_winner(prepared, planned_store, Silent())
    before = json.loads((place.export / "config.json").read_text())

    drawn = choices(prepared.recipe, 2, trial.seed)
    ended = {"0": [drawn[0], LOOKS, 0.1, ""], "1": [drawn[1], LOOKS, 0.9, ""]}
    write_whole(place.recipes(trial.number), json.dumps(ended).encode())
    tune_trial(prepared, planned_store, trial.number, count=2, minutes=0, listener=Silent())

    after = json.loads((place.export / "config.json").read_text())
    assert after["facts"] == results(planned_store, "small", FINAL)[trial.number]["facts"]
    assert after["sha256"]["model.safetensors"] != before["sha256"]["model.safetensors"]
    assert trial.number in results(planned_store, "small", EXPORTED)
    assert holds_whole(place.export, trial.number)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray Tune's own
def test_a_tuned_trial_is_trained_by_its_best_recipe(runs: Path, prunefront: Prunefront) -> None:
    with Store.open(runs / "prunefront.db") as store:
        [number, *_] = [trial.number for trial in store.trials("small") if trial.origin != "uniform"]
    ran = prunefront("tune", runs / "small", "--trial", str(number), "--trials", "3", "--json")
    recipes = written_json(ran)["recipes"]
    whole = [each for each in recipes if each["looks"] == LOOKS]
    best = max(whole, key=lambda each: each["merit"])
    with Store.open(runs / "prunefront.db") as store:
        [final, tuned, measured] = [
            results(store, "small", kind).get(number, {}) for kind in (FINAL, TUNED, MEASURED)
        ]
    assert measured
    assert tuned.get("recipe", recipes[0]["choice"]) == best["choice"]
    assert final["facts"]["accuracy"] == pytest.approx(best["merit"], abs=0.02)
    assert read_bundle(runs / "small" / "finalists" / f"trial-{number}")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray Tune's own
def test_the_example_searches_by_a_controller_of_ours_under_asha(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(runs / "small"), "--trials", "3", "--steps", "4"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    found = [line for line in capsys.readouterr().out.splitlines() if " parts of its training: {" in line]
    assert len(found) == len(set(found)) == 3
