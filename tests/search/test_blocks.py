"""Whole blocks in a search: what is measured suffices for every candidate, and a job runs with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import search
from hwprofiles.lowering import lower
from hwprofiles.runtimes import CALL, Lowering
from hwprofiles.runtimes.onnx_cpu_lowering import OnnxCpuLowering
from hwprofiles.runtimes.onnx_int8_lowering import OnnxInt8Lowering
from hwprofiles.runtimes.synthetic import Synthetic
from latency_models.kernels import KernelCosts
from latency_models.population import Population
from search.job import Job
from search.place import Place
from search.profiling import kernels_to_measure
from tests.bundles import coupled
from tests.commands import Prunefront, finish, start
from tests.latency_models.test_table import CALL_MS, DEVICE, kernel_ms, rounds_of
from trials.candidate import Candidate
from trials.costs import Costs
from trials.store import Store


@pytest.mark.parametrize("name", ["resnet_projection", "mobilenet_v2", "vit"])
@pytest.mark.parametrize(
    "rules",
    [OnnxCpuLowering(16), OnnxInt8Lowering(16), Synthetic("fp32")],
    ids=["blocks", "int8", "synthetic"],
)
def test_the_kernels_of_a_candidate_are_measured_whatever_it_drops_and_each_counts(
    name: str, rules: Lowering
) -> None:
    costs = Costs(coupled(name, blocks=True))
    space = costs.coupling.space(lowest_keep=0.2)
    kernels = {kernel: rounds_of(kernel_ms(kernel)) for kernel in kernels_to_measure(costs, space, rules)}
    population = Population(rules, KernelCosts(DEVICE, kernels | {CALL: rounds_of(CALL_MS)}))
    counts = space.round(np.random.default_rng(0).uniform(0.2, 1, (12, len(space.axes))) * space.sizes)
    assert not counts[:, space.are_blocks].all(axis=1).all()
    for rows, variant in costs.variants(counts):
        found_ms = population.costs(variant.op_graph, *variant.channels(counts[rows]))[:, 0]
        graphs = [costs.candidate_graph(Candidate(tuple(row))) for row in counts[rows].tolist()]
        wanted_ms = [
            sum(kernel_ms(kernel) - CALL_MS for kernels in lower(graph, rules) for kernel in kernels)
            for graph in graphs
        ]
        assert found_ms == pytest.approx(wanted_ms, rel=1e-5)


BLOCKS = {"blocks.0", "blocks.1", "blocks.2"}


@pytest.fixture(scope="module")
def shallow_job(small_job: Path) -> Path:
    """The network of the small job, untrained and with three blocks that may go, on a modelled device."""
    text = small_job.read_text()
    for old, new in {
        'name = "small"': 'name = "shallow"',
        "blocks = 1 }": "blocks = 3 }",
        'checkpoint = "small.safetensors"\n': "",
        '["50%", "75%"]': '["40%"]',
        "trials = 12": 'trials = 5\nblocks = true\ncontroller = "random"',
    }.items():
        assert old in text
        text = text.replace(old, new)
    job = small_job.with_name("shallow.toml")
    job.write_text(text + '\n[[devices]]\nname = "npu"\nruntime = "synthetic"\n')
    return job


@pytest.mark.slow
def test_a_job_whose_blocks_may_go_runs_to_its_end_and_exports_what_is_left(
    shallow_job: Path, tmp_path: Path, prunefront: Prunefront
) -> None:
    ended = finish(start("run", shallow_job, "--runs", tmp_path))
    assert ended.code == 0, ended.err
    place = Place(tmp_path, "shallow")
    with Store.open(place.store) as store:
        trials = store.trials("shallow")
    shorter = [trial for trial in trials if 0 in trial.candidate.kept]
    assert shorter
    number = shorter[0].number
    shown = json.loads(prunefront("show", "shallow", "--trial", number, "--runs", tmp_path, "--json").out)
    dropped = [name for name, kept in shown["widths"].items() if not kept]
    assert dropped
    assert set(dropped) <= BLOCKS
    assert set(shown["gone"].values()) == set(dropped)
    assert (
        f"gone with block {dropped[0]}"
        in prunefront("show", "shallow", "--trial", number, "--runs", tmp_path).out
    )
    exported = prunefront("export", "shallow", "--trial", number, "--runs", tmp_path)
    assert exported.code in (0, 2), exported.err
    model = search.load(place.export)
    config = json.loads((place.export / "config.json").read_text())
    left = {name.rpartition(".conv1")[0] for name in model.state_dict() if "conv1" in name}
    assert left == {"last"} | {
        name
        for name, kept in config["widths"].items()
        if kept and name in ("blocks.0", "blocks.1", "blocks.2")
    }


def test_inspect_names_the_blocks_that_a_job_may_drop_or_could(
    shallow_job: Path, small_job: Path, tmp_path: Path, prunefront: Prunefront
) -> None:
    told = prunefront("inspect", shallow_job, "--runs", tmp_path, "--json")
    groups = {group["name"]: group for group in json.loads(told.out)["groups"]}
    assert [name for name, group in groups.items() if group["kind"] == "block"] == [
        "blocks.0", "blocks.1", "blocks.2",
    ]  # fmt: skip
    assert groups["blocks.0"]["macs_share"] > groups["blocks.0.conv1"]["macs_share"] / 2 > 0
    assert "could go whole, with [search] blocks = true: blocks.0" in prunefront(
        "inspect", small_job, "--runs", tmp_path
    ).out.replace("\n", " ")


def test_widths_of_a_trial_may_drop_a_block_and_no_group(
    quick_profile: None, shallow_job: Path, tmp_path: Path, prunefront: Prunefront
) -> None:
    widths = tmp_path / "widths.json"
    widths.write_text('[{"blocks.1": 0}]')
    ran = prunefront("trial", shallow_job, "--widths", widths, "--runs", tmp_path, "--json")
    assert ran.code == 0, ran.err
    [found] = json.loads(ran.out)
    assert found["widths"]["blocks.1"] == 0
    profile = Place(tmp_path, "shallow").profile
    checked = prunefront("lut", "check", profile, "--json")
    assert json.loads(checked.out)["models"] == 1, checked.err
    predicted = prunefront("predict", shallow_job, "--device", profile, "--widths", widths)
    assert predicted.code == 0, predicted.err
    assert "vouch less" not in predicted.out  # some of its networks lack blocks, too
    own = "--runs", tmp_path, "--device", "npu"
    assert prunefront("profile", "--model", shallow_job, "--passes", "1", *own).code == 0
    assert "candidate 1 lacks whole blocks" in prunefront(
        "predict", shallow_job, "--widths", widths, *own
    ).out.replace("\n", " ")
    widths.write_text('[{"blocks.1.conv1": 0}]')
    refused = prunefront("trial", shallow_job, "--widths", widths, "--runs", tmp_path)
    assert refused.code != 0
    assert "allowed: 1 to 48" in refused.err.replace("\n", " ")


def test_a_candidate_narrower_than_what_was_measured_does_not_cost_the_others(
    quick_profile: None, shallow_job: Path, tmp_path: Path, prunefront: Prunefront
) -> None:
    widths = tmp_path / "widths.json"
    widths.write_text('[{"blocks.1": 0}, {"last.conv2": 1}]')
    ran = prunefront("trial", shallow_job, "--widths", widths, "--runs", tmp_path, "--json")
    assert ran.code == 0, ran.err
    one, narrow = json.loads(ran.out)
    assert one["predicted"]["latency_ms"] > 0
    assert "outside what table 'npu' holds" in narrow["failed"]


def test_a_job_says_whether_blocks_may_go(small_job: Path, shallow_job: Path) -> None:
    assert [Job.load(job).search.blocks for job in (small_job, shallow_job)] == [False, True]
