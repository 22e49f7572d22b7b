"""A report as a search makes it, and one of a search that has found nothing."""

from __future__ import annotations

from dataclasses import replace

from hwprofiles.device import Device
from latency_models.calibrate import Calibration
from search.report import GroupRow, Point, Report, Row
from trials.candidate import Changes, Move

DENSE = Row(
    label="dense",
    trial=None,
    origin="dense",
    target=None,
    validation_accuracy=0.98,
    validation_error=0.006,
    test_accuracy=0.97,
    test_error=0.007,
    predicted_ms=2.0,
    predicted_error_ms=0.06,
    measured_ms=2.1,
    measured_spread=0.01,
    macs=80_000_000,
    parameters=850_000,
    kept={"stem": 16, "head.mlp": 64},
)


UNIFORM = replace(
    DENSE,
    label="uniform 50%",
    trial=0,
    origin="uniform",
    target=1.0,
    validation_accuracy=0.95,
    test_accuracy=0.94,
    predicted_ms=0.99,
    measured_ms=None,
    measured_spread=None,
    kept={"stem": 8, "head.mlp": 32},
)


FOUND = replace(
    UNIFORM,
    label="trial 3",
    trial=3,
    origin="amc",
    validation_accuracy=0.97,
    test_accuracy=0.967,
    predicted_ms=1.0,
    measured_ms=1.05,
    kept={"stem": 12, "head.mlp": 24},
    calibration_error=0.0312,
    changes=Changes(
        lost=23,
        won=12,
        moves=(Move(0, 1, 9), Move(1, 2, 4)),
        worst_class=1,
        worst_drop=0.042,
        worst_drop_error=0.011,
    ),
    on_front=True,
    exported=True,
)


REPORT = Report(
    job="digits",
    created="2025-10-04T14:32:05+02:00",
    device=Device(name="this-cpu", runtime="onnxruntime", board="a CPU", versions={"onnxruntime": "1.31.0"}),
    budget="latency 50 %",
    target_unit="ms",
    dense=DENSE,
    rows=(UNIFORM, FOUND),
    points=(
        Point(number=0, accuracy=0.93, predicted_ms=0.99, origin="uniform"),
        Point(number=1, accuracy=None, predicted_ms=0.9, origin="amc", failed="the loss became NaN"),
        Point(number=2, accuracy=0.2, predicted_ms=0.8, origin="amc"),
        Point(number=3, accuracy=0.95, predicted_ms=1.0, origin="amc", on_front=True),
    ),
    groups=(
        GroupRow(name="stem", kind="channels", size=16, macs_share=0.2, latency_share=0.3),
        GroupRow(name="head.mlp", kind="heads", size=64, macs_share=0.7, latency_share=0.6),
    ),
    hypervolume=(0.1, 0.1, 0.12, 0.3),
    reference_accuracy=0.1,
    reference_ms=2.0,
    calibration=Calibration(scale=1.1, cache_mb=0, rest_ms=0, relative_error=0.03, coverage=0.9, networks=12),
    frozen={"classifier": "it is the model's output"},
    warnings=("No validation split was given.",),
    versions={"torch": "2.13.0"},
    seconds={"searching": 65.0},
    export_folder="runs/digits/export",
    choice="the fastest within 1 point of dense on validation",
    commands={"See every trial": "prunefront show digits"},
    classes=("cat", "dog"),
)


BARE = replace(
    REPORT,
    rows=(),
    points=(),
    groups=(),
    hypervolume=(),
    frozen={},
    warnings=(),
    versions={},
    seconds={},
    export_folder="",
    choice="",
    commands={},
)
