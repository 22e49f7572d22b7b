"""One trial, top to bottom, of a small network that has learnt the digits."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from hwprofiles.errors import TrialError
from tests.bundles import export_images
from tests.digits import digits, digits_bundle
from trials import room
from trials.answers import score
from trials.augment import shifted
from trials.bundle import Bundle
from trials.candidate import Candidate, Facts
from trials.data import Split, Splits
from trials.evaluate import evaluate
from trials.network import Network
from trials.onnx_file import write_onnx
from trials.requests import Outcome, Recipe, Request, merit
from trials.run import Workbench
from trials.schedules import SCHEDULES
from trials.sparsity import Magnitude, hide

HALF = Candidate((8, 8))
REPAIRS = ("none", "batchnorm", "least_squares", "sequential")


@pytest.fixture(scope="module")
def splits() -> Splits:
    return digits()


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return digits_bundle()


Bench = Callable[..., Workbench]


@pytest.fixture(scope="module")
def bench(bundle: Bundle, splits: Splits) -> Bench:
    """Makes a workbench of a recipe's settings."""
    return lambda **settings: Workbench(bundle, splits, Recipe(**settings))


def trial(workbench: Workbench, candidate: Candidate = HALF, seed: int = 0) -> Facts:
    facts: Facts = workbench(Request(candidate=candidate, seed=seed)).facts
    return facts


def final(workbench: Workbench, candidate: Candidate = HALF) -> tuple[Outcome, Network]:
    """A final request's outcome, and the network that it gave."""
    outcome = workbench(Request(candidate=candidate, seed=0, final=True))
    assert outcome.network is not None
    return outcome, outcome.network.network().eval()


def timeless(facts: Facts) -> Facts:
    return replace(facts, seconds={})


# Facts.


def test_macs_and_parameters_are_those_worked_out_by_hand(bench: Bench) -> None:
    facts = trial(bench(), Candidate((6, 10)))
    assert facts.macs == 64 * 9 * 6 + 64 * 9 * 6 * 10 + 16 * 10 * 10
    assert facts.parameters == (9 * 6 + 2 * 6) + (9 * 6 * 10 + 2 * 10) + (16 * 10 * 10 + 10)
    assert facts.peak_bytes == 4 * 64 * (1 + 6 + 10)


@pytest.mark.parametrize("repair", REPAIRS)
def test_facts_are_those_of_the_network_that_is_kept(
    bench: Bench, bundle: Bundle, splits: Splits, repair: str
) -> None:
    outcome, network = final(bench(final_repair=repair))
    found = evaluate(network, splits.validation, bundle.network())
    facts = outcome.facts
    assert facts.accuracy == found.accuracy
    assert facts.accuracy_error == found.accuracy_error
    assert facts.class_accuracy == found.class_accuracy
    assert facts.changes == found.changes
    assert facts.images == len(splits.validation)
    assert facts.calibration_error == pytest.approx(found.calibration_error, abs=1e-6)
    assert facts.loss == pytest.approx(found.loss, rel=1e-5)
    assert facts.divergence == pytest.approx(found.divergence, rel=1e-4)
    assert facts.history == {"repaired": found.accuracy}
    assert facts.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert outcome.test is not None
    assert splits.test is not None
    assert outcome.test["accuracy"] == evaluate(network, splits.test).accuracy
    assert {name: len(units) for name, units in outcome.kept.items()} == {"conv1": 8, "conv2": 8}


class Residual(nn.Module):
    """A convolution, and a block of two more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = (
            nn.Conv2d(*sizes, 3, padding=1) for sizes in ((1, 6), (6, 8), (8, 6))
        )
        self.head = nn.Linear(6 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        x = x + self.two(F.relu(self.one(x)))
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


def test_a_trial_without_a_block_costs_so_much_less_and_sequential_repair_makes_up_for_it(
    splits: Splits,
) -> None:
    torch.manual_seed(0)
    residual = export_images(Residual(), 1, 8, 8)
    workbench = Workbench(residual, splits, Recipe(repair="none", blocks=True))
    assert [group.name for group in workbench.coupling.groups] == ["stem", "one", "two"]
    dropped = Candidate((6, 8, 0))
    facts = trial(workbench, dropped)
    outcome, network = final(workbench, dropped)
    assert facts.macs == outcome.facts.macs == 64 * 9 * 6 + 6 * 64 * 10
    assert facts.parameters == (9 * 6 + 6) + (6 * 64 * 10 + 10)
    assert outcome.kept == {"two": []}
    assert outcome.facts.divergence < facts.divergence / 2
    assert facts.parameters == sum(parameter.numel() for parameter in network.parameters())


def test_each_better_repair_is_nearer_to_the_dense_model(bench: Bench) -> None:
    none, batchnorm, least_squares, sequential = (
        trial(bench(repair=repair)).divergence for repair in REPAIRS
    )
    assert none > batchnorm > least_squares > sequential


def test_one_seed_gives_one_answer_in_any_worker_after_any_other_trial(bench: Bench) -> None:
    settings = {"brief_steps": 3, "augment": "shift", "criterion": "taylor"}
    first, second = bench(**settings), bench(**settings)
    trial(first, Candidate((3, 16)))
    assert timeless(trial(first, seed=5)) == timeless(trial(second, seed=5))
    assert trial(first, seed=5).loss != trial(first, seed=6).loss


def test_trials_are_judged_by_evenly_spaced_images_and_finalists_by_all(bench: Bench, splits: Splits) -> None:
    workbench = bench(repair="none", final_repair="none", validation_images=90)
    outcome, network = final(workbench)
    count = len(splits.validation)
    rows = np.arange(90) * count // 90
    assert outcome.facts.accuracy == evaluate(network, splits.validation).accuracy
    assert trial(workbench).accuracy == evaluate(network, splits.validation.take(rows)).accuracy


def test_a_trial_that_falls_short_of_what_is_needed_ends_as_soon_as_that_is_clear(
    bundle: Bundle, splits: Splits
) -> None:
    images, labels = (
        np.concatenate([values] * 10) for values in (splits.validation.inputs[0], splits.validation.labels)
    )
    many = replace(splits, validation=Split((images,), labels))
    workbench = Workbench(bundle, many, Recipe(repair="none"))
    facts = {
        needed: workbench(Request(candidate=Candidate((1, 1)), seed=0, needed=needed)).facts
        for needed in (0.0, 0.95)
    }
    assert facts[0.95].images < len(labels) == facts[0.0].images
    assert facts[0.95].accuracy == pytest.approx(facts[0.0].accuracy, abs=0.05)


def test_with_room_for_few_examples_at_a_time_a_finalist_comes_out_almost_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"final_steps": 10, "final_repair": "batchnorm"}
    request = Request(candidate=HALF, seed=0, final=True)
    whole = bench(**settings)(request).facts
    monkeypatch.setattr(room, "WORKING_BYTES", 2**20)
    workbench = bench(**settings)
    assert max(workbench.room.forward, workbench.room.backward) < 64
    assert workbench(request).facts.loss == pytest.approx(whole.loss, rel=1e-2)
    assert workbench(request).facts.notes == ()


def test_with_room_for_few_examples_repair_learns_from_these(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    unrepaired = trial(bench(repair="none"))
    monkeypatch.setattr(room, "WORKING_BYTES", 2**20)
    for repair in ("least_squares", "sequential"):
        workbench = bench(repair=repair)
        assert trial(workbench).accuracy > unrepaired.accuracy
        assert sum(len(chunk[0]) for chunk in workbench.calibration.chunks) == workbench.room.held < 200


def test_units_that_go_by_error_are_those_that_repairs_miss_least(bench: Bench) -> None:
    workbench = bench(criterion="error")
    assert set(workbench.errors) == {"conv1", "conv2"}
    for name, order in workbench.errors.items():
        assert workbench.scores[name].tolist() == order.tolist()


def test_the_dense_model_is_judged_as_it_is(bench: Bench, bundle: Bundle, splits: Splits) -> None:
    evaluation, test = bench().dense()
    assert splits.test is not None
    assert test is not None
    assert evaluation.accuracy == evaluate(bundle.network(), splits.validation).accuracy > 0.9
    assert test["accuracy"] == evaluate(bundle.network(), splits.test).accuracy


def test_without_a_test_split_nothing_is_said_about_it(bundle: Bundle, splits: Splits) -> None:
    workbench = Workbench(bundle, replace(splits, test=None), Recipe())
    assert workbench.dense()[1] is None
    assert workbench(Request(candidate=HALF, seed=0, final=True)).test is None


def test_only_finalists_look_at_the_test_split(bench: Bench) -> None:
    assert bench()(Request(candidate=HALF, seed=0)).test is None


def test_a_frozen_group_is_no_longer_part_of_candidates(bench: Bench) -> None:
    workbench = bench(frozen={"conv1": "its proof failed"})
    outcome = workbench(Request(candidate=Candidate((8,)), seed=0))
    assert list(outcome.kept) == ["conv2"]


# Batch norms.


def test_recalibrated_statistics_are_those_worked_out_by_hand(
    bench: Bench, bundle: Bundle, splits: Splits
) -> None:
    outcome, network = final(bench(final_repair="batchnorm"))
    kept = outcome.kept["conv1"]
    means, variances = [], []
    for arrays, _ in splits.train.batches(256):
        made = F.conv2d(torch.from_numpy(arrays[0]), bundle.tensors["conv1.weight"][kept], padding=1)
        means.append(made.mean(dim=(0, 2, 3)))
        variances.append(made.var(dim=(0, 2, 3)))
    norm = network.get_submodule("norm1")
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack(variances).mean(0))
    assert norm.momentum == bundle.network().get_submodule("norm1").momentum
    assert torch.equal(norm.weight, bundle.tensors["norm1.weight"][kept])


# Fine-tuning.


def test_a_brief_fine_tune_teaches_and_is_written_down(bench: Bench) -> None:
    facts = trial(bench(repair="none", brief_steps=30, learning_rate=0.003))
    assert list(facts.history) == ["repaired", "fine-tuned"]
    assert facts.history["repaired"] + 0.1 < facts.history["fine-tuned"] == facts.accuracy
    assert set(facts.seconds) == {"repair", "evaluate", "fine-tune"}


def test_a_finalist_that_training_spoils_stays_as_it_was_repaired(bench: Bench) -> None:
    spoiling = {"learning_rate": 2.0, "distill": 0.0, "batch_size": 64}
    facts = final(bench(final_steps=4, **spoiling))[0].facts
    assert facts.history["fine-tuned"] < facts.history["repaired"] == facts.accuracy
    facts = trial(bench(brief_steps=4, **spoiling))
    assert facts.history["repaired"] > facts.history["fine-tuned"] == facts.accuracy


# Single weights that are zero.


@pytest.mark.parametrize("settings", [{"final_steps": 0}, *({"schedule": name} for name in SCHEDULES)])
def test_a_finalist_has_the_zeros_of_the_job_to_the_last_bit_also_in_onnx(
    bench: Bench, settings: dict[str, Any], tmp_path: Path
) -> None:
    workbench = bench(**{"zeros": "2:4", "final_steps": 8, "learning_rate": 0.01, **settings})
    outcome, network = final(workbench)
    stages = ["repaired", "sparse", "fine-tuned"] if workbench.recipe.final_steps else ["repaired", "sparse"]
    assert list(outcome.facts.history) == stages
    assert outcome.facts.accuracy != outcome.facts.history["repaired"]
    for name in ("conv2.weight", "linear.weight"):
        blocks = network.state_dict()[name].view(torch.int32).unflatten(1, (-1, 4))
        assert ((blocks != 0).sum(2) == 2).all(), name
    write_onnx(network.graph, network.state_dict(), tmp_path / "final.onnx")
    stored = [numpy_helper.to_array(each) for each in onnx.load(tmp_path / "final.onnx").graph.initializer]
    for name in ("conv2.weight", "linear.weight"):
        size = network.state_dict()[name].numel()
        assert [int((array == 0).sum()) for array in stored if array.size == size] == [size // 2]


def test_a_share_of_zeros_holds_for_a_brief_trial_too(bench: Bench, splits: Splits) -> None:
    dense, sparse = (bench(brief_steps=8, zeros=zeros) for zeros in (0.0, 0.9))
    assert trial(sparse).history["sparse"] < trial(dense).history["repaired"]
    assert list(trial(dense).history) == ["repaired", "fine-tuned"]


def test_batch_norms_are_recalibrated_after_weights_went_where_that_helps(
    bench: Bench, splits: Splits
) -> None:
    _, network = final(bench(final_repair="least_squares"))
    hide(network, Magnitude(0.8).masks(network))
    facts = trial(bench(zeros=0.8))
    assert facts.history["sparse"] == facts.accuracy > evaluate(network, splits.validation).accuracy + 0.1


# Trials that fail, and requests that come twice.


def test_a_candidate_that_keeps_everything_fails_with_its_reason(bench: Bench) -> None:
    with pytest.raises(TrialError, match="keeps every unit"):
        trial(bench(), Candidate((16, 16)))


@pytest.mark.parametrize("repair", REPAIRS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_fail_the_trial(
    bundle: Bundle, splits: Splits, repair: str, value: float
) -> None:
    weight = bundle.tensors["conv2.weight"].clone()
    weight[3, 2, 1, 1] = value
    broken = replace(bundle, tensors={**bundle.tensors, "conv2.weight": weight})
    with pytest.raises(TrialError, match=r"NaN or infinite"):
        trial(Workbench(broken, splits, Recipe(repair=repair)))


@pytest.mark.parametrize("repair", REPAIRS[1:])
def test_images_to_learn_from_that_are_no_numbers_fail_the_trial(
    bundle: Bundle, splits: Splits, repair: str
) -> None:
    images = splits.train.inputs[0].copy()
    images[:, 0, 4, 4] = math.nan
    broken = replace(splits, train=Split((images,), splits.train.labels))
    with pytest.raises(TrialError, match=r"NaN or infinite|has no solution"):
        trial(Workbench(bundle, broken, Recipe(repair=repair)))


# Validation images that the model was trained on.


def test_merit_is_accuracy_or_on_carved_images_closeness_to_the_dense_model() -> None:
    outputs, reference = torch.tensor([[0.0, 0.0]]), torch.tensor([[60.0, 0.0]])
    found = replace(score(outputs, torch.tensor([0]), reference), accuracy=0.9)
    assert merit(found, carved=False) == 0.9
    assert merit(found, carved=True) == pytest.approx(0.5)
    assert merit(replace(found, divergence=0.0), carved=True) == 1


def test_a_carved_split_is_judged_on_shifted_images(bundle: Bundle, splits: Splits) -> None:
    workbench = Workbench(bundle, replace(splits, carved=True), Recipe(final_repair="none", seed=3))
    outcome, network = final(workbench)
    judged = shifted(splits.validation, seed=3)
    found = evaluate(network, judged, bundle.network())
    assert outcome.facts.accuracy == found.accuracy
    assert outcome.facts.divergence == pytest.approx(found.divergence, rel=1e-4)
    assert workbench.dense()[0].accuracy == evaluate(bundle.network(), judged).accuracy
    assert found.loss != evaluate(network, splits.validation).loss


def test_a_finalist_of_a_carved_split_stays_trained_if_that_brought_it_nearer_to_the_dense_model(
    bundle: Bundle, splits: Splits
) -> None:
    """Judged by wrong labels, what imitates its teacher better is less accurate."""
    wrong = replace(splits.validation, labels=(splits.validation.labels + 1) % 10)
    recipe = Recipe(final_repair="none", final_steps=30, learning_rate=0.003, distill=1.0)
    stays = {}
    for carved in (True, False):
        workbench = Workbench(bundle, replace(splits, validation=wrong, carved=carved), recipe)
        facts = workbench(Request(candidate=HALF, seed=0, final=True)).facts
        assert facts.history["fine-tuned"] < facts.history["repaired"]
        stays[carved] = next(stage for stage, found in facts.history.items() if found == facts.accuracy)
    assert stays == {True: "fine-tuned", False: "repaired"}


@pytest.mark.slow
def test_two_hundred_trials_leave_no_memory_behind(bench: Bench) -> None:
    def held_mb() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    workbench = bench(brief_steps=2, batch_size=32)
    # The same ten widths again and again: of new ones torch keeps compiled kernels, up to 1 024 of them.
    candidates = [Candidate((2 + width, 13 - width)) for width in range(10)]
    held = []
    for seed in range(200):
        trial(workbench, candidates[seed % 10], seed)
        gc.collect()
        held.append(held_mb())
    assert max(held[-20:]) - max(held[20:40]) < 5
