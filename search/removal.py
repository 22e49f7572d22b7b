"""Forgetting jobs with all of their files, so that no later job of a name meets one of them.

The store forgets a job when its files are out of the way, under no job's name. Whoever dies in the midst of
this leaves a job that can be removed once more, or files that `sweep` finds.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from hwprofiles.errors import RequestError
from search.place import Place
from search.status import jobs_of
from trials.store import Store

AWAY = ".removed-"
"""What files begin with that are to be removed."""


def remove(place: Place, store: Store) -> None:
    """Forget a job, or a set with the jobs of its models, and all of their files.

    Raises:
        RequestError: the store has no such job, or it is one of a set.
        TransientError: another process works on it, or on one of its jobs.
    """
    known = {each.name: each for each in store.jobs()}
    models = jobs_of(store.job(place.job))
    of_set, _, model = place.job.rpartition(".")
    if of_set in known and place.job in jobs_of(known[of_set]):
        raise RequestError(
            f"job {place.job!r} is that of {model!r} in the set {of_set!r}, which needs it; remove the "
            f"whole set with: prunefront rm {of_set}"
        )
    with place.lock():
        remove_held(place, models, store.removing(place.job, *models))


def remove_held(
    place: Place, models: Sequence[str], removing: AbstractContextManager[None], *files: Path
) -> None:
    """Forget a job of which the caller holds the lock, a set's with those of its models.

    Args:
        removing: of the store, or of the service's jobs.
        files: that are kept of the job elsewhere.

    Raises:
        RequestError: the store has no such job.
        TransientError: another process works on a job of the set.
    """
    places = [Place(place.runs, model) for model in models]
    with ExitStack() as held:
        for each in places:
            if each.folder.exists():
                held.enter_context(each.lock())
        with removing:
            for file in files:
                file.unlink(missing_ok=True)
            for each in (*places, place):
                if each.folder.exists():  # of a model's job it may have come back from a copy meanwhile
                    _put_away(each)
    sweep(place.runs)


def _put_away(place: Place) -> None:
    place.folder.rename(place.runs / f"{AWAY}{secrets.token_hex(8)}")


def sweep(runs: Path) -> None:
    """Remove the files of jobs that are forgotten."""
    for folder in runs.glob(f"{AWAY}*"):
        shutil.rmtree(folder, ignore_errors=True)
