"""A network in an ONNX file, and what it wants to be fed with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hwprofiles.errors import RequestError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)


def read_network(onnx_path: Path) -> onnx.ModelProto:
    """
    Raises:
        RequestError: the file is no network.
    """
    try:
        model = onnx.load(onnx_path)
    except Exception as error:  # protobuf and the file system have classes of their own
        raise RequestError(f"{onnx_path} is no ONNX network: {error}; export it again") from error
    if not model.graph.node:
        raise RequestError(f"{onnx_path} is an ONNX file without operators; export it again")
    return model


def network_inputs(model: onnx.ModelProto, name: str, batch: int) -> dict[str, NDArray[Any]]:
    """Return random values for each input, by name; integers are 0 or 1, which any vocabulary has.

    Args:
        name: what messages call the network.
        batch: the size of the first axis where the network leaves it open.

    Raises:
        RequestError: an input has another open axis, or numbers of another kind.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return {put.name: _random(put, name, batch) for put in model.graph.input if put.name not in weights}


def _random(put: onnx.ValueInfoProto, name: str, batch: int) -> NDArray[Any]:
    tensor = put.type.tensor_type
    sizes = [axis.dim_value or axis.dim_param or "?" for axis in tensor.shape.dim]
    if not all(isinstance(size, int) for size in sizes[1:]):
        raise RequestError(
            f"input {put.name!r} of {name} has shape {sizes}; only the first axis, the batch, may be "
            "open: export it with fixed sizes"
        )
    shape = [size if isinstance(size, int) else batch for size in sizes]
    generator = np.random.default_rng(0)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if tensor.elem_type in _FLOATS:
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    if tensor.elem_type in _INTEGERS:
        return generator.integers(0, 2, shape).astype(dtype)
    allowed = ", ".join(TensorProto.DataType.Name(each).lower() for each in (*_FLOATS, *_INTEGERS))
    raise RequestError(f"input {put.name!r} of {name} is of {dtype}; allowed: {allowed}")
