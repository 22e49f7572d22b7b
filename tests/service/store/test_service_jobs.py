"""Jobs of the service in the store: names, owners, verbs, quotas and pages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import event

from hwprofiles.errors import ConflictError, NotFoundError
from tests.service.store.conftest import queued, submit, take
from trials.database import metadata
from trials.leases import Leases
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.steering import Verb, Wish
from trials.store import Store
from trials.usage import Usage


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
