"""What the user brings: the model with its checkpoint, the data that fits it, and the groups to prune."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hwprofiles.errors import BundleError, RequestError, TrialError, nearest, one_line
from search.job import Job
from search.progress import Listener
from trials.augment import Augment
from trials.bundle import Bundle, read_bundle
from trials.data import Split, Splits, load
from trials.evaluate import evaluate
from trials.export import export_model
from trials.factory import call_factory
from trials.finetune import Training
from trials.groups import Coupling, analyse
from trials.limit import LIMIT_S, time_limit
from trials.proof import prove
from trials.regularise import PENALTIES, THRESHOLDS


def open_model(job: Job) -> Bundle:
    """The job's model as a bundle: read, or exported from the user's code and checkpoint.

    Raises:
        RequestError: the factory, the checkpoint or the bundle is wrong, or the model cannot be exported.
    """
    if job.model.bundle:
        return read_bundle(job.folder / job.model.bundle)
    model = call_factory(job.model.factory, job.folder, "model.factory", job.model.args)
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"model.factory {job.model.factory!r} returned {type(model).__name__}, not an nn.Module"
        )
    if job.model.checkpoint:
        _load_checkpoint(model, job.folder / job.model.checkpoint)
    return export_model(model.float(), job.model.input_specs)


def _load_checkpoint(model: nn.Module, path: Path) -> None:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises classes of its own
        held = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        told = f"it holds a {held[1]}, and only tensors are read" if held else one_line(str(error))[:200]
        raise RequestError(
            f"the checkpoint {path} cannot be read: {told or type(error).__name__}; "
            "save a plain state dict, as model.state_dict() gives it"
        ) from None
    if not isinstance(state, dict):
        raise RequestError(f"the checkpoint {path} holds a {type(state).__name__}; save a plain state dict")
    for key, part in state.items():
        if isinstance(part, dict) and any(isinstance(value, torch.Tensor) for value in part.values()):
            raise RequestError(
                f"the checkpoint {path} holds its weights under {key!r}; save that part alone, as in "
                f'torch.save(checkpoint[{key!r}], "weights.pt")'
            )
    wanted = model.state_dict()
    # A missing counter of batches changes nothing that a model computes.
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    unknown = [name for name in state if name not in wanted]
    if missing or unknown:
        raise RequestError(
            f"the checkpoint {path} does not fit the model: it lacks {missing[:3] or 'nothing'} and has "
            f"unknown {unknown[:3] or 'nothing'}; check model.factory and model.args"
        )
    for name, tensor in state.items():
        _check_fits(path, name, tensor, wanted[name])
    model.load_state_dict(state, strict=False)


def _check_fits(path: Path, name: str, stored: object, wanted: torch.Tensor) -> None:
    if is_lazy(wanted):
        raise RequestError(
            f"the model has no {name!r} before it is called for the first time, so the checkpoint {path} "
            "cannot be loaded; call the model once in model.factory"
        )
    if not isinstance(stored, torch.Tensor) or not _is_plain(stored):
        kind = stored.type() if isinstance(stored, torch.Tensor) else type(stored).__name__
        raise RequestError(
            f"the checkpoint {path} holds {name!r} as {kind}, which is no plain tensor of the CPU; save a "
            "plain state dict, as model.state_dict() gives it"
        )
    if stored.shape != wanted.shape:
        raise RequestError(
            f"the checkpoint {path} holds {name!r} as {list(stored.shape)}, the model has "
            f"{list(wanted.shape)}; check model.args"
        )
    if not wanted.is_floating_point():
        return
    if not stored.is_floating_point():
        raise RequestError(
            f"the checkpoint {path} holds {name!r} as {stored.dtype}, the model has {wanted.dtype}; save the "
            "weights as floating-point numbers"
        )
    if not stored.float().isfinite().all():
        raise RequestError(f"the checkpoint {path} holds NaN or infinite numbers in {name!r}; train it again")


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it holds its numbers one by one, where they can be read."""
    odd = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    return tensor.layout is torch.strided and not odd


def open_splits(job: Job, bundle: Bundle) -> Splits:
    """The job's data, held against its model.

    Raises:
        RequestError: the data is wrong, does not fit the model, or the model is no classifier.
        BundleError: the model does not run.
    """
    splits = load(job.data_spec(), job.folder, job.search.seed)
    example = bundle.run(*_zeros(bundle, batch=2))
    if not isinstance(example, torch.Tensor) or example.ndim != 2 or len(example) != 2:
        raise RequestError(
            "the model does not give one row of logits per example; searches are for classifiers so far"
        )
    splits.check_model([item.shape for item in bundle.graph.inputs], example.shape[1])
    for name, split in {"train": splits.train, "validation": splits.validation, "test": splits.test}.items():
        if split is not None:
            _check_values(bundle, name, split)
    return splits


def _check_values(bundle: Bundle, name: str, split: Split) -> None:
    """Run the model on a few examples: the first, and those with the least and the largest of integers.

    Raises:
        RequestError: it does not take them, such as tokens that it has no embedding for.
    """
    rows, ranges = {0}, []
    for values in split.inputs:
        each = values.reshape(len(values), -1)
        if values.dtype.kind in "iu" and each.size:
            rows |= {int(each.min(axis=1).argmin()), int(each.max(axis=1).argmax())}
            ranges.append(f"{values.dtype} from {each.min()} to {each.max()}")
        else:
            ranges.append(str(values.dtype))
    arrays, _ = split.batch(np.array(sorted(rows)))
    try:
        bundle.run(*map(torch.from_numpy, arrays))
    except BundleError as error:
        wanted = ", ".join(
            f"{item.dtype} below {item.high}" if "int" in item.dtype else item.dtype
            for item in bundle.graph.inputs
        )
        raise RequestError(
            f"[data] {name} has inputs of {', '.join(ranges)}, on which the model, declared to take "
            f"{wanted}, does not run: {one_line(str(error.__cause__))[:200]}; mend the data or [model] input"
        ) from None


def _zeros(bundle: Bundle, batch: int) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.zeros((batch, *item.shape), dtype=getattr(torch, item.dtype)) for item in bundle.graph.inputs
    )


def open_coupling(bundle: Bundle, *, seed: int, whole: Sequence[str] = (), blocks: bool = False) -> Coupling:
    """The model's groups, each of them proved, without those that the job leaves whole.

    Args:
        blocks: whether whole residual blocks may be dropped.

    Raises:
        RequestError: nothing in the model may be pruned, says why; a pattern of `whole` fits no group; or it
            takes more than `LIMIT_S`.
    """
    with time_limit(LIMIT_S, "finding and proving the groups of the model"):
        coupling = prove(analyse(bundle.graph, blocks=blocks), bundle.tensors, seed=seed)
    names = [group.name for group in coupling.groups]
    for pattern in whole:
        if not fnmatch.filter(names, pattern):
            raise RequestError(
                f"search.whole names {pattern!r}, which fits no group; {nearest(pattern, names)}"
            )
    left = {name for pattern in whole for name in fnmatch.filter(names, pattern)}
    coupling = coupling.without(dict.fromkeys(left, "the job leaves it whole"))
    if not coupling.groups:
        reasons = (
            "; ".join(f"{item.name}: {item.reason}" for item in coupling.frozen[:3]) or "it has no layers"
        )
        raise RequestError(f"the model has no group that may be pruned ({reasons})")
    return coupling


def open_regularised(
    job: Job, bundle: Bundle, coupling: Coupling, splits: Splits, listener: Listener
) -> Bundle:
    """The model after the training under a penalty that the job asks for; as it was if it asks for none.

    Raises:
        RequestError: the model has nothing that the penalty shrinks, or the training diverges.
    """
    wanted, tune = job.regularise, job.finetune
    if not wanted.steps:
        return bundle
    listener.update(0.7, f"training {wanted.steps} steps under the penalty {wanted.penalty}")
    network = bundle.network()
    constraint = PENALTIES[wanted.penalty](network, coupling, wanted.strength, THRESHOLDS[wanted.threshold])
    try:
        Training(
            network,
            splits.train,
            steps=wanted.steps,
            seed=job.search.seed,
            batch_size=tune.batch_size,
            learning_rate=tune.learning_rate,
            augment=Augment(tune.augment),
            constraint=constraint,
        ).run()
    except TrialError as error:
        raise RequestError(f"training under the penalty {wanted.penalty}: {error}") from None
    trained = Bundle(bundle.graph, {name: tensor.detach() for name, tensor in network.state_dict().items()})
    before, after = (evaluate(each.network(), splits.validation).accuracy for each in (bundle, trained))
    listener.note(
        f"trained under the penalty {wanted.penalty}: validation {before:.1%} before, {after:.1%} after; "
        "what is called dense from here on is the model after it"
    )
    return trained
