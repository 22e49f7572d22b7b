"""A job file becomes one frozen job, which survives being stored."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwprofiles.errors import RequestError
from search.job import Budget, Job, Level
from tests.search.job.conftest import JOB, job_with, load
from trials.data import DataSpec, Normalize, SplitSpec
from trials.graph import Input


def test_one_input_goes_by_a_default_name_and_type(folder: Path) -> None:
    expected = Input(name="input", shape=(3, 32, 32), dtype="float32", high=2)
    assert load(folder, JOB).model.input_specs == (expected,)


def test_paths_start_at_the_job_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "job.toml").write_text(JOB)
    monkeypatch.chdir(folder.parent)
    job = Job.load(Path("cifar") / "job.toml")
    assert job.folder == folder
    assert (job.folder / job.model.checkpoint).exists()


def test_a_job_is_called_what_it_says_or_else_after_its_folder_or_file(folder: Path) -> None:
    assert load(folder, JOB).name == "cifar"
    assert load(folder, JOB, "half the macs.toml").name == "half-the-macs"
    assert load(folder, 'name = "mine"\n' + JOB).name == "mine"


def test_a_loaded_job_does_not_change(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(folder, JOB).search = None


def test_several_inputs_keep_their_order_and_types(folder: Path) -> None:
    line = 'inputs = [{ name = "ids", shape = [9], dtype = "int64", high = 50 }, { name = "x", shape = [4] }]'
    assert load(folder, job_with("model", line, "input")).model.input_specs == (
        Input(name="ids", shape=(9,), dtype="int64", high=50),
        Input(name="x", shape=(4,), dtype="float32", high=2),
    )


def test_data_becomes_what_the_data_sources_take(folder: Path) -> None:
    lines = """validation = { path = "test.parquet", rows = [0, 5000] }
normalize = { mean = [0.5, 0.4, 0.3], std = [0.2, 0.2, 0.1] }"""
    assert load(folder, job_with("data", lines)).data_spec() == DataSpec(
        source="parquet",
        train=SplitSpec("train.parquet"),
        validation=SplitSpec("test.parquet", (0, 5000)),
        normalize=Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
    )


@pytest.mark.parametrize(
    ("line", "kind", "levels"),
    [
        ("latency_ms = 2", "latency_ms", [Level(2.0, False)]),
        ('latency = "50%"', "latency_ms", [Level(0.5, True)]),
        ('latency = ["80%", "12.5 %"]', "latency_ms", [Level(0.8, True), Level(0.125, True)]),
        ('macs = [6.2e7, "99%"]', "macs", [Level(6.2e7, False), Level(0.99, True)]),
        ("parameters = 100000", "parameters", [Level(1e5, False)]),
    ],
)
def test_a_budget_is_a_kind_and_its_levels(folder: Path, line: str, kind: str, levels: list[Level]) -> None:
    [asked] = load(folder, job_with("budget", line, "latency")).budget.asked
    assert (asked.kind, list(asked.levels)) == (kind, levels)


def test_the_key_with_several_levels_leads_and_else_the_first_one(folder: Path) -> None:
    budget = load(folder, job_with("budget", 'energy = "30%..60%"\nmacs = 5')).budget
    assert [asked.key for asked in budget.asked] == ["energy", "latency", "macs"]
    assert [asked.kind for asked in budget.asked] == ["energy_mj", "latency_ms", "macs"]
    assert load(folder, job_with("budget", "macs = 5")).budget.leading.key == "latency"


@pytest.mark.parametrize(
    ("written", "percentages"),
    [
        ("20%..100%", [20, 33.3, 46.7, 60, 73.3, 86.7]),
        ("30 % .. 80%", [30, 40, 50, 60, 70, 80]),
        ("50%..50.2%", [50, 50.1, 50.2]),
        ("95%..99.9%", [95, 96, 97, 97.9, 98.9, 99.9]),
    ],
)
def test_a_range_is_six_levels_from_its_lower_end_without_dense_itself(
    written: str, percentages: list[float]
) -> None:
    [asked] = Budget.checked({"macs": written}, "here").asked
    assert [level.percentage for level in asked.levels] == [f"{percentage}%" for percentage in percentages]


def test_a_job_that_only_says_how_much_accuracy_may_go_searches_the_whole_front(folder: Path) -> None:
    budget = load(folder, job_with("budget", "accuracy_drop = 0", "latency")).budget
    assert budget.asked == Budget.checked({"latency": "20%..100%"}, "here").asked
    assert (budget.winner_drop, load(folder, JOB).budget.winner_drop) == (0, 0.01)


@settings(deadline=None)
@given(
    levels=st.lists(
        st.decimals(min_value="0.001", max_value="99.999", places=3).map(lambda percent: f"{percent}%")
        | st.floats(min_value=1e-3, max_value=1e12),
        min_size=1,
        unique=True,
    )
)
def test_levels_survive_being_stored(levels: list[str | float]) -> None:
    budget = Budget.checked({"macs": levels}, "here")
    assert Budget.checked(budget.model_dump(mode="json"), "here") == budget


def test_zeros_survive_being_stored(folder: Path) -> None:
    for written, zeros in (("0.5", 0.5), ('"2:4"', "2:4"), ("0", 0.0)):
        job = load(folder, job_with("sparsity", f"zeros = {written}"))
        assert job.sparsity.zeros == zeros
        assert Job.from_json(job.to_json()) == job


def test_a_stored_job_comes_back_equal_even_without_its_files(folder: Path) -> None:
    job = load(folder, JOB)
    stored = job.to_json()
    for file in folder.iterdir():
        file.unlink()
    assert Job.from_json(stored) == job
    assert Job.from_json(stored).fingerprint() == job.fingerprint()


def test_a_job_stored_in_another_format_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="format version 99; allowed: 1"):
        Job.from_json({**load(folder, JOB).to_json(), "version": 99})


def test_the_fingerprint_follows_what_results_depend_on(folder: Path) -> None:
    plain = load(folder, JOB).fingerprint()
    same = ["[search]\nworkers = 8", "[search]\ntrials = 60", "[[devices]]\nthreads = 1"]
    other = [
        "[search]\nseed = 1",
        "[search]\ntrials = 61",
        "[[devices]]\nthreads = 2",
        "[finetune]\ndistill = 0",
    ]
    assert {load(folder, JOB + text).fingerprint() for text in same} == {plain}
    assert load(folder, 'name = "other"\n' + JOB).fingerprint() == plain
    fingerprints = {load(folder, JOB + text).fingerprint() for text in other}
    assert len(fingerprints | {plain}) == len(other) + 1
