"""The fine-tuning recipe of one trial, searched by Ray Tune: how what is left of the model is best trained.

Learning rate, steps and weight of the teacher are drawn around the job's own recipe, which is tried first.
Each is looked at four times while it trains, and what falls behind others at the same share of its steps is
stopped (ASHA, Li et al., arXiv:1810.05934). What has ended is on the disk at once, and is not done again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hwprofiles.disk import write_whole
from hwprofiles.errors import RequestError
from search.plan import Prepared
from search.progress import Listener
from search.settings import Settings
from trials.answers import Evaluation
from trials.bundle import Bundle
from trials.candidate import Trial
from trials.cluster import session
from trials.data import Splits
from trials.finetune import LABEL_RATE, PUPIL_RATE
from trials.pool import threads_each
from trials.requests import Recipe, merit
from trials.run import LOOKS, Workbench

RATES = 4.0
"""Learning rates lie within this factor of the job's."""
STEPS = (0.5, 1.0, 2.0)
"""Times the job's."""
TEACHERS = (1.0, 0.75, 0.5)
"""Weights of the dense model against the labels."""

OF_TUNE = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the command's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints, however quiet it is asked to be
}

Choice = dict[str, float]
"""The keys of a recipe that are searched."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How good a recipe was on validation images when it was looked at last, and why there is no more.

    `looks` is `LOOKS` of one that was trained to its end.
    """

    choice: Choice
    looks: int
    merit: float
    reason: str = ""

    def __str__(self) -> str:
        rate, steps = self.choice["learning_rate"], self.choice["final_steps"]
        shown = f"learning rate {rate:.2g}" if rate else "the usual learning rate"
        found = self.reason or f"{self.merit:.2%} after {self.looks} of {LOOKS} parts"
        return f"{shown}, {steps:g} steps, distill {self.choice['distill']:g}: {found}"


def choices(recipe: Recipe, count: int, seed: int) -> list[Choice]:
    """So many recipes, the job's own first; more of them begin with the same."""
    rng, drawn = np.random.default_rng(seed), [own_choice(recipe)]
    while len(drawn) < count:
        distill = float(rng.choice(TEACHERS if recipe.distill else (0.0, *TEACHERS)))
        like_own = bool(distill) == bool(recipe.distill)
        rate = (recipe.learning_rate if like_own else 0.0) or (PUPIL_RATE if distill else LABEL_RATE)
        steps = max(1, round(recipe.final_steps * float(rng.choice(STEPS))))
        factor = RATES ** rng.uniform(-1, 1)
        drawn.append({"learning_rate": float(rate * factor), "final_steps": steps, "distill": distill})
    return drawn


def own_choice(recipe: Recipe) -> Choice:
    """What a job's recipe says of what is searched."""
    return {
        "learning_rate": recipe.learning_rate,
        "final_steps": recipe.final_steps,
        "distill": recipe.distill,
    }


def best_recipe(
    prepared: Prepared, trial: Trial, *, count: int, minutes: float, listener: Listener
) -> tuple[Ended, Mapping[int, Ended]]:
    """Search the recipe that trains a trial best; returns it, and by their numbers all that have ended.

    Raises:
        RequestError: the job trains no finalists, or no recipe came to its end in time.
    """
    if not prepared.recipe.final_steps:
        raise RequestError(
            f"job {prepared.job.name!r} has finetune.final_steps = 0, so there is no training to tune; run "
            "it under another name with steps"
        )
    path = prepared.place.recipes(trial.number)
    drawn = choices(prepared.recipe, count, trial.seed)
    ended = _read(path, drawn)
    todo = [number for number in range(count) if number not in ended]

    def keep(number: int, one: Ended) -> None:
        ended[number] = one
        content = {str(number): [e.choice, e.looks, e.merit, e.reason] for number, e in ended.items()}
        write_whole(path, json.dumps(content, indent=1).encode())
        listener.update(len(ended) / count, f"{len(ended)} of {count} recipes ended")

    if todo:
        listener.update(len(ended) / count, f"repairing trial {trial.number}")
        _tune(prepared, trial, {number: drawn[number] for number in todo}, 60 * minutes, keep)
    whole = [one for _, one in sorted(ended.items()) if one.looks == LOOKS]
    if not whole:
        reason = next((one.reason for one in ended.values() if one.reason), "time was up")
        raise RequestError(
            f"no recipe for trial {trial.number} was trained to its end: {reason}; run the same command "
            "again with more --minutes"
        )
    return max(whole, key=lambda one: one.merit), ended


def _tune(
    prepared: Prepared,
    trial: Trial,
    todo: Mapping[int, Choice],
    seconds: float,
    keep: Callable[[int, Ended], None],
) -> None:
    """Let Ray Tune train by each of the recipes, as many at once as the job has workers."""
    network = Workbench(prepared.bundle, prepared.splits, prepared.recipe).repaired(trial.candidate)
    repaired = Bundle(network.graph, {name: each.detach() for name, each in network.state_dict().items()})
    workers = prepared.job.search.workers
    threads = threads_each(workers)
    os.environ |= OF_TUNE
    address = Settings().ray_address
    with TemporaryDirectory() as folder, session(address, cpus=workers * threads):
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        deadline_s = time.monotonic() + seconds

        class Keep(tune.Callback):  # type: ignore[misc]
            def __reduce__(self) -> Any:
                return object, ()  # Tune keeps its callbacks for a restore, which is never asked for

            def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                last = trial.last_result
                if "looks" in last and (last["looks"] == LOOKS or time.monotonic() < deadline_s):
                    number, choice = trial.config["recipe"]
                    keep(number, Ended(choice, last["looks"], last["merit"]))

            def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
                number, choice = trial.config["recipe"]
                keep(number, Ended(choice, 0, 0.0, _last_line(trial.get_pickled_error())))

        train = tune.with_parameters(
            _train,
            bundle=prepared.bundle,
            splits=prepared.splits,
            recipe=prepared.recipe,
            repaired=repaired,
            seed=trial.seed,
            threads=threads,
        )
        tune.Tuner(
            tune.with_resources(train, {"cpu": threads}),
            param_space={"recipe": tune.grid_search(sorted(todo.items()))},
            tune_config=tune.TuneConfig(
                metric="merit",
                mode="max",
                scheduler=ASHAScheduler(time_attr="looks", max_t=LOOKS, grace_period=1, reduction_factor=2),
                max_concurrent_trials=workers,
                reuse_actors=True,
                time_budget_s=seconds,
            ),
            run_config=tune.RunConfig(storage_path=folder, callbacks=[Keep()], verbose=0),
        ).fit()


def _train(
    config: Mapping[str, Any],
    *,
    bundle: Bundle,
    splits: Splits,
    recipe: Recipe,
    repaired: Bundle,
    seed: int,
    threads: int,
) -> None:
    """Train the repaired network by one recipe, in a worker of Ray Tune's."""
    import torch
    from ray import tune

    torch.set_num_threads(threads)
    _, choice = config["recipe"]
    bench = Workbench(bundle, splits, replace(recipe, **choice))

    def report(looks: int, found: Evaluation) -> None:
        tune.report({"looks": looks, "merit": merit(found, splits.carved)})

    bench.rehearse(repaired.network(), seed, report)


def _last_line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines() if error else []
    return lines[-1] if lines else "its worker died"


def _read(path: Path, drawn: Sequence[Choice]) -> dict[int, Ended]:
    """What has ended of these recipes; nothing where the file is absent or damaged."""
    try:
        kept = {int(number): Ended(*one) for number, one in json.loads(path.read_text("utf-8")).items()}
        return {n: one for n, one in kept.items() if one.choice in drawn[n : n + 1] and isfinite(one.merit)}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
