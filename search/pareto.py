"""Dominance among points of which every column is a cost: the front, ranks and hypervolume."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]
"""(points, objectives); lower is better in every column."""


def front_mask(costs: Costs) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    Every column is a cost: pass `1 - accuracy`, not accuracy. Equal points do not dominate each other, so
    both stay.

    Args:
        costs: (points, objectives), finite; units may differ between columns.

    Returns:
        (points,) True where the point is on the front, in input order.

    Raises:
        ValueError: a cost is NaN or infinite.

    Source: Deb et al., NSGA-II, IEEE TEVC 6(2), 2002, section III-A.
    """
    _check_finite(costs)
    mask = np.zeros(len(costs), dtype=np.bool_)
    undecided = np.lexsort(costs.T[::-1])
    while undecided.size:
        # A point is dominated only by one that sorts before it, so the first that is left is on the front.
        point, undecided = undecided[0], undecided[1:]
        mask[point] = True
        rest = costs[undecided]
        beaten = (rest >= costs[point]).all(axis=1) & (rest > costs[point]).any(axis=1)
        undecided = undecided[~beaten]
    return mask


def ranks(costs: Costs) -> NDArray[np.int64]:
    """Return the non-dominated rank of each point: 0 on the front, 1 on the front of the others, and so on.

    Args:
        costs: (points, objectives), finite.

    Returns:
        (points,) in input order.

    Raises:
        ValueError: a cost is NaN or infinite.

    Source: as `front_mask`.
    """
    rank = np.zeros(len(costs), dtype=np.int64)
    left = np.arange(len(costs))
    while left.size:
        on_front = front_mask(costs[left])
        left = left[~on_front]
        rank[left] += 1
    return rank


def hypervolume(costs: Costs, reference: Costs) -> float:
    """Return the area that the points dominate, up to the reference point; higher is better.

    Exact, by one sweep over the front. A point that is not below the reference in both columns adds nothing.

    Args:
        costs: (points, 2), finite.
        reference: (2,) the worst costs that count; compare only hypervolumes of the same reference.

    Returns:
        The area, in the product of the columns' units.

    Raises:
        ValueError: a cost is NaN or infinite, or there are not two columns.
    """
    if costs.shape[1] != 2:
        raise ValueError(f"hypervolume is computed for 2 objectives, not {costs.shape[1]}")
    _check_finite(costs)
    inside = costs[(costs < reference).all(axis=1)]
    front = np.unique(inside[front_mask(inside)], axis=0)
    widths = np.diff(front[:, 0], append=reference[0])
    return float(widths @ (reference[1] - front[:, 1]))


def hypervolumes(costs: Costs, reference: Costs) -> NDArray[np.float64]:
    """Return the hypervolume of the first point, of the first two, and so on to that of all.

    Each point is compared with the front of those before it alone, so that ten thousand take a moment.

    Args:
        costs: (points, 2), finite, in the order in which they came.
        reference: (2,) as of `hypervolume`.

    Returns:
        (points,) rising, in the product of the columns' units.

    Raises:
        ValueError: as `hypervolume`.
    """
    if costs.shape[1] != 2:
        raise ValueError(f"hypervolume is computed for 2 objectives, not {costs.shape[1]}")
    _check_finite(costs)
    (last, top), volume, found = reference.tolist(), 0.0, []
    firsts, seconds = list[float](), list[float]()
    """The front so far: one column rises, the other falls."""
    for first, second in costs.tolist():
        start = bisect_left(firsts, first)
        ceiling = seconds[start - 1] if start else top
        if first < last and second < ceiling:
            end = start
            while end < len(firsts) and seconds[end] >= second:
                end += 1
            edges = [first, *firsts[start:end], firsts[end] if end < len(firsts) else last]
            heights = [ceiling, *seconds[start:end]]
            spans = zip(edges, edges[1:], heights, strict=False)
            volume += sum((right - left) * (height - second) for left, right, height in spans)
            firsts[start:end], seconds[start:end] = [first], [second]
        found.append(volume)
    return np.array(found)


def _check_finite(costs: Costs) -> None:
    if not np.isfinite(costs).all():
        raise ValueError(f"costs of points {np.flatnonzero(~np.isfinite(costs).all(axis=1))} are not finite")
