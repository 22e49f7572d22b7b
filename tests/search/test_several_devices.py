"""One job on several devices: candidates hold the budget on all of them, finalists are measured on all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwprofiles import Profile, read_profile, write_profile
from hwprofiles.errors import InvariantError, RequestError
from search import profiling
from search.budget import combined
from search.exported import export_config
from search.finalists import choose_winner
from search.finish import measure_finalists
from search.job import Budget, Job
from search.limits import budget_limits, check_on
from search.numbers import significant
from search.on_device import OnDevice
from search.page import render_html
from search.place import Place
from search.plan import Prepared, prepare
from search.progress import Silent
from search.report import Report
from search.results import EXPORTED, FINAL, MEASURED, measured_on, results
from search.session import _prepare
from search.summary import make_report
from tests.commands import Prunefront, written_json
from tests.search.test_finalists import add_final, fill
from tests.search.test_progress import Heard
from tests.search.test_score import made_trials
from trials.candidate import as_counts
from trials.records import JobState
from trials.store import Store

NPU = {"name": "npu", "runtime": "synthetic", "precision": "fp16", "latency": ["80%"]}


def with_device(spec: Mapping[str, Any], device: Mapping[str, Any]) -> Job:
    """A stored job with one more device, that need not find out how torch is fastest."""
    search = {**spec["search"], "execution": "float32"}
    return Job.from_json({**spec, "devices": [*spec["devices"], device], "search": search})


@pytest.fixture(scope="module")
def heard() -> Heard:
    """What is heard while `both` is planned."""
    return Heard()


@pytest.fixture(scope="module")
def both(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory, heard: Heard) -> Prepared:
    """The finished job, planned again for this CPU and a made-up accelerator with a budget of its own."""
    place = Place(Path(shutil.copytree(finished_runs, tmp_path_factory.mktemp("both") / "runs")), "small")
    with pytest.MonkeyPatch.context() as patch, Store.open(place.store) as store:
        patch.setattr(profiling, "PASSES", 1)
        patch.setattr(profiling, "CALIBRATION_NETWORKS", 4)
        spec, trials, found = store.job("small").spec, store.trials("small"), store.results("small")
        job = with_device(spec, NPU)
        prepared = prepare(job, place, {}, heard)
        store.remove_job("small")
        store.create_job("small", job.to_json(), prepared.plan.to_json())
        fill(store, trials)
        for result in found:
            store.add_result("small", result.trial, result.kind, result.data)
        measure_finalists(prepared, store, Silent())
        store.set_job_state("small", JobState.DONE)
    return prepared


@pytest.fixture
def both_store(both: Prepared, tmp_path: Path) -> Store:
    return Store.open(shutil.copy(both.place.store, tmp_path))


def test_only_what_is_measured_counts_as_progress_and_says_for_which_device(
    both: Prepared, heard: Heard
) -> None:
    measuring = [update for update in heard.updates if update[1].startswith("npu: ")]
    shares = [share for share, _ in measuring]
    assert (shares[0], shares[-1]) == (0.0, 1.0)
    assert shares == sorted(shares)
    assert sum(0 < share < 1 for share in shares) > 3
    cpu, npu = both.devices
    assert (1.0, f"this-cpu {cpu}; npu {npu}") in heard.updates


def test_a_budget_that_cannot_be_met_on_one_device_is_refused_before_others_are_measured_and_profiles_stay(
    both: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, measured = Place(Path(shutil.copytree(both.place.runs, tmp_path / "runs")), "small"), []

    def measure(*arguments: Any) -> Profile:
        measured.append(arguments[4].name)
        return both.devices[1].profile

    monkeypatch.setattr(profiling, "measure_profile", measure)
    cpu, npu = both.job.devices
    tight = npu.checked({**NPU, "latency": ["1%"]}, "here")
    unknown = cpu.model_copy(update={"name": "unknown", "threads": 2})
    place.profile_on("npu").unlink()
    with Store.open(place.store) as store:
        store.remove_job("small")
        for devices in ((cpu, tight, unknown), (cpu, unknown, tight)):
            store.create_job("small", {}, {})
            job = both.job.model_copy(update={"devices": devices})
            with pytest.raises(
                RequestError, match=r'latency = "1%" on npu \(.* ms\) cannot be met: .* raise it, or'
            ):
                _prepare(job, place, {}, store, Silent(), forget=True)
            assert not [record.name for record in store.jobs()]
            assert measured == ["npu"]
    assert place.profile_on("npu").exists()


def test_where_the_budget_of_all_devices_is_too_much_for_one_it_may_have_its_own(both: Prepared) -> None:
    [npu, on] = both.job.devices[1], both.devices[1]
    budget = Budget.checked({"latency_ms": on.dense_ms / 100}, "here")
    job = both.job.model_copy(update={"budget": budget})
    check_on(job, npu, on, both.space)
    with pytest.raises(
        RequestError, match=r"raise it, give 'npu' latency_ms of its own under \[\[devices\]\], or"
    ):
        check_on(job, npu.model_copy(update={"latency": ()}), on, both.space)


def test_a_limit_on_energy_is_refused_before_a_device_that_tells_none_is_measured(
    both: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(Path(shutil.copytree(both.place.runs, tmp_path / "runs")), "small")
    place.profile_on("npu").unlink()
    monkeypatch.setattr(profiling, "measure_profile", None)  # it would fail
    budget = Budget.checked({"energy": "50%"}, "here")
    npu = both.job.devices[1].model_copy(update={"latency": ()})
    job = both.job.model_copy(update={"devices": (npu,), "budget": budget})
    with pytest.raises(
        RequestError, match="'npu' tells no energy here, so nothing can be limited by it; leave"
    ):
        prepare(job, place, {}, Silent())


def test_a_candidate_holds_a_level_where_it_holds_it_on_every_device(
    both: Prepared, prepared: Prepared
) -> None:
    counts = as_counts([trial.candidate for trial in made_trials(both, 200)])
    cpu, npu = (
        (latency_ms + error_ms) for latency_ms, error_ms in (on.scorer.latency(counts) for on in both.devices)
    )
    assert both.plan.targets == prepared.plan.targets
    # Of those that hold the level on the CPU, the other device is to refuse about half.
    percent = 100 * np.median(npu[cpu <= both.plan.targets[-1]]) / both.devices[1].dense_ms
    on_npu = both.job.devices[1].checked({**NPU, "latency": [f"{percent:.4f}%"]}, "here")
    limits = budget_limits(both.job.model_copy(update={"devices": (both.job.device, on_npu)}), both.devices)
    for target in both.plan.targets:
        holds = (cpu <= target) & (npu <= limits[-1].most[-1])
        assert (combined(limits)(counts) <= target).tolist() == holds.tolist()
    assert 0 < holds.sum() < (cpu <= target).sum() < len(counts)


def test_levels_that_fall_on_one_device_where_they_rise_on_another_are_refused(both: Prepared) -> None:
    cpu, npu = both.job.devices
    job = both.job.model_copy(
        update={"devices": (cpu, npu.checked({**NPU, "latency": ["80%", "70%"]}, "here"))}
    )
    with pytest.raises(
        RequestError, match=r'"80%" on npu, latency = "70%" on npu fall where those of \[budget\], .* rise'
    ):
        budget_limits(job, both.devices)


def test_finalists_are_measured_on_each_device_and_what_was_known_stays(
    both: Prepared, both_store: Store, finished_runs: Path
) -> None:
    with Store.open(finished_runs / "prunefront.db") as before:
        assert results(both_store, "small", MEASURED) == results(before, "small", MEASURED)
    on_npu = results(both_store, "small", measured_on("npu"))
    assert sorted(on_npu) == sorted(results(both_store, "small", FINAL))
    npu = both.devices[1]
    for number, found in on_npu.items():
        [score] = npu.scorer.score([both_store.trials("small")[number].candidate])
        assert found["latency_ms"] == pytest.approx(score.latency_ms, rel=0.1)
        assert found["dense_ms"] == pytest.approx(npu.dense_ms, rel=0.1)


def test_the_report_has_a_front_and_rows_of_each_device(both: Prepared, both_store: Store) -> None:
    report = make_report(both, both_store)
    assert [each.device.name for each in report.on_devices] == ["this-cpu", "npu"]
    assert "on this-cpu and npu" not in report.budget
    assert report.budget.endswith("of dense on this-cpu; latency at most 80% of dense on npu")
    [on_npu] = report.others
    assert on_npu.result.endswith(f"on npu (modelled): {report.winner and report.winner.label}")
    least = min(report.on_devices, key=lambda each: each.speedup(each.winner or each.dense))
    assert report.headline.startswith(least.result.partition(" on ")[0])
    assert f"on {least.device.name}" in report.headline
    assert ", where it gains least: " in report.headline
    assert all(row.measured_ms for row in on_npu.rows)
    assert "greatest least speed-up over this-cpu and npu" in report.choice
    assert Report.from_json(report.to_json()) == report
    page = render_html(report)
    assert "<dt>Latency on this-cpu</dt>" in page
    assert f"<dt>Latency on npu</dt><dd>{significant(on_npu.winner and on_npu.winner.latency_ms)} ms" in page
    for heading in ("The front on this-cpu", "The front on npu", "Networks on npu", "modelled on npu"):
        assert f"{heading}</h2>" in page
    assert page.count("<svg") == 2 + bool(report.hypervolume) + any(group.losses for group in report.groups)
    with pytest.raises(RequestError, match="job 'small' has no device 'nqu'; did you mean 'npu'"):
        report.on("nqu")


def test_commands_speak_of_the_first_device_unless_they_are_told_another(
    both: Prepared, prunefront: Prunefront
) -> None:
    folder = both.place.folder
    shown = prunefront("pareto", folder).out
    assert "front of small on this-cpu" in shown
    assert "other devices, each with --device NAME: npu" in shown
    assert (folder / "front-npu.svg").exists()
    assert "on npu, modelled " in prunefront("pick", folder, "--macs", 1e9, "--device", "npu").out
    trial = written_json(prunefront("pick", folder, "--macs", 1e9, "--json"))["trial"]
    assert "npu" in prunefront("show", folder, "--trial", trial).out


def test_an_export_tells_of_each_device(both: Prepared, both_store: Store) -> None:
    [number] = results(both_store, "small", EXPORTED)
    config = export_config(both, both_store, number)
    [other] = config["other_devices"]
    assert (config["device"]["name"], other["device"]["name"]) == ("this-cpu", "npu")
    assert other["measured"] == results(both_store, "small", measured_on("npu"))[number]
    assert (config["table_sha256"], other["table_sha256"]) == both.plan.profiles


def test_a_resumed_job_checks_the_profile_of_each_device(both: Prepared, tmp_path: Path) -> None:
    place = Place(Path(shutil.copytree(both.place.runs, tmp_path / "runs")), "small")
    assert prepare(both.job, place, both.plan.to_json(), Silent()).plan == both.plan
    profile = read_profile(place.profile_on("npu"))
    write_profile(replace(profile, held_out=profile.networks[:1]), place.profile_on("npu"))
    with pytest.raises(InvariantError, match="are not those that the job was planned with"):
        prepare(both.job, place, both.plan.to_json(), Silent())


def on_another(prepared: Prepared, *, is_here: bool) -> tuple[Prepared, OnDevice]:
    """The job on two devices, of which the second is like the first."""
    [first] = prepared.devices
    other = replace(first, measured=measured_on("b"), is_here=is_here)
    plan = replace(prepared.plan, dense_accuracy=0.9)
    return replace(prepared, plan=plan, devices=(first, other)), other


def test_the_winner_is_the_finalist_that_gains_most_where_it_gains_least(
    prepared: Prepared, planned_store: Store
) -> None:
    both, other = on_another(prepared, is_here=True)
    fill(planned_store, made_trials(prepared, 3))
    for number, (first_ms, other_ms) in enumerate([(0.2, 0.9), (0.5, 0.5), (0.1, None)]):
        add_final(planned_store, number, accuracy=0.9, latency_ms=first_ms)
        if other_ms:
            planned_store.add_result(
                "small", number, other.measured, {"latency_ms": other_ms, "dense_ms": 1.0}
            )
    assert choose_winner(both, planned_store) == 1
    assert choose_winner(replace(both, devices=prepared.devices), planned_store) == 2


def test_on_a_device_that_is_elsewhere_predictions_choose_the_winner(
    prepared: Prepared, planned_store: Store
) -> None:
    both, _ = on_another(prepared, is_here=False)
    trials = made_trials(prepared, 4)
    fill(planned_store, trials)
    for trial in trials:
        add_final(planned_store, trial.number, accuracy=0.9, latency_ms=1e-9)
    predicted = [score.latency_ms for score in both.scorer.score([trial.candidate for trial in trials])]
    assert choose_winner(both, planned_store) == int(np.argmin(predicted))


def test_a_device_that_is_elsewhere_comes_in_by_its_profile_and_is_not_measured(
    prepared: Prepared, planned_store: Store, tmp_path: Path
) -> None:
    place = Place(Path(shutil.copytree(prepared.place.runs, tmp_path / "runs")), "small")
    known = read_profile(place.profile)
    board = replace(known.device, name="anything", board="a CPU elsewhere", threads=4)
    write_profile(replace(known, device=board), place.devices / "far.parquet")
    job = with_device(prepared.job.to_json(), {"name": "far", "profile": "far"})
    shutil.rmtree(place.bundle)
    there = prepare(job, place, {}, Silent())
    assert [(on.device.name, on.is_here) for on in there.devices] == [("this-cpu", True), ("far", False)]
    assert there.devices[1].dense_ms == prepared.devices[0].dense_ms
    (place.devices / "far.parquet").unlink()
    assert prepare(job, place, there.plan.to_json(), Silent()).plan == there.plan
    told = [warning for warning in make_report(there, planned_store).warnings if "far" in warning]
    assert told == ["far is known by its profile alone: what networks take there is predicted, not measured"]
