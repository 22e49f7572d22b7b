"""Jobs of the service in the store, on SQLite and on PostgreSQL: owners, verbs, turns, leases and fences."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, event, text

from hwprofiles.errors import ConflictError, LostLeaseError, NotFoundError
from tests.contracts.store import FACTS
from trials import leases as leases_module
from trials.candidate import Candidate, Trial
from trials.checking import InputKind
from trials.database import metadata
from trials.inputs import Inputs
from trials.leases import MAX_DEATHS, Lease, Leases
from trials.records import JobState
from trials.service_jobs import ServiceJobs, made_of
from trials.steering import Verb, Wish
from trials.store import Store
from trials.usage import Usage


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "store.sqlite")
    found: str = request.getfixturevalue("postgres_url")
    engine = create_engine(found)
    with engine.begin() as connection:
        connection.execute(text("drop schema public cascade"))
        connection.execute(text("create schema public"))
    engine.dispose()
    return found


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as store:
        yield store


@pytest.fixture
def jobs(store: Store) -> ServiceJobs:
    return ServiceJobs(store)


@pytest.fixture
def leases(store: Store) -> Leases:
    return Leases(store)


def submit(jobs: ServiceJobs, owner: str, name: str = "mine", key: str | None = None, what: str = "a") -> str:
    return jobs.submit(owner, name, {"search": {"trials": 4}, "what": what}, what, key)[0].record.name


def take(leases: Leases, holder: str = "h", most: int = 99) -> Lease:
    lease = leases.take(holder, most=most)
    assert lease
    return lease


def expire(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every lease that is taken from now on be over at once."""
    monkeypatch.setattr(leases_module, "LEASE_S", -1.0)


def queued(number: int) -> Trial:
    return Trial(number=number, candidate=Candidate((4,)), seed=number, target=0.5, origin="random")


def test_a_name_that_is_taken_gets_a_number(jobs: ServiceJobs) -> None:
    assert [submit(jobs, owner) for owner in ("ann", "bob", "ann")] == ["mine", "mine-2", "mine-3"]
    assert jobs.get("mine-2").record.spec["name"] == "mine-2"


def test_no_name_that_is_cut_short_becomes_that_of_a_sets_job(jobs: ServiceJobs) -> None:
    of_set, member = "s" * 39, "a" * 18
    models = [{"name": name} for name in (f"{member}-2", "b")]
    assert jobs.submit("ann", of_set, {"models": models}, "")[0].record.name == of_set
    names = [submit(jobs, "bob", f"{of_set}.{member}.b") for _ in range(3)]
    assert names[0] == f"{of_set}-{member}-b"
    assert not [name for name in names if name.startswith(f"{of_set}.")]


def test_a_request_that_is_sent_again_gives_the_same_job(jobs: ServiceJobs) -> None:
    assert submit(jobs, "ann", key="k") == submit(jobs, "ann", key="k") == "mine"
    assert submit(jobs, "bob", key="k") == "mine-2"
    with pytest.raises(ConflictError, match="came with another job before, 'mine'"):
        submit(jobs, "ann", key="k", what="b")


def test_many_requests_at_once_with_one_key_give_one_job(url: str, jobs: ServiceJobs) -> None:
    def send(_: int) -> str:
        with Store.open(url) as store:
            return submit(ServiceJobs(store), "ann", key="k")

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(send, range(16))) == {"mine"}
    assert len(jobs.page(limit=9)) == 1


def test_a_name_is_found_in_few_queries_however_many_jobs_have_it(store: Store, jobs: ServiceJobs) -> None:
    said: list[str] = []
    event.listen(store._engine, "before_cursor_execute", lambda *call: said.append(call[2]))
    counts = []
    for number in range(12):
        said.clear()
        assert submit(jobs, "ann") == (f"mine-{number + 1}" if number else "mine")
        counts.append(len(said))
    assert counts[1:] == [counts[1]] * 11


def test_many_jobs_of_one_name_at_once_are_all_added(jobs: ServiceJobs) -> None:
    with ThreadPoolExecutor(16) as threads:
        names = set(threads.map(lambda _: submit(jobs, "ann"), range(64)))
    assert names == {"mine", *(f"mine-{number}" for number in range(2, 65))}


def test_what_is_somebody_elses_is_not_there(jobs: ServiceJobs) -> None:
    submit(jobs, "ann")
    assert jobs.get("mine", "ann").owner == "ann"
    for call in (lambda: jobs.get("mine", "bob"), lambda: jobs.steer("mine", Verb.CANCEL, "bob")):
        with pytest.raises(NotFoundError, match="no job 'mine'; it has none at all"):
            call()


def test_pages_of_jobs_go_from_the_newest_to_the_oldest(store: Store, jobs: ServiceJobs) -> None:
    names = [submit(jobs, "ann", name=f"job-{number}") for number in range(5)]
    submit(jobs, "bob")
    store.save("job-4", queued(0), queued(1))
    store.save("job-4", queued(0).start())
    store.save("job-4", queued(0).start().fail("why not"))
    found, after = [], None
    while page := jobs.page("ann", limit=2, after=after):
        found += [(job.record.name, count) for job, count in page]
        after = page[-1][0].record.created_s, page[-1][0].record.name
    assert found == [(name, int(name == "job-4")) for name in reversed(names)]
    assert [job.owner for job, _ in jobs.page(limit=1)] == ["bob"]
    assert jobs.page("ann", limit=9, states=[JobState.DONE]) == []


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


def test_what_a_job_took_stays_taken_when_it_is_forgotten(jobs: ServiceJobs, leases: Leases) -> None:
    for name in ("first", "second"):
        submit(jobs, "ann", name=name)
        lease = take(leases)
        leases.renew(lease, {}, worked_s=100)
        leases.release(lease)
        jobs.steer(name, Verb.CANCEL)
        with jobs.removing(name):
            pass
    submit(jobs, "bob", name="third")
    lease = take(leases)
    leases.renew(lease, {}, worked_s=150)
    leases.release(lease)
    assert [jobs.usage(user).worked_s for user in ("ann", "bob", "cleo")] == [200, 150, 0]
    submit(jobs, "ann", name="fourth")
    assert take(leases).job == "third"


def test_a_stop_outlives_a_pause(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    assert [jobs.steer("mine", verb).wish for verb in (Verb.STOP, Verb.PAUSE)] == [Wish.STOP, Wish.PAUSE_STOP]
    assert leases.renew(lease, {}, 0) is Wish.PAUSE
    assert jobs.steer("mine", Verb.RESUME).wish is Wish.STOP
    jobs.steer("mine", Verb.PAUSE)
    leases.release(lease)
    resumed = jobs.steer("mine", Verb.RESUME)
    assert (resumed.record.state, resumed.wish) == (JobState.QUEUED, Wish.STOP)


def test_who_may_have_no_more_in_the_queue_resumes_nothing(jobs: ServiceJobs) -> None:
    def refuse(usage: Usage) -> None:
        raise ConflictError(f"{usage.queued} are enough")

    submit(jobs, "ann")
    jobs.steer("mine", Verb.PAUSE, admit=refuse)
    for verb in (Verb.RESUME, Verb.STOP):
        with pytest.raises(ConflictError, match="0 are enough"):
            jobs.steer("mine", verb, admit=refuse)
        assert jobs.get("mine").wish is Wish.NOTHING
    assert jobs.steer("mine", Verb.CANCEL, admit=refuse).record.state is JobState.CANCELLED


def test_jobs_are_found_by_what_they_are_made_of(jobs: ServiceJobs, store: Store) -> None:
    submit(jobs, "ann", what="a" * 64)
    with store.reading() as connection:
        assert [made_of(connection, "a" * 64, user) for user in ("ann", "bob")] == [["mine"], []]
        assert [made_of(connection, each * 64) for each in ("a", "%")] == [["mine"], []]


def test_what_is_removed_while_a_job_that_needs_it_is_added_stays(url: str, store: Store) -> None:
    jobs, inputs, sha256 = ServiceJobs(store), Inputs(store), "a" * 64
    inputs.add("ann", sha256, InputKind.NPZ, 1)
    with ThreadPoolExecutor(1) as elsewhere:

        def remove() -> bool:
            with Store.open(url) as other:
                return Inputs(other).remove("ann", sha256)

        def hold(connection: Connection) -> None:
            inputs.holding("ann", [sha256])(connection)
            removals.append(elsewhere.submit(remove))
            wait(removals, timeout=0.5)  # it has begun, and waits for this transaction

        removals: list[Future[bool]] = []
        jobs.submit("ann", "mine", {"data": sha256}, "", hold=hold)
        with pytest.raises(ConflictError, match="is needed by 1 of your jobs, such as 'mine'"):
            removals[0].result()
    assert inputs.get("ann", sha256)


def test_a_job_that_needs_what_is_removed_meanwhile_is_not_added(jobs: ServiceJobs, store: Store) -> None:
    inputs, sha256 = Inputs(store), "a" * 64
    inputs.add("ann", sha256, InputKind.NPZ, 1)
    hold = inputs.holding("ann", [sha256])
    assert not inputs.remove("ann", sha256)
    with pytest.raises(NotFoundError, match=f"'sha256:{sha256}' was removed just now; send it again"):
        jobs.submit("ann", "mine", {"data": sha256}, "", hold=hold)
    assert jobs.page("ann", limit=1) == []


def test_of_adding_jobs_and_removing_what_they_are_made_of_at_once_one_wins(url: str, store: Store) -> None:
    sha256s = [f"{number:064}" for number in range(12)]
    for sha256 in sha256s:
        Inputs(store).add("ann", sha256, InputKind.NPZ, 1)

    def add(sha256: str) -> bool:
        with Store.open(url) as other:
            hold = Inputs(other).holding("ann", [sha256])
            try:
                return ServiceJobs(other).submit("ann", sha256[-8:], {"data": sha256}, "", hold=hold)[1]
            except NotFoundError:
                return False

    def remove(sha256: str) -> bool:
        with Store.open(url) as other:
            try:
                return not Inputs(other).remove("ann", sha256)
            except ConflictError:
                return False

    with ThreadPoolExecutor(4) as threads:
        calls = [(threads.submit(add, each), threads.submit(remove, each)) for each in sha256s]
    assert all(added.result() is not removed.result() for added, removed in calls)


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


def test_a_job_that_nobody_works_on_is_steered_at_once(jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    assert jobs.steer("mine", Verb.PAUSE).record.state is JobState.PAUSED
    assert leases.take("h", most=9) is None
    assert jobs.steer("mine", Verb.RESUME).record.state is JobState.QUEUED
    assert jobs.steer("mine", Verb.CANCEL).record.state is JobState.CANCELLED
    with pytest.raises(
        ConflictError, match="'mine' is cancelled and cannot take resume; it can take cancel, r"
    ):
        jobs.steer("mine", Verb.RESUME)
    assert jobs.steer("mine", Verb.RETRY).record.state is JobState.QUEUED


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


def test_of_cancel_and_resume_at_once_one_wins(url: str, jobs: ServiceJobs) -> None:
    submit(jobs, "ann")
    jobs.steer("mine", Verb.PAUSE)

    def send(verb: Verb) -> str:
        with Store.open(url) as store:
            try:
                return ServiceJobs(store).steer("mine", verb).record.state
            except ConflictError:
                return "conflict"

    with ThreadPoolExecutor(2) as threads:
        cancelled, resumed = threads.map(send, [Verb.CANCEL, Verb.RESUME])
    assert cancelled == "cancelled"
    assert resumed in ("queued", "conflict")
    assert jobs.get("mine").record.state is JobState.CANCELLED


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
    its.save("mine", queued(0))
    its.save("mine", queued(0).start())
    its.save("mine", queued(0).start().finish(FACTS))
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
    store.save("mine", queued(0), queued(1))
    store.save("mine", queued(0).start())
    store.save("mine", queued(0).start().finish(FACTS))
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
    store.save("mine", queued(0))
    store.save("mine", queued(0).start())
    store.save("mine", queued(0).start().finish(FACTS))
    store.set_job_state("mine", JobState.FAILED)
    leases.release(take_for_export(jobs, leases), "it diverged")
    for let_go in (leases.release, lambda lease: leases.bury(lease, "killed")):
        let_go(take_for_export(jobs, leases))
        assert jobs.get("mine").reason == "it diverged"


def take_for_export(jobs: ServiceJobs, leases: Leases) -> Lease:
    jobs.want_export("mine", 0)
    return take(leases)


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
    store.save("mine", queued(0))
    store.save("mine", queued(0).start())
    store.save("mine", queued(0).start().finish(FACTS))
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


def test_a_job_that_is_worked_on_is_not_forgotten(store: Store, jobs: ServiceJobs, leases: Leases) -> None:
    submit(jobs, "ann")
    lease = take(leases)
    with pytest.raises(ConflictError, match="'mine' is worked on; cancel it first"), jobs.removing("mine"):
        pass
    leases.bury(lease, "killed")
    with jobs.removing("mine", owner="ann"):
        pass
    assert jobs.page(limit=1) == []


def test_the_last_revision_makes_the_tables_that_the_code_expects(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
