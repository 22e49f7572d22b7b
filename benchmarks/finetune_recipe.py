"""What moves a network that is repaired already: 300 steps of many recipes from one ResNet-56 at half MACs.

    python -m benchmarks.finetune_recipe prepare
    python -m benchmarks.finetune_recipe try "without features" "by SGD"
    python -m benchmarks.finetune_recipe report

Needs the data folder beside the repository. `prepare` saves the repaired network once; its widths are the
cheapest by curves of each group's divergence alone. `try` says what recipes do on the first 5 000 test
images, by which one was chosen. `report` trains as `trials.finetune` does, and looks at the other 5 000.
Recipes that were not chosen are nowhere else, so they have a loop of their own here.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.cifar import load_checkpoint, load_splits
from trials.augment import Augment, augmented, mixed
from trials.bundle import Bundle, read_bundle
from trials.candidate import Candidate, as_counts
from trials.data import Split, Splits
from trials.distill import FEATURE_WEIGHT, Distillation, common_features, softened_divergence
from trials.evaluate import Evaluation, Execution, Judge
from trials.export import export_model
from trials.finetune import (
    BETAS,
    MOMENTUM,
    Progress,
    Training,
    batch_rows,
    decayed,
    under_a_teacher,
)
from trials.graph import Input
from trials.groups import analyse
from trials.network import Network, build
from trials.requests import Recipe, Request
from trials.run import Workbench

RESULTS = Path("benchmarks/results/finetune_recipe.json")
STEPS = 300
WHOLE = ("conv1", "layer?.0.conv2")
"""Residual streams stay whole, as in benchmarks.half_macs."""
BUDGET, LOWEST = 0.4975, 0.15
LEVELS = (0.5, 0.25)
"""Shares of a group kept for its curve; a power law goes through what they cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A recipe. `norms` are the statistics of batch norms, `features` the weight of their relative error."""

    optimizer: Literal["muon", "adam", "sgd"] = "muon"
    learning_rate: float = 2e-4
    mix: bool = True
    features: float = FEATURE_WEIGHT
    labels: float = 0.0
    norms: Literal["frozen", "trained"] = "frozen"
    average: float = 0.97
    batch_size: int = 128
    steps: int = STEPS


TRIALS = {
    "chosen": Trial(),
    "half the batch": Trial(batch_size=64),
    "half the rate": Trial(batch_size=64, learning_rate=1e-4),
    "by Adam": Trial(batch_size=64, optimizer="adam"),
    "by Adam, features weigh 20": Trial(batch_size=64, optimizer="adam", features=20.0),
    "by Adam, features weigh 5": Trial(batch_size=64, optimizer="adam", features=5.0),
    "by Adam, without features": Trial(batch_size=64, optimizer="adam", features=0.0),
    "by Adam, without mixing": Trial(batch_size=64, optimizer="adam", mix=False),
    "by Adam, half by labels": Trial(batch_size=64, optimizer="adam", mix=False, labels=0.5),
    "by Adam, statistics trained": Trial(batch_size=64, optimizer="adam", norms="trained"),
    "by Adam, five times the rate": Trial(batch_size=64, optimizer="adam", learning_rate=1e-3),
    "by SGD": Trial(batch_size=64, optimizer="sgd", learning_rate=1e-3),
}
"""Batches of half the size tell as well which of two recipes is better."""


def prepare(folder: Path) -> dict[str, Any]:
    """Save the dense and the repaired network; returns what is known of the latter."""
    splits = replace(load_splits("resnet56"), test=None)
    bundle = export_model(load_checkpoint("resnet56"), [Input(name="x", shape=(3, 32, 32))])
    names = [group.name for group in analyse(bundle.graph).groups]
    whole = {name: "whole" for name in names if any(fnmatch(name, pattern) for pattern in WHOLE)}
    candidate = cheapest(bundle, splits, whole)
    bench = Workbench(bundle, splits, Recipe(augment="shift+flip", frozen=whole))
    bundle.write(folder / "dense")
    outcome = bench(Request(candidate=candidate, seed=0, final=True))
    assert outcome.network is not None
    outcome.network.write(folder / "repaired")
    return {"kept": candidate.kept, "accuracy": outcome.facts.accuracy}


def cheapest(bundle: Bundle, splits: Splits, whole: dict[str, str]) -> Candidate:
    """The candidate at `BUDGET` for which the groups' own divergences add up to the least."""
    bench = Workbench(bundle, splits, Recipe(validation_images=500, augment="shift+flip", frozen=whole))
    sizes = np.array([group.size for group in bench.coupling.groups])
    curves = np.empty((len(sizes), len(LEVELS)))
    for group, level in np.ndindex(curves.shape):
        kept = sizes.copy()
        kept[group] = round(LEVELS[level] * sizes[group])
        curves[group, level] = bench(Request(candidate=_candidate(kept), seed=0)).facts.divergence
    gone = 1 - np.array(LEVELS)
    powers = np.log(curves[:, 1] / curves[:, 0]) / np.log(gone[1] / gone[0])
    scales = curves[:, 0] / gone[0] ** powers

    def macs(kept: np.ndarray) -> float:
        return float(bench.costs.macs(as_counts([_candidate(kept)]))[0])

    saves = np.array([macs(sizes) - macs(sizes - one) for one in np.eye(len(sizes), dtype=np.int64)])
    kept = sizes.copy()
    while macs(kept) > BUDGET * macs(sizes):
        now, then = (1 - (kept - step) / sizes for step in (0, 1))
        price = scales * (then**powers - now**powers) / saves
        kept[np.where(kept > LOWEST * sizes, price, np.inf).argmin()] -= 1
    return _candidate(kept)


def _candidate(kept: np.ndarray) -> Candidate:
    return Candidate(tuple(int(count) for count in kept))


def run(
    trial: Trial, pupil: Network, teacher: Network, splits: Splits, execution: Execution
) -> dict[str, Tensor]:
    """Train in place; returns the averaged state."""
    rng = np.random.default_rng(0)
    images, _ = splits.train.batch(slice(1))
    names = common_features(teacher, pupil, (torch.from_numpy(images[0]),)) if trial.features else ()
    optimizers = _optimizers(trial, pupil)
    averaged = {name: value.clone() for name, value in pupil.state_dict().items()}
    pupil.train()
    for norm in pupil.modules():
        if trial.norms == "frozen" and isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    for step in range(trial.steps):
        rate = min(1.0, (step + 1) / (0.05 * trial.steps)) * (1 + math.cos(math.pi * step / trial.steps)) / 2
        for group in (group for each in optimizers for group in each.param_groups):
            group["lr"] = group["times"] * trial.learning_rate * rate
        rows = batch_rows(step, len(splits.train), trial.batch_size, seed=0)
        arrays, classes = splits.train.batch(rows)
        arrays = augmented(arrays, Augment.SHIFT_FLIP, rng)
        inputs = execution.tensors(mixed(arrays, rng) if trial.mix else arrays)
        with execution.autocast():
            with torch.no_grad():
                wanted, targets = watched(teacher, inputs, names)
            outputs, features = watched(pupil, inputs, names)
        loss = (1 - trial.labels) * softened_divergence(outputs, wanted)
        loss = loss + trial.labels * F.cross_entropy(outputs, torch.from_numpy(classes))
        for feature, target in zip(features, targets, strict=True):
            loss = loss + trial.features / len(names) * F.mse_loss(feature, target) / target.var()
        pupil.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it without annotations
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            for name, value in pupil.state_dict().items():
                if value.is_floating_point():
                    averaged[name].lerp_(value, 1 - trial.average)
    return averaged


def _optimizers(trial: Trial, pupil: Network) -> list[torch.optim.Optimizer]:
    if trial.optimizer == "muon":
        return under_a_teacher(pupil)
    groups = decayed(list(pupil.parameters()))
    if trial.optimizer == "adam":
        return [torch.optim.AdamW(groups, betas=BETAS)]
    return [torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)]


def watched(
    model: Network, inputs: tuple[Tensor, ...], names: tuple[str, ...]
) -> tuple[Tensor, list[Tensor]]:
    values = model.bind(inputs)
    model.run(values, len(inputs[0]), keep=names)
    return model.outputs(values).float(), [values[name].float() for name in names]


def told(found: Evaluation) -> dict[str, float]:
    return {
        name: round(getattr(found, name), 4) for name in ("accuracy", "accuracy_error", "divergence", "loss")
    }


def opened(folder: Path) -> tuple[Network, Network]:
    """The dense and the repaired network."""
    dense, repaired = (read_bundle(folder / name).network().eval() for name in ("dense", "repaired"))
    return dense, repaired


def try_recipes(folder: Path, names: list[str], results: dict[str, Any], execution: Execution) -> None:
    """What each recipe comes to on the images that choose."""
    splits, (teacher, repaired) = load_splits("resnet56"), opened(folder)
    judge = Judge(splits.validation, teacher, execution=execution)
    results["dense"], results["repaired"] = told(judge(teacher)), told(judge(repaired))
    for name in names:
        _, pupil = opened(folder)
        started = time.perf_counter()
        averaged = build(pupil.graph, run(TRIALS[name], pupil, teacher, splits, execution))
        results.setdefault("tried", {})[name] = {
            "recipe": asdict(TRIALS[name]),
            "seconds": round(time.perf_counter() - started),
            "last": told(judge(pupil)),
            "averaged": told(judge(averaged)),
        }


def report(folder: Path, results: dict[str, Any], execution: Execution) -> None:
    """What the recipe of `trials.finetune` comes to on the images that chose nothing."""
    splits, (teacher, pupil) = load_splits("resnet56"), opened(folder)
    assert splits.test is not None
    judge, choose = (Judge(split, teacher, execution=execution) for split in (splits.test, splits.validation))
    found = {"dense": told(judge(teacher)), "repaired": told(judge(pupil))}
    tuned = trained(pupil, teacher, splits.train, execution)
    better = max(tuned, key=lambda network: choose(network).accuracy)
    results["reported"] = {**found, "fine-tuned": told(judge(better))}


def trained(
    pupil: Network,
    teacher: Network,
    split: Split,
    execution: Execution,
    steps: int = STEPS,
    progress: Progress = lambda step, loss: None,
) -> tuple[Network, Network]:
    """Train as `trials.run` trains finalists: the pupil itself, and averaged over the steps."""
    (images,), _ = split.batch(slice(1))
    found = Training(
        pupil,
        split,
        steps=steps,
        seed=0,
        distillation=Distillation(
            teacher, features=common_features(teacher, pupil, (torch.from_numpy(images),))
        ),
        augment=Augment.SHIFT_FLIP,
        execution=execution,
    ).run(progress=progress)
    return pupil, build(pupil.graph, found.averaged)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["prepare", "try", "report"])
    parser.add_argument(
        "recipes", nargs="*", choices=[*TRIALS, []], help="of those in the file; default: all"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/finetune-recipe"), help="of the networks")
    parser.add_argument("--execution", default="bfloat16", choices=list(Execution))
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    execution = Execution(options.execution)
    if options.what == "prepare":
        results["prepared"] = prepare(options.folder)
    elif options.what == "try":
        try_recipes(options.folder, options.recipes or list(TRIALS), results, execution)
    else:
        report(options.folder, results, execution)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
