"""The regression behind a repair: second moments, gathered part by part, and its solution."""

from __future__ import annotations

from dataclasses import dataclass

import torch

RIDGE = 1e-3
"""Of the mean variance of a layer's inputs; pulls towards the weights from before."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of a layer's inputs x (features) and wanted outputs y.

    They are about the means where the layer can shift its outputs, else about zero, and the means are zero.
    """

    xx: torch.Tensor
    xy: torch.Tensor
    x_mean: torch.Tensor
    y_mean: torch.Tensor

    @property
    def ridge(self) -> float:
        return RIDGE * float(self.xx.diagonal().mean()) + 1e-12

    def solve(self, old: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights (outputs, features), pulled towards `old` of that shape, and intercept (outputs,)."""
        xx, xy = (moment.to(torch.float64, copy=True) for moment in (self.xx, self.xy))
        ridge = self.ridge
        xx.diagonal().add_(ridge)
        xy.add_(old.T, alpha=ridge)
        weights = torch.cholesky_solve(xy, torch.linalg.cholesky(xx)).T
        return weights, self.y_mean.double() - weights @ self.x_mean.double()

    def at(self, features: torch.Tensor, outputs: torch.Tensor) -> Moments:
        """The same of some features and outputs alone, by index."""
        return Moments(
            self.xx[features][:, features],
            self.xy[features][:, outputs],
            self.x_mean[features],
            self.y_mean[outputs],
        )


class Sums:
    """Samples as they come in, added up in float64 about the means of the first that came."""

    def __init__(self, *, shift: bool = True) -> None:
        self.shift = shift
        self._count = 0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """(samples, features), which is overwritten, and (samples, outputs)."""
        if not self._count:
            self._about = [part.mean(0) if self.shift else part.new_zeros(part.shape[1]) for part in (x, y)]
            widths = x.shape[1], y.shape[1]
            self._xx, self._xy, self._x, self._y = (
                torch.zeros(shape, dtype=torch.float64)
                for shape in ((widths[0], widths[0]), widths, widths[:1], widths[1:])
            )
            self._dtype = x.dtype
        x, y = x.sub_(self._about[0]), y - self._about[1]
        self._xx += x.T @ x
        self._xy += x.T @ y
        self._x += x.sum(0)
        self._y += y.sum(0)
        self._count += len(x)

    def moments(self) -> Moments:
        """In the numbers that came in."""
        x, y = (part / self._count if self.shift else torch.zeros_like(part) for part in (self._x, self._y))
        xx = self._xx / self._count - torch.outer(x, x)
        xy = self._xy / self._count - torch.outer(x, y)
        return Moments(*(part.to(self._dtype) for part in (xx, xy, x + self._about[0], y + self._about[1])))


def moments_of(x: torch.Tensor, y: torch.Tensor, *, shift: bool = True) -> Moments:
    """Of (samples, features) and (samples, outputs)."""
    sums = Sums(shift=shift)
    sums.add(x.clone(), y)
    return sums.moments()
