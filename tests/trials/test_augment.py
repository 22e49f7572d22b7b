"""Images are moved, mirrored and mixed as asked, and nothing else becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles.errors import RequestError
from trials.augment import Augment, augmented, mixed


@given(count=st.integers(1, 9), seed=st.integers(0, 1000))
def test_mixed_examples_lie_between_each_and_the_next(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    images, scalars = generator.random((count, 2, 3), np.float32), np.arange(count, dtype=np.float32)
    mixed_images, mixed_scalars = mixed((images, scalars), generator)
    span = scalars - np.roll(scalars, 1)
    share = np.divide(
        mixed_scalars - np.roll(scalars, 1), span, out=np.ones(count, np.float32), where=span != 0
    )
    assert ((share >= -1e-5) & (share <= 1 + 1e-5)).all()
    shares = share[:, None, None]
    np.testing.assert_allclose(
        mixed_images, shares * images + (1 - shares) * np.roll(images, 1, 0), atol=1e-5
    )


def test_tokens_are_never_mixed() -> None:
    tokens, weights = np.arange(6).reshape(2, 3), np.ones((2, 3), np.float32)
    assert mixed((tokens, weights), np.random.default_rng(0))[0] is tokens


class TestAugmentation:
    images = np.random.default_rng(0).standard_normal((50, 2, 16, 16)).astype(np.float32)

    @pytest.mark.parametrize("augment", [Augment.SHIFT, Augment.SHIFT_FLIP])
    def test_gives_windows_of_the_padded_image(self, augment: Augment) -> None:
        ((*shifted,),) = augmented((self.images,), augment, np.random.default_rng(1))
        mirrored = 0
        for image, result in zip(self.images, shifted, strict=True):
            padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
            windows = [padded[:, i : i + 16, j : j + 16] for i in range(5) for j in range(5)]
            plain = any(np.array_equal(window, result) for window in windows)
            mirrored += not plain
            assert plain or any(np.array_equal(window[..., ::-1], result) for window in windows)
        assert (mirrored > 10) == (augment is Augment.SHIFT_FLIP)

    def test_none_is_none(self) -> None:
        assert augmented((self.images,), Augment.NONE, np.random.default_rng(0))[0] is self.images

    def test_of_what_is_no_image_is_refused(self) -> None:
        with pytest.raises(RequestError, match=r"an input has shape \(5,\)"):
            augmented((np.zeros((2, 5)),), Augment.SHIFT, np.random.default_rng(0))
