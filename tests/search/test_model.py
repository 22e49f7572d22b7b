"""What the user brings: a model that runs on the data, and the groups that a job leaves whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwprofiles.errors import BundleError, RequestError
from search.job import Job
from search.model import _load_checkpoint, open_coupling, open_regularised, open_splits
from search.progress import Silent
from tests.bundles import export_images, exported
from tests.digits import digits, digits_bundle
from trials.evaluate import evaluate
from trials.export import export_model
from trials.graph import Input
from trials.groups import analyse


def test_groups_left_whole_are_frozen_with_that_reason_and_the_others_stay() -> None:
    bundle = exported("resnet_pad")
    free = open_coupling(bundle, seed=0)
    held = open_coupling(bundle, seed=0, whole=["conv1", "layer?.0.conv2"])
    left = {"conv1", "layer2.0.conv2", "layer3.0.conv2"}
    assert {group.name for group in free.groups} - {group.name for group in held.groups} == left
    assert {item.name for item in held.frozen if item.reason == "the job leaves it whole"} == left


def test_a_pattern_that_fits_no_group_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        RequestError, match=r"'layer1.0.conv9', which fits no group; did you mean 'layer1.0.conv1'"
    ):
        open_coupling(exported("resnet_pad"), seed=0, whole=["layer1.0.conv9"])


def test_a_job_that_leaves_everything_whole_has_nothing_to_prune() -> None:
    with pytest.raises(RequestError, match="no group that may be pruned"):
        open_coupling(exported("resnet_pad"), seed=0, whole=["*"])


class Transposed(nn.Module):
    """One column of logits per example: at a batch of one, as good as a row of another task."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).transpose(0, 1)


@pytest.mark.parametrize("dtype", ["int64", "uint8"])
def test_tokens_that_the_model_cannot_read_are_refused_by_their_range(tmp_path: Path, dtype: str) -> None:
    model = nn.Sequential(nn.Embedding(16, 4), nn.Flatten(), nn.Linear(32, 3))
    bundle = export_model(model, [Input(name="ids", shape=(8,), dtype="int64", high=16)])
    job = Job.load(_job_on_tokens(tmp_path, np.arange(16).astype("int64")))
    assert len(open_splits(job, bundle).train) == 6
    job = Job.load(_job_on_tokens(tmp_path, np.where(np.arange(16) == 11, 40, 3).astype(dtype)))
    with pytest.raises(
        RequestError, match=rf"train has inputs of {dtype} from 3 to 40, .*int64 below 16, .*not run"
    ):
        open_splits(job, bundle)


def _job_on_tokens(folder: Path, tokens: np.ndarray) -> Path:
    """Six examples of eight tokens, of which the fourth and the fifth have these."""
    x = np.full((6, 8), 3, dtype=tokens.dtype)
    x[3:5] = tokens.reshape(2, 8)
    np.savez(folder / "data.npz", x=x, y=np.arange(6) % 3)
    (folder / "b").mkdir(exist_ok=True)
    split = '"data.npz"'
    (folder / "job.toml").write_text(
        f'[model]\nbundle = "b"\n[data]\nsource = "npz"\ntrain = {split}\nvalidation = {split}\n'
        '[budget]\nmacs = "50%"\n'
    )
    return folder / "job.toml"


def test_a_model_without_one_row_per_example_is_no_classifier(small_job: Path) -> None:
    with pytest.raises(RequestError, match="one row of logits per example"):
        open_splits(Job.load(small_job), export_images(Transposed(), 1, 8, 8))


def test_a_bundle_that_does_not_run_is_refused_before_anything_else_uses_it(small_job: Path) -> None:
    bundle = export_images(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten(), nn.Linear(4, 10)), 1, 8, 8)
    (image,) = bundle.graph.inputs
    lie = replace(bundle, graph=replace(bundle.graph, inputs=(replace(image, dtype="int64"),)))
    with pytest.raises(BundleError, match="the bundle's network does not run"):
        open_splits(Job.load(small_job), lie)


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        (3.0, "holds 'weight' as float, which is no plain tensor"),
        (torch.eye(4).to_sparse(), "holds 'weight' as torch.sparse.FloatTensor, which is no plain tensor"),
        (torch.eye(4, device="meta"), "which is no plain tensor of the CPU; save a plain state dict"),
        (torch.eye(5), r"holds 'weight' as \[5, 5\], the model has \[4, 4\]"),
        (torch.eye(4).to(torch.int8), "holds 'weight' as torch.int8, the model has torch.float32"),
        (torch.full((4, 4), 1e300, dtype=torch.float64), "NaN or infinite numbers in 'weight'"),
        (torch.full((4, 4), torch.nan).to(torch.float8_e4m3fn), "NaN or infinite numbers in 'weight'"),
    ],
)
def test_a_checkpoint_of_anything_but_numbers_that_fit_is_refused(
    tmp_path: Path, stored: object, sentence: str
) -> None:
    torch.save({"weight": stored, "bias": torch.zeros(4)}, tmp_path / "weights.pt")
    with pytest.raises(RequestError, match=sentence):
        _load_checkpoint(nn.Linear(4, 4), tmp_path / "weights.pt")


def test_a_checkpoint_of_small_floats_is_taken(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    torch.save({"weight": torch.eye(4).to(torch.float8_e4m3fn), "bias": torch.zeros(4)}, tmp_path / "w.pt")
    _load_checkpoint(model, tmp_path / "w.pt")
    assert torch.equal(model.weight, torch.eye(4))


def test_a_model_that_has_no_shapes_yet_takes_no_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 4).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(RequestError, match=r"no 'weight' before it is called .* call the model once in"):
        _load_checkpoint(nn.LazyLinear(4), tmp_path / "weights.pt")


class Notes(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def penalised(folder: Path, table: str) -> Job:
    """A job for the digits' network with a [regularise] table."""
    digits_bundle().write(folder / "digits.bundle")
    path = folder / "job.toml"
    path.write_text(
        f'[model]\nbundle = "digits.bundle"\n[data]\nsource = "digits"\n[budget]\nmacs = "50%"\n'
        f"[finetune]\nbatch_size = 64\n[regularise]\n{table}\n"
    )
    return Job.load(path)


def test_the_model_is_trained_under_the_penalty_that_the_job_asks_for(tmp_path: Path) -> None:
    job = penalised(tmp_path, 'steps = 20\npenalty = "batchnorm"\nstrength = 5.0')
    bundle, notes = digits_bundle(), Notes()
    trained = open_regularised(job, bundle, analyse(bundle.graph), digits(), notes)
    scales = [trained.tensors[name] for name in ("norm1.weight", "norm2.weight")]
    assert any(bool((each == 0).any()) for each in scales)
    assert all(bool((bundle.tensors[name] != 0).all()) for name in ("norm1.weight", "norm2.weight"))
    accuracies = [evaluate(each.network(), digits().validation).accuracy for each in (bundle, trained)]
    assert notes.told == [
        "trained under the penalty batchnorm: validation {:.1%} before, {:.1%} after; what is called dense "
        "from here on is the model after it".format(*accuracies)
    ]


def test_without_steps_under_a_penalty_the_model_stays_as_it_is(tmp_path: Path) -> None:
    job, bundle = penalised(tmp_path, 'penalty = "l1"'), digits_bundle()
    assert open_regularised(job, bundle, analyse(bundle.graph), digits(), Silent()) is bundle


def test_a_training_under_a_penalty_that_diverges_is_refused_with_its_step(tmp_path: Path) -> None:
    job = penalised(tmp_path, "steps = 20")
    job = job.model_copy(update={"finetune": job.finetune.model_copy(update={"learning_rate": 1e20})})
    bundle = digits_bundle()
    with pytest.raises(
        RequestError, match=r"under the penalty group_lasso: the training loss became .* at step"
    ):
        open_regularised(job, bundle, analyse(bundle.graph), digits(), Silent())
