"""The report of a job, put together from the store alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import numpy as np

from search.exported import versions
from search.finalists import FINALIST_FAILED, is_close, label
from search.ladder import ladder
from search.on_device import OnDevice
from search.pareto import front_mask, hypervolumes
from search.plan import Prepared
from search.report import GroupRow, Point, Report, Row
from search.results import EXPORTED, FINAL, results
from search.score import features
from search.sensing import known
from search.wording import UNITS, budget_text, drop_text
from trials.candidate import Candidate, Facts, Trial, TrialState, as_counts
from trials.store import Store


def make_report(prepared: Prepared, store: Store) -> Report:
    """The report of a job as far as it has come, on each of its devices."""
    first, *others = (report_on(prepared, store, on) for on in prepared.devices)
    return replace(first, others=tuple(others))


def report_on(prepared: Prepared, store: Store, on: OnDevice) -> Report:
    """What there is to report of a job on one device, which need not be one of its own."""
    job = prepared.job.name
    trials = store.trials(job)
    by_number = {trial.number: trial for trial in trials}
    done = [trial for trial in trials if trial.state is TrialState.DONE]
    merits = [prepared.merit(trial) for trial in done]
    scores = on.scorer.score([trial.candidate for trial in trials]) if trials else []
    predicted_ms = {trial.number: score.latency_ms for trial, score in zip(trials, scores, strict=True)}
    costs = np.array([(1 - merit, predicted_ms[t.number]) for t, merit in zip(done, merits, strict=True)])
    costs = costs.reshape(-1, 2)
    on_front = {trial.number for trial, unbeaten in zip(done, front_mask(costs), strict=True) if unbeaten}
    finals, measured = results(store, job, FINAL), results(store, job, on.measured)
    exported = results(store, job, EXPORTED)
    rows = [
        _row(prepared, on, by_number[number], finals[number], measured.get(number), number in exported)
        for number in sorted(finals)
    ]
    shares = features(on.scorer)
    losses = known(prepared).measured
    return Report(
        job=job,
        created=datetime.fromtimestamp(store.job(job).created_s, UTC).isoformat(timespec="seconds"),
        device=on.device,
        budget=budget_text(prepared.job.budget, prepared.job.devices),
        target_unit=UNITS[prepared.limits[0].kind],
        dense=_dense_row(prepared, on, measured),
        rows=tuple(rows),
        points=tuple(
            Point(
                number=trial.number,
                accuracy=trial.facts.accuracy if trial.facts else None,
                predicted_ms=predicted_ms[trial.number],
                origin=trial.origin,
                on_front=trial.number in on_front,
                failed=trial.reason,
            )
            for trial in trials
        ),
        groups=tuple(
            GroupRow(
                name=group.name,
                kind=group.kind,
                size=group.size,
                macs_share=float(shares[i, 3]),
                latency_share=float(shares[i, 4]),
                losses={kept: loss for kept, loss in losses.get(group.name, {}).items() if isfinite(loss)},
            )
            for i, group in enumerate(prepared.coupling.groups)
        ),
        hypervolume=tuple(hypervolumes(costs / [1.0, on.dense_ms], np.ones(2)).tolist()),
        reference_accuracy=0.0,
        reference_ms=on.dense_ms,
        calibration=on.scorer.table.calibration,
        frozen={item.name: item.reason for item in prepared.coupling.frozen},
        warnings=_warnings(prepared, store),
        versions={**on.device.versions, **versions()},
        seconds=_seconds(trials, finals, measured),
        export_folder=prepared.place.export_named if exported else "",
        choice=_choice(prepared, on, [finals[number] for number in exported]),
        commands={
            "look at the front again": f"prunefront pareto {job}",
            "export another trial": f"prunefront export {job} --trial N",
            "see one trial": f"prunefront show {job} --trial N",
        },
        classes=prepared.splits.classes,
        ladder=ladder(prepared, done, finals),
    ).with_front()


def _row(
    prepared: Prepared,
    on: OnDevice,
    trial: Trial,
    final: Mapping[str, Any],
    measured: Mapping[str, Any] | None,
    exported: bool,
) -> Row:
    facts, test = Facts.from_json(final["facts"]), final["test"] or {}
    [score] = on.scorer.score([trial.candidate])
    return Row(
        label=label(trial),
        trial=trial.number,
        origin=trial.origin,
        target=trial.target,
        validation_accuracy=facts.accuracy,
        validation_error=facts.accuracy_error,
        test_accuracy=test.get("accuracy"),
        test_error=test.get("accuracy_error"),
        predicted_ms=score.latency_ms,
        predicted_error_ms=score.error_ms,
        measured_ms=measured["latency_ms"] if measured else None,
        measured_spread=measured["spread"] if measured else None,
        macs=facts.macs,
        parameters=facts.parameters,
        limited=_limited(prepared, on, trial.candidate),
        kept=prepared.space.named(trial.candidate),
        gone=prepared.coupling.gone(trial.candidate),
        calibration_error=facts.calibration_error,
        changes=facts.changes,
        exported=exported,
    )


def _dense_row(prepared: Prepared, on: OnDevice, measured: Mapping[int, Mapping[str, Any]]) -> Row:
    counts = as_counts([prepared.space.dense])
    [score] = on.scorer.score([prepared.space.dense])
    test = prepared.plan.dense_test or {}
    sessions = list(measured.values())
    return Row(
        label="dense",
        trial=None,
        origin="dense",
        target=None,
        validation_accuracy=prepared.plan.dense_accuracy,
        validation_error=prepared.plan.dense_accuracy_error,
        test_accuracy=test.get("accuracy"),
        test_error=test.get("accuracy_error"),
        predicted_ms=score.latency_ms,
        predicted_error_ms=score.error_ms,
        measured_ms=float(np.median([s["dense_ms"] for s in sessions])) if sessions else on.known_dense_ms,
        measured_spread=float(np.median([s["dense_spread"] for s in sessions])) if sessions else None,
        macs=int(on.scorer.costs.macs(counts)[0]),
        parameters=int(on.scorer.costs.parameters(counts)[0]),
        limited=_limited(prepared, on, prepared.space.dense),
        kept=prepared.space.named(prepared.space.dense),
        calibration_error=prepared.plan.dense_calibration_error,
    )


def _limited(prepared: Prepared, on: OnDevice, candidate: Candidate) -> dict[str, float]:
    """What a candidate costs of those kinds that are limited and have no place of their own in a row."""
    counts, own = as_counts([candidate]), ("latency_ms", "macs", "parameters")
    return {
        limit.kind: float(limit.cost(counts)[0])
        for limit in prepared.limits
        if limit.kind not in own and limit.device in ("", on.device.name)
    }


def _choice(prepared: Prepared, on: OnDevice, exported: Sequence[Mapping[str, Any]]) -> str:
    """Why the winner won; empty as long as there is none."""
    names = [device.device.name for device in prepared.devices]
    points = f"within {drop_text(prepared.job.budget)} of dense"
    fastest = "the fastest" if names == [on.device.name] else f"the fastest on {names[0]}"
    if len(names) > 1:
        fastest = f"the one of the greatest least speed-up over {', '.join(names[:-1])} and {names[-1]}"
    for final in exported:
        if is_close(prepared, Facts.from_json(final["facts"])):
            return f"{fastest} {points} on validation"
        return f"the most accurate on validation; none is {points}"
    return ""


def _warnings(prepared: Prepared, store: Store) -> tuple[str, ...]:
    found = list(prepared.splits.warnings)
    found += [
        f"{on.device.name} is known by its profile alone: what networks take there is predicted, not measured"
        for on in prepared.devices
        if not on.is_here
    ]
    if prepared.splits.carved:
        found.append(
            "without a validation split trials are ranked by closeness to the dense model's outputs, "
            "exp(-divergence); accuracies on the carved split are too good"
        )
    # A finalist that a resumed job has trained after all is no matter any more.
    trained = tuple(f"trial {number}:" for number in results(store, prepared.job.name, FINAL))
    for event in store.events(prepared.job.name):
        if event.kind == FINALIST_FAILED and not event.message.startswith(trained):
            found.append(f"a finalist failed: {event.message}")
    return tuple(dict.fromkeys(found))


def _seconds(
    trials: Sequence[Trial],
    finals: Mapping[int, Mapping[str, Any]],
    measured: Mapping[int, Mapping[str, Any]],
) -> dict[str, float]:
    """How long the stages of the run worked, over all workers; what a kill has cost is not in it."""
    searched = [trial.facts.seconds for trial in trials if trial.facts]
    finished = [Facts.from_json(final["facts"]).seconds for final in finals.values()]
    stages = {
        f"searching ({len(searched)} trials)": sum(sum(parts.values()) for parts in searched),
        f"finishing ({len(finished)} networks)": sum(sum(parts.values()) for parts in finished),
        "measuring them": sum(result.get("seconds", 0.0) for result in measured.values()),
    }
    return {stage: seconds for stage, seconds in stages.items() if seconds}
