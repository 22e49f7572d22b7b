"""After the search: finalists are trained to the end, measured on the device, and the winner is chosen."""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwprofiles import measure, open_runtime
from search.loop import MAX_DEATHS, Workers
from search.on_device import MEASURED
from search.pareto import ranks
from search.plan import Prepared
from search.progress import Listener
from search.report import significant
from trials.bundle import read_bundle
from trials.candidate import Facts, Trial
from trials.costs import Costs
from trials.onnx_file import write_onnx
from trials.run import Request, merit
from trials.store import Result, Store

FINAL, EXPORTED, TUNED = "final", "exported", "tuned"
"""Kinds of results in the store, beside those of measuring."""
FINALIST_FAILED = "finalist failed"
"""A kind of events in the store."""

NEARLY = 0.95
"""The share of a finalist that is told of at most while it is trained."""
ALIKE = 0.01
"""The share up to which latencies are about the same: predictions are off by as much."""
MEASURING_PASSES, MEASURING_ROUNDS = 3, 20


def choose_finalists(prepared: Prepared, trials: Sequence[Trial]) -> list[int]:
    """Numbers of the trials to train to the end: of each budget level in turn the best not chosen yet.

    What no other trial beats on both error and latency, whatever its level, comes before what some beat, and
    so on (non-dominated ranks). Of the same rank the best come first: where they were not trained, those
    nearest to the dense model, and only then by merit, as on a few thousand images accuracy does not tell
    candidates apart that divergence does. Of trials that are as
    good and, to the digits shown, as fast, only the first may take a place. The baselines of all levels are
    added to them: they are what the winner must beat.
    """
    done = [trial for trial in trials if trial.facts is not None]
    ranked_as = dict(zip([trial.number for trial in done], _beaten(prepared, done), strict=True))
    levels = sorted({trial.target for trial in done})

    def looks(trial: Trial) -> tuple[float, str]:
        [score] = prepared.scorer.score([trial.candidate])
        return prepared.merit(trial), significant(score.latency_ms)

    def rank(trial: Trial) -> tuple[int, float, float, int]:
        return ranked_as[trial.number], error(prepared, trial), -prepared.merit(trial), trial.number

    found = {looks(trial): trial for trial in reversed(done) if trial.origin != "uniform"}.values()
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


def _beaten(prepared: Prepared, done: Sequence[Trial]) -> list[int]:
    """The rank of each trial by error and predicted latency on each device."""
    if not done:
        return []
    candidates = [trial.candidate for trial in done]
    latencies = [[s.latency_ms for s in each.scorer.score(candidates)] for each in prepared.devices]
    found = beaten([error(prepared, trial) for trial in done], np.array(latencies).T)
    return [int(rank) for rank in found]


def beaten(errors: Sequence[float], latencies: NDArray[np.float64]) -> NDArray[np.int64]:
    """(trials,) non-dominated ranks, 0 on the front, where latencies that nearly agree are the same.

    Args:
        latencies: (trials, devices), above 0.
    """
    return ranks(np.column_stack([errors, np.rint(np.log(latencies) / ALIKE)]))


def final_request(prepared: Prepared, trial: Trial) -> Request:
    folder = prepared.place.finalist(trial.number)
    return Request(candidate=trial.candidate, seed=trial.seed, final=True, folder=folder)


def train_finalists(
    prepared: Prepared, store: Store, pool: Workers, numbers: Sequence[int], listener: Listener
) -> None:
    """Run what is missing of the final stage; a finalist's test split is read once and the result kept."""
    job, finals = prepared.job.name, results(store, prepared.job.name, FINAL)
    trials = {trial.number: trial for trial in store.trials(job)}
    missing = [number for number in numbers if number not in finals]
    todo, begun_s, total = list(missing), dict[int, float](), len(missing)
    took_s = [sum(finals[number]["facts"]["seconds"].values()) for number in numbers if number in finals]
    attempts = dict.fromkeys(missing, 0)
    while missing:
        while todo and pool.free > 0:
            number = todo.pop(0)
            begun_s[number] = time.monotonic()
            attempts[number] += 1
            # What an attempt that was killed has left is not this attempt's.
            shutil.rmtree(prepared.place.finalist(number), ignore_errors=True)
            pool.submit(number, final_request(prepared, trials[number]))
        done, names = total - len(missing), ", ".join(label(trials[number]) for number in begun_s)
        under_way = done_of([time.monotonic() - begin_s for begin_s in begun_s.values()], took_s)
        text = f"{done} of {total} done, {final_work(prepared)} {names}"
        listener.update((done + under_way) / total, text)
        for finished in pool.wait(1.0):
            ended = finished.key
            assert isinstance(ended, int)
            del begun_s[ended]
            if finished.died and attempts[ended] < MAX_DEATHS:
                todo.append(ended)
                continue
            missing.remove(ended)
            if finished.value is None:
                reason = finished.error or f"its worker died {MAX_DEATHS} times"
                store.add_event(job, FINALIST_FAILED, f"trial {ended}: {reason}")
                continue
            store.add_result(job, ended, FINAL, finished.value.to_json())
            took_s.append(finished.busy_s)
    baselines = sum(trials[number].origin == "uniform" for number in numbers)
    listener.update(1.0, f"finalists: {len(numbers) - baselines}, uniform baselines: {baselines}")


def done_of(running_s: Collection[float], took_s: Collection[float]) -> float:
    """How many finalists those amount to that have run for so long, if they take as long as others took.

    One that takes longer is nearly done until it is; where no other has ended, nothing is known to be done.
    """
    usual_s = sum(took_s) / max(1, len(took_s))
    return sum(min(NEARLY, each_s / usual_s) for each_s in running_s) if usual_s else 0.0


def measure_finalists(prepared: Prepared, store: Store, listener: Listener) -> None:
    """Measure finalists beside the dense model, whose latency in that session is kept with each."""
    job, place, device = prepared.job.name, prepared.place, prepared.profile.device
    runtime = open_runtime(device.runtime, device.precision)
    missing = [number for number in results(store, job, FINAL) if number not in results(store, job, MEASURED)]
    if not missing:
        return
    trials = {trial.number: trial for trial in store.trials(job)}
    costs = Costs(prepared.coupling)
    networks = (None, *missing)
    started_s = time.monotonic()
    with TemporaryDirectory() as folder:
        runs = {}
        for position, number in enumerate(networks):
            name = "dense" if number is None else label(trials[number])
            doing = f"converting {name}, network {position + 1} of {len(networks)}"
            listener.update(0.4 * position / len(networks), doing)
            path = Path(folder) / f"{position}.onnx"
            bundle = prepared.bundle if number is None else read_bundle(place.finalist(number))
            candidate = prepared.space.dense if number is None else trials[number].candidate
            write_onnx(bundle.graph, bundle.tensors, path)
            runs[number] = runtime.prepare_network(path, costs.candidate_graph(candidate), device)
        measured = measure(
            runs,
            passes=MEASURING_PASSES,
            rounds=MEASURING_ROUNDS,
            seed=prepared.job.search.seed,
            progress=lambda share: listener.update(0.4 + 0.6 * share, f"{len(runs)} networks in turn"),
        )
    dense_summary = measured[None].summary()
    for number in missing:
        summary = measured[number].summary()
        store.add_result(
            job,
            number,
            MEASURED,
            {
                "latency_ms": summary.latency_ms,
                "p50_ms": summary.p50_ms,
                "p99_ms": summary.p99_ms,
                "spread": summary.spread,
                "dense_ms": dense_summary.latency_ms,
                "dense_spread": dense_summary.spread,
                "seconds": (time.monotonic() - started_s) / len(missing),
            },
        )
    listener.update(1.0, f"dense {dense_summary.latency_ms:.3g} ms")


def final_work(prepared: Prepared) -> str:
    """What a finalist goes through, in a word."""
    return "fine-tuning" if prepared.job.finetune.final_steps else "repairing"


def label(trial: Trial) -> str:
    """What a finalist or baseline is called."""
    return f"{'uniform' if trial.origin == 'uniform' else 'trial'} {trial.number}"


def results(store: Store, job: str, kind: str) -> dict[int, Mapping[str, Any]]:
    """Trial number → data of its result of one kind."""
    found: list[Result] = store.results(job)
    return {result.trial: result.data for result in found if result.kind == kind}


def choose_winner(prepared: Prepared, store: Store) -> int | None:
    """The fastest measured finalist within the job's `winner_drop` of dense on held-out data, else the
    most accurate one.

    Only the validation split decides: the test split is for reporting.
    """
    finals, measured = (results(store, prepared.job.name, kind) for kind in (FINAL, MEASURED))
    facts = {number: Facts.from_json(finals[number]["facts"]) for number in finals if number in measured}
    if not facts:
        return None
    close = [number for number in facts if is_close(prepared, facts[number])]
    if close:
        return min(close, key=lambda number: float(measured[number]["latency_ms"]))
    return max(facts, key=lambda number: merit(facts[number], prepared.splits.carved))


def is_close(prepared: Prepared, facts: Facts) -> bool:
    """Whether a finalist is within the job's `winner_drop` of the dense model."""
    dense = 1.0 if prepared.splits.carved else prepared.plan.dense_accuracy
    return merit(facts, prepared.splits.carved) >= dense - prepared.job.budget.winner_drop
