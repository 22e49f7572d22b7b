"""Call a user's own function: the only place that imports code which a job names.

Runs where a job is submitted, never in a worker or in the service.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwprofiles.errors import RequestError, nearest


def call_factory(name: str, base: Path, key: str, args: Mapping[str, Any]) -> Any:
    """Call "package.module:function" with keyword arguments; its late imports see the job's folder too.

    Raises:
        RequestError: as `find_factory`, or the function itself failed.
    """
    function = find_factory(name, base, key)
    with _importable(base):
        try:
            return function(**args)
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{argument}={value!r}" for argument, value in args.items())
            raise RequestError(
                f"{key}: {name}({given}) failed with {type(error).__name__}: {error}"
            ) from error


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
    if module_name.endswith(".py"):
        meant = ".".join(Path(module_name).with_suffix("").parts).lstrip("/.")
        raise RequestError(f'{key} is {name!r}; it names a module, not a file: "{meant}:{function_name}"')
    _forget_namesake(module_name.partition(".")[0], base.resolve())
    with _importable(base):
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise RequestError(
                f"{key} names module {module_name!r}, which did not import from {base} or from what is "
                f"installed ({type(error).__name__}: {error})"
            ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        public = [name for name, value in vars(module).items() if callable(value)]
        raise RequestError(
            f"{key}: module {module_name!r} has no function {function_name!r}; "
            + nearest(function_name, public)
        )
    found: Callable[..., Any] = function
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Look for modules in `folder` first, for as long as this lasts."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


def _forget_namesake(package: str, base: Path) -> None:
    """Two jobs may each have a model.py: drop the one of another folder, which Python would return again."""
    loaded = sys.modules.get(package)
    beside_job = (base / f"{package}.py").exists() or (base / package / "__init__.py").exists()
    if loaded is None or not beside_job or Path(loaded.__file__ or "").resolve().is_relative_to(base):
        return
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
