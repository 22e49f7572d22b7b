"""Controllers on toy searches that cost microseconds a trial: mean best accuracy, in percent, over seeds.

    python -m benchmarks.controllers_toy [--trials 120] [--seeds 5]

Space, cost and accuracy of a toy are formulas. A controller is told noisy accuracies and judged by the true
accuracy of what looks best to it, as a mean over the budget levels. `climb` is the best of 2500 steps of hill
climbing on true accuracies, about what can be reached at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.budget import Cost, project
from search.controllers import NAMES, make
from search.controllers.protocol import ScoredTrial
from search.sensitivity import Sensitivity, probes
from trials.candidate import Axis, Counts, Space, as_counts

Array = NDArray[np.float64]
DIVERGENCE_NOISE = 0.05
"""Of its logarithm, about as of a ResNet-56 on 2 000 images."""


@dataclass(frozen=True)
class Toy:
    """A model of which the loss is a formula; `noise` is the standard error of one accuracy."""

    space: Space
    cost: Cost
    loss: Callable[[Counts], Array]
    targets: tuple[float, ...]
    features: Array
    noise: float

    def accuracy(self, counts: Counts) -> Array:
        return np.asarray(0.1 + 0.84 * np.exp(-self.loss(counts)), dtype=np.float64)

    def divergence(self, counts: Counts, rng: np.random.Generator) -> float:
        """As a trial sees it: some per cent off."""
        return float(self.loss(counts)[0] * np.exp(DIVERGENCE_NOISE * rng.standard_normal()))


def separable(seed: int) -> Toy:
    """12 groups that do not interact; cost is linear, so a knapsack gives the optimum."""
    rng = np.random.default_rng(seed)
    space = Space(tuple(Axis(name=f"g{i}", size=64, step=4, lowest=4) for i in range(12)))
    price = rng.integers(1, 10, 12)
    harm = 0.01 * np.exp(1.2 * rng.standard_normal(12))
    return _toy(space, lambda counts: np.asarray(counts @ price, dtype=np.float64), harm, 0.0, 0.0)


def chain(seed: int) -> Toy:
    """30 layers in three stages; MACs are products of neighbours, narrow neighbours hurt together, noise."""
    rng = np.random.default_rng(seed)
    sizes = np.repeat([16, 32, 64], 10)
    space = Space(tuple(Axis(name=f"g{i}", size=int(size), step=2, lowest=2) for i, size in enumerate(sizes)))
    pixels = np.repeat([64, 16, 4], 10)

    def macs(counts: Counts) -> Array:
        inputs = np.concatenate([np.full((len(counts), 1), 16), counts[:, :-1]], axis=1)
        return np.asarray((counts * inputs * pixels).sum(axis=1), dtype=np.float64)

    harm = 0.004 * np.exp(rng.standard_normal(30)) * np.where(np.arange(30) % 10 == 0, 4, 1)
    return _toy(space, macs, harm, 0.02, 0.004)


def blocks(seed: int) -> Toy:
    """27 hidden widths of residual blocks, in steps of 8, priced in latency; early blocks matter, noise."""
    rng = np.random.default_rng(seed)
    sizes = np.repeat([32, 64, 128], 9)
    space = Space(tuple(Axis(name=f"g{i}", size=int(size), step=8, lowest=8) for i, size in enumerate(sizes)))
    block_ms = rng.uniform(0.5, 1.5, 27)

    def latency_ms(counts: Counts) -> Array:
        return np.asarray(2 + (0.15 + 0.85 * counts / sizes) @ block_ms, dtype=np.float64)

    place = np.linspace(0, 1, 27)
    harm = 0.012 * np.exp(0.5 * rng.standard_normal(27) - 2 * place) + 0.03 * (np.arange(27) % 9 == 0)
    return _toy(space, latency_ms, harm, 0.01, 0.004)


def alone(toy: Toy, rng: np.random.Generator) -> list[Array]:
    """What each group alone costs, measured at the counts that a job measures."""
    measured: dict[str, dict[int, float]] = {}
    for probe in probes(toy.space):
        found = toy.divergence(as_counts([probe.candidate]), rng)
        measured.setdefault(probe.group, {})[probe.kept] = found
    return list(Sensitivity(measured).losses(toy.space))


TOYS = {"separable": separable, "chain": chain, "blocks": blocks}


def _toy(space: Space, cost: Cost, harm: Array, together: float, noise: float) -> Toy:
    """Accuracy falls by `harm` x cut^2 / kept of each group, and by `together` where neighbours are cut."""

    def loss(counts: Counts) -> Array:
        keep = counts / space.sizes
        found = (harm * (1 - keep) ** 2 / keep).sum(axis=1)
        found += together * ((1 - keep[:, 1:]) * (1 - keep[:, :-1])).sum(axis=1) ** 2 / len(harm)
        return np.asarray(found, dtype=np.float64)

    dense = cost(space.sizes[None])[0]
    halves = np.where(np.eye(len(harm), dtype=bool), space.sizes // 2, space.sizes)
    share = 1 - cost(halves) / dense
    index = np.arange(len(harm)) / len(harm)
    features = np.stack([index, space.sizes / space.sizes.max(), share / share.max()], axis=1)
    return Toy(space, cost, loss, tuple(dense * np.array([0.4, 0.55, 0.7])), features, noise)


def search(toy: Toy, controller: str, trials: int, seed: int) -> float:
    """Run one search, two trials at a time; return the true accuracy of each level's best, averaged."""
    rng = np.random.default_rng([seed, 1])
    maker = make(
        controller,
        space=toy.space,
        cost=toy.cost,
        targets=toy.targets,
        seed=seed,
        trials=trials,
        features=toy.features,
        losses=alone(toy, rng),
    )
    observed = dict.fromkeys(toy.targets, -np.inf)
    true = dict.fromkeys(toy.targets, 0.0)
    for _ in range(trials // 2):
        proposals = maker.ask(2)
        if not proposals:
            break
        counts = as_counts([proposal.candidate for proposal in proposals])
        accuracies = toy.accuracy(counts)
        scored = []
        for proposal, row, accuracy in zip(proposals, counts, accuracies, strict=True):
            seen = float(accuracy + toy.noise * rng.standard_normal())
            divergence, cost = toy.divergence(row[None], rng), float(toy.cost(row[None])[0])
            scored.append(ScoredTrial(proposal=proposal, accuracy=seen, divergence=divergence, cost=cost))
            if seen > observed[proposal.target]:
                observed[proposal.target], true[proposal.target] = seen, float(accuracy)
        maker.tell(scored)
    return float(np.mean(list(true.values())))


def climb(toy: Toy, target: float, steps: int = 2500) -> float:
    """Hill climbing on true accuracy: a lower bound of what can be reached at one level."""
    rng = np.random.default_rng(0)
    best = project(toy.space, toy.space.sizes.astype(np.float64), toy.cost, target)
    accuracy = toy.accuracy(as_counts([best]))[0]
    for _ in range(steps):
        moved = rng.random(len(best.kept)) < rng.choice([0.05, 0.15, 0.5])
        move = np.exp(rng.choice([0.1, 0.3, 0.8]) * moved * rng.standard_normal(len(best.kept)))
        tried = project(toy.space, best.kept * move, toy.cost, target)
        reached = toy.accuracy(as_counts([tried]))[0]
        if reached > accuracy:
            best, accuracy = tried, reached
    return float(accuracy)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    rows: dict[str, Callable[[Toy, int], float]] = {
        name: lambda toy, seed, name=name: search(toy, name, arguments.trials, seed) for name in NAMES
    } | {"climb": lambda toy, _: float(np.mean([climb(toy, target) for target in toy.targets]))}
    print(f"{'':10}", *(f"{name:>16}" for name in TOYS))
    for name, row in rows.items():
        reached = 100 * np.array([[row(toy(seed), seed) for seed in seeds] for toy in TOYS.values()])
        cells = zip(reached.mean(axis=1), reached.std(axis=1), strict=True)
        print(f"{name:10}", *(f"{mean:8.2f} ± {std:5.2f}" for mean, std in cells), flush=True)


if __name__ == "__main__":
    main()
