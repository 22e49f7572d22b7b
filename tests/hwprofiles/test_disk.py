from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwprofiles.disk import whole_file, whole_folder, write_whole


def test_a_file_is_replaced_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert [(each.name, each.read_bytes()) for each in path.parent.iterdir()] == [("file", b"new")]


def test_a_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_is_replaced_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in (b"old", b"new"):
        with whole_folder(folder) as partial:
            (partial / "file").write_bytes(content)
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]
    assert [(each.name, each.read_bytes()) for each in folder.iterdir()] == [("file", b"new")]


def spoiled(path: Path, error: BaseException) -> None:
    """Write a file, or a file into a folder, and come half way."""
    if path.is_dir():
        with whole_folder(path) as partial:
            (partial / "file").write_bytes(b"half")
            raise error
    with whole_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError("the disk is full"), KeyboardInterrupt()])
def test_what_was_not_finished_leaves_what_stood_there(tmp_path: Path, error: BaseException) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_bytes(b"old")
    folder.mkdir()
    for path in (file, folder):
        with pytest.raises(type(error)):
            spoiled(path, error)
    assert sorted(tmp_path.rglob("*")) == [file, folder]
    assert file.read_bytes() == b"old"


def test_folders_that_were_made_to_hold_one_that_was_not_finished_are_gone_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "there" / "new" / "newer" / "folder"
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), whole_folder(folder):
        raise KeyboardInterrupt
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with whole_folder(folder):
        pass
    assert folder.is_dir()
