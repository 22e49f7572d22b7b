"""Which trials are trained to the end, and which of them wins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, zip_longest

import numpy as np
from numpy.typing import NDArray

from search.numbers import significant
from search.pareto import ranks
from search.plan import Prepared
from search.results import FINAL, results
from trials.candidate import Facts, Trial
from trials.requests import merit
from trials.store import Store

FINALIST_FAILED = "finalist failed"
"""A kind of events in the store."""

ROUNDING = 1e-9
"""Of accuracies, far below one image: what is as good as is asked for must not fall short by its last bit."""
ALIKE = 0.01
"""The share up to which latencies are about the same: predictions are off by as much."""


def choose_finalists(prepared: Prepared, trials: Sequence[Trial]) -> list[int]:
    """Numbers of the trials to train to the end: of each budget level in turn the best not chosen yet.

    What no other trial beats on both error and latency, whatever its level, comes before what some beat, and
    so on (non-dominated ranks). Of the same rank the best come first: where they were not trained, those
    nearest to the dense model, and only then by merit, as on a few thousand images accuracy does not tell
    candidates apart that divergence does. Of trials that are as good and, to the digits shown, as fast on
    every device only the best may take a place. The baselines of all levels are added to them: they are what
    the winner must beat.
    """
    done = [trial for trial in trials if trial.facts is not None]
    if not done:
        return []
    candidates = [trial.candidate for trial in done]
    latencies_ms = np.array(
        [[score.latency_ms for score in on.scorer.score(candidates)] for on in prepared.devices]
    ).T
    takes_ms = {trial.number: each for trial, each in zip(done, latencies_ms.tolist(), strict=True)}
    ranks = beaten([error(prepared, trial) for trial in done], latencies_ms).tolist()
    ranked_as = {trial.number: rank for trial, rank in zip(done, ranks, strict=True)}
    levels = sorted({trial.target for trial in done})

    def looks(trial: Trial) -> tuple[float, ...]:
        return prepared.merit(trial), *(float(significant(each_ms)) for each_ms in takes_ms[trial.number])

    def rank(trial: Trial) -> tuple[int, float, float, int]:
        return ranked_as[trial.number], error(prepared, trial), -prepared.merit(trial), trial.number

    best_last = sorted((trial for trial in done if trial.origin != "uniform"), key=rank, reverse=True)
    found = {looks(trial): trial for trial in best_last}.values()
    ranked = {
        level: sorted((trial for trial in found if trial.target == level), key=rank) for level in levels
    }
    in_turn = (trial for same_place in zip_longest(*ranked.values()) for trial in same_place if trial)
    chosen = [trial.number for trial in islice(in_turn, prepared.job.search.finalists)]
    return sorted({*chosen, *(trial.number for trial in done if trial.origin == "uniform")})


def error(prepared: Prepared, trial: Trial) -> float:
    """How far a trial that is done is from the best there is: by merit if it was trained, else in nats."""
    merit = prepared.merit(trial)
    return 1 - merit if prepared.recipe.brief_steps or trial.facts is None else trial.facts.divergence


def beaten(errors: Sequence[float], latencies: NDArray[np.float64]) -> NDArray[np.int64]:
    """(trials,) non-dominated ranks, 0 on the front, where latencies that nearly agree are the same.

    Args:
        latencies: (trials, devices), above 0.
    """
    return ranks(np.column_stack([errors, np.rint(np.log(latencies) / ALIKE)]))


def choose_winner(prepared: Prepared, store: Store) -> int | None:
    """The finalist that is fastest within the job's `winner_drop` of dense on held-out data, else the most
    accurate one.

    Of several devices the one counts on which it gains least: no other makes up for that. Only the
    validation split decides: the test split is for reporting.
    """
    finals, speedups = results(store, prepared.job.name, FINAL), _least_speedups(prepared, store)
    facts = {number: Facts.from_json(finals[number]["facts"]) for number in speedups}
    if not facts:
        return None
    close = [number for number in facts if is_close(prepared, facts[number])]
    if close:
        return max(close, key=lambda number: speedups[number])
    return max(facts, key=lambda number: merit(facts[number], prepared.splits.carved))


def _least_speedups(prepared: Prepared, store: Store) -> dict[int, float]:
    """Finalists that were measured on every device that is here → how many times as fast as dense each is
    where it gains least; on devices elsewhere by predictions.
    """
    job, speedups = prepared.job.name, list[dict[int, float]]()
    finals = [trial for trial in store.trials(job) if trial.number in results(store, job, FINAL)]
    for on in prepared.devices:
        if on.is_here:
            measured = results(store, job, on.measured)
            speedups.append({n: found["dense_ms"] / found["latency_ms"] for n, found in measured.items()})
        elif finals:
            scores = on.scorer.score([prepared.space.dense, *(trial.candidate for trial in finals)])
            dense, *others = (score.latency_ms for score in scores)
            speedups.append({trial.number: dense / ms for trial, ms in zip(finals, others, strict=True)})
    return {
        trial.number: min(each[trial.number] for each in speedups)
        for trial in finals
        if all(trial.number in each for each in speedups)
    }


def is_close(prepared: Prepared, facts: Facts) -> bool:
    """Whether a finalist is within the job's `winner_drop` of the dense model."""
    dense = 1.0 if prepared.splits.carved else prepared.plan.dense_accuracy
    least = dense - prepared.job.budget.winner_drop
    return merit(facts, prepared.splits.carved) >= least - ROUNDING


def label(trial: Trial) -> str:
    """What a finalist or baseline is called."""
    return f"{'uniform' if trial.origin == 'uniform' else 'trial'} {trial.number}"
