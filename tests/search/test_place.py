"""Where a run lies: names that a job cannot have, and who holds it."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from hwprofiles.errors import NotFoundError, RequestError, TransientError
from search.place import Place, hold


@pytest.mark.parametrize("name", ["prunefront.db", "prunefront.db-wal", "devices"])
def test_a_job_cannot_go_by_the_name_of_what_all_jobs_share(name: str, tmp_path: Path) -> None:
    with (
        pytest.raises(
            RequestError, match=f"no job can be called '{name}': .* under another name with --name"
        ),
        Place(tmp_path, name).lock(),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_job_cannot_go_by_the_name_of_a_file_that_lies_there(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with (
        pytest.raises(RequestError, match="of job 'notes' cannot be made: File exists; run it under another"),
        Place(tmp_path, "notes").lock(),
    ):
        pass
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_folder_that_is_gone_is_not_made_by_who_would_hold_it(tmp_path: Path) -> None:
    place = Place(tmp_path, "lost")
    with (
        pytest.raises(NotFoundError, match=r"there is no folder .*lost any more"),
        hold(place.folder, "busy"),
    ):
        pass
    assert not place.is_held()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_removed_while_it_is_locked_is_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who went on would write into a folder that is being removed, and another could hold the new one."""
    place, flock = Place(tmp_path, "small"), fcntl.flock

    def late(handle: int, operation: int) -> None:
        place.folder.rename(tmp_path / "away")
        flock(handle, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with pytest.raises(TransientError, match="another process works on job 'small'"), place.lock():
            pass
    with place.lock():
        assert place.is_held()


def test_what_fails_in_a_held_folder_is_not_taken_for_another_process(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), Place(tmp_path, "small").lock():
        raise BlockingIOError("write could not complete without blocking")
