"""Inference runtimes, one file each behind one protocol; a runtime is imported when it is opened."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from hwprofiles.errors import RequestError, nearest
from hwprofiles.runtimes.protocol import CALL, PLAIN, Lowered, Runtime

_FILES = {"onnxruntime": "hwprofiles.runtimes.onnx_cpu"}


def open_runtime(name: str) -> Runtime:
    """Return the runtime of that name.

    Raises:
        RequestError: no runtime is called so, or the package it needs is not installed.
    """
    if name not in _FILES:
        raise RequestError(f"runtime {name!r} is not known; {nearest(name, _FILES)}")
    try:
        module = import_module(_FILES[name])
    except ImportError as error:
        raise RequestError(f"runtime {name!r} cannot be used here: {error}; install what it needs") from error
    return cast(Runtime, module.open_runtime())


__all__ = ["CALL", "PLAIN", "Lowered", "Runtime", "open_runtime"]
