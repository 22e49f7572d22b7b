"""CIFAR-10 ResNets with half and two fifths of their MACs, pruned by prunefront and by others.

    python -m benchmarks.side_by_side [--network resnet56 resnet20] [--share 0.5 0.4] [--tool prunefront l1 …]

Needs the data folder beside the repository. All prune inner channels alone: behind shortcuts that pad, what
Torch-Pruning makes of residual streams does not run. The first 5 000 test images steer and choose, accuracies
are of the other 5 000. Compared:

    prunefront           a search of 60 trials with default settings, repaired and not trained; then 300 steps
                         of its own fine-tuning
    l1, l2, taylor       Torch-Pruning, global, with its own defaults, in small steps as its own benchmark
                         does; Taylor's gradients are of 128 training images, others at each step
    fastnas              ModelOpt's search, if it is installed, with counts in steps of 2: its defaults cannot
                         go below 84 % of the MACs here

Others are shown as they prune, with statistics of batch norms recalibrated on 10 000 training images, and
after 300 steps: batches of 128 from all 50 000, SGD with Nesterov momentum 0.9 at 0.01 by a cosine, weight
decay 5e-4. With --our-recipe their recalibrated networks also have 300 steps of ours, the dense model as
teacher. Prints a table and writes `results/side_by_side.json`; rows that are there stay.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
import torch_pruning as tp
from rich.console import Console
from torch import Tensor, nn

from benchmarks.cifar import CHECKPOINTS, DATA, load_checkpoint, load_splits
from benchmarks.cifar_search import STREAMS, add_options, asked, search
from benchmarks.finetune_recipe import STEPS, trained
from search.progress import Bars
from trials.augment import Augment
from trials.bundle import read_bundle
from trials.data import Split, Splits
from trials.evaluate import Execution, Judge
from trials.export import export_model
from trials.finetune import Training
from trials.graph import Input
from trials.network import Network, build
from trials.norms import recalibrate

RESULTS = Path(__file__).parent / "results" / "side_by_side.json"
IMPORTANCES: dict[str, Callable[[], Any]] = {
    "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
    "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
    "taylor": tp.importance.GroupTaylorImportance,
}
TOOLS = ("prunefront", *IMPORTANCES, "fastnas")


@dataclass(frozen=True)
class Subject:
    """A dense network, and how its descendants are judged and trained."""

    name: str
    splits: Splits
    execution: Execution

    def dense(self) -> nn.Module:
        """One to change."""
        return load_checkpoint(self.name)

    @cached_property
    def teacher(self) -> Network:
        """One to look up to."""
        return exported(self.dense())

    @cached_property
    def chooses(self) -> Judge:
        return self._judge(self.splits.validation)

    def accuracy(self, model: nn.Module) -> float:
        """On the images that choose nothing."""
        return round(self._reports(model.eval()).accuracy, 4)

    @cached_property
    def _reports(self) -> Judge:
        assert self.splits.test is not None
        return self._judge(self.splits.test)

    def _judge(self, split: Split) -> Judge:
        return Judge(split, self.teacher, execution=Execution.CHANNELS_LAST)


def exported(model: nn.Module) -> Network:
    return export_model(model, [Input(name="x", shape=(3, 32, 32))]).network().eval()


def macs(model: nn.Module) -> float:
    found, _ = tp.utils.count_ops_and_params(model, torch.zeros(1, 3, 32, 32))
    return float(found)


def ours(subject: Subject, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """The finalist that validation images like best, then trained as `trials.run` trains finalists."""
    with TemporaryDirectory(prefix="sbs-") as folder:
        job = asked(subject.name, [share], options.seed, Path(folder), options)
        found = search(job, Path(folder), Console())
        pupil = read_bundle(found.bundle).network().eval()
    result = {
        "macs": round(found.best.macs / found.report.dense.macs, 4),
        "uniform": found.uniform and found.uniform.test_accuracy,
        "untrained": subject.accuracy(pupil),
        "search_seconds": round(found.seconds),
    }
    return result | trained_by_us(subject, pupil)


def trained_by_us(subject: Subject, pupil: Network, steps: int = STEPS) -> dict[str, Any]:
    """The best on validation images of: as it was, after the last step, and averaged."""
    started = time.perf_counter()
    before = build(pupil.graph, {name: value.clone() for name, value in pupil.state_dict().items()})
    with Bars(Console()) as bars:
        bars.stage(f"training for {steps} steps")
        after = trained(
            pupil,
            subject.teacher,
            subject.splits.train,
            subject.execution,
            steps,
            progress=lambda done, loss: bars.update(done / steps, f"loss {loss:.2f}"),
        )
    found = (before, *after)
    best = max(found, key=lambda network: subject.chooses(network).accuracy)
    return {"trained": subject.accuracy(best), "train_seconds": round(time.perf_counter() - started)}


def theirs(subject: Subject, model: nn.Module, options: argparse.Namespace) -> dict[str, Any]:
    """What another tool's network comes to, as it is and trained."""
    result: dict[str, Any] = {
        "macs": round(macs(model) / macs(subject.dense()), 4),
        "untrained": subject.accuracy(model),
    }
    some = subject.splits.train.take(slice(10_000))
    recalibrate(model, ((torch.from_numpy(images),) for (images,), _ in some.batches(500)))
    result["recalibrated"] = subject.accuracy(model)
    if options.our_recipe:
        result["our_recipe"] = trained_by_us(subject, exported(model))["trained"]
    started = time.perf_counter()
    Training(
        model,
        subject.splits.train,
        steps=STEPS,
        seed=0,
        learning_rate=0.01,
        augment=Augment.SHIFT_FLIP,
        execution=subject.execution,
    ).run()
    return result | {
        "trained": subject.accuracy(model),
        "train_seconds": round(time.perf_counter() - started),
    }


def torch_pruning(subject: Subject, share: float, importance: str) -> nn.Module:
    """Prune in small steps until no more than `share` of the MACs is left."""
    model, example = subject.dense(), torch.zeros(1, 3, 32, 32)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    streams = [name for name in names if any(fnmatch(name, each) for each in _stream_layers())]
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=IMPORTANCES[importance](),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=400,
        ignored_layers=[
            *(model.get_submodule(name) for name in streams),
            *(module for module in model.modules() if isinstance(module, nn.Linear)),
        ],
    )
    dense, batches = macs(model), _labelled(subject, 128)
    while macs(model) > share * dense:
        if importance == "taylor":
            images, labels = next(batches)
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()
        pruner.step()
    model.zero_grad()
    return model


def _stream_layers() -> tuple[str, ...]:
    """Every layer that writes a residual stream."""
    return (*STREAMS, "layer?.?.conv2", "layer?.?.downsample.0")


def _labelled(subject: Subject, size: int) -> Any:
    split = subject.splits.train
    while True:
        for arrays, labels in split.batches(size):
            yield torch.from_numpy(arrays[0]), torch.from_numpy(labels)


def fastnas(subject: Subject, share: float) -> nn.Module:
    """ModelOpt's search by accuracy on the images that choose; padded shortcuts keep it off the streams."""
    import modelopt.torch.prune as mtp

    ratios = tuple(0.05 * i for i in range(1, 21))
    rules = {
        "nn.Conv2d": {"*": {"channel_divisor": 2, "channels_ratio": ratios}},
        "nn.BatchNorm2d": {"*": {"feature_divisor": 2, "features_ratio": ratios}},
    }
    pruned, _ = mtp.prune(
        subject.dense(),
        mode=[("fastnas", rules)],
        constraints={"flops": f"{share:.0%}"},
        dummy_input=torch.zeros(1, 3, 32, 32),
        config={
            "data_loader": _some(subject),
            "score_func": lambda found: subject.chooses(found.eval()).accuracy,
            "collect_func": lambda batch: batch[0],
        },
    )
    assert isinstance(pruned, nn.Module)
    return pruned


def _some(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    batches = _labelled(subject, 500)
    return [next(batches) for _ in range(20)]


def table(results: dict[str, Any]) -> str:
    """Markdown, one row for a tool on a network at a share of its MACs."""
    lines = [
        "| network | tool | share of MACs | as pruned | recalibrated | after 300 steps |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for network, shares in results.items():
        for tools in shares["shares"].values():
            for tool, found in tools.items():
                cells = [found.get(key) for key in ("untrained", "recalibrated", "trained")]
                told = " | ".join("–" if cell is None else f"{100 * cell:.2f}" for cell in cells)
                lines.append(f"| {network} | {tool} | {found['macs']:.3f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=CHECKPOINTS, default=["resnet56", "resnet20"])
    parser.add_argument("--share", nargs="+", type=float, default=[0.5, 0.4])
    parser.add_argument("--tool", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--our-recipe", action="store_true", help="train others' networks by ours, too")
    parser.add_argument("--execution", default="bfloat16", choices=list(Execution), help="of training")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    add_options(parser)
    options = parser.parse_args()
    if not (DATA / "cifar10_train.parquet").exists():
        parser.exit(2, "the data folder beside the repository is absent; see benchmarks/README.md\n")
    for network in options.network:
        subject = Subject(network, load_splits(network), Execution(options.execution))
        for share in options.share:
            for tool in options.tool:
                print(f"{network}, {share:.0%} of the MACs, {tool}", flush=True)
                started = time.perf_counter()
                row = pruned(subject, share, tool, options)
                row["seconds"] = round(time.perf_counter() - started)
                print(row, flush=True)
                keep(subject, share, tool, row)
    print(table(json.loads(RESULTS.read_text())))


def pruned(subject: Subject, share: float, tool: str, options: argparse.Namespace) -> dict[str, Any]:
    if tool == "prunefront":
        return ours(subject, share, options)
    made = fastnas(subject, share) if tool == "fastnas" else torch_pruning(subject, share, tool)
    return theirs(subject, made, options)


def keep(subject: Subject, share: float, tool: str, row: dict[str, Any]) -> None:
    """Add a row to what the file holds by now."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if subject.name not in results:
        results[subject.name] = {"dense": subject.accuracy(subject.dense()), "shares": {}}
    results[subject.name]["shares"].setdefault(f"{share:.2f}", {})[tool] = row
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
