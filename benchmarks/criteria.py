"""ResNet-20 on CIFAR-10 with half of its inner channels, by each criterion; and with single weights gone.

    python -m benchmarks.criteria

Needs the data folder beside the repository. Nothing is trained. Accuracies are on 2 000 of the images that
steer searches; criteria and repair look at 2 560 training images. Prints and writes two tables: accuracy by
criterion, as it is cut and with the fast repair; and accuracy of the whole network with fractions and
patterns of zeros, statistics of batch norms as they were.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.cifar import DATA, load_checkpoint, load_splits
from trials.bundle import Bundle
from trials.candidate import Candidate
from trials.criteria import CRITERIA, Evidence, score, select
from trials.data import Split
from trials.evaluate import evaluate
from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse
from trials.network import build
from trials.prune import prune
from trials.repair import Calibration, fast
from trials.room import AMPLE
from trials.sparsity import Scope, Sparsity, hide, read_sparsity

VALIDATION_IMAGES, TRAINING_IMAGES = 2_000, 2_560
STREAMS = ("conv1", "layer2.0.conv2", "layer3.0.conv2")
"""Groups of the residual streams, which stay whole."""
FRACTIONS, PATTERNS = (0.5, 0.7, 0.8, 0.9), ("1:2", "2:4", "4:8", "1:4")


def by_criterion(bundle: Bundle, train: Split, validation: Split) -> dict[str, dict[str, float]]:
    """Accuracy with half of every group, as it is cut and repaired."""
    coupling = analyse(bundle.graph).without(dict.fromkeys(STREAMS, "residual streams stay whole"))
    half = Candidate(tuple(group.size // 2 for group in coupling.groups))
    evidence = Evidence(coupling, bundle.tensors, train)
    calibration = Calibration.fitting(coupling, bundle.tensors, train, AMPLE)
    found = {}
    for criterion in CRITERIA:
        kept = select(coupling, score(criterion, evidence), half)
        cut, repaired = (
            evaluate(build(*pruned), validation).accuracy
            for pruned in (prune(coupling, bundle.tensors, kept), fast(calibration, kept))
        )
        found[criterion] = {"cut": cut, "repaired": repaired}
        print(f"{criterion:>18}: cut {cut:.2%}, repaired {repaired:.2%}", flush=True)
    return found


def by_zeros(bundle: Bundle, validation: Split) -> dict[str, float]:
    """Accuracy with single weights gone and nothing else."""
    scopes: tuple[Scope, ...] = ("global", "layer")
    asked: dict[str, Sparsity] = {
        f"{zeros:.0%} {scope}": read_sparsity(zeros, scope) for zeros in FRACTIONS for scope in scopes
    }
    found = {}
    for name, sparsity in {**asked, **{pattern: read_sparsity(pattern) for pattern in PATTERNS}}.items():
        network = bundle.network()
        hide(network, sparsity.masks(network))
        found[name] = evaluate(network, validation).accuracy
        print(f"{name:>18}: {found[name]:.2%}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/criteria.json"))
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    torch.set_num_threads(1)
    splits = load_splits("resnet20", train_rows=(0, 10_000))
    rows = np.sort(np.random.default_rng(0).permutation(10_000)[:TRAINING_IMAGES])
    train, validation = splits.train.take(rows), splits.validation.take(slice(0, VALIDATION_IMAGES))
    bundle = export_model(load_checkpoint("resnet20"), [Input(name="x", shape=(3, 32, 32))])
    dense = evaluate(bundle.network(), validation).accuracy
    print(f"{'dense':>18}: {dense:.2%}", flush=True)
    results = {
        "dense": dense,
        "criteria": by_criterion(bundle, train, validation),
        "zeros": by_zeros(bundle, validation),
    }
    options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
