"""The regression behind a repair: second moments, gathered part by part, and its solution."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

RIDGE = 1e-3
"""Of the mean variance of a layer's inputs; pulls towards the weights from before."""
BLOCK = 256
"""Rows of a matrix of moments that are kept together: large enough for products at full speed."""

Samples = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Of each chunk what a layer reads, (samples, features), and should make, (samples, outputs)."""
Solution = tuple[torch.Tensor, torch.Tensor]
"""Weights (outputs, features) and intercept (outputs,), float64."""


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

    def solve(self, old: torch.Tensor, factor: torch.Tensor | None = None) -> Solution:
        """Weights, pulled towards `old` of their shape, and intercept.

        Args:
            factor: Cholesky's of `ridged`, where it is known.
        """
        xy = self.xy.to(torch.float64, copy=True).add_(old.T, alpha=self.ridge)
        if factor is None:
            factor = torch.linalg.cholesky(self.ridged())
        weights = torch.cholesky_solve(xy, factor).T
        return weights, self.y_mean.double() - weights @ self.x_mean.double()

    def ridged(self) -> torch.Tensor:
        """(features, features) in float64, fresh memory, with the ridge on its diagonal."""
        xx = self.xx.to(torch.float64, copy=True)
        xx.diagonal().add_(self.ridge)
        return xx

    def at(self, features: torch.Tensor, outputs: torch.Tensor) -> Moments:
        """The same of some features and outputs alone, by index."""
        return Moments(
            self.xx[features][:, features],
            self.xy[features][:, outputs],
            self.x_mean[features],
            self.y_mean[outputs],
        )


class Inputs:
    """Second moments of what a layer reads, of samples as they come in.

    They are about the means where the layer can shift its outputs, else about zero. Of the symmetric matrix
    no more is kept than rows up to the diagonal, in blocks of so many.
    """

    def __init__(self, *, shift: bool = True) -> None:
        self.shift, self.count = shift, 0

    def add(self, x: torch.Tensor) -> None:
        """(samples, features), in place of which the samples about the means of the first ones are left."""
        if not self.count:
            features = x.shape[1]
            self._about = x.mean(0) if self.shift else x.new_zeros(features)
            self._sum = x.new_zeros(features)
            self._blocks = {
                first: x.new_zeros(min(BLOCK, features - first), min(first + BLOCK, features))
                for first in range(0, features, BLOCK)
            }
        self.centre(x)
        for first, block in self._blocks.items():
            rows, columns = block.shape
            block.addmm_(x[:, first : first + rows].T, x[:, :columns])
        self._sum += x.sum(0)
        self.count += len(x)

    def centre(self, x: torch.Tensor) -> None:
        """Leave samples about the means of the first ones, in place."""
        x.sub_(self._about)

    @property
    def off(self) -> torch.Tensor:
        """(features,) means, less those of the first samples."""
        return self._sum / self.count if self.shift else torch.zeros_like(self._sum)

    @property
    def means(self) -> torch.Tensor:
        """(features,)."""
        return self.off + self._about

    def rows(self, features: torch.Tensor) -> torch.Tensor:
        """(some features, all of them) of the matrix, fresh memory."""
        found = self._about.new_empty(len(features), len(self._about))
        for first, block in self._blocks.items():
            past = block.shape[1]
            here, before = (features >= first) & (features < past), features < first
            found[here, :past] = block[features[here] - first]
            found[before, first:past] = block[:, features[before]].T
        return found.div_(self.count).addr_(self.off[features], self.off, alpha=-1)

    def moments(self, weights: torch.Tensor, features: torch.Tensor) -> Moments:
        """Of some features, and of what these weights, (outputs, all features), make of all of them."""
        rows = self.rows(features)
        return Moments(rows[:, features], rows @ weights.T, self.means[features], weights @ self.means)


class Sums:
    """Samples of what a layer reads and should make, added up as they come in."""

    def __init__(self, *, shift: bool = True) -> None:
        self._inputs = Inputs(shift=shift)
        self._begun = self._known = False

    def begin_again(self) -> None:
        """Forget the outputs: the same inputs follow with others."""
        self._begun, self._known = False, True

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """(samples, features), which is overwritten, and (samples, outputs)."""
        if not self._begun:
            self._begun = True
            self._about = y.mean(0) if self._inputs.shift else y.new_zeros(y.shape[1])
            self._xy, self._y = x.new_zeros(x.shape[1], y.shape[1]), y.new_zeros(y.shape[1])
        if self._known:
            self._inputs.centre(x)
        else:
            self._inputs.add(x)
        y = y - self._about
        self._xy.addmm_(x.T, y)
        self._y += y.sum(0)

    def moments(self) -> Moments:
        inputs = self._inputs
        y = self._y / inputs.count if inputs.shift else torch.zeros_like(self._y)
        return Moments(
            inputs.rows(torch.arange(len(self._xy))),
            (self._xy / inputs.count).addr_(inputs.off, y, alpha=-1),
            inputs.means,
            y + self._about,
        )


class Regression:
    """Least squares of outputs that are wanted otherwise time after time, on inputs that stay.

    What depends on the inputs alone is worked out the first time.
    """

    def __init__(self, *, shift: bool) -> None:
        self._sums = Sums(shift=shift)
        self._factor: torch.Tensor | None = None

    def solve(self, samples: Samples, old: torch.Tensor) -> Solution:
        """As `Moments.solve`; the inputs among the samples, which are overwritten, are the same each time."""
        for x, y in samples:
            self._sums.add(x, y)
        self._sums.begin_again()
        moments = self._sums.moments()
        if self._factor is None:
            self._factor = torch.linalg.cholesky(moments.ridged())
        return moments.solve(old, self._factor)


def moments_of(x: torch.Tensor, y: torch.Tensor, *, shift: bool = True) -> Moments:
    """Of (samples, features) and (samples, outputs)."""
    sums = Sums(shift=shift)
    sums.add(x.clone(), y)
    return sums.moments()
