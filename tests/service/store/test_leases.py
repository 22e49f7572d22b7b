"""Turns, leases and fences: one works on a job at a time, and who lost it changes nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hwprofiles.errors import ConflictError, LostLeaseError, NotFoundError
from tests.contracts.store import FACTS
from tests.service.store.conftest import queued, submit, take
from trials import leases as leases_module
from trials.leases import MAX_DEATHS, Lease, Leases
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.steering import Verb, Wish
from trials.store import Store


def expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every lease that is taken from now on be over at once."""
    monkeypatch.setattr(leases_module, "LEASE_S", -1.0)


def take_for_export(jobs: ServiceJobs, leases: Leases) -> Lease:
    jobs.want_export("mine", 0)
    return take(leases)


def end_a_trial(store: Store) -> None:
    """Of job `mine`, its first."""
    for trial in (queued(0), queued(0).start(), queued(0).start().finish(FACTS)):
        store.save("mine", trial)


def test_users_take_turns(jobs: ServiceJobs, leases: Leases) -> None:
    for number in range(3):
        submit(jobs, "ann", name=f"a{number}")
    submit(jobs, "bob", name="b0")
    assert [take(leases).job for _ in range(4)] == ["a0", "b0", "a1", "a2"]


def test_of_users_with_as_many_running_who_used_least_is_next(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann", name="first")
    lease = take(leases)
    leases.renew(lease, {}, worked_s=100)
    leases.guarded(lease).set_job_state("first", JobState.DONE)
    leases.release(lease)
    submit(jobs, "ann", name="second")
    submit(jobs, "bob", name="third")
    assert take(leases).job == "third"
    assert jobs.usage("ann").worked_s == 100


def test_no_more_jobs_run_than_may(jobs: ServiceJobs, leases: Leases) -> None:
    for number in range(3):
        submit(jobs, "ann", name=f"a{number}")
    take(leases)
    assert leases.take("h", most=1) is None
    assert leases.take("h", {"ann": 1}, most=9) is None
    assert leases.take("h", {"": 1}, most=9) is None
    assert (jobs.usage("ann").queued, jobs.usage("ann").running) == (2, 1)


def test_a_job_is_taken_by_one_of_many(
    url: str, jobs: ServiceJobs, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "LEASE_S", 600.0)  # none is to run out, however slow the machine
    for number in range(4):
        submit(jobs, "ann", name=f"a{number}")

    def take_one(number: int) -> str | None:
        with Store.open(url) as store:
            lease = Leases(store).take(f"h{number}", most=99)
            return lease and lease.job

    with ThreadPoolExecutor(8) as threads:
        taken = [job for job in threads.map(take_one, range(8)) if job]
    assert sorted(taken) == sorted(set(taken))
    while lease := leases.take("late", most=99):
        taken.append(lease.job)
    assert sorted(taken) == ["a0", "a1", "a2", "a3"]


def test_who_lost_a_lease_can_change_nothing(
    store: Store, jobs: ServiceJobs, monkeypatch: pytest.MonkeyPatch, leases: Leases
) -> None:
    submit(jobs, "ann")
    expire(monkeypatch)
    zombie = take(leases, "zombie")
    its = leases.guarded(zombie)
    its.save("mine", queued(0))
    its.save("mine", queued(0).start())
    heir = take(leases, "heir")
    assert heir.fence == zombie.fence + 1
    for change in (
        lambda: its.save("mine", queued(0).start().fail("late")),
        lambda: its.save("mine", queued(1)),
        lambda: its.add_result("mine", 0, "final", {}),
        lambda: its.set_job_state("mine", JobState.DONE),
        lambda: its.set_plan("mine", {"late": True}),
        lambda: its.add_event("mine", "late", "too late"),
        lambda: its.requeue_running("mine"),
        lambda: its.remove_results("mine", 0),
        lambda: its.remove_job("mine"),
        lambda: leases.renew(zombie, {}, 0),
        lambda: leases.release(zombie),
    ):
        with pytest.raises(LostLeaseError, match="was taken by another process at fence 2, after 1"):
            change()
    assert [trial.state for trial in store.trials("mine")] == ["running"]
    assert (store.job("mine").state, store.job("mine").plan, store.events("mine")) == ("queued", {}, [])
    leases.guarded(heir).requeue_running("mine")
    leases.bury(zombie, "late")
    assert jobs.get("mine").holder == "heir"


def test_renewing_keeps_a_job_and_tells_what_is_asked_of_it(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    assert leases.renew(lease, {"stage": "searching"}, 1.0) is Wish.NOTHING
    jobs.steer("mine", Verb.PAUSE)
    assert leases.renew(lease, {"stage": "searching"}, 1.0) is Wish.PAUSE
    found = jobs.get("mine")
    assert found.is_held
    assert (found.progress, found.worked_s) == ({"stage": "searching"}, 2.0)
    assert found.lease_until_s > time.time() + 5


def test_what_is_asked_of_a_job_at_work_is_done_by_who_works_on_it(
    store: Store, jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    assert jobs.steer("mine", Verb.STOP).record.state is JobState.QUEUED
    assert jobs.steer("mine", Verb.CANCEL).wish is Wish.CANCEL
    with pytest.raises(ConflictError, match="'mine' is being cancelled and cannot take resume; it is over"):
        jobs.steer("mine", Verb.RESUME)
    leases.release(lease, "a disk is full", JobState.PAUSED)
    found = jobs.get("mine")
    assert (found.record.state, found.reason) == (JobState.CANCELLED, "its owner asked for it")
    assert (found.wish, found.is_held) == (Wish.NOTHING, False)


def test_a_job_that_is_let_go_waits_with_the_reason_and_still_is_to_be_stopped(
    jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    jobs.steer("mine", Verb.STOP)
    leases.release(lease, "a disk is full", JobState.PAUSED)
    found = jobs.get("mine")
    assert (found.record.state, found.reason, found.wish) == (JobState.PAUSED, "a disk is full", Wish.STOP)
    jobs.steer("mine", Verb.RESUME)
    lease = take(leases)
    leases.guarded(lease).set_job_state("mine", JobState.DONE)
    leases.release(lease, "", JobState.PAUSED)
    assert jobs.get("mine").record.state is JobState.DONE


def test_a_wish_to_stop_outlives_who_worked_on_the_job(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    jobs.steer("mine", Verb.STOP)
    leases.bury(lease, "killed")
    assert leases.renew(take(leases), {}, 0) is Wish.STOP


def test_nothing_is_asked_any_more_of_a_job_that_was_stopped_and_is_done(
    store: Store, jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    jobs.steer("mine", Verb.STOP)
    store.set_job_state("mine", JobState.DONE)
    leases.release(lease)
    assert jobs.get("mine").wish is Wish.NOTHING


def test_a_job_that_keeps_killing_its_processes_has_failed(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    for _ in range(MAX_DEATHS):
        leases.bury(take(leases), "killed by signal 9")
    found = jobs.get("mine")
    assert found.record.state is JobState.FAILED
    assert found.reason == f"its process died {MAX_DEATHS} times in a row, at last killed by signal 9"
    assert jobs.steer("mine", Verb.RETRY).record.state is JobState.QUEUED
    leases.bury(take(leases), "killed by signal 9")
    assert jobs.get("mine").record.state is JobState.QUEUED


def test_a_process_by_which_a_trial_has_ended_did_not_die_in_a_row(
    store: Store, jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    for _ in range(MAX_DEATHS - 1):
        leases.bury(take(leases), "killed by signal 9")
    lease = take(leases)
    its = leases.guarded(lease)
    end_a_trial(its)
    leases.bury(lease, "killed by signal 9")
    assert (jobs.get("mine").record.state, jobs.get("mine").deaths) == (JobState.QUEUED, 1)


def test_one_that_dies_while_it_is_cancelled_is_cancelled(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    jobs.steer("mine", Verb.CANCEL)
    leases.bury(lease, "killed")
    assert (jobs.get("mine").record.state, jobs.get("mine").wish) == (JobState.CANCELLED, Wish.NOTHING)


def test_a_job_that_is_over_is_taken_once_more_for_an_export(
    store: Store, jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    end_a_trial(store)
    store.save("mine", queued(1))
    store.set_job_state("mine", JobState.DONE)
    assert leases.take("h", most=9) is None
    assert jobs.want_export("mine", 0, "ann").exports == (0,)
    with pytest.raises(ConflictError, match="trial 1 of job 'mine' is queued"):
        jobs.want_export("mine", 1)
    with pytest.raises(NotFoundError, match="'mine' has no trial 2"):
        jobs.want_export("mine", 2)
    lease = take(leases)
    leases.end_export(lease, 0)
    leases.release(lease)
    assert leases.take("h", most=9) is None
    assert jobs.get("mine").exports == ()


def test_an_export_leaves_it_said_why_a_job_has_failed(
    store: Store, jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    end_a_trial(store)
    store.set_job_state("mine", JobState.FAILED)
    leases.release(take_for_export(jobs, leases), "it diverged")
    for let_go in (leases.release, lambda lease: leases.bury(lease, "killed")):
        let_go(take_for_export(jobs, leases))
        assert jobs.get("mine").reason == "it diverged"


def test_what_the_last_holder_said_stays_until_the_next_one_speaks(jobs: ServiceJobs, leases: Leases) -> None:
    """So the supervisor can find a halted process of this machine, and end it."""
    submit(jobs, "ann")
    lease = take(leases)
    leases.renew(lease, {"pid": 7, "fence": lease.fence}, 0.0)
    leases.bury(lease, "killed")
    take(leases)
    assert jobs.get("mine").progress == {"pid": 7, "fence": lease.fence}


def test_an_export_that_keeps_killing_its_processes_is_given_up_and_waits_behind_jobs(
    store: Store, jobs: ServiceJobs, leases: Leases
) -> None:
    submit(jobs, "ann")
    end_a_trial(store)
    store.set_job_state("mine", JobState.DONE)
    jobs.want_export("mine", 0)
    for _ in range(MAX_DEATHS):
        leases.bury(take(leases), "killed by signal 9")
    assert (jobs.get("mine").exports, jobs.get("mine").record.state) == ((), JobState.DONE)
    assert "export failed" in [event.kind for event in store.events("mine")]
    jobs.want_export("mine", 0)
    lease = take(leases)
    assert jobs.steer("mine", Verb.CANCEL).wish is Wish.CANCEL
    assert jobs.get("mine").exports == ()
    leases.bury(lease, "killed by signal 9")
    assert (jobs.get("mine").wish, jobs.get("mine").record.state) == (Wish.NOTHING, JobState.DONE)
