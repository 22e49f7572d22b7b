"""A user's model made into a bundle, on the user's side, where the user's code may run."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from hwprofiles.errors import RequestError, one_line
from trials.bundle import Bundle, not_finite
from trials.graph import Input
from trials.limit import LIMIT_S, time_limit
from trials.program import rewritten
from trials.tracing import trace

TOLERANCE = 1e-4
"""By how much an exported model may differ from the user's, relative to its largest output."""


def export_model(model: nn.Module, inputs: Sequence[Input]) -> Bundle:
    """Turn a model into a bundle with `torch.export`. Its mode and tensors stay as they are.

    It is exported in training mode, or in eval mode if what it does in training alone cannot be exported,
    such as to drop whole layers at random. Dropout and batch norm keep both of their behaviours. Then it is
    compared with the model in eval mode, on random inputs.

    Raises:
        UnsupportedOpError: an op without a rule.
        RequestError: the model does not run on such inputs or cannot be exported with a dynamic batch, the
            reason is quoted; it returns something else than tensors that it computes; it holds infinite
            numbers; the bundle computes something else than the model does in eval mode; or it takes more
            than `LIMIT_S`.
    """
    with time_limit(LIMIT_S, f"exporting {type(model).__name__}"):
        return _export(model, inputs)


def _export(model: nn.Module, inputs: Sequence[Input]) -> Bundle:
    generator = torch.Generator().manual_seed(0)
    examples = tuple(_example(item, generator) for item in inputs)
    name = type(model).__name__
    with _left_alone(model), warnings.catch_warnings(action="ignore"):
        model.eval()
        wanted, again = _outputs(model, examples), _outputs(model, examples)
        try:
            bundle = rewritten(_exported(model.train(), examples), inputs)
        except RequestError as refused:
            try:
                bundle = rewritten(_exported(model.eval(), examples), inputs)
            except RequestError:
                raise refused from None
    trace(bundle.graph)
    if odd := not_finite(bundle.tensors):
        raise RequestError(
            f"{name} holds NaN or infinite numbers in {odd!r}; train it again, or mask with -1e9 instead"
        )
    if not _alike(again, wanted):
        raise RequestError(
            f"{name} gives other outputs at each call in eval mode, so a random op in it stays on, such as "
            "F.dropout without training=self.training; pass that, or use nn.Dropout"
        )
    if not _alike(tree_leaves(bundle.run(*examples)), wanted):
        raise RequestError(
            f"{name} as exported computes something else than {name} in eval mode; its forward most likely "
            "branches on self.training: leave what differs between the modes to nn.Dropout and batch norms"
        )
    return bundle


def _exported(model: nn.Module, examples: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """The model as a program of ATen ops, axis 0 of each input free."""
    batch = torch.export.Dim("batch", min=1, max=2**16)
    try:
        # As the model names them: `*x` is one argument that takes several inputs.
        arguments = inspect.signature(model.forward).bind(*examples).arguments
        return torch.export.export(
            model, tuple(examples), dynamic_shapes=tree_map(lambda _: {0: batch}, dict(arguments))
        )
    except Exception as error:  # whatever the user's code or the exporter raises is the user's to see
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RequestError(
            f"torch.export cannot export {type(model).__name__} with a dynamic batch: {first[:300]}"
        ) from error


def _example(item: Input, generator: torch.Generator) -> torch.Tensor:
    """A batch of two: floats from 0 to 1, as pixels are, or integers below the input's `high`."""
    shape, dtype = (2, *item.shape), getattr(torch, item.dtype)
    if dtype.is_floating_point:
        return torch.rand(shape, generator=generator).to(dtype)
    return torch.randint(item.high, shape, generator=generator).to(dtype)


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Let the model run and change its mode; modes, buffers and torch's random state come back."""
    modes = {module: module.training for module in model.modules()}
    buffers = {
        (module, name): (buffer, buffer.clone())
        for module in modes
        for name, buffer in module.named_buffers(recurse=False)
    }
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for (module, name), (buffer, value) in buffers.items():
            module._buffers[name] = buffer.copy_(value)


def _outputs(model: nn.Module, examples: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors that the user's model returns, in the order in which torch.export lists them.

    Raises:
        RequestError: the model does not run on such inputs, or returns something else beside tensors.
    """
    name = type(model).__name__
    try:
        found = tree_leaves(model(*examples))
    except Exception as error:  # the user's code may raise anything
        given = " and ".join(str(list(example.shape)) for example in examples)
        raise RequestError(
            f"{name} does not run on inputs of shape {given}, a batch of 2 in front of the shape that it was "
            f"given: {one_line(str(error))[:300] or type(error).__name__}"
        ) from error
    odd = [leaf for leaf in found if not isinstance(leaf, torch.Tensor)]
    if odd or not found:
        raise RequestError(
            f"{name} returns {str(odd)[1:-1][:60] or 'nothing'}; a model must return tensors alone"
        )
    return [leaf.detach() for leaf in found]


def _alike(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> bool:
    """Whether the same tensors, up to rounding: `TOLERANCE` of the largest finite number of each."""
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in wanted]:
        return False
    return all(
        torch.allclose(
            one.double(),
            other.double(),
            rtol=0.0,
            atol=TOLERANCE * float(other.double().nan_to_num(0.0, 0.0, 0.0).abs().max()),
            equal_nan=True,
        )
        for one, other in zip(found, wanted, strict=True)
    )
