"""Inference runtimes, one file each behind one protocol; a runtime is imported when it is opened."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from hwprofiles.errors import RequestError, nearest
from hwprofiles.runtimes.protocol import CALL, PLAIN, Lowered, Run, Runtime

_FILES = {
    "onnxruntime": "hwprofiles.runtimes.onnx_cpu",
    "synthetic": "hwprofiles.runtimes.synthetic",
    "tensorrt": "hwprofiles.runtimes.tensorrt_gpu",
}


def open_runtime(name: str, precision: str = "fp32") -> Runtime:
    """Return the runtime of that name, for networks in `precision`.

    Raises:
        RequestError: no runtime is called so, it does not know the precision, or what it needs is missing.
    """
    if name not in _FILES:
        raise RequestError(f"runtime {name!r} is not known; {nearest(name, _FILES)}")
    try:
        module = import_module(_FILES[name])
        if precision not in module.PRECISIONS:
            raise RequestError(
                f"runtime {name!r} does not run {precision!r}; {nearest(precision, module.PRECISIONS)}"
            )
        return cast(Runtime, module.open_runtime(precision))
    except ImportError as error:
        raise RequestError(
            f"runtime {name!r} cannot be used here: package {error.name} cannot be imported ({error}); "
            "install it, or choose another runtime"
        ) from error


__all__ = ["CALL", "PLAIN", "Lowered", "Run", "Runtime", "open_runtime"]
