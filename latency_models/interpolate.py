"""Latency between measured channel counts of one kernel; never beyond them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


class Grid:
    """Warm and cold latency in ms of one kernel family over (input, output channels).

    Bilinear, exact where measured.

    A kernel with as many outputs as inputs is measured on the diagonal only and is a line over its channels.
    """

    def __init__(self, measured_ms: Mapping[tuple[int, int], tuple[float, float]]) -> None:
        """
        Raises:
            ValueError: the points are neither a full grid nor a diagonal.
        """
        self.points = sorted(measured_ms)
        outs = sorted({outputs for _, outputs in self.points})
        ins = sorted({inputs for inputs, _ in self.points})
        self._diagonal = all(inputs == outputs for inputs, outputs in self.points)
        if self._diagonal:
            ins = ins[:1]
        if len(self.points) != len(ins) * len(outs):
            raise ValueError(f"{len(self.points)} points do not fill a grid of {len(ins)} x {len(outs)}")
        self._ins = np.array(ins, dtype=np.float64)
        self._outs = np.array(outs, dtype=np.float64)
        ordered = [measured_ms[point] for point in self.points]
        self._ms: NDArray[np.float64] = np.array(ordered).reshape(len(ins), len(outs), 2)

    def covers(self, inputs: int, outputs: int) -> bool:
        inside = self._outs[0] <= outputs <= self._outs[-1]
        return bool(
            inside and (inputs == outputs if self._diagonal else self._ins[0] <= inputs <= self._ins[-1])
        )

    def at(self, inputs: int, outputs: int) -> tuple[float, float]:
        """Interpolate warm and cold milliseconds; the caller has asked `covers`."""
        first, second = (self._between(inputs, outputs, self._ms[..., kind]) for kind in (0, 1))
        return first, second

    def _between(self, inputs: int, outputs: int, ms: NDArray[np.float64]) -> float:
        along_outputs = [float(np.interp(outputs, self._outs, row)) for row in ms]
        return along_outputs[0] if self._diagonal else float(np.interp(inputs, self._ins, along_outputs))
