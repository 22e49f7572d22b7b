"""Data sources: what is read, what is refused, and that a split is what it says."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
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

from hwprofiles.errors import RequestError
from trials.data import DataSpec, Normalize, Split, SplitSpec, load, stratified

PIXELS = np.arange(20 * 3 * 4 * 4, dtype=np.uint8).reshape(20, 3, 4, 4)
LABELS = np.arange(20) % 4


def npz(path: Path, **arrays: Any) -> DataSpec:
    np.savez(path / "train.npz", **arrays)
    return DataSpec("npz", SplitSpec("train.npz"))


def npy_of(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def zipped(arrays: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return stream.getvalue()


def good(path: Path) -> bytes:
    npz(path, x=PIXELS, y=LABELS)
    return (path / "train.npz").read_bytes()


def bytes_as_npz(path: Path, content: bytes) -> DataSpec:
    (path / "train.npz").write_bytes(content)
    return DataSpec("npz", SplitSpec("train.npz"))


def npz_normalized(path: Path, normalize: Normalize) -> DataSpec:
    return DataSpec("npz", npz(path, x=PIXELS, y=LABELS).train, normalize=normalize)


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


REFUSALS: dict[str, tuple[Callable[[Path], DataSpec], str]] = {
    "unknown source": (lambda path: DataSpec("digit"), "did you mean 'digits'"),
    "missing file": (lambda path: DataSpec("npz", SplitSpec("no.npz")), "no.npz.* is not there"),
    "no labels": (lambda path: npz(path, x=PIXELS), "needs inputs .* and labels"),
    "one label too few": (
        lambda path: npz(path, x=PIXELS, y=LABELS[1:]),
        r"19 labels but its input 1 of 1 has shape \(20, 3, 4, 4\)",
    ),
    "inputs of different lengths": (
        lambda path: npz(path, x=PIXELS, mask=LABELS[1:], y=LABELS),
        r"20 labels but its input 2 of 2 has shape \(19,\)",
    ),
    "one input for all": (lambda path: npz(path, x=np.float32(1), y=LABELS), "holds no rows as 'x'"),
    "one label for all": (lambda path: npz(path, x=PIXELS, y=1), "holds no rows as 'y'"),
    "an array alone": (
        lambda path: bytes_as_npz(path, npy_of(PIXELS)),
        r"cannot be read as npz \(File is not a zip file\)",
    ),
    "an empty file": (lambda path: bytes_as_npz(path, b""), "cannot be read as npz"),
    "half a file": (lambda path: bytes_as_npz(path, good(path)[:1500]), "cannot be read as npz"),
    "a changed byte": (
        lambda path: bytes_as_npz(path, good(path).replace(b"NUMPY", b"MUMPY", 1)),
        "cannot be read as npz .*CRC",
    ),
    "an array that is text": (
        lambda path: bytes_as_npz(path, zipped({"x": b"twenty images", "y": b""})),
        "holds no rows as 'x'",
    ),
    "an array that ends early": (
        lambda path: bytes_as_npz(path, zipped({"x": npy_of(PIXELS)[:200], "y": npy_of(LABELS)})),
        "cannot be read as npz",
    ),
    "beyond float32": (
        lambda path: npz(path, x=np.where(PIXELS == 53, 1e300, 1.0), y=LABELS),
        "infinite input in row 1, as float32",
    ),
    "as many classes as examples": (
        lambda path: npz(path, x=PIXELS, y=np.arange(20)),
        "has 20 examples of 20 classes: .* none is left to train on",
    ),
    "a deviation that is zero in float32": (
        lambda path: npz_normalized(path, Normalize((0.0,), (1e-300,))),
        "finite and above 0 in float32",
    ),
    "an infinite deviation": (
        lambda path: npz_normalized(path, Normalize((0.0,), (np.inf,))),
        "finite and above 0 in float32",
    ),
    "a mean that is none": (
        lambda path: npz_normalized(path, Normalize((np.nan,), (1.0,))),
        r"the means \(nan,\); allowed: finite in float32",
    ),
    "float labels": (lambda path: npz(path, x=PIXELS, y=LABELS / 2), "one integer class per example"),
    "negative label": (lambda path: npz(path, x=PIXELS, y=LABELS - 1), "label -1"),
    "an id for a label": (lambda path: npz(path, x=PIXELS, y=LABELS + 10**12), "label 1000000000000"),
    "one class": (lambda path: npz(path, x=PIXELS, y=LABELS * 0), "class 0 only"),
    "empty": (lambda path: npz(path, x=PIXELS[:0], y=LABELS[:0]), "is empty"),
    "NaN": (
        lambda path: npz(path, x=np.where(PIXELS == 5, np.nan, 1.0), y=LABELS),
        "infinite input in row 0",
    ),
    "words": (lambda path: npz(path, x=np.array(["a"] * 20), y=LABELS), "allowed: numbers"),
    "pickled objects": (lambda path: npz(path, x=np.array([{}] * 20), y=LABELS), "cannot be read as npz"),
    "rows out of range": (
        lambda path: DataSpec("npz", SplitSpec(npz(path, x=PIXELS, y=LABELS).train.path, (10, 21))),
        r"rows \[10, 21\] of 20",
    ),
    "missing column": (lambda path: parquet(path, {"image": [b""] * 20}), "it needs 'label'"),
    "unreadable image": (
        lambda path: parquet(path, {"image": [png(PIXELS[0]), b"no image"], "label": [0, 1]}),
        "row 1 of train.parquet is no image",
    ),
    "images that are words": (
        lambda path: parquet(path, {"image": ["a.png", "b.png"], "label": [0, 1]}),
        "column 'image' of type string; allowed: binary",
    ),
    "an image that is cut off": (
        lambda path: parquet(path, {"image": [png(PIXELS[0]), png(PIXELS[1])[:40]], "label": [0, 1]}),
        "row 1 of train.parquet is no image",
    ),
    "missing image": (
        lambda path: parquet(path, {"image": [png(PIXELS[0]), None], "label": [0, 1]}),
        "row 1 of train.parquet is no image",
    ),
    "missing label": (
        lambda path: parquet(path, {"x": [[1.0], [2.0]], "label": [0, None]}),
        "one integer class per example",
    ),
    "images of two sizes": (
        lambda path: parquet(path, {"image": [png(PIXELS[0]), png(PIXELS[0, :, :2])], "label": [0, 1]}),
        "row 1 of train.parquet is 2x4 but the first image is 4x4",
    ),
    "ragged lists": (
        lambda path: parquet(path, {"x": [[1.0], [1.0, 2.0]], "label": [0, 1]}),
        "lists of several lengths",
    ),
    "not Parquet": (
        lambda path: DataSpec("parquet", SplitSpec(npz(path, x=PIXELS, y=LABELS).train.path)),
        "cannot be read as Parquet",
    ),
    "a file for a folder": (
        lambda path: DataSpec("folder", npz(path, x=PIXELS, y=LABELS).train),
        "is a file; name a folder",
    ),
    "empty folder": (lambda path: DataSpec("folder", SplitSpec(".")), "no folder of images"),
    "two means for three channels": (
        lambda path: DataSpec(
            "npz", npz(path, x=PIXELS, y=LABELS).train, normalize=Normalize((0.1, 0.2), (0.1, 0.2))
        ),
        r"2 means and 2 deviations but the input, of shape \(3, 4, 4\), has 3 channels; give one of each",
    ),
    "normalisation of channels that come last": (
        lambda path: DataSpec(
            "npz",
            npz(path, x=PIXELS.transpose(0, 2, 3, 1), y=LABELS).train,
            normalize=Normalize((0.5,) * 3, (0.2,) * 3),
        ),
        r"of shape \(4, 4, 3\), has 4 channels; store images channels first, as by x.transpose",
    ),
    "deviation of zero": (lambda path: npz_normalized(path, Normalize((0.0,), (0.0,))), "above 0"),
    "rows of a source that has its own splits": (
        lambda path: DataSpec("digits", SplitSpec(rows=(0, 10))),
        "makes its own splits",
    ),
    "a factory that returns no pairs": (
        lambda path: DataSpec("factory", factory="builtins:dict", args={"train": 3}),
        "returned int as train",
    ),
    "a factory that returns ragged rows": (
        lambda path: DataSpec("factory", factory="builtins:dict", args={"train": [[[1], [1, 2]], [0, 1]]}),
        "returned train examples that make no arrays",
    ),
    "a factory that returns one number": (
        lambda path: DataSpec("factory", factory="builtins:dict", args={"train": (3, [0, 1])}),
        r"2 labels but its input 1 of 1 has shape \(\)",
    ),
    "a factory that returns inputs of different lengths": (
        lambda path: DataSpec(
            "factory", factory="builtins:dict", args={"train": (([1, 2], [1, 2, 3]), [0, 1])}
        ),
        r"2 labels but its input 2 of 2 has shape \(3,\)",
    ),
    "a factory that returns no inputs": (
        lambda path: DataSpec("factory", factory="builtins:dict", args={"train": ((), [0, 1])}),
        "has labels but no inputs",
    ),
    "a factory that returns no splits": (
        lambda path: DataSpec("factory", factory="builtins:list"),
        "no mapping with a 'train' split",
    ),
    "a factory name without a function": (
        lambda path: DataSpec("factory", factory="my_data"),
        "module:function",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_data_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    make, message = REFUSALS[name]
    with pytest.raises(RequestError, match=message):
        load(make(tmp_path), tmp_path, seed=0)


class TestAgainstAModel:
    def test_data_that_fits_is_taken(self) -> None:
        load(DataSpec("digits"), Path(), seed=0).check_model([(1, 8, 8)], outputs=10)

    def test_another_shape_is_refused(self) -> None:
        with pytest.raises(RequestError, match=r"inputs of shape .*\(1, 8, 8\).* takes .*\(3, 8, 8\)"):
            load(DataSpec("digits"), Path(), seed=0).check_model([(3, 8, 8)], outputs=10)

    def test_images_with_channels_last_are_told_how_to_turn(self, tmp_path: Path) -> None:
        pixels = np.zeros((20, 4, 4, 3), dtype=np.uint8)
        spec = npz(tmp_path, x=pixels, y=LABELS)
        with pytest.raises(RequestError, match=r"change \[model\] input, or .*x\.transpose\(0, 3, 1, 2\)"):
            load(spec, tmp_path, seed=0).check_model([(3, 4, 4)], outputs=5)
        turned = npz(tmp_path, x=pixels.transpose(0, 3, 1, 2), y=LABELS)
        load(turned, tmp_path, seed=0).check_model([(3, 4, 4)], outputs=5)

    def test_a_label_without_an_output_is_refused(self) -> None:
        with pytest.raises(RequestError, match="labels up to 9 but the model gives 5 outputs"):
            load(DataSpec("digits"), Path(), seed=0).check_model([(1, 8, 8)], outputs=5)


def test_a_parquet_file_that_memory_does_not_hold_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = pa.array([np.zeros(2**20, np.uint8)] * 4)
    pq.write_table(pa.table({"x": pixels, "label": [0, 1, 0, 1]}), tmp_path / "train.parquet")
    assert (tmp_path / "train.parquet").stat().st_size < 2**16
    monkeypatch.setattr("trials.data.files.os.sysconf", lambda name: {"SC_PAGE_SIZE": 2**10}.get(name, 2**11))
    spec = DataSpec(source="parquet", train=SplitSpec("train.parquet"))
    with pytest.raises(
        RequestError, match=r"cannot be read as Parquet \(unpacked it takes more than 2 MiB\)"
    ):
        load(spec, tmp_path, seed=0)
