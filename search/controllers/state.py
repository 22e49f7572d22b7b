"""What a controller knows, as data: so that a job goes on without telling it all of its trials again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, numpy

from hwprofiles.disk import write_whole
from search.controllers.protocol import Proposal, ScoredTrial

VERSION = 3
"""To be raised when a controller keeps something else or learns otherwise: jobs then replay their trials."""
_JSON, _SHA256 = "controller", "sha256"


@dataclass(frozen=True, slots=True)
class State:
    """Arrays, and what is none as JSON; in one file of safetensors, which has a place for both.

    `values` holds what JSON can hold: its numbers come back bit for bit.
    """

    arrays: Mapping[str, NDArray[Any]]
    values: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Take the place of what was there, whole or not at all."""
        text = json.dumps({"version": VERSION, **self.values})
        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        write_whole(path, numpy.save(arrays, metadata={_JSON: text, _SHA256: _sha256(text, arrays)}))

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """What `write` wrote; None where it is absent, damaged or of another version."""
        try:
            content = path.read_bytes()
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            text, arrays = header["__metadata__"][_JSON], numpy.load(content)
            if header["__metadata__"][_SHA256] != _sha256(text, arrays):
                return None
            values = json.loads(text)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError):
            return None
        return cls(arrays, values) if values.pop("version", None) == VERSION else None


def _sha256(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of all that is kept: a damaged file must not make a controller ask for something else."""
    found = sha256(text.encode())
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


@runtime_checkable
class Keeper(Protocol):
    """A controller whose state may be kept; one that is made alike and loads it goes on bit for bit.

    What is kept holds nothing that the trials tell, so it does not grow with them.
    """

    def state(self) -> State: ...

    def load(self, state: State, asked: Sequence[Proposal], told: Sequence[ScoredTrial]) -> None:
        """
        Args:
            asked: all that it had proposed when `state` was taken.
            told: all that it had been told by then.
        """
        ...
