"""What jobs are made of stays as long as one needs it, whatever happens at once."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest
from sqlalchemy import Connection

from hwprofiles.errors import ConflictError, NotFoundError
from tests.service.store.conftest import submit
from trials.checking import InputKind
from trials.inputs import Inputs
from trials.service_jobs import ServiceJobs, made_of
from trials.store import Store


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
