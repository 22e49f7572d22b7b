"""What is told beside an exported network, put together from the store alone."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from hwprofiles import Device
from search.finalists import label
from search.numbers import percent, significant, timed
from search.on_device import OnDevice
from search.plan import Prepared
from search.report import doubt
from search.results import FINAL, results
from trials.candidate import Trial
from trials.store import Store


def export_config(prepared: Prepared, store: Store, number: int) -> dict[str, Any]:
    """Everything worth knowing beside an exported model, as JSON."""
    job = prepared.job.name
    final = results(store, job, FINAL)[number]
    trial = next(trial for trial in store.trials(job) if trial.number == number)
    first, *others = (on_device(store, job, on, trial) for on in prepared.devices)
    dense_ms = first.pop("dense_ms")
    sizes = {group.name: group.size for group in prepared.coupling.groups}
    shas = zip(others, prepared.plan.others_sha256, strict=True)
    told = [{**other, "table_sha256": sha256} for other, sha256 in shas]
    return {
        "job": job,
        "trial": number,
        "seed": trial.seed,
        "widths": prepared.space.named(trial.candidate),
        "gone": prepared.coupling.gone(trial.candidate),
        "kept_units": {name: final["kept"].get(name, list(range(size))) for name, size in sizes.items()},
        "facts": final["facts"],
        "test": final["test"],
        "dense": {
            "accuracy": prepared.plan.dense_accuracy,
            "calibration_error": prepared.plan.dense_calibration_error,
            "test": prepared.plan.dense_test,
            "latency_ms": dense_ms,
        },
        **first,
        "table_sha256": prepared.plan.profile_sha256,
        **({"other_devices": told} if told else {}),
        "preparation": prepared.splits.train.preparation,
        "bundle_sha256": prepared.plan.bundle_sha256,
        "versions": versions(),
    }


def on_device(store: Store, job: str, on: OnDevice, trial: Trial) -> dict[str, Any]:
    """What one trial takes on one device: predicted, measured where it was, and how far to rely on that."""
    [score] = on.scorer.score([trial.candidate])
    measured = results(store, job, on.measured).get(trial.number)
    spreads = measured and {
        "the dense model": measured["dense_spread"],
        label(trial): measured["spread"],
    }
    return {
        "dense_ms": measured["dense_ms"] if measured else on.dense_ms,
        "predicted": {"latency_ms": score.latency_ms, "error_ms": score.error_ms},
        "measured": dict(measured) if measured else None,
        "doubt": doubt(spreads) if spreads else "",
        "device": _device(on.device),
    }


def export_line(prepared: Prepared, store: Store, number: int) -> str:
    """What one finalist is and does, in a line."""
    config = export_config(prepared, store, number)
    test, others = config["test"], config.get("other_devices", [])
    parts = [
        f"validation {percent(config['facts']['accuracy'])} %",
        f"test {percent(test['accuracy'])} %" if test else "no test split",
        *_times(config),
    ]
    for other in others:
        predicted, measured = _times(other)
        parts.append(f"on {other['device']['name']} {predicted}, {measured}")
    return f"trial {number}: {', '.join(parts)}"


def versions() -> dict[str, str]:
    return {name: version(name).partition("+")[0] for name in ("prunefront", "torch", "onnxruntime", "onnx")}


def _times(told: dict[str, Any]) -> tuple[str, str]:
    """Predicted and measured, in words."""
    measured, how = told["measured"], timed(told["device"]["modelled"])
    return (
        f"predicted {significant(told['predicted']['latency_ms'])} ms",
        f"{how} {significant(measured['latency_ms'])} ms" if measured else f"not {how}",
    )


def _device(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "board": device.board,
        "runtime": device.runtime,
        "modelled": device.modelled,
        "batch": device.batch,
        "threads": device.threads,
        "identity": device.identity,
    }
