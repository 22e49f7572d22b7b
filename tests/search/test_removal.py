"""Removed jobs leave nothing that a later job of their name could meet, whenever the removal is killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hwprofiles.errors import RequestError
from search import removal
from search.place import Place
from search.removal import AWAY, remove, remove_held, sweep
from search.service.supervisor import Supervisor
from trials.database import Database
from trials.service_jobs import ServiceJobs
from trials.store import Store


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def store(runs: Path) -> Iterator[Store]:
    runs.mkdir()
    with Store.open(Place(runs, "").store) as store:
        yield store


def add(store: Store, runs: Path) -> Path:
    """The set "pair" of two models, one of which has begun, as one of the service; gives its log."""
    ServiceJobs(store).submit("ann", "pair", {"models": [{"name": "a"}, {"name": "b"}]}, "")
    store.create_job("pair.a", {}, {})
    for name in ("pair", "pair.a"):
        (Place(runs, name).folder / "export").mkdir(parents=True)
        (Place(runs, name).folder / "export" / "weights").write_text("secret")
    log = runs / "pair.log"
    log.write_text("secret")
    return log


def remove_pair(store: Store, runs: Path) -> None:
    place, models = Place(runs, "pair"), ["pair.a", "pair.b"]
    with place.lock():
        remove_held(place, models, ServiceJobs(store).removing("pair", *models), runs / "pair.log")


def dies_at(call: int, of: Callable[..., Any], *, done: bool) -> Callable[..., Any]:
    """A function that is killed in its n-th call, before or after what it does."""
    left = [call]

    def dies(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not done:
            raise Killed
        result = of(*arguments, **named)
        if left[0] == 0:
            raise Killed
        return result

    return dies


def commits_never(writing: Callable[..., AbstractContextManager[Any]]) -> Callable[..., Any]:
    @contextmanager
    def dies(self: Database) -> Iterator[Any]:
        with writing(self) as connection:
            yield connection
            raise Killed

    return dies


@pytest.mark.parametrize("point", ["log", "first", "second", "commit", "sweep", "midst of the sweep"])
def test_killed_at_any_point_a_removal_leaves_the_job_or_nothing_of_it_that_others_meet(
    store: Store, runs: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = add(store, runs)
    with monkeypatch.context() as patch:
        match point:
            case "log":
                patch.setattr(Path, "unlink", dies_at(1, Path.unlink, done=True))
            case "first" | "second":
                patch.setattr(Path, "rename", dies_at(1 + (point == "second"), Path.rename, done=True))
            case "commit":
                patch.setattr(Database, "writing", commits_never(Database.writing))
            case "sweep":
                patch.setattr(removal, "sweep", dies_at(1, sweep, done=False))
            case _:
                patch.setattr(shutil, "rmtree", dies_at(1, shutil.rmtree, done=True))
        with pytest.raises(Killed):
            remove_pair(store, runs)
    if point in ("sweep", "midst of the sweep"):
        assert store.jobs() == []
    else:  # it is still ann's, who removes it once more
        assert ServiceJobs(store).get("pair").owner == "ann"
        assert [job.name for job in store.jobs()] == ["pair", "pair.a"]
        remove_pair(store, runs)
    again = ServiceJobs(store).submit("bob", "pair", {}, "")[0]
    assert again.record.name == "pair"
    left = [path for path in runs.iterdir() if path.suffix[:3] != ".db" and not path.name.startswith(AWAY)]
    assert (left, log.exists()) == ([], False)
    sweep(runs)
    assert not list(runs.glob(f"{AWAY}*"))


def test_files_that_come_back_while_a_set_is_removed_go_with_it(store: Store, runs: Path) -> None:
    add(store, runs)
    place, models = Place(runs, "pair"), ["pair.a", "pair.b"]

    @contextmanager
    def removing() -> Iterator[None]:
        Place(runs, "pair.b").folder.mkdir()  # as `Copies.bring_back` does, which ends before this begins
        with ServiceJobs(store).removing("pair", *models):
            yield

    with place.lock():
        remove_held(place, models, removing())
    assert [path for path in runs.iterdir() if path.name.startswith("pair.b")] == []


def test_a_service_that_starts_removes_what_a_killed_one_left(store: Store, runs: Path) -> None:
    left = runs / f"{AWAY}1234"
    (left / "export").mkdir(parents=True)
    supervisor = Supervisor(store, runs, runs / ".service" / "logs", most=1)
    supervisor.start()
    supervisor.stop()
    assert not left.exists()


def test_the_command_line_removes_nothing_of_a_services_set(store: Store, runs: Path) -> None:
    add(store, runs)
    with pytest.raises(RequestError, match="job 'pair' is one of a service, which alone can forget it"):
        remove(Place(runs, "pair"), store)
    assert [job.name for job in store.jobs()] == ["pair", "pair.a"]
    assert (Place(runs, "pair.a").folder / "export" / "weights").exists()
