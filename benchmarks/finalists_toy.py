"""Which trials of toy searches become finalists, by three rules: the front that they truly draw.

    python -m benchmarks.finalists_toy [--trials 60] [--seeds 6] [--finalists 6]

Toys, noise and levels are those of `benchmarks.controllers_toy`. Latency is the cost that levels are of, or
else one of its own, with stairs of 8 units, as where a budget is of MACs. Printed is the hypervolume, in
percent, of true accuracy over latency: of what each rule chooses, and of all trials.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice, zip_longest

import numpy as np
from numpy.typing import NDArray

from benchmarks.controllers_toy import TOYS, Toy, alone
from search.controllers import make
from search.controllers.protocol import ScoredTrial
from search.finalists import beaten
from search.pareto import hypervolume
from trials.candidate import Counts, as_counts

Array = NDArray[np.float64]


def trials_of(toy: Toy, controller: str, trials: int, seed: int) -> tuple[Counts, Array, Array]:
    """(trials, groups) counts, and (trials,) targets and divergences as seen, of one search."""
    rng = np.random.default_rng([seed, 1])
    maker = make(
        controller, space=toy.space, cost=toy.cost, targets=toy.targets, seed=seed, trials=trials,
        features=toy.features, losses=alone(toy, rng),
    )  # fmt: skip
    told: list[ScoredTrial] = []
    while len(told) < trials:
        [proposal] = maker.ask(1)
        counts = as_counts([proposal.candidate])
        divergence, cost = toy.divergence(counts, rng), float(toy.cost(counts)[0])
        trial = ScoredTrial(proposal=proposal, accuracy=0.5, divergence=divergence, cost=cost)
        maker.tell([trial])
        told.append(trial)
    proposals = [trial.proposal for trial in told]
    seen = np.array([trial.divergence for trial in told], dtype=np.float64)
    return as_counts([p.candidate for p in proposals]), np.array([p.target for p in proposals]), seen


def of_its_own(toy: Toy, seed: int) -> Callable[[Counts], Array]:
    price = np.exp(0.7 * np.random.default_rng([seed, 7]).standard_normal(len(toy.space.axes)))
    return lambda counts: np.asarray(0.1 + (np.ceil(counts / 8) * 8 / toy.space.sizes) @ price / price.sum())


def in_turn(targets: Array, order: NDArray[np.int64], count: int) -> list[int]:
    """The first of each level, then the second, until there are `count`; `order` is that of all trials."""
    levels = [order[targets[order] == target].tolist() for target in np.unique(targets)]
    turns = (trial for same_place in zip_longest(*levels) for trial in same_place if trial is not None)
    return list(islice(turns, count))


def front(toy: Toy, controller: str, own_latency: bool, seed: int, trials: int, count: int) -> list[float]:
    counts, targets, seen = trials_of(toy, controller, trials, seed)
    latency = of_its_own(toy, seed) if own_latency else toy.cost
    latencies, [dense] = latency(counts), latency(toy.space.sizes[None])
    costs = np.column_stack([1 - toy.accuracy(counts), latencies / dense])
    rank = beaten(seen.tolist(), latencies[:, None])
    chosen = (
        in_turn(targets, np.argsort(seen), count),
        in_turn(targets, np.lexsort([seen, rank]), count),
        np.lexsort([seen, rank])[:count].tolist(),
        range(len(counts)),
    )
    return [100 * hypervolume(costs[list(numbers)], np.ones(2)) for numbers in chosen]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--finalists", type=int, default=6)
    arguments = parser.parse_args()
    rules = ("of its level", "rank, level", "rank alone", "all trials")
    print(f"{'':36}", *(f"{rule:>13}" for rule in rules))
    for own_latency in (False, True):
        for name, toy in TOYS.items():
            for controller in ("auto", "random"):
                found = [
                    front(toy(seed), controller, own_latency, seed, arguments.trials, arguments.finalists)
                    for seed in range(arguments.seeds)
                ]
                label = f"{'another cost' if own_latency else 'latency':12} {name:10} {controller:10}"
                print(f"{label:36}", *(f"{mean:13.2f}" for mean in np.mean(found, axis=0)), flush=True)


if __name__ == "__main__":
    main()
