"""Ray Tune asks a controller of prunefront for widths, trains each, and stops what falls behind (ASHA).

    python experiment.py runs/digits [--trials 12] [--steps 20] [--controller auto]

The folder is that of a job that has run: its bundle, groups, latency table and sensitivities are taken up.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from search import controllers
from search.job import Job
from search.place import Place
from search.plan import prepare
from search.progress import Silent
from search.score import features
from search.sensing import known
from trials.answers import Evaluation
from trials.bundle import Bundle
from trials.candidate import Space
from trials.cluster import session
from trials.data import Splits
from trials.requests import Recipe
from trials.run import LOOKS, Workbench
from trials.store import Store


def train(config: Mapping[str, Any], *, bundle: Bundle, splits: Splits, recipe: Recipe, space: Space) -> None:
    """Make the suggested widths real and report on the way; Tune runs this in its workers."""
    import torch
    from ray import tune

    torch.set_num_threads(1)
    bench = Workbench(bundle, splits, recipe)

    def report(looks: int, found: Evaluation) -> None:
        tune.report({"looks": looks, "accuracy": found.accuracy, "divergence": found.divergence})

    bench.rehearse(bench.repaired(space.parse(config["widths"])), 0, report)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--controller", choices=controllers.NAMES, default="auto")
    arguments = parser.parse_args()

    place = Place(arguments.run.resolve().parent, arguments.run.name)
    with Store.open(place.store) as store:
        record = store.job(place.job)
    prepared = prepare(Job.from_json(record.spec), place, record.plan, Silent())
    cost = prepared.cost
    controller = controllers.make(
        arguments.controller,
        space=prepared.space,
        cost=cost,
        targets=prepared.plan.targets,
        seed=0,
        trials=arguments.trials,
        features=features(prepared.scorer),
        losses=known(prepared).losses(prepared.space),
    )

    with TemporaryDirectory() as folder, session("", cpus=2):  # Ray, on this machine and for it alone
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler

        from search.searcher import ControllerSearcher

        recipe = replace(prepared.recipe, final_steps=arguments.steps)
        given = {"bundle": prepared.bundle, "splits": prepared.splits, "recipe": recipe}
        tuner = tune.Tuner(
            tune.with_parameters(train, space=prepared.space, **given),
            tune_config=tune.TuneConfig(
                metric="accuracy",
                mode="max",
                num_samples=arguments.trials,
                max_concurrent_trials=2,
                reuse_actors=True,
                search_alg=ControllerSearcher(controller, prepared.space, cost),
                scheduler=ASHAScheduler(time_attr="looks", max_t=LOOKS, grace_period=1, reduction_factor=2),
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        for result in tuner.fit():
            found, widths = result.metrics, result.config["widths"]
            print(
                f"{found['accuracy']:.2%} after {found['looks']} of {LOOKS} parts of its training: {widths}"
            )


if __name__ == "__main__":
    main()
