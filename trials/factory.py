"""Find a user's own function: the only place that imports code which a job names.

Runs where a job is submitted, never in a worker or in the service.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwprofiles.errors import RequestError, nearest


def find_factory(name: str, base: Path, key: str) -> Callable[..., Any]:
    """Import "package.module:function", from the folder `base` first, then from what is installed.

    Args:
        key: where the name stands in the job, for messages ("[model] factory").

    Raises:
        RequestError: the name has another form, its module fails to import, or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise RequestError(f'{key} is {name!r}; it must read "module:function", such as "model:resnet"')
    base = base.resolve()
    _forget_namesake(module_name.partition(".")[0], base)
    sys.path.insert(0, str(base))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise RequestError(
            f"{key} names module {module_name!r}, which did not import from {base} or from what is installed "
            f"({type(error).__name__}: {error})"
        ) from error
    finally:
        sys.path.remove(str(base))
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [name for name, value in vars(module).items() if callable(value)]
        raise RequestError(
            f"{key}: module {module_name!r} has no function {function_name!r}; "
            + nearest(function_name, public)
        )
    found: Callable[..., Any] = function
    return found


def _forget_namesake(package: str, base: Path) -> None:
    """Two jobs may each have a model.py: drop the one of another folder, which Python would return again."""
    loaded = sys.modules.get(package)
    beside_job = (base / f"{package}.py").exists() or (base / package / "__init__.py").exists()
    if loaded is None or not beside_job or Path(loaded.__file__ or "").resolve().is_relative_to(base):
        return
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
