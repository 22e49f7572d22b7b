"""Data sources: what is read, and that a split is what it says."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from trials.data import DataSpec, Normalize, Split, Splits, SplitSpec, load, stratified

PIXELS = np.arange(20 * 3 * 4 * 4, dtype=np.uint8).reshape(20, 3, 4, 4)


LABELS = np.arange(20) % 4


def npz(path: Path, **arrays: Any) -> DataSpec:
    np.savez(path / "train.npz", **arrays)
    return DataSpec("npz", SplitSpec("train.npz"))


def png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(stream, "png")
    return stream.getvalue()


def parquet(path: Path, columns: dict[str, Any]) -> DataSpec:
    pq.write_table(pa.table(columns), path / "train.parquet")
    return DataSpec("parquet", SplitSpec("train.parquet"))


def everything(spec: DataSpec, base: Path) -> Split:
    """The whole train file, however the split was carved: use it as its own validation split."""
    return load(DataSpec(spec.source, spec.train, spec.train, spec.train), base, seed=0).train


class TestDigits:
    def test_split_every_image_once_and_every_class_alike(self) -> None:
        splits = load(DataSpec("digits"), Path(), seed=0)
        assert splits.test is not None
        parts = (splits.train, splits.validation, splits.test)
        images = np.concatenate([part.inputs[0].reshape(len(part), -1) for part in parts])
        assert len(images) == 1797
        assert len(np.unique(images, axis=0)) == 1797
        for part in parts:
            assert np.ptp(np.bincount(part.labels) / len(part)) < 0.01

    def test_are_those_of_scikit_learn(self) -> None:
        from sklearn.datasets import load_digits  # which takes long to import

        pixels, labels = load_digits(return_X_y=True)
        splits = load(DataSpec("digits"), Path(), seed=0)
        assert splits.test is not None
        parts = (splits.train, splits.validation, splits.test)
        images = np.concatenate([part.inputs[0].reshape(len(part), -1) for part in parts]) * 16
        found = np.column_stack([images, np.concatenate([part.labels for part in parts])])
        assert sorted(map(tuple, found)) == sorted(map(tuple, np.column_stack([pixels, labels])))

    def test_are_the_same_for_every_seed_because_the_checkpoint_was_trained_on_them(self) -> None:
        first, second = (load(DataSpec("digits"), Path(), seed=seed) for seed in (0, 1))
        np.testing.assert_array_equal(first.train.inputs[0], second.train.inputs[0])

    def test_are_scaled_to_one_and_come_without_a_warning(self) -> None:
        splits = load(DataSpec("digits"), Path(), seed=0)
        assert splits.train.inputs[0].shape[1:] == (1, 8, 8)
        assert splits.train.inputs[0].min() == 0
        assert splits.train.inputs[0].max() == 1
        assert splits.classes == tuple("0123456789")
        assert splits.warnings == ()
        assert not splits.carved


class TestFiles:
    def test_npz_arrays_are_stored_as_they_are(self, tmp_path: Path) -> None:
        split = everything(npz(tmp_path, x=PIXELS, y=LABELS), tmp_path)
        assert split.inputs[0].dtype == np.uint8
        np.testing.assert_array_equal(split.inputs[0], PIXELS)
        np.testing.assert_array_equal(split.labels, LABELS)

    def test_every_npz_array_but_y_is_an_input(self, tmp_path: Path) -> None:
        tokens, mask = np.arange(40).reshape(20, 2), np.ones((20, 2), dtype=np.int64)
        split = everything(npz(tmp_path, input_ids=tokens, attention_mask=mask, y=LABELS), tmp_path)
        inputs, _ = split.batch(slice(0, 3))
        np.testing.assert_array_equal(inputs[0], tokens[:3])
        np.testing.assert_array_equal(inputs[1], mask[:3])

    def test_parquet_images_are_decoded_without_loss(self, tmp_path: Path) -> None:
        spec = parquet(tmp_path, {"image": [png(image) for image in PIXELS], "label": LABELS})
        np.testing.assert_array_equal(everything(spec, tmp_path).inputs[0], PIXELS)

    def test_parquet_list_columns_become_inputs(self, tmp_path: Path) -> None:
        rows = np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)
        spec = parquet(tmp_path, {"label": LABELS, "features": list(rows), "note": ["-"] * 20})
        split = everything(spec, tmp_path)
        assert len(split.inputs) == 1
        np.testing.assert_array_equal(split.inputs[0], rows)

    def test_parquet_rows_are_counted_from_the_start_of_the_file(self, tmp_path: Path) -> None:
        spec = parquet(tmp_path, {"image": [png(image) for image in PIXELS], "label": LABELS})
        rows = SplitSpec("train.parquet", (5, 12))
        split = load(DataSpec("parquet", spec.train, rows), tmp_path, seed=0).validation
        np.testing.assert_array_equal(split.inputs[0], PIXELS[5:12])
        np.testing.assert_array_equal(split.labels, LABELS[5:12])

    def test_folders_name_the_classes(self, tmp_path: Path) -> None:
        for label, name in ((1, "dog"), (0, "cat")):
            (tmp_path / "pets" / name).mkdir(parents=True)
            for number in range(3):
                grey = np.full((1, 2, 5), 100 * label + number, dtype=np.uint8)
                Image.fromarray(grey[0]).save(tmp_path / "pets" / name / f"{number}.png")
        pets = SplitSpec("pets")
        splits = load(DataSpec("folder", pets, pets), tmp_path, seed=0)
        assert splits.classes == ("cat", "dog")
        assert splits.train.inputs[0].shape == (6, 1, 2, 5)
        assert splits.train.inputs[0][:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
        assert splits.train.labels.tolist() == [0, 0, 0, 1, 1, 1]

    def test_a_factory_beside_the_job_makes_the_splits(self, tmp_path: Path) -> None:
        (tmp_path / "my_data.py").write_text(
            "import numpy as np\n"
            "def make(rows):\n"
            "    x, y = np.zeros((rows, 2), np.float32), np.arange(rows) % 2\n"
            "    return {'train': (x, y), 'validation': (x[:4], y[:4])}\n"
        )
        spec = DataSpec("factory", factory="my_data:make", args={"rows": 10})
        splits = load(spec, tmp_path, seed=0)
        assert (len(splits.train), len(splits.validation), splits.test) == (10, 4, None)


class TestMissingSplits:
    def test_validation_is_carved_from_train_with_a_warning(self, tmp_path: Path) -> None:
        splits = load(
            npz(tmp_path, x=np.arange(200.0).reshape(100, 2), y=np.arange(100) % 5), tmp_path, seed=3
        )
        assert splits.carved
        assert "no validation split" in splits.warnings[0]
        assert np.bincount(splits.validation.labels).tolist() == [2] * 5
        both = np.concatenate([splits.train.inputs[0], splits.validation.inputs[0]])
        assert len(np.unique(both, axis=0)) == 100

    def test_test_is_left_out_with_a_warning(self, tmp_path: Path) -> None:
        splits = load(npz(tmp_path, x=PIXELS, y=LABELS), tmp_path, seed=0)
        assert splits.test is None
        assert "no test split" in splits.warnings[-1]

    def test_classes_that_validation_lacks_are_warned_of(self, tmp_path: Path) -> None:
        train = npz(tmp_path, x=PIXELS, y=LABELS).train
        splits = load(DataSpec("npz", train, SplitSpec("train.npz", (0, 2)), train), tmp_path, seed=0)
        assert splits.warnings == (
            "the validation split has no example of 2 of the classes (the first is 2), "
            "so nothing stops the search from forgetting them",
        )


class TestBatches:
    def test_bytes_are_scaled_then_normalised_per_channel(self, tmp_path: Path) -> None:
        normalize = Normalize(mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 2.0))
        pixels = np.full((20, 3, 2, 2), 255, dtype=np.uint8)
        spec = npz(tmp_path, x=pixels, y=LABELS)
        split = load(DataSpec("npz", spec.train, spec.train, normalize=normalize), tmp_path, seed=0).train
        (images,), labels = split.batch(slice(0, 2))
        assert images.dtype == np.float32
        assert images[:, :, 0, 0].tolist() == [[1.0, 1.0, 0.0]] * 2
        assert labels.tolist() == LABELS[:2].tolist()

    @pytest.mark.parametrize("normalize", [None, Normalize(mean=(0.5, 0.2), std=(0.5, 2.0))])
    @pytest.mark.parametrize("kind", [np.uint8, np.float32])
    def test_are_made_as_their_preparation_says(
        self, kind: type[np.generic], normalize: Normalize | None
    ) -> None:
        pixels = np.arange(32).reshape(4, 2, 2, 2).astype(kind)
        split = Split((pixels,), LABELS[:4], normalize)
        divisor, mean, std = (np.array(split.preparation[key]) for key in ("divisor", "mean", "std"))
        made = (pixels / divisor - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
        np.testing.assert_allclose(split.batch(slice(0, 4))[0][0], made, rtol=1e-5, atol=1e-6)

    def test_keep_masks_as_booleans_and_make_tokens_long(self) -> None:
        mask, tokens = np.ones((4, 2), dtype=np.bool_), np.ones((4, 2), dtype=np.int32)
        inputs, _ = Split((tokens, mask), LABELS[:4]).batch(slice(0, 4))
        assert [values.dtype for values in inputs] == [np.int64, np.bool_]

    def test_are_fresh_so_that_shared_read_only_arrays_stay_as_they_are(self) -> None:
        shared = np.ones((4, 2), dtype=np.float32)
        shared.flags.writeable = False
        (batch,), _ = Split((shared,), LABELS[:4], Normalize((1.0,), (1.0,))).batch(slice(0, 4))
        batch += 1
        assert batch.tolist() == [[1.0, 1.0]] * 4
        assert shared.min() == 1

    @given(count=st.integers(1, 40), size=st.integers(1, 50))
    def test_cover_every_row_once_in_order(self, count: int, size: int) -> None:
        split = Split((np.zeros((count, 1)),), np.arange(count))
        assert np.concatenate([labels for _, labels in split.batches(size)]).tolist() == list(range(count))


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    fraction=st.floats(0.01, 0.9),
    seed=st.integers(0, 9),
)
def test_a_stratified_split_takes_each_row_once_and_each_class_in_proportion(
    labels: list[int], fraction: float, seed: int
) -> None:
    array = np.array(labels)
    kept, taken = stratified(array, fraction, seed)
    assert sorted([*kept, *taken]) == list(range(len(labels)))
    for label, count in zip(*np.unique(array, return_counts=True), strict=True):
        assert (array[taken] == label).sum() == max(1, round(fraction * count))


def test_data_have_the_same_sha256_until_they_change() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1000, 1, 4, 4), dtype=np.uint8)
    labels = np.arange(1000) % 10

    def sha256(images: NDArray[Any], labels: NDArray[Any], *, tested: bool = True) -> str:
        split = Split((images,), labels)
        return Splits(split, split, split if tested else None, tuple("0123456789")).sha256

    same = sha256(images, labels)
    assert sha256(np.asfortranarray(images), labels.copy()) == same
    others = {
        "inverted": sha256(255 - images, labels),
        "of another type": sha256(images.astype(np.float32), labels),
        "one less": sha256(images[1:], labels[1:]),
        "one label of another class": sha256(images, np.where(np.arange(1000) == 777, 0, labels)),
        "not tested": sha256(images, labels, tested=False),
    }
    assert len({same, *others.values()}) == 1 + len(others)
