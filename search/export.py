"""The folder to deploy: one trial as a torch module and as an ONNX file, and all that is known about it.

config.json          what the network is and how it was found; the sha256 of every other file
graph.json           the trainable network as data, with
model.safetensors    its tensors
model.onnx           the same in eval mode with a free batch, checked against it
README.md            how to load them

A run adds its report.html, which may be drawn again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hwprofiles.disk import file_sha256, whole_folder
from hwprofiles.errors import BundleError, RequestError
from search.verify import check_onnx
from trials.bundle import Bundle, read_json, read_model
from trials.graph import Graph, Input
from trials.network import Network, build
from trials.onnx_file import write_onnx
from trials.weights import layer_weights

FORMAT = 1
MAX_CONFIG_BYTES = 64 * 2**20
CONFIG, WEIGHTS, ONNX, README = "config.json", "model.safetensors", "model.onnx", "README.md"

_log = logging.getLogger(__name__)


def write_export(folder: Path, *, bundle: Bundle, config: Mapping[str, Any], replace: bool = False) -> Path:
    """Write a pruned network and what is known about it; the folder appears whole or not at all.

    A folder that holds the same network and `config` already is left as it is.

    Args:
        config: copied into config.json: job, trial, kept units, facts, latencies, profile, versions, and
            under "preparation" what `trials.data.Split.preparation` says. Plain JSON, without anything that
            differs between two exports of one trial, such as the time of day.
        replace: whether another export that stands at `folder` may go.

    Returns:
        `folder`.

    Raises:
        RequestError: something else stands at `folder`, or the network cannot be written as ONNX.
        TrialError: the ONNX file does not compute what the network does.
    """
    described = {
        **json.loads(json.dumps(dict(config), allow_nan=False)),
        "format": FORMAT,
        "inputs": bundle.graph.to_json()["inputs"],
        "zero_weights": share_of_zeros(bundle),
        "versions": {**config.get("versions", {}), **_versions()},
    }
    if folder.exists():
        if _holds(folder, described, bundle):
            _log.info("%s holds this export already; it is left as it is", folder)
            return folder
        _check_replaceable(folder, replace)
    with whole_folder(folder) as partial:
        bundle.write_model(partial, WEIGHTS)
        write_onnx(bundle.graph, bundle.tensors, partial / ONNX)
        difference = check_onnx(partial / ONNX, bundle.graph, bundle.tensors)
        (partial / README).write_text(_readme(folder.name, bundle.graph, config.get("preparation")))
        checksums = {path.name: file_sha256(path) for path in sorted(partial.iterdir())}
        written = {**described, "onnx_difference": difference, "sha256": checksums}
        (partial / CONFIG).write_text(json.dumps(written, indent=2))
    return folder


def share_of_zeros(bundle: Bundle) -> float:
    """Of the weights of convolutions and linear layers, the fraction that is zero."""
    weights = [bundle.tensors[name] for name in layer_weights(bundle.graph)]
    return sum(int((each == 0).sum()) for each in weights) / max(1, sum(each.numel() for each in weights))


def load_network(folder: Path) -> Network:
    """Rebuild an exported network: a trainable module in eval mode, made of data alone.

    Raises:
        BundleError: a file is missing, too large, of another sha256 or format, or not what the graph says.
        UnsupportedOpError: an op off the allow-list.
    """
    bundle = _read(folder, _read_config(folder))
    return build(bundle.graph, bundle.tensors).eval()


def holds_whole(folder: Path, trial: int) -> bool:
    """Whether a folder is the export of that trial, every file as it was written."""
    try:
        config = _read_config(folder)
        return config.get("trial") == trial and _is_undamaged(folder, config)
    except (BundleError, OSError):
        return False


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG, MAX_CONFIG_BYTES)
    if not isinstance(config, dict) or config.get("format") != FORMAT or "sha256" not in config:
        raise BundleError(f"{folder} is not an export of format {FORMAT}; export the trial again")
    return config


def _read(folder: Path, config: Mapping[str, Any]) -> Bundle:
    return read_model(folder, WEIGHTS, config["sha256"])


def _holds(folder: Path, described: Mapping[str, Any], bundle: Bundle) -> bool:
    """Whether a folder is the export of this very network and description, undamaged."""
    try:
        config = _read_config(folder)
        told = {key: value for key, value in config.items() if key not in ("onnx_difference", "sha256")}
        if told != described or _read(folder, config).sha256 != bundle.sha256:
            return False
        return _is_undamaged(folder, config)
    except (BundleError, OSError):
        return False


def _is_undamaged(folder: Path, config: Mapping[str, Any]) -> bool:
    return all(file_sha256(folder / name) == digest for name, digest in config["sha256"].items())


def _check_replaceable(folder: Path, replace: bool) -> None:
    try:
        _read_config(folder)
    except BundleError:
        raise RequestError(f"{folder} exists and is no export; choose another folder") from None
    if not replace:
        raise RequestError(
            f"{folder} holds another export, or a damaged one; choose another folder, or remove it"
        )


def _versions() -> dict[str, str]:
    return {name: version(name).partition("+")[0] for name in ("torch", "onnx", "onnxruntime")}


def _prepared(first: Input, preparation: Mapping[str, Any] | None) -> str:
    """How the first input is made of data, in a sentence and, where there is something to do, in code."""
    if preparation is None:
        return ""
    divisor, mean, std = preparation["divisor"], preparation["mean"], preparation["std"]
    data = "pixels" if divisor != 1 else "data"
    told, made, lines = "the data as they were given", data, ["import numpy as np", ""]
    if divisor != 1:
        told, made = (
            f"pixels from 0 to {divisor}, divided by {divisor}",
            f"{data}.astype(np.float32) / {divisor}",
        )
    if any(mean) or set(std) != {1}:
        told += f", less the mean {mean} and divided by {std}, a number per channel"
        shape = ", ".join(["-1", *["1"] * (len(first.shape) - 1)])
        lines += [
            f"{name} = np.float32({each}).reshape({shape})" for name, each in (("mean", mean), ("std", std))
        ]
        made = f"({made} - mean) / std"
    if made == data:
        return f"`{first.name}` is {told}.\n"
    code = "\n".join(f"    {line}".rstrip() for line in [*lines, f"{first.name} = {made}"])
    return f"`{first.name}` is {told}:\n\n{code}\n"


def _readme(name: str, graph: Graph, preparation: Mapping[str, Any] | None) -> str:
    shapes = ", ".join(
        f"{i.name} ({', '.join(map(str, ('batch', *i.shape)))}) {i.dtype}" for i in graph.inputs
    )
    feeds = ", ".join(f'"{item.name}": {item.name}' for item in graph.inputs)
    arguments = ", ".join(f"torch.from_numpy({item.name})" for item in graph.inputs)
    prepared = _prepared(graph.inputs[0], preparation)
    return f"""# {name}

A pruned network that takes {shapes} and gives a number for each class, the largest for its answer.
`config.json` says how it was found and what it was measured to do. What follows runs in this folder.

{prepared}
As a trainable PyTorch module, in eval mode:

    import search
    import torch

    network = search.load(".")
    outputs = network({arguments})

With ONNX Runtime, at any batch:

    import onnxruntime

    session = onnxruntime.InferenceSession("{ONNX}")
    outputs = session.run(None, {{{feeds}}})[0]
"""
