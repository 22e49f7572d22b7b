"""After the search: finalists are trained to the end and measured on the devices that are here."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from hwprofiles import measure, open_runtime
from search.finalists import FINALIST_FAILED, label
from search.loop import MAX_DEATHS, Workers
from search.on_device import OnDevice
from search.plan import Prepared
from search.progress import Listener
from search.results import FINAL, TUNED, results
from trials.bundle import read_bundle
from trials.candidate import Candidate, Trial
from trials.costs import Costs
from trials.halfway import Halfway
from trials.onnx_file import write_onnx
from trials.requests import Leg, Outcome, Recipe, Request
from trials.run import Workbench
from trials.store import Store

NEARLY = 0.95
"""The share of a finalist that is told of at most while it is trained."""
MEASURING_PASSES, MEASURING_ROUNDS = 3, 20
LEG_S, FIRST_LEG_S = 120.0, 10.0
"""What a finalist that is killed in its training may lose of it. The first leg tells how fast it goes."""


def next_leg(prepared: Prepared, trial: Trial, recipe: Recipe) -> Leg:
    """What a worker is to do next to train a trial to the end by a recipe, by what has been kept of it."""
    folder = prepared.place.halfway(trial.number)
    halfway = Halfway.read(folder)
    if halfway is None or halfway.recipe != asdict(recipe):
        halfway = None
        shutil.rmtree(folder, ignore_errors=True)  # what there is of it is damaged, or of another training
    request = Request(candidate=trial.candidate, seed=trial.seed, final=True)
    return Leg(request=request, for_s=LEG_S if halfway else min(FIRST_LEG_S, LEG_S), halfway=halfway)


def keep_leg(prepared: Prepared, store: Store, number: int, found: Outcome | Halfway) -> bool:
    """Keep what a leg came to; says whether it was the last.

    At the end that is the network on disk, and then in the store that it is there.
    """
    place = prepared.place
    if isinstance(found, Halfway):
        found.write(place.halfway(number))
        return False
    assert found.network is not None
    shutil.rmtree(place.finalist(number), ignore_errors=True)  # of one that was killed before the store knew
    found.network.write(place.finalist(number))
    store.add_result(prepared.job.name, number, FINAL, found.to_json())
    shutil.rmtree(place.halfway(number), ignore_errors=True)
    return True


def train_finalists(
    prepared: Prepared, store: Store, pool: Workers, numbers: Sequence[int], listener: Listener
) -> None:
    """Run what is missing of the final stage; a finalist's test split is read once and the result kept.

    Training goes in legs, each of which is kept: who is killed loses the last one at most.
    """
    job, finals = prepared.job.name, results(store, prepared.job.name, FINAL)
    trials = {trial.number: trial for trial in store.trials(job)}
    for number in finals:  # of one that was killed when the store had just been told
        shutil.rmtree(prepared.place.halfway(number), ignore_errors=True)
    missing = [number for number in numbers if number not in finals]
    todo, under_way, total = list(missing), dict[int, UnderWay](), len(missing)
    took_s = [sum(finals[number]["facts"]["seconds"].values()) for number in numbers if number in finals]
    deaths = Counter[int]()
    while missing:
        while todo and pool.free > 0:
            number = todo.pop(0)
            leg = next_leg(prepared, trials[number], prepared.recipe)
            under_way[number] = UnderWay.of(leg.halfway)
            pool.submit(number, leg)
        done, names = total - len(missing), ", ".join(label(trials[number]) for number in under_way)
        usual_s = sum(took_s) / len(took_s) if took_s else 0.0
        share = sum(each.share(usual_s) for each in under_way.values())
        listener.update((done + share) / total, f"{done} of {total} done, {final_work(prepared)} {names}")
        for finished in pool.wait(1.0):
            ended = finished.key
            assert isinstance(ended, int)
            spent_s = under_way.pop(ended).spent_s
            deaths[ended] += finished.died
            if finished.died and deaths[ended] < MAX_DEATHS:
                todo.append(ended)
                continue
            if finished.value is None:
                reason = finished.error or f"its worker died {MAX_DEATHS} times"
                store.add_event(job, FINALIST_FAILED, f"trial {ended}: {reason}")
            elif not keep_leg(prepared, store, ended, finished.value):
                todo.insert(0, ended)
                deaths[ended] = 0  # they count in a row, and it has come further
                continue
            else:
                took_s.append(spent_s + finished.busy_s)
            missing.remove(ended)
    baselines = sum(trials[number].origin == "uniform" for number in numbers)
    listener.update(1.0, f"finalists: {len(numbers) - baselines}, uniform baselines: {baselines}")


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A finalist in a worker's hands: since when, what share of its training was done by then, what time was
    spent on it, and how much of that in training."""

    since_s: float
    done: float = 0.0
    spent_s: float = 0.0
    trained_s: float = 0.0

    @classmethod
    def of(cls, halfway: Halfway | None) -> Self:
        if halfway is None:
            return cls(time.monotonic())
        seconds = halfway.seconds
        return cls(time.monotonic(), halfway.share, sum(seconds.values()), seconds["fine-tune"])

    def share(self, usual_s: float) -> float:
        """How much of it is done by now, as its own legs went or, in the first one, as long as others took.

        Where no other has ended either, nothing is known to be done.
        """
        whole_s = self.spent_s - self.trained_s + self.trained_s / self.done if self.done else usual_s
        return min(NEARLY, (self.spent_s + time.monotonic() - self.since_s) / whole_s) if whole_s else 0.0


def measure_finalists(prepared: Prepared, store: Store, listener: Listener) -> None:
    """Measure finalists on every device that is here, each time beside the dense model, whose latency in that
    session is kept with each.
    """
    job = prepared.job.name
    finals = sorted(results(store, job, FINAL))
    here = [on for on in prepared.devices if on.is_here]
    missing = {
        on.measured: [number for number in finals if number not in results(store, job, on.measured)]
        for on in here
    }
    todo = [on for on in here if missing[on.measured]]
    if not todo:
        return
    trials = {trial.number: trial for trial in store.trials(job)}
    networks = (None, *sorted({number for on in todo for number in missing[on.measured]}))
    with TemporaryDirectory() as folder:
        paths = {}
        for position, number in enumerate(networks):
            name = "dense" if number is None else label(trials[number])
            doing = f"converting {name}, network {position + 1} of {len(networks)}"
            listener.update(0.4 * position / len(networks), doing)
            paths[number] = Path(folder) / f"{position}.onnx"
            bundle = prepared.bundle if number is None else read_bundle(prepared.place.finalist(number))
            write_onnx(bundle.graph, bundle.tensors, paths[number])
        for position, on in enumerate(todo):
            timed: dict[int | None, Candidate] = {None: prepared.space.dense}
            timed |= {number: trials[number].candidate for number in missing[on.measured]}
            share = 0.4 + 0.6 * position / len(todo), 0.6 / len(todo)
            _measure(prepared, store, on, timed, paths, share, listener)


def _measure(
    prepared: Prepared,
    store: Store,
    on: OnDevice,
    candidates: Mapping[int | None, Candidate],
    paths: Mapping[int | None, Path],
    share: tuple[float, float],
    listener: Listener,
) -> None:
    """Measure networks on one device, and keep what each takes.

    Args:
        candidates: by their numbers; the dense model is `None`.
        share: of the stage, that is done before and that this takes.
    """
    started_s, device, (before, this) = time.monotonic(), on.device, share
    runtime, costs = open_runtime(device.runtime, device.precision), Costs(prepared.coupling)
    measured = measure(
        {
            number: runtime.prepare_network(paths[number], costs.candidate_graph(candidate), device)
            for number, candidate in candidates.items()
        },
        passes=MEASURING_PASSES,
        rounds=MEASURING_ROUNDS,
        seed=prepared.job.search.seed,
        progress=lambda done: listener.update(
            before + this * done, f"{len(candidates)} networks in turn on {device.name}"
        ),
    )
    dense = measured[None].summary()
    numbers = [number for number in candidates if number is not None]
    for number in numbers:
        summary = measured[number].summary()
        store.add_result(
            prepared.job.name,
            number,
            on.measured,
            {
                "latency_ms": summary.latency_ms,
                "p50_ms": summary.p50_ms,
                "p99_ms": summary.p99_ms,
                "spread": summary.spread,
                "dense_ms": dense.latency_ms,
                "dense_spread": dense.spread,
                "seconds": (time.monotonic() - started_s) / len(numbers),
            },
        )
    listener.update(before + this, f"dense {dense.latency_ms:.3g} ms on {device.name}")


def finish_trial(prepared: Prepared, store: Store, number: int, listener: Listener) -> None:
    """Train and measure one trial that was not among the finalists, here in this process.

    By its own recipe, if one was found for it.

    Raises:
        TrialError: its training failed.
    """
    if number not in results(store, prepared.job.name, FINAL):
        trial = {trial.number: trial for trial in store.trials(prepared.job.name)}[number]
        doing = f"{final_work(prepared)} {label(trial)}"
        tuned = results(store, prepared.job.name, TUNED).get(number, {"recipe": {}})
        recipe = replace(prepared.recipe, **tuned["recipe"])
        bench = Workbench(prepared.bundle, prepared.splits, recipe)
        is_done = False
        while not is_done:
            leg = next_leg(prepared, trial, recipe)
            listener.update(leg.halfway.share if leg.halfway else 0.0, doing)
            is_done = keep_leg(prepared, store, number, bench(leg))
    measure_finalists(prepared, store, listener)


def final_work(prepared: Prepared) -> str:
    """What a finalist goes through, in a word."""
    return "fine-tuning" if prepared.job.finetune.final_steps else "repairing"
