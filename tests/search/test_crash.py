"""Real jobs that are killed or stopped while they run, and what is left of them when they run again.

They go on with two workers, and find what one has found that nobody disturbed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

import search
from tests.commands import finish, start
from trials.candidate import Facts, Trial, TrialState
from trials.records import JobState
from trials.store import Store

Moment = Callable[[Store], bool]


def finished_trials(count: int) -> Moment:
    def reached(store: Store) -> bool:
        return sum(trial.state.finished for trial in store.trials("small")) >= count

    return reached


def some_run(store: Store) -> bool:
    return any(trial.state is TrialState.RUNNING for trial in store.trials("small"))


def in_state(*states: JobState) -> Moment:
    return lambda store: store.job("small").state in states


def wait_for(moment: Moment, runs: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the moment has come, or the process has ended before."""
    with Store.open(runs / "prunefront.db") as store:
        while process.poll() is None and not moment(store):
            time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """The process and all below it, as Linux sees them now."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def kill_tree(process: subprocess.Popen[str]) -> None:
    for pid in descendants(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate(timeout=60)


def stored(runs: Path) -> list[Trial]:
    with Store.open(runs / "prunefront.db") as store:
        return store.trials("small")


def done(runs: Path) -> dict[int, Trial]:
    """Trials that are finished, by number."""
    return {trial.number: trial for trial in stored(runs) if trial.state.finished}


def told(trial: Trial) -> tuple[object, ...]:
    """What a trial is and found out, but for how long it took and how often it was begun."""
    facts = None
    if trial.facts:
        facts = Facts.from_json({**trial.facts.to_json(), "seconds": {}})
    return trial.number, trial.candidate, trial.target, trial.origin, trial.state, trial.reason, facts


def check_end(runs: Path, undisturbed: Path) -> None:
    """The job is done, has exactly the trials of the undisturbed one, and its export loads."""
    with Store.open(runs / "prunefront.db") as store:
        assert store.job("small").state is JobState.DONE
        finals = [result.trial for result in store.results("small") if result.kind == "final"]
    assert [told(trial) for trial in stored(runs)] == [told(trial) for trial in stored(undisturbed)]
    assert finals
    network = search.load(runs / "small" / "export")
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def resume_and_kill(runs: Path, moment: Moment, delay_s: float) -> int:
    """Kill the whole process tree some time after the moment.

    Returns:
        How many trials were finished just before; they have to stay as they were.
    """
    process = start("resume", runs / "small", "--workers", "2")
    wait_for(moment, runs, process)
    time.sleep(delay_s)
    before = done(runs)
    kill_tree(process)
    after = {trial.number: trial for trial in stored(runs)}
    assert {number: after[number] for number in before} == before
    assert sorted(after) == list(range(len(after)))
    return len(before)


def survive(kills: Sequence[tuple[Moment, float]], planned: Path, undisturbed: Path, runs: Path) -> list[int]:
    """Kill a copy of the planned job so often and let it end; returns the trials finished at each kill."""
    shutil.copytree(planned, runs)
    finished = [resume_and_kill(runs, moment, delay_s) for moment, delay_s in kills]
    ended = finish(start("resume", runs / "small", "--workers", "2"))
    assert ended.code == 0, ended.err
    check_end(runs, undisturbed)
    return finished


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_random_points_a_job_goes_on_and_finds_what_it_would_have_found(
    seed: int, planned_runs: Path, finished_runs: Path, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    moments: list[Moment] = [
        lambda store: True,
        finished_trials(rng.randrange(12)),
        in_state(JobState.FINISHING, JobState.DONE),
    ]
    kills = [(rng.choice(moments), rng.uniform(0, 3)) for _ in range(3)]
    survive(kills, planned_runs, finished_runs, tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_while_it_is_planned_a_job_is_planned_again(
    seed: int, small_job: Path, tmp_path: Path
) -> None:
    runs, rng = tmp_path / "runs", random.Random(seed)
    process = start("run", small_job, "--runs", runs)
    while process.poll() is None and not (runs / "small").exists():
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 15))
    kill_tree(process)
    ended = finish(start("run", small_job, "--runs", runs))
    assert ended.code == 0, ended.err
    trials = stored(runs)
    assert [trial.number for trial in trials] == list(range(12))
    assert all(trial.state is TrialState.DONE for trial in trials)


def test_told_to_end_stopped_bereft_of_a_worker_and_killed_a_job_finds_what_it_would_have_found(
    planned_runs: Path, finished_runs: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(planned_runs, runs)
    process = start("resume", runs / "small", "--workers", "2")
    wait_for(some_run, runs, process)
    process.terminate()  # as a batch system does
    told_to_end = finish(process)
    assert told_to_end.code == 143, told_to_end.err
    assert told_to_end.err.splitlines() == [
        "",
        "interrupted; nothing finished is lost",
        f"go on with: prunefront resume {runs}/small",
    ]
    first = check_rest(runs)

    process = start("run", runs / "small")
    wait_for(finished_trials(len(first) + 1), runs, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    stopped = finish(process)
    assert stopped.code == 130, stopped.err
    assert stopped.err.endswith(f"go on with: prunefront resume {runs}/small\n")
    second = check_rest(runs)
    assert len(first) < len(second) < 12
    assert {number: second[number] for number in first} == first

    process = start("resume", runs / "small", "--workers", "2")
    wait_for(some_run, runs, process)
    kill_workers(process)
    wait_for(in_state(JobState.FINISHING), runs, process)
    kill_tree(process)
    with Store.open(runs / "prunefront.db") as store:
        assert "worker died" in [event.kind for event in store.events("small")]
    third = done(runs)
    assert len(third) == 12
    assert {number: third[number] for number in second} == second

    ended = finish(start("resume", runs / "small", "--workers", "2"))
    assert ended.code == 0, ended.err
    assert done(runs) == third
    check_end(runs, finished_runs)


def check_rest(runs: Path) -> dict[int, Trial]:
    """The job is interrupted, and none of its trials is left running; returns those that are finished."""
    with Store.open(runs / "prunefront.db") as store:
        assert store.job("small").state is JobState.INTERRUPTED
        assert not [trial for trial in store.trials("small") if trial.state is TrialState.RUNNING]
    return done(runs)


def kill_workers(process: subprocess.Popen[str]) -> None:
    """Kill the processes that run trials, and nothing else of Ray."""
    for pid in descendants(process.pid):
        try:
            name = Path(f"/proc/{pid}/cmdline").read_text()
            if name.startswith("ray::_Worker"):
                os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
