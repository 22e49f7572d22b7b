"""Where a run lies: names that a job cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwprofiles.errors import NotFoundError, RequestError
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
