"""A second device is measured after a first one's example, on the made-up accelerator."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from hwprofiles import OpSpec, Rounds, open_runtime, read_profile, write_profile
from hwprofiles.remote import Remote
from search import profiling
from search.bench import Bench
from search.growth import profile_device
from search.place import Place
from search.progress import Silent
from search.service import list_agents, request_profile
from tests.bundles import export_images
from tests.commands import Prunefront, refused
from tests.search.test_agents import board_agent, wait_until
from tests.serving import token
from trials.store import Store
from trials.tokens import Role


def network(width: int, *, deep: bool = False) -> nn.Module:
    """Wide enough for counts between the ends."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        *([nn.Conv2d(width, 2 * width, 1), nn.ReLU()] if deep else []),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear((1 + deep) * width, 4),
    ).eval()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    export_images(network(96), 3, 16, 16).write(folder / "small")
    export_images(network(96, deep=True), 3, 16, 16).write(folder / "deep")
    return folder


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, count in {"ROUNDS": 3, "CALIBRATION_NETWORKS": 2, "HELD_OUT_NETWORKS": 2}.items():
            patch.setattr(profiling, name, count)
        yield


@pytest.fixture(scope="module")
def measured_runs(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with the profile of one made-up accelerator, `first`, measured at batch 1."""
    runs = tmp_path_factory.mktemp("first") / "runs"
    asked = {"runtime": "synthetic"}
    profile_device(bundles / "small", "first", Place(runs, "").devices, asked, 1, Silent())
    return runs


@pytest.fixture
def runs(measured_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured_runs, tmp_path / "runs"))


def kernels_of(runs: Path, name: str) -> dict[OpSpec, Rounds]:
    return dict(read_profile(runs / "devices" / f"{name}.parquet").kernels)


def test_a_device_like_a_first_is_measured_where_that_has_bends_and_grows_like_any_other(
    runs: Path, prunefront: Prunefront, bundles: Path
) -> None:
    def profile(name: str, model: str, *more: str) -> str:
        way = ("--runtime", "synthetic", "--batch", "4", "--passes", "1", "--runs", runs)
        ran = prunefront("profile", "--device", name, "--model", bundles / model, *way, *more)
        assert ran.code == 0, ran.err
        return ran.out

    assert "--like first would leave out kernels" in profile("whole", "small")
    whole = kernels_of(runs, "whole")
    said = profile("second", "small", "--like", "first")
    short = kernels_of(runs, "second")
    left_out = len(whole) - len(short)
    assert f"like 'first': {left_out} of {len(whole) - 1} kernels follow from others" in said
    assert 0 < left_out
    assert short.items() <= whole.items()  # measured, to the last digit: nothing comes from the first device
    assert f"kernels          {len(short)}, the call itself among them: 0 new" in profile(
        "second", "small", "--like", "first"
    )
    profile("second", "deep", "--like", "first")
    grown = kernels_of(runs, "second")
    assert short.items() < grown.items()
    profile("second", "small")
    assert whole.items() <= kernels_of(runs, "second").items()


def test_an_agent_measures_what_an_example_leaves_over_as_this_machine_does(
    bundles: Path, runs: Path, address: str, store: Store, tmp_path: Path
) -> None:
    """Agents offer no made-up device themselves, but measure on it what they are asked to."""
    folder, asked = Place(runs, "").devices, {"runtime": "synthetic", "batch": 4}
    with (
        board_agent(address, store, tmp_path / "agent") as running,
        Remote(address, token(store, Role.SUBMITTER)) as remote,
    ):
        wait_until(lambda: list_agents(remote), running)

        def on_agent(name: str, *, runtime: str, precision: str, batch: int, threads: int) -> Bench:
            opened = open_runtime(runtime, precision)
            device = opened.describe(name=name, batch=batch, threads=threads)
            return Bench(device, partial(request_profile, remote, device, series=device.identity))

        profile_device(bundles / "deep", "board", folder, asked, 1, Silent(), on_agent, like="first")
    profile_device(bundles / "deep", "here", folder, asked, 1, Silent(), like="first")
    assert kernels_of(runs, "board").keys() == kernels_of(runs, "here").keys()
    assert not [*folder.glob("*.journal")]


def test_a_job_is_content_with_a_profile_of_a_shorter_plan_and_with_its_copy_of_it(
    prunefront: Prunefront, small_job: Path, tmp_path: Path
) -> None:
    job, runs = small_job.with_name("like.toml"), ("--runs", tmp_path)
    job.write_text(small_job.read_text() + '[[devices]]\nname = "npu"\nruntime = "synthetic"\nbatch = 4\n')
    assert prunefront("profile", "--device", "first", "--model", job, "--batch", "1", *runs).code == 0
    said = prunefront("profile", "--device", "second", "--model", job, "--like", "first", *runs).out
    assert "kernels follow from others" in said
    assert " 0 of" not in said
    assert "not measured:" in prunefront("profile", job, *runs).out
    copy = (tmp_path / "small" / "profile.parquet").read_bytes()
    again = prunefront("profile", job, *runs)
    assert (again.code, "measur" in again.out.partition("device")[0]) == (0, False)
    assert (tmp_path / "small" / "profile.parquet").read_bytes() == copy


@pytest.mark.parametrize(
    ("like", "sentence"),
    [
        ("frist", "device 'frist' has no profile in"),
        ("half", "profile 'half' is one of precision 'fp16', not 'fp32', and says nothing of the kernels"),
        ("far", "channel_step 8, not 16, and says nothing of the kernels of 'second'; those that do: first"),
    ],
)
def test_a_device_with_other_kernels_is_no_example(
    like: str, sentence: str, runs: Path, prunefront: Prunefront, bundles: Path
) -> None:
    first = read_profile(runs / "devices" / "first.parquet")
    for device in (replace(first.device, precision="fp16"), replace(first.device, channel_step=8)):
        name = "far" if device.channel_step == 8 else "half"
        write_profile(replace(first, device=device), runs / "devices" / f"{name}.parquet")
    options = ("--model", bundles / "small", "--runtime", "synthetic", "--like", like, "--runs", runs)
    refused(prunefront("profile", "--device", "second", *options), sentence)
    assert not (runs / "devices" / "second.parquet").exists()


def test_where_only_ends_are_measured_an_example_saves_nothing_and_a_note_says_so(
    runs: Path, prunefront: Prunefront, bundles: Path
) -> None:
    device = open_runtime("onnxruntime").describe(name="first", batch=1, threads=1)
    path = runs / "devices" / "first.parquet"
    write_profile(replace(read_profile(path), device=device), path)
    options = ("--device", "second", "--model", bundles / "small", "--passes", "1", "--runs", runs)
    ran = prunefront("profile", *options, "--like", "first")
    assert (ran.code, "like 'first': nothing to leave out" in ran.out) == (0, True), ran
