"""What repair takes: of a ResNet-56 candidate, of layers as large as ResNet-50's, and of a whole trial.

    python -m benchmarks.repair_speed [--part fast layers trial sequential] [--candidates 16]

    fast         of one candidate from cached moments; bar 0.15 s
    layers       one layer solved from cached moments, beside scikit-learn's LinearRegression on the same
                 samples; bar 50 times faster
    trial        prune, repair, evaluate 2 000 images, beside the plain way of doing the same: deep copy,
                 slice modules, least squares from samples, evaluate in float32; bar 40 % of its time and a
                 rank correlation of 0.98, beside that of the plain way with itself on other samples, which
                 says how much of a rank is chance; and the same by the sequential repair in brief
    sequential   of one candidate, and its accuracy; bar 8 s

All but `layers` need the data folder beside the repository. Times are medians; what is compared takes turns.
Writes `results/repair_speed.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LinearRegression
from torch import nn

from benchmarks.cifar import DATA, CifarResNet, load_checkpoint, load_splits
from latency_models.validate import spearman
from trials import repair
from trials.candidate import Candidate
from trials.criteria import select
from trials.evaluate import evaluate
from trials.export import export_model
from trials.graph import Input
from trials.groups import Kept, analyse
from trials.network import build
from trials.probe import probe_execution
from trials.repair.calibration import walk
from trials.requests import Recipe, Request
from trials.run import Workbench

RESULTS = Path(__file__).parent / "results" / "repair_speed.json"
ROWS = 30_000
LAYERS = {  # of ResNet-50: features read (channels x kernel), outputs
    "1x1 256->64": (256, 64),
    "3x3 64->64": (576, 64),
    "1x1 1024->256": (1024, 256),
    "3x3 128->128": (1152, 128),
    "1x1 512->2048": (512, 2048),
    "3x3 256->256": (2304, 256),
}
TRIAL_IMAGES = 2_000


def seconds(run: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


def layer_speed() -> list[dict[str, Any]]:
    """Half of the features stay; the moments are there, as they are for every candidate but the first."""
    found = []
    generator = torch.Generator().manual_seed(0)
    for title, (features, outputs) in LAYERS.items():
        x = torch.randn(ROWS, features, generator=generator).relu()
        weight = torch.randn(outputs, features, generator=generator) / features**0.5
        y = x @ weight.T
        moments = repair.moments_of(x, y)
        stay = torch.randperm(features, generator=generator)[: features // 2].sort().values
        cut = weight[:, stay]

        def solved(moments: repair.Moments, stay: torch.Tensor, cut: torch.Tensor) -> None:
            moments.at(stay, torch.arange(len(cut))).solve(cut)

        ours_s = [seconds(solved, moments, stay, cut) for _ in range(5)]
        theirs_s = seconds(LinearRegression().fit, x[:, stay].numpy(), y.numpy())
        found.append({"layer": title, "ours_s": float(np.median(ours_s)), "scikit_learn_s": theirs_s})
        print(
            f"{title}: {1e3 * found[-1]['ours_s']:.1f} ms, LinearRegression {1e3 * theirs_s:.0f} ms: "
            f"{theirs_s / found[-1]['ours_s']:.0f} times",
            flush=True,
        )
    return found


class PlainWay:
    """Prune and repair a CIFAR ResNet as one would by hand, block by block."""

    @torch.no_grad()
    def __init__(self, model: CifarResNet, bench: Workbench, calibration: repair.Calibration) -> None:
        self.model = model
        parts: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = defaultdict(lambda: ([], []))
        by_node = {layer.name: layer for layer in calibration.layers}
        network = build(bench.coupling.graph, bench.bundle.tensors).eval()
        for node, values in walk(network, calibration.chunks):
            if node.name in by_node:
                layer = by_node[node.name]
                parts[layer.weight][0].extend(calibration.read(layer, values[node["input"].name]))
                parts[layer.weight][1].extend(calibration.made(layer, values[node.name]))
        self.samples = {name: (torch.cat(x), torch.cat(y)) for name, (x, y) in parts.items()}

    @torch.no_grad()
    def __call__(self, kept: Kept) -> nn.Module:
        model = copy.deepcopy(self.model)
        for name, units in kept.items():
            block = model.get_submodule(name.rpartition(".")[0])
            stay = torch.from_numpy(units)
            first, norm, second = block.conv1, block.bn1, block.conv2
            assert isinstance(first, nn.Conv2d)
            assert isinstance(second, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            first.weight = nn.Parameter(first.weight[stay])
            first.out_channels = second.in_channels = norm.num_features = len(stay)
            for part in ("weight", "bias"):
                setattr(norm, part, nn.Parameter(getattr(norm, part)[stay]))
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean, norm.running_var = norm.running_mean[stay], norm.running_var[stay]
            height, width = second.kernel_size
            inputs, y = self.samples[f"{name.rpartition('.')[0]}.conv2.weight"]
            x = inputs.reshape(len(inputs), height * width, -1)[:, :, stay].flatten(1)
            solved = torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution.T
            shift = y.mean(0) - solved @ x.mean(0)  # which the norm takes off
            solved = solved.reshape(len(solved), height, width, len(stay)).movedim(-1, 1)
            second.weight = nn.Parameter(solved.contiguous())
            after = block.bn2
            assert isinstance(after, nn.BatchNorm2d)
            assert after.running_mean is not None
            after.running_mean = after.running_mean - shift
        return model


def workbench() -> Workbench:
    """ResNet-56 of which only what lies within blocks may go, as in the figures compared with."""
    bundle = export_model(load_checkpoint("resnet56"), [Input(name="image", shape=(3, 32, 32))])
    splits = load_splits("resnet56", train_rows=(0, 10_000))
    streams = {g.name: "a residual stream" for g in analyse(bundle.graph).groups if ".conv1" not in g.name}
    recipe = Recipe(
        validation_images=TRIAL_IMAGES,
        augment="shift+flip",
        execution=probe_execution(bundle.network(), splits.validation).value,
        frozen=streams,
    )
    return Workbench(bundle, splits, recipe)


def drawn(bench: Workbench, count: int) -> list[Candidate]:
    """Every group somewhere about one level for all, as a search draws them."""
    space = bench.coupling.space(lowest_keep=0.25)
    random = np.random.default_rng(0)
    levels = random.uniform(0.35, 0.9, (count, 1)) + random.uniform(-0.25, 0.25, (count, len(space.axes)))
    return [Candidate(tuple(row)) for row in space.round(levels.clip(0.25, 1) * space.sizes).tolist()]


def fast_repair(bench: Workbench, candidates: list[Candidate]) -> dict[str, Any]:
    calibration_s = seconds(lambda: bench.calibration.inputs)
    scores = bench.scores
    kept = [select(bench.coupling, scores, candidate) for candidate in candidates]
    taken_s = [seconds(repair.fast, bench.calibration, one) for one in kept]
    print(f"fast: {np.median(taken_s):.3f} s a candidate, moments once {calibration_s:.1f} s", flush=True)
    return {"median_s": float(np.median(taken_s)), "moments_s": calibration_s}


def whole_trial(bench: Workbench, candidates: list[Candidate]) -> dict[str, Any]:
    model = load_checkpoint("resnet56")
    assert isinstance(model, CifarResNet)
    plainly = PlainWay(model, bench, bench.calibration)
    elsewhere = repair.Calibration.fitting(
        bench.coupling,
        bench.bundle.tensors,
        bench.splits.train,
        bench.room,
        seed=1,
    )
    again = PlainWay(model, bench, elsewhere)
    in_order = Workbench(bench.bundle, bench.splits, replace(bench.recipe, repair="sequential"))
    images = bench.splits.validation.evenly(TRIAL_IMAGES)
    rows = []
    for number, candidate in enumerate(candidates):
        start = time.perf_counter()
        ours = bench(Request(candidate=candidate, seed=0)).facts.accuracy
        middle = time.perf_counter()
        better = in_order(Request(candidate=candidate, seed=0)).facts.accuracy
        before = time.perf_counter()
        kept = select(bench.coupling, bench.scores, candidate)
        theirs = evaluate(plainly(kept), images).accuracy
        end = time.perf_counter()
        other = evaluate(again(kept), images).accuracy
        rows.append((middle - start, before - middle, end - before, ours, better, theirs, other))
        if number == 0:
            rows.clear()  # what is worked out once per job
    ours_s, better_s, theirs_s, ours, better, theirs, others = np.array(rows).T
    found = {
        "ours_s": float(np.median(ours_s)),
        "plain_s": float(np.median(theirs_s)),
        "share": float(np.median(ours_s / theirs_s)),
        "sequential_s": float(np.median(better_s)),
        "sequential_share": float(np.median(better_s / theirs_s)),
        "spearman": spearman(ours, theirs),
        "spearman_of_plain_ways": spearman(others, theirs),
        "accuracies": [ours.tolist(), better.tolist(), theirs.tolist(), others.tolist()],
        "execution": bench.recipe.execution,
    }
    print(
        f"trial: {found['ours_s']:.2f} s, the plain way {found['plain_s']:.2f} s: {found['share']:.0%}; rank "
        f"correlation {found['spearman']:.3f}, and of the plain way with itself on other images "
        f"{found['spearman_of_plain_ways']:.3f}; accuracy {ours.mean():.2%}, {theirs.mean():.2%}; repaired "
        f"in order {found['sequential_s']:.2f} s, {found['sequential_share']:.0%}, {better.mean():.2%}",
        flush=True,
    )
    return found


def sequential_repair(bench: Workbench) -> list[dict[str, Any]]:
    """Uniform widths at half the MACs."""
    calibration = bench.calibration
    targets_s = seconds(calibration.targets, calibration.layers[0])
    space = bench.coupling.space()
    (counts,) = space.round(0.49 * space.sizes[None]).tolist()
    half = Candidate(tuple(counts))
    orders = {"criterion": bench.scores, "error": {**bench.scores, **bench.errors}}
    found = []
    for chosen_by, scores in orders.items():
        kept = select(bench.coupling, scores, half)
        start = time.perf_counter()
        repaired = repair.sequential(calibration, kept)
        taken_s = time.perf_counter() - start
        test = bench.splits.test
        assert test is not None
        accuracy = evaluate(build(*repaired), test).accuracy
        row = {"units by": chosen_by, "seconds": taken_s, "targets_s": targets_s, "accuracy": accuracy}
        found.append(row)
        print(
            f"sequential, units by {chosen_by}: {taken_s:.1f} s (targets, once, {targets_s:.1f} s), "
            f"{accuracy:.2%}",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("fast", "layers", "trial", "sequential")
    parser.add_argument("--part", choices=parts, nargs="+", default=list(parts))
    parser.add_argument("--candidates", type=int, default=16)
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if "layers" in options.part:
        results["layers"] = layer_speed()
    if {"fast", "trial", "sequential"} & {*options.part}:
        if not (DATA / "cifar10_train.parquet").exists():
            parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
        bench = workbench()
        candidates = drawn(bench, options.candidates + 1)
        if "fast" in options.part:
            results["fast"] = fast_repair(bench, candidates)
        if "trial" in options.part:
            results["trial"] = whole_trial(bench, candidates)
        if "sequential" in options.part:
            results["sequential"] = sequential_repair(bench)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
