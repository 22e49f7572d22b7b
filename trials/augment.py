"""What is done to images before a network learns from them, or is judged on those that it knows by heart."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

import numpy as np

from hwprofiles.errors import RequestError
from trials.data import Array, Split


class Augment(StrEnum):
    """What is done to training images; a flip is for things that have no handedness, so not for digits."""

    NONE = "none"
    SHIFT = "shift"
    SHIFT_FLIP = "shift+flip"


def augmented(
    arrays: tuple[Array, ...], augment: Augment, generator: np.random.Generator
) -> tuple[Array, ...]:
    """Shift each image by up to an eighth of its height, zeros moving in; mirror half if asked."""
    if augment is Augment.NONE:
        return arrays
    images, *others = arrays
    if images.ndim != 4:
        raise RequestError(
            f"augment {augment.value!r} is for images, but an input has shape {images.shape[1:]}"
        )
    count, _, height, width = images.shape
    reach = height // 8
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    rows = generator.integers(0, 2 * reach + 1, (count, 1)) + np.arange(height)
    columns = generator.integers(0, 2 * reach + 1, (count, 1)) + np.arange(width)
    if augment is Augment.SHIFT_FLIP:
        mirrored = generator.random(count) < 0.5
        columns[mirrored] = columns[mirrored, ::-1]
    shifted = padded[np.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return (np.ascontiguousarray(shifted.transpose(0, 3, 1, 2)), *others)


def mixed(arrays: tuple[Array, ...], generator: np.random.Generator) -> tuple[Array, ...]:
    """Blend each example with the next one, in shares drawn evenly; what is no floats, such as tokens, stays.

    Source: Zhang et al., mixup: Beyond Empirical Risk Minimization, arXiv:1710.09412, with alpha = 1.
    """
    first, *_ = arrays
    if any(values.dtype.kind != "f" for values in arrays):
        return arrays
    share = generator.random(len(first), dtype=np.float32)
    shares = [share.reshape(-1, *(1,) * (values.ndim - 1)) for values in arrays]
    return tuple(
        own * values + (1 - own) * np.roll(values, 1, axis=0)
        for own, values in zip(shares, arrays, strict=True)
    )


def shifted(split: Split, seed: int) -> Split:
    """The same images, each moved a little: for judging a model on images that it was trained on.

    Other inputs than images stay as they are.
    """
    if split.inputs[0].ndim != 4:
        return split
    generator = np.random.default_rng(seed)
    return replace(split, inputs=augmented(split.inputs, Augment.SHIFT, generator))
