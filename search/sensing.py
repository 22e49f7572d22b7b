"""Measures the sensitivity of a job's groups with its workers, and keeps it for later starts and jobs."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from hwprofiles.disk import write_whole
from hwprofiles.errors import RequestError
from search.answers import answers
from search.loop import Workers
from search.plan import Prepared
from search.progress import Listener
from search.sensitivity import Probe, Sensitivity, probes
from trials.data import Split
from trials.requests import Outcome, Request

FILE = "sensitivity.json"
VERSION = 1
LOOKED_AT = 64
"""Images that say whether two jobs have the same."""

Measured = dict[str, dict[int, float]]


def sense(prepared: Prepared, workers: Workers, listener: Listener) -> Sensitivity:
    """What each group alone costs the model; measured is what no job beside this one has measured before.

    Each measurement is kept as it comes in. What cannot be made real costs infinitely much. A job that has
    all it wants comes to the same each time, whatever others have measured since.

    Raises:
        RequestError: nothing could be made real; says why.
    """
    path, key, measured = prepared.place.folder / FILE, _key(prepared), _measured(prepared)
    todo = [probe for probe in probes(prepared.space) if probe.kept not in measured.get(probe.group, {})]
    failed: list[tuple[Probe, str]] = []
    listener.update(0.0, f"sensitivity of groups, by network 0 of {len(todo)}")
    requests = [Request(candidate=probe.candidate, seed=0, probe=True) for probe in todo]
    for done, (number, value, reason) in enumerate(answers(workers, requests), start=1):
        listener.update(0.0, f"sensitivity of groups, by network {done} of {len(todo)}")
        if isinstance(value, Outcome) and math.isfinite(value.facts.divergence):
            measured.setdefault(todo[number].group, {})[todo[number].kept] = value.facts.divergence
            _keep(path, key, measured)
        else:
            failed.append((todo[number], reason or "its divergence is no number"))
    if todo and len(failed) == len(todo):
        raise RequestError(f"no group of the model could be pruned and repaired: {failed[0][1]}")
    for probe, reason in failed:
        measured.setdefault(probe.group, {})[probe.kept] = math.inf
        listener.note(f"group {probe.group!r} is not tried with {probe.kept} units or fewer: {reason}")
    _keep(path, key, measured)
    if todo:
        listener.note(f"sensitivity of {len(measured)} groups found, by {len(todo)} networks")
    return Sensitivity(measured)


def known(prepared: Prepared) -> Sensitivity:
    """What a job itself starts from, as far as it is measured: nothing where its controller does not ask."""
    return Sensitivity(_read(prepared.place.folder / FILE, _key(prepared)))


def _key(prepared: Prepared) -> str:
    """Of everything that measurements depend on, but for the candidates."""
    job, recipe = prepared.job, asdict(prepared.recipe)
    how = ("criterion", "repair", "validation_images", "execution", "seed", "blocks", "frozen")
    content = {
        "version": VERSION,
        "bundle": prepared.plan.bundle_sha256,
        "data": job.data.model_dump(mode="json"),
        "images": _content(prepared.splits.validation),
        "recipe": {name: recipe[name] for name in how},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(split: Split) -> str:
    """Of all labels and some images: files may change under their names."""
    arrays, _ = split.evenly(min(LOOKED_AT, len(split))).batch(slice(None))
    found = hashlib.sha256(np.ascontiguousarray(split.labels).tobytes())
    for values in arrays:
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _finite(measured: Measured) -> Measured:
    """Without what failed: that may have been the other job's memory or its luck."""
    return {
        group: {kept: loss for kept, loss in points.items() if math.isfinite(loss)}
        for group, points in measured.items()
    }


def _measured(prepared: Prepared) -> Measured:
    """What this job, and else others in its folder of runs, have measured of what it wants to know."""
    key, own = _key(prepared), prepared.place.folder / FILE
    others = sorted(path for path in prepared.place.runs.glob(f"*/{FILE}") if path != own)
    known = [_read(own, key), *(_finite(_read(path, key)) for path in others)]
    found: Measured = {}
    for probe in probes(prepared.space):
        for measured in known:
            if probe.kept in measured.get(probe.group, {}):
                found.setdefault(probe.group, {})[probe.kept] = measured[probe.group][probe.kept]
                break
    return found


def _read(path: Path, key: str) -> Measured:
    """What a file has of this key; nothing where it is none, or is damaged, so that it is measured again."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] != key:
            return {}
        return {
            group: {int(units): _loss(loss) for units, loss in points.items()}
            for group, points in kept["measured"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}


def _loss(kept: float | None) -> float:
    """
    Raises:
        ValueError: no measurement comes to that.
    """
    if kept is None:
        return math.inf
    if not 0 <= kept < math.inf:
        raise ValueError(f"a divergence of {kept}")
    return float(kept)


def _keep(path: Path, key: str, measured: Measured) -> None:
    points = {
        group: {units: loss if math.isfinite(loss) else None for units, loss in sorted(of_group.items())}
        for group, of_group in measured.items()
    }
    write_whole(path, json.dumps({"key": key, "measured": points}, indent=1).encode())
