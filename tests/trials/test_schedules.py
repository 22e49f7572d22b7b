"""Zeros come when a schedule says so, while a network really trains."""

from __future__ import annotations

import pytest
import torch

from tests.digits import digits, digits_bundle
from trials.evaluate import evaluate
from trials.finetune import Constraint, Training
from trials.network import Network
from trials.schedules import GRADUAL_SHARE, SCHEDULES
from trials.sparsity import Blocks, Magnitude, Sparsity, hide
from trials.weights import layer_weights

STEPS = 40
ZEROS = Magnitude(0.8)


def share_of_zeros(network: Network) -> float:
    weights = [network.get_parameter(name) for name in layer_weights(network.graph)]
    return sum(int((each == 0).sum()) for each in weights) / sum(each.numel() for each in weights)


class Watched:
    """Trains a network on digits and writes down the share of zeros after each step, and at each start."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.shares: list[float] = []
        self.starts: list[dict[str, torch.Tensor]] = []

    def __call__(self, steps: int, constraint: Constraint) -> None:
        self.starts.append({name: tensor.clone() for name, tensor in self.network.state_dict().items()})

        def watched(done: int, learning_rate: float) -> None:
            constraint(done, learning_rate)
            self.shares.append(share_of_zeros(self.network))

        train = digits().train
        Training(self.network, train, steps=steps, seed=0, batch_size=64, constraint=watched).run()


def trained(schedule: str, sparsity: Sparsity = ZEROS) -> Watched:
    network = digits_bundle().network()
    training = Watched(network)
    SCHEDULES[schedule](network, sparsity, STEPS, training)
    return training


def test_at_once_all_zeros_are_there_from_the_start() -> None:
    training = trained("one_shot")
    assert training.shares == [pytest.approx(0.8, abs=1e-3)] * STEPS


def test_in_rounds_a_quarter_of_the_zeros_comes_at_each() -> None:
    shares = trained("iterative").shares
    rounds = [0.2] * (STEPS // 4 - 1) + [0.4] * (STEPS // 4) + [0.6] * (STEPS // 4) + [0.8] * (STEPS // 4 + 1)
    assert shares == pytest.approx(rounds, abs=1e-3)


def test_gradually_zeros_follow_the_cubic_of_zhu_and_gupta() -> None:
    shares = trained("gradual").shares
    for done, share in enumerate(shares, start=1):
        wanted = 0.8 + (0 - 0.8) * (1 - min(1, done / (GRADUAL_SHARE * STEPS))) ** 3
        assert wanted - 0.01 <= share + 1e-3, "no more than a hundredth behind"
        assert share <= wanted + 1e-3
    assert shares[-1] == pytest.approx(0.8, abs=1e-3)


def test_after_rewinding_the_early_weights_go_on_under_the_mask_of_the_late_ones() -> None:
    training = trained("rewind")
    early, late = digits_bundle().network(), digits_bundle().network()
    images = digits().train

    def remember(done: int, learning_rate: float) -> None:
        if done == STEPS // 20:
            early.load_state_dict(late.state_dict())

    Training(late, images, steps=STEPS, seed=0, batch_size=64, constraint=remember).run()
    hide(early, ZEROS.masks(late))
    _, again = training.starts
    for name, tensor in early.state_dict().items():
        assert torch.equal(again[name], tensor), name
    assert training.shares[: STEPS - 1] == [0] * (STEPS - 1)
    assert training.shares[STEPS:] == [pytest.approx(0.8, abs=1e-3)] * (STEPS - STEPS // 20)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_ends_with_the_pattern_and_better_than_cut_alone(schedule: str) -> None:
    cut = digits_bundle().network()
    pattern = Blocks(1, 8)
    hide(cut, pattern.masks(cut))
    network = trained(schedule, pattern).network
    for name in ("conv2.weight", "linear.weight"):
        weight = network.get_parameter(name).detach()
        assert ((weight.unflatten(1, (-1, 8)) != 0).sum(2) <= 1).all(), name
    validation = digits().validation
    assert evaluate(network, validation).accuracy > evaluate(cut, validation).accuracy + 0.3
