"""Jobs of the service, really worked on: killed, halted, paused, stopped and cancelled processes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from search.place import Place
from search.service.copies import Copies
from search.service.copying import Copying
from search.service.supervisor import Supervisor
from tests.search.test_crash import check_end, descendants
from trials.candidate import TrialState
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.steering import Verb
from trials.store import Store

PATIENCE_S = 240
Victim = Callable[[int], int | None]
"""From the process of a controller to the one to kill; None where there is none at this moment."""


@pytest.fixture
def runs(planned_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(planned_runs, tmp_path / "runs"))


@pytest.fixture
def store(runs: Path) -> Iterator[Store]:
    with Store.open(Place(runs, "").store) as store:
        ServiceJobs(store).adopt("small", "ann")
        yield store


@pytest.fixture
def jobs(store: Store) -> ServiceJobs:
    return ServiceJobs(store)


def supervised(store: Store, runs: Path) -> Supervisor:
    """Who works on the jobs, one at a time; the caller stops it."""
    supervisor = Supervisor(store, runs, runs / ".service" / "logs", most=1)
    supervisor.start()
    return supervisor


@pytest.fixture
def supervisor(store: Store, runs: Path) -> Iterator[Supervisor]:
    supervisor = supervised(store, runs)
    yield supervisor
    supervisor.stop()


def wait(until: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def ended(store: Store) -> int:
    return sum(trial.state.finished for trial in store.trials("small"))


def state(store: Store) -> JobState:
    return store.job("small").state


def pid(jobs: ServiceJobs) -> int:
    """Of the process that works on the job, once it has said so."""
    wait(lambda: (job := jobs.get("small")).fence and job.progress.get("fence") == job.fence)
    return int(jobs.get("small").progress["pid"])


def command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def of(pattern: str) -> Victim:
    """A process below a controller that runs such a command."""
    return lambda controller: next((p for p in descendants(controller) if pattern in command(p)), None)


def test_told_to_end_the_service_lets_trials_finish_and_its_next_process_takes_over_from_a_killed_one(
    store: Store, jobs: ServiceJobs, runs: Path, finished_runs: Path
) -> None:
    first = supervised(store, runs)
    wait(lambda: ended(store) >= 1)
    begun_s = time.monotonic()
    first.stop()
    assert time.monotonic() - begun_s < 30
    assert state(store) is JobState.INTERRUPTED
    assert TrialState.RUNNING not in [trial.state for trial in store.trials("small")]
    assert not jobs.get("small").is_held
    let_finish = ended(store)
    assert let_finish < 12

    next_one = supervised(store, runs)
    try:
        wait(lambda: ended(store) > let_finish)
        before = [trial for trial in store.trials("small") if trial.state.finished]
        os.killpg(pid(jobs), signal.SIGKILL)
        wait(lambda: state(store) is JobState.DONE)
    finally:
        next_one.stop()
    assert [store.trials("small")[trial.number] for trial in before] == before
    assert jobs.get("small").fence == 3
    assert ("process died", "killed by signal 9") in [(e.kind, e.message) for e in store.events("small")]
    check_end(runs, finished_runs)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRUNEFRONT_ARTIFACTS", (tmp_path / "elsewhere").as_uri())
    return tmp_path / "elsewhere"


def test_paused_and_ended_a_job_waits_and_goes_on_and_is_stopped_and_exported_and_copied(
    elsewhere: Path, store: Store, jobs: ServiceJobs, supervisor: Supervisor, runs: Path
) -> None:
    wait(lambda: ended(store) >= 1)
    jobs.steer("small", Verb.PAUSE)
    wait(lambda: state(store) is JobState.PAUSED)
    wait(lambda: not jobs.get("small").is_held)
    assert TrialState.RUNNING not in [trial.state for trial in store.trials("small")]
    assert jobs.get("small").reason == "its owner asked for it"
    done = next(trial.number for trial in store.trials("small") if trial.state is TrialState.DONE)
    jobs.steer("small", Verb.STOP)
    jobs.want_export("small", done)
    wait(lambda: state(store) is JobState.DONE)
    assert (Place(runs, "small").export / "model.onnx").exists()
    wait(lambda: not jobs.get("small").exports and not jobs.get("small").is_held)
    assert (Place(runs, "small").export_of(done) / "model.onnx").exists()
    Copying(store, runs, Copies(elsewhere.as_uri(), runs)).step()
    for folder in ("export", f"exports/trial-{done}"):
        its, copied = Place(runs, "small").folder / folder, elsewhere / "small" / folder
        assert (copied / "model.onnx").read_bytes() == (its / "model.onnx").read_bytes()


def is_locked(folder: Path) -> bool:
    """Whether a process holds a folder; asked of the kernel, as whoever tries has it for a moment."""
    its = f":{folder.stat().st_ino} "
    return any("FLOCK" in line and its in line for line in Path("/proc/locks").read_text().splitlines())


def test_who_exports_a_trial_of_a_job_that_is_done_keeps_others_off_it(
    finished_runs: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(finished_runs, tmp_path / "runs"))
    with Store.open(Place(runs, "").store) as store:
        jobs = ServiceJobs(store)
        jobs.adopt("small", "ann")
        jobs.want_export("small", 0)
        supervisor = supervised(store, runs)
        try:
            wait(lambda: is_locked(Place(runs, "small").folder) or not jobs.get("small").exports)
            assert jobs.get("small").exports == (0,)
            wait(lambda: not jobs.get("small").exports)
        finally:
            supervisor.stop()
        assert ("exported", "0") in [(event.kind, event.message) for event in store.events("small")]


def test_a_cancelled_job_ends_at_once_with_all_of_its_processes(
    store: Store, jobs: ServiceJobs, supervisor: Supervisor
) -> None:
    processes = descendants(pid(jobs))
    jobs.steer("small", Verb.CANCEL)
    wait(lambda: state(store) is JobState.CANCELLED)
    wait(lambda: not any("search" in command(each) or "ray" in command(each) for each in processes))
    assert jobs.get("small").wish == ""


@pytest.mark.slow
def test_a_process_that_was_halted_is_killed_when_its_job_is_taken_over(
    store: Store, jobs: ServiceJobs, supervisor: Supervisor, runs: Path, finished_runs: Path
) -> None:
    wait(lambda: ended(store) >= 3)
    halted = pid(jobs)
    os.kill(halted, signal.SIGSTOP)
    wait(lambda: jobs.get("small").fence == 2)
    wait(lambda: state(store) is JobState.DONE)
    assert not command(halted)
    check_end(runs, finished_runs)


def kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
