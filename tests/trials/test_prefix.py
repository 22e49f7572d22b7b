"""Candidates that begin as the dense model does answer the same from its activations, and within bounds."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.bundles import coupled, export_images, exported
from tests.models import example_input
from trials.candidate import Candidate
from trials.groups import analyse, even_kept
from trials.network import Network, Values, build
from trials.prefix import Prefix, shared_steps
from trials.prune import prune

PLENTY = 2**30


def dense(name: str) -> Network:
    return exported(name).network().eval()


def halved_from(name: str, first: int) -> Network:
    """A candidate that keeps the first groups whole and half of each other."""
    sizes = [axis.size for axis in coupled(name).space().axes]
    kept = even_kept(
        coupled(name), Candidate(tuple(size if i < first else -(-size // 2) for i, size in enumerate(sizes)))
    )
    return build(*prune(coupled(name), exported(name).tensors, kept)).eval()


class Counting(Network):
    """Counts the steps that it runs."""

    ran = 0

    def run(
        self,
        values: Values,
        batch: int,
        *,
        first: int = 0,
        past: int | None = None,
        keep: Collection[str] = (),
    ) -> None:
        self.ran += len(self.steps[first:past])
        super().run(values, batch, first=first, past=past, keep=keep)


def counting(network: Network) -> Counting:
    return Counting(network.graph, network.state_dict()).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet_pad", "mobilenet_v2", "vit", "bert"])
def test_answers_are_the_same_to_the_last_bit_whichever_block_is_dropped(name: str) -> None:
    batches = [(example_input(name, batch=3, seed=seed),) for seed in range(2)]
    prefix = Prefix(dense(name), batches, PLENTY)
    coupling = coupled(name, blocks=True)
    for block in coupling.blocks:
        kept = {block.name: np.zeros(0, dtype=np.int64)}
        network = build(*prune(coupling, exported(name).tensors, kept)).eval()
        for inputs, found in zip(batches, prefix.run(network), strict=True):
            torch.testing.assert_close(found, network(*inputs), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet_pad", "mobilenet_v2", "densenet", "vit", "bert"])
def test_answers_are_the_same_to_the_last_bit_however_many_groups_stay_whole(name: str) -> None:
    batches = [(example_input(name, batch=3, seed=seed),) for seed in range(2)]
    prefix = Prefix(dense(name), batches, PLENTY)
    groups = len(coupled(name).space().axes)
    for first in (groups - 1, groups // 2, 0, groups - 1):
        network = halved_from(name, first)
        for found, (inputs,) in zip(prefix.run(network), batches, strict=True):
            assert torch.equal(found, network(inputs))


@torch.no_grad()
def test_what_is_held_may_be_the_parts_of_a_value() -> None:
    class Halves(nn.Module):
        """As a unit of a ShuffleNetV2 begins."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = (nn.Conv2d(*sizes, 1) for sizes in ((3, 8), (4, 6), (6, 4)))
            self.head = nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.stem(x).chunk(2, 1)
            mixed = torch.cat([left, self.two(self.one(right).relu())], 1)
            out: Tensor = self.head(mixed.mean((2, 3)))
            return out

    bundle, inputs = export_images(Halves(), 3, 4, 4), torch.rand(2, 3, 4, 4)
    coupling = analyse(bundle.graph)
    network = counting(build(*prune(coupling, bundle.tensors, {"one": np.arange(3)})))
    wanted, steps = network(inputs), network.ran
    (found,) = Prefix(bundle.network().eval(), [(inputs,)], PLENTY).run(network)
    assert torch.equal(found, wanted)
    assert network.ran - steps == steps - 2  # the stem and its chunks are held


@torch.no_grad()
def test_only_the_steps_behind_the_last_neck_that_is_shared_are_run() -> None:
    batches = [(example_input("resnet_pad"),)]
    prefix = Prefix(dense("resnet_pad"), batches, PLENTY)
    network = counting(halved_from("resnet_pad", len(coupled("resnet_pad").space().axes) - 1))
    list(prefix.run(network))
    shared = shared_steps(prefix.dense, network)
    neck = max(neck for neck in prefix.necks if neck <= shared)
    assert 0 < len(network.steps) - shared <= network.ran == len(network.steps) - neck


@torch.no_grad()
def test_a_tensor_that_differs_ends_what_is_shared_even_where_every_unit_is_kept() -> None:
    network = dense("resnet_pad")
    assert shared_steps(dense("resnet_pad"), network) == len(network.steps)
    changed = next(step for step in network.steps[3:] if step.node.tensors)
    network.get_parameter(changed.node.tensors[0]).add_(1e-6)
    assert network.steps[shared_steps(dense("resnet_pad"), network)].name == changed.name


@torch.no_grad()
def test_what_is_held_never_takes_more_than_allowed_and_the_longest_unused_goes_first() -> None:
    name = "resnet_pad"
    batches = [(example_input(name, batch=4),)]
    groups = len(coupled(name).space().axes)
    networks = [halved_from(name, first) for first in range(1, groups)]
    free = Prefix(dense(name), batches, PLENTY)
    for network in networks:
        list(free.run(network))
    sizes = {
        neck: sum(value.nbytes for values, _ in held for value in values.values())
        for neck, held in free._held.items()
    }
    bound = max(sizes.values())
    assert sum(sizes.values()) > bound
    tight, none = Prefix(dense(name), batches, bound), Prefix(dense(name), batches, min(sizes.values()) - 1)
    for network in networks:
        for prefix in (tight, none):
            (found,) = prefix.run(network)
            assert torch.equal(found, network(*batches[0]))
        assert sum(sizes[neck] for neck in tight._held) <= bound
    assert tight._held
    assert not none._held
