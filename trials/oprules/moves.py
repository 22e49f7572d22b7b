"""What data movement does to labels. Most return views; whatever writes labels checks how many first."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from trials.graph import INT_END
from trials.labels import MAX_LABELS, LabelArray, blank, compact, varying

MAX_PARTS = 4096
"""Into which one value may be split."""


def reshape(x: LabelArray, size: tuple[int, ...]) -> LabelArray:
    if x.size <= MAX_LABELS:
        return x.reshape(size)
    return x.reshape(size, copy=False)


def flatten(x: LabelArray, start: int, end: int) -> LabelArray:
    start, end = (normalize_axis_index(dim, max(1, x.ndim)) for dim in (start, end))
    if start > end:
        raise ValueError(f"flattens from axis {start} to {end}")
    return reshape(x, (*x.shape[:start], -1, *x.shape[end + 1 :]))


def unflatten(x: LabelArray, dim: int, sizes: tuple[int, ...]) -> LabelArray:
    dim = normalize_axis_index(dim, x.ndim)
    return reshape(x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


def squeeze(x: LabelArray, dim: int | tuple[int, ...]) -> LabelArray:
    return x.squeeze(tuple(d for d in dims_of(dim, x.ndim) if x.shape[d] == 1))


def dims_of(dim: int | tuple[int, ...], rank: int) -> list[int]:
    """One axis or several as axes counted from the front, ascending."""
    return sorted({normalize_axis_index(d, rank) for d in (dim if isinstance(dim, tuple) else (dim,))})


def expand(x: LabelArray, size: tuple[int, ...], implicit: bool = False) -> LabelArray:
    own = (1,) * (len(size) - x.ndim) + x.shape
    return np.broadcast_to(x, tuple(o if s == -1 else s for o, s in zip(own, size, strict=True)))


def repeat(x: LabelArray, repeats: tuple[int, ...]) -> LabelArray:
    x = x.reshape((1,) * (len(repeats) - x.ndim) + x.shape)
    shape = tuple(size * times for size, times in zip(x.shape, repeats, strict=True))
    small, moved = compact(x), varying(x)
    times = [count if axis in moved else 1 for axis, count in enumerate(repeats)]
    if small.size * math.prod(times) > MAX_LABELS:
        raise ValueError(f"repeats {list(repeats)}, which is too large")
    return np.broadcast_to(np.tile(small, times), shape)


def concatenate(parts: Sequence[LabelArray], dim: int) -> LabelArray:
    dim = normalize_axis_index(dim, parts[0].ndim)
    outlines = {(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}
    if len(outlines) > 1:
        raise ValueError(f"parts of shapes {[part.shape for part in parts]} do not fit")
    total = sum(part.shape[dim] for part in parts)
    shape = (*parts[0].shape[:dim], total, *parts[0].shape[dim + 1 :])
    if not any(compact(part).any() for part in parts):
        return blank(shape)
    changing = {dim}.union(*(varying(part) for part in parts))
    index = tuple(slice(None) if axis in changing else slice(0, 1) for axis in range(len(shape)))
    thin = [part[index] for part in parts]
    if sum(part.size for part in thin) > MAX_LABELS:
        raise ValueError(f"makes a value of shape {shape}, which is too large")
    return np.broadcast_to(np.concatenate(thin, axis=dim), shape)


def stack(parts: Sequence[LabelArray], dim: int) -> LabelArray:
    return concatenate([np.expand_dims(part, dim) for part in parts], dim)


def slice_(x: LabelArray, dim: int, start: int | None, end: int | None, step: int) -> LabelArray:
    if step < 1:
        raise ValueError(f"has the step {step}")
    index = [slice(None)] * x.ndim
    index[dim] = slice(start, None if end == INT_END else end, step)
    return x[tuple(index)]


def select(x: LabelArray, dim: int, index: int) -> LabelArray:
    return np.asarray(np.moveaxis(x, dim, 0)[index])


def chunk(x: LabelArray, chunks: int, dim: int) -> list[LabelArray]:
    return split(x, -(-x.shape[dim] // chunks), dim)


def split(x: LabelArray, size: int | tuple[int, ...], dim: int) -> list[LabelArray]:
    total = x.shape[dim]
    if isinstance(size, int):
        if size < 1 or total > MAX_PARTS * size:
            raise ValueError(
                f"splits {total} positions into parts of {size}; at most {MAX_PARTS} parts are allowed"
            )
        size = tuple(min(size, total - start) for start in range(0, total, size))
    if min(size) < 1 or sum(size) != total:
        raise ValueError(f"splits {total} positions into parts of {size}")
    return np.split(x, np.cumsum(size)[:-1], axis=dim)


def unbind(x: LabelArray, dim: int) -> list[LabelArray]:
    if x.shape[dim] > MAX_PARTS:
        raise ValueError(f"unbinds {x.shape[dim]} parts; at most {MAX_PARTS} are allowed")
    return [np.asarray(part) for part in np.moveaxis(x, dim, 0)]


def repeat_interleave(
    x: LabelArray, repeats: int, dim: int | None, output_size: int | None = None
) -> LabelArray:
    if dim is None:
        raise ValueError("repeats the elements of no axis by itself")
    dim = normalize_axis_index(dim, x.ndim)
    shape = (*x.shape[:dim], x.shape[dim] * repeats, *x.shape[dim + 1 :])
    small = compact(x)
    if small.size * repeats > MAX_LABELS:
        raise ValueError(f"repeats {repeats} times, which is too large")
    return np.broadcast_to(np.repeat(small, repeats, dim) if small.shape[dim] > 1 else small, shape)


def roll(x: LabelArray, shifts: tuple[int, ...], dims: tuple[int, ...]) -> LabelArray:
    if not dims:
        raise ValueError("rolls along no axis by itself")
    return np.broadcast_to(np.roll(compact(x), shifts, dims), x.shape)


def diff(
    x: LabelArray, n: int, dim: int, prepend: LabelArray | None, append: LabelArray | None
) -> LabelArray:
    if not 0 <= n < x.shape[dim]:
        raise ValueError(f"takes differences {n} times, of {x.shape[dim]} places")
    parts = (prepend, slice_(x, dim, n, None, 1), append)
    return concatenate([part for part in parts if part is not None], dim)
