"""An export holds one network twice, says what it is, loads anywhere, and is whole or absent."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import search
from hwprofiles.errors import BundleError, RequestError, TrialError
from search import export
from search.export import write_export
from search.verify import TOLERANCE, check_onnx
from tests.bundles import coupled, exported
from tests.models import MODELS, example_input
from trials.bundle import Bundle
from trials.data import Normalize, Split
from trials.onnx_file import write_onnx
from trials.prune import prune
from trials.sparsity import Magnitude, hide

CONFIG: Mapping[str, Any] = {
    "job": "digits",
    "trial": 7,
    "seed": 3,
    "kept_units": {"features.0": [0, 2, 5]},
    "versions": {"prunefront": "0.1.0"},
}


def pruned(name: str = "vgg_flatten", seed: int = 0) -> Bundle:
    """The model with a random share of each group's units removed."""
    rng = np.random.default_rng(seed)
    coupling = coupled(name)
    kept = {g.name: np.sort(rng.permutation(g.size)[: rng.integers(1, g.size)]) for g in coupling.groups}
    return Bundle(*prune(coupling, exported(name).tensors, kept))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that no test may change."""
    return write_export(tmp_path_factory.mktemp("exports") / "winner", bundle=pruned(), config=CONFIG)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may damage."""
    copy = tmp_path / "winner"
    copy.mkdir()
    for path in written.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_holds_what_was_told_beside_versions_checksums_and_the_difference_found(written: Path) -> None:
    assert set(content(written)) == {
        "config.json", "graph.json", "model.safetensors", "model.onnx", "README.md"
    }  # fmt: skip
    config = json.loads((written / "config.json").read_text())
    assert {key: config[key] for key in CONFIG if key != "versions"} == {
        key: CONFIG[key] for key in CONFIG if key != "versions"
    }
    assert set(config["versions"]) == {"prunefront", "torch", "onnx", "onnxruntime"}
    assert set(config["sha256"]) == set(content(written)) - {"config.json"}
    assert 0 <= config["onnx_difference"] <= TOLERANCE


def test_the_share_of_weights_that_are_zero_is_told(tmp_path: Path) -> None:
    network = pruned().network()
    hide(network, Magnitude(0.25).masks(network))
    folder = write_export(
        tmp_path / "sparse", bundle=Bundle(network.graph, network.state_dict()), config=CONFIG
    )
    told = json.loads((folder / "config.json").read_text())["zero_weights"]
    assert told == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(
    ("divisor", "mean", "told"),
    [
        (255, [0.5], "pixels from 0 to 255, divided by 255, less the mean [0.5] and divided by [1.0]"),
        (255, [0.0], "pixels from 0 to 255, divided by 255:"),
        (1, [0.0], "the data as they were given."),
    ],
)
def test_its_readme_says_how_inputs_are_prepared(
    divisor: int, mean: list[float], told: str, tmp_path: Path
) -> None:
    preparation = {"divisor": divisor, "mean": mean, "std": [1.0]}
    folder = write_export(tmp_path / "x", bundle=pruned(), config={**CONFIG, "preparation": preparation})
    assert told in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["preparation"] == preparation


@pytest.mark.parametrize("name", MODELS)
def test_both_forms_of_a_random_candidate_compute_what_it_does(name: str, tmp_path: Path) -> None:
    bundle = pruned(name)
    folder = write_export(tmp_path / "winner", bundle=bundle, config=CONFIG)
    assert check_onnx(folder / "model.onnx", bundle.graph, bundle.tensors) <= 1e-5
    network = search.load(folder)
    assert not network.training
    x = example_input(name)
    assert torch.equal(network(x), bundle.network().eval()(x))
    network.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_pixels_become_answers_in_a_new_process_without_the_models_code_as_its_readme_says(
    tmp_path: Path,
) -> None:
    shape = example_input("vgg_flatten", batch=4).shape
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    split = Split((pixels,), np.zeros(4, dtype=np.int64), Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)))
    config = {**CONFIG, "preparation": split.preparation}
    written = write_export(tmp_path / "winner", bundle=pruned(), config=config)
    readme = (written / "README.md").read_text()
    steps = [line.strip() for line in readme.splitlines() if line.startswith("    ")]
    by_torch, by_onnx = steps[: steps.index("import onnxruntime")], steps[steps.index("import onnxruntime") :]
    program = "\n".join(
        [
            "import json, sys, search",
            "assert 'torch' not in sys.modules",
            "import numpy, torch",
            "torch.set_num_threads(1)",
            f"pixels = numpy.array({pixels.tolist()}, dtype=numpy.uint8)",
            *by_torch,
            "found = outputs.tolist()",
            *by_onnx,
            "print(json.dumps([found, outputs.tolist(), any('tests' in name for name in sys.modules)]))",
        ]
    )
    ran = subprocess.run(
        [sys.executable, "-"], input=program, cwd=written, capture_output=True, text=True, check=True
    )
    found, also_found, imported_tests = json.loads(ran.stdout)
    wanted = pruned().network().eval()(torch.from_numpy(split.batch(slice(0, 4))[0][0]))
    torch.testing.assert_close(torch.tensor(found), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(also_found), wanted, rtol=1e-4, atol=1e-5)
    assert not imported_tests


@pytest.mark.parametrize("name", ["graph.json", "model.safetensors", "config.json"])
def test_a_folder_without_one_of_its_files_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        search.load(folder)


@pytest.mark.parametrize("name", ["graph.json", "model.safetensors"])
def test_a_damaged_file_is_refused_by_name(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name} is not the file"):
        search.load(folder)


@pytest.mark.parametrize("config", ["[]", "{}", '{"format": 2, "sha256": {}}', '{"format": 1, "sha256": []}'])
def test_a_config_of_another_kind_is_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(BundleError):
        search.load(folder)


def test_the_same_export_again_leaves_the_folder_alone_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with caplog.at_level(logging.INFO):
        write_export(folder, bundle=pruned(), config=CONFIG)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "left as it is" in caplog.text


def test_another_export_is_replaced_only_on_request(folder: Path) -> None:
    before, other = content(folder), {**CONFIG, "trial": 8}
    with pytest.raises(RequestError, match="holds another export"):
        write_export(folder, bundle=pruned(), config=other)
    with pytest.raises(RequestError, match="holds another export"):
        write_export(folder, bundle=pruned(seed=1), config=CONFIG)
    assert content(folder) == before
    write_export(folder, bundle=pruned(seed=1), config=other, replace=True)
    assert json.loads((folder / "config.json").read_text())["trial"] == 8
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_damaged_export_is_not_taken_for_the_same(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(RequestError, match="holds another export"):
        write_export(folder, bundle=pruned(), config=CONFIG)


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(RequestError, match="is no export"):
        write_export(tmp_path / "photos", bundle=pruned(), config=CONFIG, replace=True)
    assert content(tmp_path / "photos") == {"cat.png": b"cat"}


@pytest.mark.parametrize("step", ["write_onnx", "check_onnx", "_readme"])
@pytest.mark.parametrize("stands", [False, True], ids=["nothing there", "an export there"])
def test_an_export_that_is_cut_short_leaves_everything_as_it_was(
    folder: Path, step: str, stands: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, step, interrupted)
    before = content(folder)
    target = folder if stands else folder.parent / "new"
    with pytest.raises(KeyboardInterrupt):
        write_export(target, bundle=pruned(seed=1), config=CONFIG, replace=True)
    assert content(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


class TestTheCheckOfAnOnnxFile:
    def test_finds_the_difference_that_a_changed_weight_makes(self, written: Path, tmp_path: Path) -> None:
        bundle = pruned()
        model = onnx.load(written / "model.onnx")
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "classifier.3.bias")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 0.1, weight.name))
        onnx.save(model, tmp_path / "model.onnx")
        assert check_onnx(written / "model.onnx", bundle.graph, bundle.tensors) <= 1e-5
        with pytest.raises(TrialError, match=r"output 0 of .* at batch 1 differs"):
            check_onnx(tmp_path / "model.onnx", bundle.graph, bundle.tensors)

    def test_refuses_not_a_number(self, tmp_path: Path) -> None:
        bundle = pruned()
        tensors = {**bundle.tensors, "classifier.3.bias": torch.full((10,), torch.nan)}
        write_onnx(bundle.graph, tensors, tmp_path / "model.onnx")
        with pytest.raises(TrialError, match="differs"):
            check_onnx(tmp_path / "model.onnx", bundle.graph, tensors)

    def test_refuses_the_file_of_another_network(self, written: Path) -> None:
        other = exported("bert")
        with pytest.raises(RequestError, match="cannot run"):
            check_onnx(written / "model.onnx", other.graph, other.tensors)

    def test_refuses_a_file_that_is_no_network(self, folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"not a model")
        with pytest.raises(RequestError, match="cannot load"):
            check_onnx(folder / "model.onnx", pruned().graph, pruned().tensors)
