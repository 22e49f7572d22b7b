"""Jobs that end otherwise than well, jobs without validation split, and what is said of both."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine, text

from search import session
from search.job import Job
from search.place import Place
from search.plan import Prepared
from search.progress import Silent
from tests.commands import Prunefront
from tests.digits import digits
from trials.candidate import Space, TrialState
from trials.records import JobState
from trials.store import Store

pytestmark = pytest.mark.usefixtures("quick_profile")


def changed(small_job: Path, name: str, **replaced: str) -> Path:
    """The small job under another name with other lines, each given by how it starts."""
    lines = [
        next((new for old, new in replaced.items() if line.startswith(f"{old} =")), line)
        for line in small_job.read_text().splitlines()
    ]
    path = small_job.with_name(f"{name}.toml")
    path.write_text("\n".join(lines).replace('name = "small"', f'name = "{name}"'))
    return path


def test_without_validation_split_closeness_to_dense_decides_and_the_report_says_so(
    prunefront: Prunefront, small_job: Path, tmp_path: Path
) -> None:
    train = digits().train
    np.savez(tmp_path / "digits.npz", x=train.inputs[0], y=train.labels)
    job = changed(
        small_job, "carved", source=f'source = "npz"\ntrain = "{tmp_path / "digits.npz"}"',
        latency='macs = "50%"', trials="trials = 5",
    )  # fmt: skip
    ran = prunefront("run", job, "--runs", tmp_path / "runs")
    assert ran.code == 0, ran.err
    said = ran.out.replace("\n", " ")
    assert "warning: no validation split: 109 training" in said
    assert "warning: no test split" in said

    report = json.loads((tmp_path / "runs" / "carved" / "report.json").read_text())
    assert any("ranked by closeness to the dense model" in warning for warning in report["warnings"])
    assert report["target_unit"] == "MACs"
    assert all(row["macs"] <= row["target"] for row in report["rows"])
    assert all(row["test_accuracy"] is None for row in report["rows"])
    with Store.open(tmp_path / "runs" / "prunefront.db") as store:
        trials = [trial for trial in store.trials("carved") if trial.facts]
    by_merit = {t.number: np.exp(-t.facts.divergence) for t in trials if t.facts}
    best = max(by_merit, key=lambda number: by_merit[number])
    assert next(point["on_front"] for point in report["points"] if point["number"] == best)


def test_a_space_of_fewer_candidates_than_trials_is_told_and_a_larger_one_is_not(prepared: Prepared) -> None:
    class Heard(Silent):
        notes: tuple[str, ...] = ()

        def note(self, text: str) -> None:
            self.notes += (text,)

    heard = Heard()
    session._note_small_space(prepared, heard)
    assert heard.notes == ()
    halves = Space(tuple(replace(axis, step=axis.size // 2, lowest=1) for axis in prepared.space.axes))
    search = prepared.job.search.model_copy(update={"trials": 2 ** len(halves.axes)})
    job = prepared.job.model_copy(update={"search": search})
    session._note_small_space(replace(prepared, job=job, space=halves), heard)
    [note] = heard.notes
    assert note.endswith(f"meet the budget on the grid of counts, fewer than {search.trials} trials")


def test_a_job_of_which_every_trial_fails_exports_nothing_and_exits_with_1(
    prunefront: Prunefront, small_job: Path, tmp_path: Path
) -> None:
    """Training with steps that long diverges at once."""
    job = changed(
        small_job, "all", latency='macs = "50%"', trials="trials = 2",
        final_steps="brief_steps = 5\nlearning_rate = 1e6",
    )  # fmt: skip
    ran = prunefront("run", job, "--runs", tmp_path / "runs")
    assert ran.code == 1
    assert re.fullmatch(
        "error: job 'all' found nothing to export in 2 trials; 2 failed, the first because the training loss "
        r"became (nan|inf) at step \d+ of 5 with learning rate 1000000\.0; lower it\n",
        ran.err,
    )
    assert (tmp_path / "runs" / "all" / "report.html").exists()
    again = prunefront("run", tmp_path / "runs" / "all")
    assert (again.code, again.err) == (1, ran.err)


@pytest.mark.parametrize(
    ("name", "budget", "sentence"),
    [
        ("prunefront.db", 'macs = "50%"', "no job can be called 'prunefront.db'"),
        ("greedy", "macs = 10", "the budget macs = 10 cannot be met"),
        ("generous", "macs = 1e9", "the budget macs = 1000000000 asks for nothing: the dense model costs"),
    ],
)
def test_a_refused_job_leaves_nothing_on_a_fresh_machine(
    name: str, budget: str, sentence: str, prunefront: Prunefront, small_job: Path, tmp_path: Path
) -> None:
    job = changed(small_job, "fresh", latency=budget)
    ran = prunefront("run", job, "--name", name, "--runs", tmp_path / "runs")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert sentence in ran.err
    assert not list(tmp_path.rglob("*.*"))
    assert not (tmp_path / "runs" / name).exists()


@pytest.mark.parametrize("damaged", ["[]", "[" * 100_000])
def test_a_damaged_report_of_a_job_that_is_done_is_made_again(
    damaged: str, prunefront: Prunefront, runs: Path
) -> None:
    path = runs / "small" / "report.json"
    before = json.loads(path.read_text())
    path.write_text(damaged)
    ran = prunefront("run", runs / "small", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == before["rows"]
    assert json.loads(path.read_text())["rows"] == before["rows"]


def test_a_bug_in_the_search_is_noted_with_the_job(
    planned_runs: Path, small_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy_of_planned(planned_runs, tmp_path)
    job = Job.load(small_job)

    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("1\n  / 0")

    with Store.open(place.store) as store:
        monkeypatch.setattr(session, "Pool", broken)
        with pytest.raises(ZeroDivisionError):
            session.run_job(job, place, store, Silent())
        assert store.job("small").state is JobState.FAILED
        assert [e.message for e in store.events("small") if e.kind == "failed"] == [
            "ZeroDivisionError: 1 / 0"
        ]


def copy_of_planned(planned_runs: Path, tmp_path: Path) -> Place:
    return Place(Path(shutil.copytree(planned_runs, tmp_path / "planned")), "small")


def test_stopped_while_it_is_profiled_a_job_keeps_its_place_and_what_was_measured(
    prunefront: Prunefront, small_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(job: Job, place: Place, *rest: object) -> None:
        place.profile.with_suffix(".journal").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "prepare", stopped)
    ran = prunefront("run", small_job, "--runs", tmp_path / "runs")
    assert ran.code == 130
    assert ran.err.endswith(f"go on with: prunefront resume {tmp_path}/runs/small\n")
    with Store.open(tmp_path / "runs" / "prunefront.db") as store:
        assert store.job("small").state is JobState.INTERRUPTED
    ran = prunefront("pareto", "small", "--runs", tmp_path / "runs")
    assert (ran.code, ran.out) == (2, "")
    assert "has not been planned yet; run `prunefront resume" in ran.err


@pytest.mark.parametrize(("where", "what"), [(Job, "load"), (session, "open_job"), (session, "prepare")])
def test_stopped_before_it_has_begun_a_job_leaves_nothing_to_resume_and_the_command_says_so(
    where: object,
    what: str,
    prunefront: Prunefront,
    small_job: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, what, stopped)
    ran = prunefront("run", small_job, "--runs", tmp_path / "runs")
    assert (ran.code, ran.out.strip()) == (130, "")
    assert ran.err == "\ninterrupted before there was anything new to resume; run the same command again\n"
    assert not list(tmp_path.rglob("*.db"))


def test_a_planned_job_that_cannot_go_on_stays_as_it_was(
    prunefront: Prunefront, planned_runs: Path, tmp_path: Path
) -> None:
    place = copy_of_planned(planned_runs, tmp_path)
    with Store.open(place.store) as store:
        store.set_job_state("small", JobState.INTERRUPTED)
    profile = place.profile.read_bytes()
    place.profile.write_bytes(b"not a profile")
    ran = prunefront("resume", place.folder)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    with Store.open(place.store) as store:
        assert store.job("small").state is JobState.INTERRUPTED
        assert store.job("small").plan
    assert place.bundle.exists()
    place.profile.write_bytes(profile)
    assert prunefront("pareto", place.folder).code == 0


def test_a_refused_job_leaves_the_profile_that_was_measured_before_it(
    prunefront: Prunefront, small_job: Path, planned_runs: Path, tmp_path: Path
) -> None:
    place = Place(tmp_path / "runs", "refused")
    place.folder.mkdir(parents=True)
    place.profile.write_bytes(Place(planned_runs, "small").profile.read_bytes())
    job = changed(small_job, "refused", latency="latency_ms = 1e-6")
    ran = prunefront("run", job, "--runs", place.runs)
    assert ran.code == 2
    assert "cannot be met" in ran.err
    assert [path.name for path in place.folder.iterdir()] == ["profile.parquet"]


def test_a_job_of_another_version_is_shown_and_refused_in_a_sentence(
    prunefront: Prunefront, small_job: Path, runs: Path
) -> None:
    engine = create_engine(f"sqlite:///{runs / 'prunefront.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET spec = json_set(spec, '$.version', 0)"))
    engine.dispose()
    assert prunefront("ls", "--runs", runs).code == 0
    for command in (
        ["run", small_job, "--runs", runs],
        ["resume", runs / "small"],
        ["pareto", runs / "small"],
    ):
        ran = prunefront(*command)
        assert (ran.code, ran.out) == (2, "")
        assert "the stored job has format version 0; allowed: 1" in ran.err


def test_a_failed_job_can_be_resumed_and_trials_of_a_stopped_one_are_not_left_running(
    planned_runs: Path, small_job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy_of_planned(planned_runs, tmp_path)

    class Stopped:
        free = 2

        def submit(self, key: int, request: object) -> None: ...

        def wait(self, timeout_s: float) -> None:
            raise KeyboardInterrupt

        def __init__(self, *arguments: object, **options: object) -> None: ...

        def __enter__(self) -> Stopped:
            return self

        def __exit__(self, *ended: object) -> None: ...

    def known(prepared: Prepared, *_: object) -> list[NDArray[np.float64]]:
        """What each group costs the model: it is stopped after that."""
        return [np.linspace(1, 0, len(axis.allowed)) for axis in prepared.space.axes]

    monkeypatch.setattr(session, "Pool", Stopped)
    monkeypatch.setattr(session, "_losses", known)
    with Store.open(place.store) as store:
        store.set_job_state("small", JobState.FAILED)
        with pytest.raises(KeyboardInterrupt):
            session.run_job(Job.load(small_job), place, store, Silent())
        assert {trial.state for trial in store.trials("small")} == {TrialState.QUEUED}
        assert store.job("small").state is JobState.INTERRUPTED
