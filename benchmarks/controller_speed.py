"""What controllers take to learn and to ask, at 50 groups and 1 000 trials of history: ms per candidate.

    python -m benchmarks.controller_speed [--controllers auto] [--groups 50] [--history 1000] [--profile]

Groups have 64 units in steps of 2, budget levels are three, and costs are products of neighbours, as MACs
are. The history is of random candidates. Then one candidate after another is asked for
and told, on one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from search.controllers import NAMES, make
from search.controllers.protocol import Controller, Proposal, ScoredTrial
from trials.candidate import Axis, Counts, Space, as_counts

CANDIDATES = 20


def macs(counts: Counts) -> NDArray[np.float64]:
    return np.asarray((counts[:, 1:] * counts[:, :-1]).sum(axis=1), dtype=np.float64)


def scored(proposals: Sequence[Proposal], rng: np.random.Generator) -> list[ScoredTrial]:
    """What groups lose, added up and some per cent off."""
    counts = as_counts([proposal.candidate for proposal in proposals])
    harm = np.linspace(0.5, 2, counts.shape[1]) / counts.shape[1]
    lost = ((1 - counts / 64) ** 2 @ harm) * np.exp(0.05 * rng.standard_normal(len(counts)))
    return [
        ScoredTrial(
            proposal=proposal, accuracy=float(np.exp(-loss)), divergence=float(loss), cost=float(cost)
        )
        for proposal, loss, cost in zip(proposals, lost, macs(counts), strict=True)
    ]


def made(name: str, groups: int, trials: int) -> Controller:
    space = Space(tuple(Axis(name=f"g{index}", size=64, step=2, lowest=2) for index in range(groups)))
    dense = float(macs(space.sizes[None])[0])
    return make(
        name,
        space=space,
        cost=macs,
        targets=[0.4 * dense, 0.55 * dense, 0.7 * dense],
        seed=0,
        trials=trials,
        features=np.linspace(0, 1, groups)[:, None],
        losses=[(1 - axis.allowed / axis.size) ** 2 / groups for axis in space.axes],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--controllers", nargs="+", default=["auto"], choices=NAMES)
    parser.add_argument("--groups", type=int, default=50)
    parser.add_argument("--history", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    trials = arguments.history + CANDIDATES
    history = scored(made("random", arguments.groups, trials).ask(arguments.history), rng)
    for name in arguments.controllers:
        controller = made(name, arguments.groups, trials)
        controller.tell(history)
        controller.tell(scored(controller.ask(3), rng))  # what is worked out once
        profiler = cProfile.Profile() if arguments.profile else nullcontext()
        taken_ms = []
        with profiler:
            for _ in range(CANDIDATES):
                begin_s = time.thread_time()
                proposals = controller.ask(1)
                taken_ms.append(1e3 * (time.thread_time() - begin_s))
                told = scored(proposals, rng)
                begin_s = time.thread_time()
                controller.tell(told)
                taken_ms[-1] += 1e3 * (time.thread_time() - begin_s)
        typical_ms, longest_ms = np.median(taken_ms), max(taken_ms)
        print(f"{name}: {typical_ms:.1f} ms of processor time per candidate, at most {longest_ms:.1f}")
        if isinstance(profiler, cProfile.Profile):
            pstats.Stats(profiler).sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
