"""What repair buys where heads lose width: a small vision transformer for digits, nothing trained after.

    python -m benchmarks.repair_attention [--seeds 0 1 2]

Takes four minutes, most of it to train the networks. Prints tables: accuracy in percent on the images that a
network was not trained on, mean over the seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trials.bundle import Bundle
from trials.candidate import Candidate
from trials.criteria import Evidence, score, select
from trials.data import DataSpec, Splits, load
from trials.export import export_model
from trials.finetune import Training
from trials.graph import Input
from trials.groups import analyse
from trials.network import Network, build
from trials.prune import prune
from trials.repair import EXAMPLES, Calibration, fast, importance, sequential
from trials.units import WIDTH

WIDE, DEPTH, HEADS = 64, 4, 4
LEFT = (8, 4, 2)
"""Places of each head's 16."""


class Apart(nn.Module):
    """Self-attention with a layer each for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDE, WIDE) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        parts = (part(x).unflatten(2, (HEADS, -1)) for part in (self.query, self.key, self.value))
        made: Tensor = self.out(mixed(*parts))
        return made


class Fused(nn.Module):
    """Self-attention with one layer for queries, keys and values, so that all three lose the same places."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDE, 3 * WIDE), nn.Linear(WIDE, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(mixed(*self.qkv(x).unflatten(2, (3, HEADS, -1)).unbind(2)))
        return made


def mixed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(batch, tokens, heads, width) each → (batch, tokens, heads x width)."""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(WIDE), attention, nn.LayerNorm(WIDE)
        self.mlp = nn.Sequential(nn.Linear(WIDE, 2 * WIDE), nn.GELU(), nn.Linear(2 * WIDE, WIDE))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        made: Tensor = x + self.mlp(self.norm2(x))
        return made


class Transformer(nn.Module):
    """Patches of 2x2 on 8x8 images, learnt positions, and the mean over all tokens as the answer."""

    def __init__(self, attention: type[nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDE, 2, 2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 16, WIDE))
        self.blocks = nn.Sequential(*(Block(attention()) for _ in range(DEPTH)))
        self.norm, self.head = nn.LayerNorm(WIDE), nn.Linear(WIDE, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x)).mean(1))
        return logits


def trained(attention: type[nn.Module], splits: Splits, seed: int) -> Bundle:
    torch.manual_seed(seed)
    model = Transformer(attention)
    Training(model, splits.train, steps=600, seed=seed, batch_size=64, learning_rate=0.02).run()
    return export_model(model, [Input(name="x", shape=(1, 8, 8))])


def repaired(bundle: Bundle, splits: Splits) -> Iterator[tuple[str, int, Network]]:
    """Each repair's name, how many places stay, and what it comes to."""
    coupling, tensors = analyse(bundle.graph), bundle.tensors
    inputs = [torch.from_numpy(splits.train.evenly(EXAMPLES).batch(slice(None))[0][0])]
    as_before, now = (Calibration(coupling, tensors, inputs) for _ in range(2))
    as_before.scores.clear()
    by_weights = score("l1", Evidence(coupling, tensors, splits.train))
    by_error = {**by_weights, **importance(now)}
    yield "dense", 0, bundle.network()
    for left in LEFT:
        counts = (
            left if g.kind == WIDTH and not g.name.endswith("value.width") else g.size
            for g in coupling.groups
        )
        candidate = Candidate(tuple(counts))
        kept = select(coupling, by_weights, candidate)
        yield "cut", left, build(*prune(coupling, tensors, kept))
        for name, repair in (("fast", fast), ("sequential", sequential)):
            yield f"{name}, nothing turned", left, build(*repair(as_before, kept))
            yield name, left, build(*repair(now, kept))
            yield f"{name}, by error", left, build(*repair(now, select(coupling, by_error, candidate)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = load(DataSpec("digits"), Path(), seed=0)
    held = [split.batch(slice(None)) for split in (splits.validation, splits.test) if split is not None]
    inputs = torch.cat([torch.from_numpy(arrays[0]) for arrays, _ in held])
    labels = np.concatenate([classes for _, classes in held])
    for attention in (Apart, Fused):
        found: dict[tuple[str, int], list[float]] = defaultdict(list)
        for seed in options.seeds:
            for name, left, network in repaired(trained(attention, splits, seed), splits):
                with torch.no_grad():
                    answers = network.eval()(inputs).argmax(1).numpy()
                found[name, left].append(100 * float((answers == labels).mean()))
        print(f"{attention.__name__}, dense {np.mean(found['dense', 0]):.1f} %")
        for name in dict.fromkeys(name for name, left in found if left):
            print(f"| {name} | " + " | ".join(f"{np.mean(found[name, left]):.1f}" for left in LEFT) + " |")


if __name__ == "__main__":
    main()
