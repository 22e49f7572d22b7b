"""Operators to network latency: what to measure, how to measure it, and the table that speaks for it."""

from latency_models.calibrate import Calibration
from latency_models.energy import EnergyModel
from latency_models.plan_measurements import plan
from latency_models.profiling import NetworkModel, build_profile, covers, extend, missing, uncovered
from latency_models.table import LatencyTable, Prediction
from latency_models.validate import Validation, validate
from latency_models.warm_start import shortened

__all__ = [
    "Calibration",
    "EnergyModel",
    "LatencyTable",
    "NetworkModel",
    "Prediction",
    "Validation",
    "build_profile",
    "covers",
    "extend",
    "missing",
    "plan",
    "shortened",
    "uncovered",
    "validate",
]
