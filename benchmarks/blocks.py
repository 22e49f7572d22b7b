"""ResNet-56 on CIFAR-10 without some of its blocks, beside as few MACs by width alone.

    python -m benchmarks.blocks [--drops 0 1 3 6] [--share 0.5]

Needs the data folder beside the repository. Nothing is trained. The blocks that go are those whose loss, one
at a time and without any repair, changes the model's answers least, by the divergence from the dense model on
2 000 of the images that steer searches. Each network is repaired in sequence and read on the images that
chose nothing. For every number of dropped blocks there are three rows: nothing else pruned; all blocks kept,
and inner channels thinned alike to as many MACs; and inner channels of what is left thinned to `--share`.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from benchmarks.cifar import DATA, load_checkpoint, load_splits
from benchmarks.criteria import STREAMS, VALIDATION_IMAGES
from search.budget import project
from trials.bundle import Bundle
from trials.candidate import Candidate, as_counts
from trials.export import export_model
from trials.graph import Input
from trials.requests import Recipe, Request
from trials.run import Workbench


class Trier:
    """Candidates of one model, made real without any training."""

    def __init__(self, bundle: Bundle) -> None:
        splits = load_splits("resnet56", train_rows=(0, 10_000))
        frozen = dict.fromkeys(STREAMS, "residual streams stay whole")
        recipe = Recipe(repair="none", validation_images=VALIDATION_IMAGES, frozen=frozen, blocks=True)
        self.bench = Workbench(bundle, splits, recipe)
        self.space = self.bench.coupling.space(step=4)
        self.blocks = [block.name for block in self.bench.coupling.blocks]
        dense = as_counts([self.space.dense])
        self.dense_macs = float(self.bench.costs.macs(dense)[0])

    def least_missed(self) -> list[str]:
        """All blocks, those first without which the answers change least."""
        divergence = {}
        for name in self.blocks:
            request = Request(candidate=self.space.parse({name: 0}), seed=0)
            divergence[name] = self.bench(request).facts.divergence
            print(f"without {name}: divergence {divergence[name]:.4f}", flush=True)
        return sorted(divergence, key=divergence.__getitem__)

    def thinned(self, dropped: list[str], macs: float) -> Candidate:
        """Inner channels thinned alike, of all blocks but these, to so many MACs."""
        wanted = self.space.sizes.astype(np.float64)
        wanted[[axis.name in dropped for axis in self.space.axes]] = 0
        return project(self.space, wanted, self.bench.costs.macs, macs)

    def show(self, what: str, candidate: Candidate) -> None:
        """Repair a candidate, and print what it costs and gets right."""
        outcome = self.bench(Request(candidate=candidate, seed=0, final=True))
        assert outcome.test is not None
        share, accuracy = outcome.facts.macs / self.dense_macs, outcome.test["accuracy"]
        print(f"{what}: {share:.1%} of the MACs, {accuracy:.2%}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--drops", type=int, nargs="+", default=[0, 1, 3, 6])
    parser.add_argument("--share", type=float, default=0.5)
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    torch.set_num_threads(1)
    trier = Trier(export_model(load_checkpoint("resnet56"), [Input(name="x", shape=(3, 32, 32))]))
    _, test = trier.bench.dense()
    assert test is not None
    print(f"dense: {test['accuracy']:.2%}", flush=True)
    order = trier.least_missed()
    for count in options.drops:
        gone = order[:count]
        if gone:
            shorter = trier.space.parse(dict.fromkeys(gone, 0))
            macs = float(trier.bench.costs.macs(as_counts([shorter]))[0])
            trier.show(f"without {count} blocks", shorter)
            trier.show(f"as few MACs as without {count}", trier.thinned([], macs))
        thinned = trier.thinned(gone, options.share * trier.dense_macs)
        trier.show(f"without {count} blocks, thinned to {options.share:.0%}", thinned)


if __name__ == "__main__":
    main()
