"""A finalist whose training is under way: what it goes on from, in another process or on another day."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hwprofiles.disk import write_whole
from hwprofiles.errors import PrunefrontError
from trials.bundle import Bundle, read_bundle
from trials.finetune import TrainingState

TRAINING = "training.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Halfway:
    """A final request that was left off in its training.

    `recipe` is what it is trained by, `repaired` the network as it was before its first step, `kept` the
    units that it has, and `seconds` what has been spent so far, by stage.
    """

    recipe: Mapping[str, Any]
    repaired: Bundle
    kept: Mapping[str, Sequence[int]]
    state: TrainingState
    seconds: Mapping[str, float]

    @property
    def share(self) -> float:
        """How much of the training is done, 0..1."""
        return self.state.step / float(self.recipe["final_steps"])

    def write(self, folder: Path) -> None:
        """Keep it in a folder, in place of where the same training stood before."""
        if not folder.exists():
            self.repaired.write(folder)
        of = {"model": self.state.model, "averaged": self.state.averaged, "memory": self.state.memory}
        tensors = {f"{part}/{name}": value for part, values in of.items() for name, value in values.items()}
        told = {
            "recipe": self.recipe,
            "kept": {name: list(units) for name, units in self.kept.items()},
            "at_once": self.state.at_once,
            "seconds": dict(self.seconds),
        }
        # Not told: as text, those of millions of steps are more than the head of a file may hold.
        tensors["losses"] = torch.tensor(self.state.losses, dtype=torch.float64)
        content = save(
            {name: value.contiguous() for name, value in tensors.items()}, {"told": json.dumps(told)}
        )
        write_whole(folder / TRAINING, content)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None if nothing was kept, or nothing that is whole."""
        try:
            with safe_open(folder / TRAINING, "pt") as file:
                told = json.loads(file.metadata()["told"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # no mapping
            losses = tuple(tensors.pop("losses").tolist())
            parts: dict[str, dict[str, torch.Tensor]] = {"model": {}, "averaged": {}, "memory": {}}
            for path, value in tensors.items():
                part, _, name = path.partition("/")
                parts[part][name] = value
            state = TrainingState(**parts, losses=losses, at_once=told["at_once"])
            return cls(
                recipe=told["recipe"],
                repaired=read_bundle(folder),
                kept=told["kept"],
                state=state,
                seconds=told["seconds"],
            )
        except (OSError, SafetensorError, PrunefrontError, KeyError, TypeError, ValueError):
            return None
