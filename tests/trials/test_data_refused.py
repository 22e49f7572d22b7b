"""Data that cannot be used is refused in a sentence, before anything is trained on it."""

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
from numpy.typing import NDArray

from hwprofiles.errors import RequestError
from tests.trials.test_data import LABELS, PIXELS, npz, parquet, png
from trials.data import DataSpec, Normalize, SplitSpec, load


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
