"""Inference runtimes, one file each behind one protocol; a runtime is imported when it is opened.

What a runtime makes of operators is known without it: `lowering_of` speaks for devices elsewhere, too.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, cast

from hwprofiles.device import Device
from hwprofiles.errors import RequestError, nearest
from hwprofiles.runtimes.harvest import prepare_kernels
from hwprofiles.runtimes.protocol import CALL, PLAIN, Lowered, Lowering, Run, Runtime


class _Known(NamedTuple):
    """Where a runtime is opened, as "file:function" of this package, its rules' file, and what precisions."""

    opener: str
    lowering: str
    precisions: tuple[str, ...]


_KNOWN: dict[str, tuple[_Known, ...]] = {
    "onnxruntime": (
        _Known("onnx_cpu:open_runtime", "onnx_cpu_lowering", ("fp32",)),
        _Known("onnx_cpu_int8:open_runtime", "onnx_int8_lowering", ("int8",)),
    ),
    "onnxruntime-cuda": (_Known("onnx_gpu:open_on_cuda", "gpu", ("fp32", "tf32", "fp16")),),
    "onnxruntime-tensorrt": (_Known("onnx_gpu:open_on_tensorrt", "gpu", ("tf32", "fp16")),),
    "synthetic": (_Known("synthetic:open_runtime", "synthetic", ("fp32", "fp16")),),
    "tensorrt": (_Known("tensorrt_gpu:open_runtime", "tensorrt_lowering", ("fp32", "tf32", "fp16")),),
    "torch": (_Known("torch_gpu:open_runtime", "gpu", ("fp32", "tf32", "fp16")),),
}
_IMPORTED = {"layers": "imported_layers", "trtexec": "tensorrt_lowering"}
"""The rules' file of tables that others measured, by `source` among their devices' versions."""
RUNTIMES = {name: tuple(each for way in ways for each in way.precisions) for name, ways in _KNOWN.items()}
"""Every runtime there is, and the precisions that it runs."""


def open_runtime(name: str, precision: str = "fp32") -> Runtime:
    """Return the runtime of that name on this machine, for networks in `precision`.

    Raises:
        RequestError: no runtime is called so, it does not know the precision, or what it needs is missing.
    """
    known = _known(name, precision)
    file, _, function = known.opener.partition(":")
    try:
        return cast(Runtime, getattr(import_module(f"{__name__}.{file}"), function)(precision))
    except ImportError as error:
        raise RequestError(
            f"runtime {name!r} cannot be used here: package {error.name} cannot be imported ({error}); "
            "install it, or choose another runtime"
        ) from error


def lowering_of(device: Device) -> Lowering:
    """Return what the runtime of `device` makes of operators there, wherever that is.

    Raises:
        RequestError: its runtime or its precision is not known.
    """
    imported = _IMPORTED.get(device.versions.get("source", ""))
    file = imported or _known(device.runtime, device.precision).lowering
    return cast(Lowering, import_module(f"{__name__}.{file}").lowering_of(device))


def _known(name: str, precision: str) -> _Known:
    if name not in _KNOWN:
        raise RequestError(f"runtime {name!r} is not known; {nearest(name, _KNOWN)}")
    for way in _KNOWN[name]:
        if precision in way.precisions:
            return way
    raise RequestError(f"runtime {name!r} does not run {precision!r}; {nearest(precision, RUNTIMES[name])}")


__all__ = [
    "CALL",
    "PLAIN",
    "RUNTIMES",
    "Lowered",
    "Lowering",
    "Run",
    "Runtime",
    "lowering_of",
    "open_runtime",
    "prepare_kernels",
]
