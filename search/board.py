"""A job as a dashboard shows it, from its graph, profiles and the store: no torch, weights or data."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from hwprofiles import Profile, read_profile
from hwprofiles.errors import ConflictError, NotFoundError, RequestError, nearest
from hwprofiles.foreign import parse_json
from search.devices import find_profile, known_profiles, open_table
from search.job import Job
from search.pareto import front_mask, hypervolumes
from search.place import Place
from search.results import EXPORTED, FINAL, MEASURED, measured_on, results
from search.score import Scorer, features
from search.wording import UNITS, budget_text
from trials.candidate import Candidate, as_counts
from trials.costs import Costs
from trials.graph import Graph
from trials.groups import Coupling, analyse
from trials.records import JobRecord, Outline
from trials.store import Store

BOARDS = 16
"""Of jobs, held ready."""
DENSE_NETWORK = "dense"
"""What a profile calls the dense model."""


@dataclass(frozen=True)
class Board:
    """A planned job. What it shows of trials is derived anew each time; all else is read once."""

    job: Job
    plan: Mapping[str, Any]
    place: Place
    costs: Costs

    @classmethod
    def open(cls, record: JobRecord, place: Place) -> Board:
        """
        Raises:
            ConflictError: the job has not been planned yet.
            RequestError: its graph or its plan cannot be read.
        """
        if not record.plan:
            raise ConflictError(
                f"job {record.name!r} is {record.state} and has nothing to show yet; wait until it searches"
            )
        job = Job.from_json(record.spec)
        path = place.bundle / "graph.json"
        try:
            graph = Graph.from_json(parse_json(path.read_bytes()))
        except (OSError, ValueError):
            raise RequestError(f"{path} cannot be read; restore it, or run the job again") from None
        coupling = analyse(graph, blocks=job.search.blocks).without(record.plan["frozen"])
        return cls(job, record.plan, place, Costs(coupling))

    @property
    def coupling(self) -> Coupling:
        return self.costs.coupling

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(choice.name for choice in self.job.devices)

    @cached_property
    def _scorers(self) -> dict[str, Scorer]:
        return {}

    def scorer(self, device: str = "") -> Scorer:
        """Of a device of the job, its first by default, or of any that has a profile.

        Raises:
            NotFoundError: there is no such device.
            RequestError: its profile cannot be read, or does not hold what the job's model runs.
        """
        name = device or self.devices[0]
        if name not in self._scorers:
            scorer = Scorer(self.costs, open_table(self._profile(name), self.costs.op_graph))
            scorer.latency(self.costs.coupling.space().sizes[None])  # raises what the table lacks
            self._scorers[name] = scorer
        return self._scorers[name]

    def known_devices(self) -> list[str]:
        """The job's own devices, and all others whose profile holds what its model runs."""
        others = [name for name, path in known_profiles(self.place.devices) if self._knows(name, path)]
        return [*self.devices, *(name for name in others if name not in self.devices)]

    def _knows(self, name: str, path: Path) -> bool:
        written_ns = path.stat().st_mtime_ns
        if self._lacking.get(name) != written_ns:
            try:
                self.scorer(name)
                return True
            except RequestError:
                self._lacking[name] = written_ns
        return False

    @cached_property
    def _lacking(self) -> dict[str, int]:
        """Devices whose profile does not hold what the model runs, with when that profile was written."""
        return {}

    def _profile(self, name: str) -> Profile:
        if name == self.devices[0]:
            return read_profile(self.place.profile)
        if name in self.devices:
            profile = read_profile(self.place.profile_on(name))
            return replace(profile, device=replace(profile.device, name=name))
        try:
            return read_profile(find_profile(self.place.devices, name))
        except RequestError as error:
            raise NotFoundError(
                f"job {self.job.name!r} has no device {name!r} ({nearest(name, self.devices)}), and no "
                f"profile goes by that name: {error}"
            ) from None

    def outlines(self, store: Store) -> Sequence[Outline]:
        """All trials. A trial that has ended does not change any more, so those up to the first that has not
        are read once."""
        ended = self._ended.get("trials", ())
        trials = (*ended, *store.outlines(self.job.name, first=ended[-1].number + 1 if ended else 0))
        self._ended["trials"] = tuple(takewhile(lambda trial: trial.state.finished, trials))
        return trials

    @cached_property
    def _ended(self) -> dict[str, tuple[Outline, ...]]:
        return {}

    def dense_ms(self, device: str = "") -> float:
        scorer = self.scorer(device)
        networks = self._profile(device or self.devices[0]).networks
        known = [net for net in networks if net.name == DENSE_NETWORK and net.graph == self.costs.op_graph]
        if not device or device == self.devices[0]:
            return float(self.plan["dense_ms"])
        if known:
            return known[0].rounds.summary().latency_ms
        return float(scorer.latency(self.coupling.space().sizes[None])[0][0])

    def front(self, store: Store, device: str = "") -> dict[str, Any]:
        """All trials in columns, the front among them, finalists, the dense model, and what was asked for.

        Latencies are in milliseconds and accuracies 0..1 on validation; `hypervolume` has a value per trial
        that is done, of accuracy and of the share of the dense latency saved.
        """
        scorer, dense_ms = self.scorer(device), self.dense_ms(device)
        trials = self.outlines(store)
        counts = as_counts([trial.candidate for trial in trials]) if trials else None
        latency_ms, error_ms = scorer.latency(counts) if counts is not None else np.empty((2, 0))
        macs = self.costs.macs(counts) if counts is not None else np.empty(0)
        parameters = self.costs.parameters(counts) if counts is not None else np.empty(0)
        done = np.array([trial.accuracy is not None for trial in trials], dtype=bool)
        accuracy = np.array([trial.accuracy for trial in trials if trial.accuracy is not None])
        points = np.column_stack([1 - accuracy, latency_ms[done]])
        on_front = np.zeros(len(trials), dtype=bool)
        on_front[done] = front_mask(points)
        first = self.job.budget.leading
        return {
            "job": self.job.name,
            "device": device or self.devices[0],
            "devices": list(self.devices),
            "modelled": scorer.table.device.modelled,
            "budget": budget_text(self.job.budget, self.job.devices),
            "targets": list(self.plan["targets"]),
            "target_unit": UNITS[first.kind],
            "dense": {
                "accuracy": self.plan["dense_accuracy"],
                "accuracy_error": self.plan["dense_accuracy_error"],
                "latency_ms": dense_ms,
                "test_accuracy": (self.plan["dense_test"] or {}).get("accuracy"),
                "macs": int(self.costs.macs(self.coupling.space().sizes[None])[0]),
                "parameters": int(self.costs.parameters(self.coupling.space().sizes[None])[0]),
            },
            "trials": {
                "number": [trial.number for trial in trials],
                "state": [str(trial.state) for trial in trials],
                "origin": [trial.origin for trial in trials],
                "target": [trial.target for trial in trials],
                "accuracy": [_known(trial.accuracy) for trial in trials],
                "accuracy_error": [_known(trial.accuracy_error) for trial in trials],
                "latency_ms": [_rounded(each) for each in latency_ms.tolist()],
                "error_ms": [_rounded(each) for each in error_ms.tolist()],
                "macs": [int(each) for each in macs.tolist()],
                "parameters": [int(each) for each in parameters.tolist()],
                "on_front": on_front.tolist(),
                "reason": {str(trial.number): trial.reason for trial in trials if trial.reason},
            },
            "hypervolume": [_rounded(v) for v in hypervolumes(points / [1.0, dense_ms], np.ones(2)).tolist()],
            "finalists": self.finalists(store, device),
        }

    def finalists(self, store: Store, device: str = "") -> list[dict[str, Any]]:
        """The trials that were trained to the end: what both splits say of them, and what was measured."""
        name = self.job.name
        kind = MEASURED if device in ("", self.devices[0]) else measured_on(device)
        finals, measured, exported = (results(store, name, each) for each in (FINAL, kind, EXPORTED))
        return [
            {
                "trial": number,
                "accuracy": final["facts"]["accuracy"],
                "accuracy_error": final["facts"]["accuracy_error"],
                "class_accuracy": final["facts"].get("class_accuracy", []),
                "test_accuracy": (final["test"] or {}).get("accuracy"),
                "test_error": (final["test"] or {}).get("accuracy_error"),
                "measured_ms": measured.get(number, {}).get("latency_ms"),
                "measured_spread": measured.get(number, {}).get("spread"),
                "dense_measured_ms": measured.get(number, {}).get("dense_ms"),
                "exported": number in exported,
            }
            for number, final in sorted(finals.items())
        ]

    def widths(self, store: Store) -> dict[str, Any]:
        """What each trial keeps of each group: (trials, groups) units, beside what the groups have."""
        trials = self.outlines(store)
        return {
            "groups": [group.name for group in self.coupling.groups],
            "sizes": [group.size for group in self.coupling.groups],
            "number": [trial.number for trial in trials],
            "kept": [list(trial.candidate.kept) for trial in trials],
        }

    def groups(self, device: str = "") -> list[dict[str, Any]]:
        """Each group: its size, its shares of the dense model, and what it alone costs it where measured."""
        shares, losses = features(self.scorer(device)), self._losses()
        return [
            {
                "name": group.name,
                "kind": group.kind,
                "size": group.size,
                "macs_share": float(shares[index, 3]),
                "latency_share": float(shares[index, 4]),
                "losses": losses.get(group.name, {}),
            }
            for index, group in enumerate(self.coupling.groups)
        ]

    def layers(self, candidate: Candidate, device: str = "") -> dict[str, float]:
        """What each layer of a candidate takes, in milliseconds, by its name in the user's model."""
        variant, taken_ms = self.costs.variant(candidate), Counter[str]()
        latency_ms = self.scorer(device).table.breakdown(variant.candidate_graph(candidate))
        for operator, each_ms in zip(variant.operators, latency_ms.tolist(), strict=True):
            taken_ms[operator.name] += each_ms
        return {name: _rounded(each_ms) for name, each_ms in taken_ms.items()}

    def trial(self, store: Store, number: int, device: str = "") -> dict[str, Any]:
        """All of one trial: facts, widths, what it is predicted to take, layer by layer, and was measured.

        Raises:
            NotFoundError: there is no such trial.
        """
        found = {trial.number: trial for trial in store.trials(self.job.name)}
        if number not in found:
            told = f"0 to {len(found) - 1}" if found else "none yet"
            raise NotFoundError(f"job {self.job.name!r} has no trial {number}; its trials: {told}")
        trial = found[number]
        [score] = self.scorer(device).score([trial.candidate])
        return {
            "trial": number,
            "state": str(trial.state),
            "origin": trial.origin,
            "reason": trial.reason,
            "target": trial.target,
            "seed": trial.seed,
            "attempts": trial.attempts,
            "facts": trial.facts.to_json() if trial.facts else None,
            "widths": dict(zip([g.name for g in self.coupling.groups], trial.candidate.kept, strict=True)),
            "sizes": {group.name: group.size for group in self.coupling.groups},
            "gone": dict(self.coupling.gone(trial.candidate)),
            "latency_ms": score.latency_ms,
            "error_ms": score.error_ms,
            "layers": self.layers(trial.candidate, device),
            "final": next((f for f in self.finalists(store, device) if f["trial"] == number), None),
        }

    def _losses(self) -> Mapping[str, Mapping[str, float]]:
        """What was measured of groups alone; nothing where it was not, or is being written."""
        try:
            kept = json.loads((self.place.folder / "sensitivity.json").read_text(encoding="utf-8"))
            measured: Mapping[str, Mapping[str, float]] = kept["measured"]
            return {
                group: {units: loss for units, loss in points.items() if loss is not None}
                for group, points in measured.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}


class Boards:
    """Boards of jobs that were looked at lately: their graphs and profiles do not change any more."""

    def __init__(self, runs: Path) -> None:
        self._runs, self._known = runs, OrderedDict[tuple[str, str, str], Board]()

    def of(self, record: JobRecord) -> Board:
        key = record.name, str(record.created_s), json.dumps(record.plan, sort_keys=True)
        board = self._known.get(key) or Board.open(record, Place(self._runs, record.name))
        self._known[key] = board
        self._known.move_to_end(key)
        while len(self._known) > BOARDS:
            self._known.popitem(last=False)
        return board


def _rounded(value: float) -> float:
    """To six digits: a page draws no more, and a front of 10 000 trials is half as long."""
    return float(f"{value:.6g}")


def _known(value: float | None) -> float | None:
    return None if value is None else _rounded(value)
