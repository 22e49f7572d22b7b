"""Sizes of pruned networks: polynomials in how many units each group keeps, thousands a second.

An axis of channels is linear in the counts of its groups; one of heads and their width is a product of two,
and a weight is one of its axes. So everything that arithmetic says of a candidate is a polynomial. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from trials.candidate import Counts

Monomial = tuple[int, ...]
"""The numbers of the groups whose kept counts are multiplied, ascending; () is 1."""


@dataclass(frozen=True, slots=True)
class Polynomial:
    """Monomials, each times a number."""

    terms: Mapping[Monomial, float]

    @property
    def groups(self) -> set[int]:
        """Those that it depends on."""
        return {group for monomial in self.terms for group in monomial}

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, number in other.terms.items():
            terms[monomial] = terms.get(monomial, 0) + number
        return Polynomial(terms)

    def __mul__(self, other: Polynomial) -> Polynomial:
        terms: dict[Monomial, float] = {}
        for one, number in self.terms.items():
            for another, times in other.terms.items():
                monomial = tuple(sorted(one + another))
                terms[monomial] = terms.get(monomial, 0) + number * times
        return Polynomial(terms)


def constant(number: float) -> Polynomial:
    return Polynomial({(): number})


ZERO, ONE = Polynomial({}), constant(1)


class Polynomials:
    """Several polynomials as a function of `Counts`."""

    def __init__(self, polynomials: Sequence[Polynomial], dtype: type[np.floating] = np.float64) -> None:
        """`dtype` must hold every value exactly."""
        self._dtype = dtype
        monomials = sorted({monomial for polynomial in polynomials for monomial in polynomial.terms})
        degree = max(map(len, monomials), default=0)
        # Factors are rows of the counts behind a row of ones, with which shorter monomials are filled up.
        self._factors = np.zeros((degree, len(monomials)), dtype=np.intp)
        for column, monomial in enumerate(monomials):
            self._factors[: len(monomial), column] = np.array(monomial, dtype=np.intp) + 1
        place = {monomial: column for column, monomial in enumerate(monomials)}
        found = [
            (row, place[monomial], number)
            for row, polynomial in enumerate(polynomials)
            for monomial, number in polynomial.terms.items()
        ]
        rows, columns, numbers = np.array(found, dtype=np.float64).reshape(-1, 3).T
        # Sparse: most sizes follow one group, and a dense product waits for cores that workers keep busy.
        self._numbers = csr_array(
            (numbers.astype(dtype), (rows.astype(np.intp), columns.astype(np.intp))),
            shape=(len(polynomials), len(monomials)),
        )

    def __call__(self, counts: Counts) -> NDArray[np.float64]:
        """(candidates, polynomials) whole numbers; those of one polynomial lie together in memory."""
        kept = np.ones((counts.shape[1] + 1, len(counts)), dtype=self._dtype)
        kept[1:] = counts.T
        terms = np.ones((self._factors.shape[1], len(counts)), dtype=self._dtype)
        for factors in self._factors:
            terms *= kept[factors]
        values: NDArray[np.float64] = np.rint(self._numbers @ terms)
        return values.T
