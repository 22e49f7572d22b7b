"""Forgetting jobs with all of their files."""

from __future__ import annotations

import shutil

from hwprofiles.errors import RequestError
from search.place import Place
from search.status import jobs_of
from trials.store import Store


def remove(place: Place, store: Store) -> None:
    """Forget a job, or a set with the jobs of its models, and all of their files.

    Raises:
        RequestError: the store has no such job, or it is one of a set.
        TransientError: another process works on it, or on one of its jobs.
    """
    known = {each.name: each for each in store.jobs()}
    store.job(place.job)
    of_set, _, model = place.job.rpartition(".")
    if of_set in known and place.job in jobs_of(known[of_set]):
        raise RequestError(
            f"job {place.job!r} is that of {model!r} in the set {of_set!r}, which needs it; remove the "
            f"whole set with: prunefront rm {of_set}"
        )
    with place.lock():
        remove_held(place, store)


def remove_held(place: Place, store: Store) -> None:
    """Forget a job or a set of which the caller holds the lock.

    Raises:
        RequestError: the store has no such job.
        TransientError: another process works on a job of the set.
    """
    known = {each.name for each in store.jobs()}
    for name in jobs_of(store.job(place.job)):
        its = Place(place.runs, name)
        if name in known:
            remove_job(its, store)
        shutil.rmtree(its.folder, ignore_errors=True)  # of a job that was only planned
    store.remove_job(place.job)
    shutil.rmtree(place.folder, ignore_errors=True)


def remove_job(place: Place, store: Store) -> None:
    """Forget a job and all of its files.

    Raises:
        RequestError: the store has no such job.
        TransientError: another process works on it.
    """
    store.job(place.job)
    with place.lock():
        store.remove_job(place.job)
        shutil.rmtree(place.folder, ignore_errors=True)
