"""Copies of what jobs made: whole or none, brought back where the disk has lost them, gone with the job."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from hwprofiles.errors import RequestError, TransientError
from search.place import Place
from search.service.copies import LIST, Copies
from tests.serving import client, served, token
from trials.service_jobs import ServiceJobs
from trials.store import JobRecord, JobState, Store
from trials.tokens import Role

MADE = {"report.html": "<p>", "export/config.json": "{}", "exports/trial-3/graph.json": "[]"}

MINE = JobRecord(name="mine", state=JobState.DONE, spec={}, plan={}, created_s=1.5)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket at a server of its own, which takes whatever credentials it is given."""
    if not (find_spec("s3fs") and find_spec("moto")):
        pytest.skip("s3fs or moto is absent: pip install s3fs 'moto[server]'")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = pytest.MonkeyPatch()
    environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    environment.setenv("AWS_ACCESS_KEY_ID", "test")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "test")
    try:
        end_s = time.monotonic() + 60
        while True:
            with socket.socket() as there:
                if there.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end_s
            time.sleep(0.1)
        import s3fs

        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    finally:
        environment.undo()
        server.kill()
        server.wait()


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/{tmp_path.name}"
    return (tmp_path / "elsewhere").as_uri()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "runs", "mine")
    for name, text in {**MADE, "bundle/model.safetensors": "large", "export/.partial": "half"}.items():
        (place.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / name).write_text(text)
    return place


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_what_a_disk_lost_comes_back(url: str, place: Place) -> None:
    Copies(url, place.runs).keep(MINE)
    shutil.rmtree(place.runs)
    Copies(url, place.runs).bring_back(MINE)
    assert files(place.folder) == MADE
    Copies(url, place.runs).bring_back(replace(MINE, name="other"))
    assert not (place.runs / "other").exists()


def test_a_later_copy_takes_the_place_of_the_first(url: str, place: Place) -> None:
    copies = Copies(url, place.runs)
    copies.keep(MINE)
    (place.folder / "report.html").write_text("<p>anew")
    copies.keep(MINE)
    shutil.rmtree(place.folder)
    copies.bring_back(MINE)
    assert files(place.folder) == {**MADE, "report.html": "<p>anew"}


def test_what_is_on_the_disk_is_left_as_it_is(url: str, place: Place) -> None:
    copies = Copies(url, place.runs)
    copies.keep(MINE)
    (place.folder / "report.html").unlink()
    copies.bring_back(MINE)
    assert not (place.folder / "report.html").exists()


def test_a_forgotten_job_has_no_copy(url: str, place: Place) -> None:
    copies = Copies(url, place.runs)
    copies.forget("mine")
    copies.keep(MINE)
    copies.forget("mine")
    shutil.rmtree(place.folder)
    copies.bring_back(MINE)
    assert not place.folder.exists()


def test_half_a_copy_is_none(place: Place, tmp_path: Path) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(MINE)
    (tmp_path / "elsewhere" / "mine" / LIST).unlink()
    shutil.rmtree(place.folder)
    copies.bring_back(MINE)
    assert not place.folder.exists()


def test_a_copy_that_lacks_a_file_brings_nothing_back(place: Place, tmp_path: Path) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(MINE)
    (tmp_path / "elsewhere" / "mine" / "report.html").unlink()
    shutil.rmtree(place.runs)
    with pytest.raises(TransientError, match="the copy of job 'mine' cannot be reached now") as refused:
        copies.bring_back(MINE)
    assert str(tmp_path) not in str(refused.value)
    assert not list(place.runs.glob("*"))


def test_a_later_job_of_the_name_gets_nothing_of_it(place: Place, tmp_path: Path) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(MINE)
    shutil.rmtree(place.folder)
    copies.bring_back(replace(MINE, created_s=2.5))
    copies.bring_back(replace(MINE, state=JobState.QUEUED))
    assert not place.folder.exists()


def test_many_calls_at_once_bring_it_back_once(place: Place, tmp_path: Path) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(MINE)
    shutil.rmtree(place.folder)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: copies.bring_back(MINE), range(16)))
    assert files(place.folder) == MADE
    assert [path.name for path in place.runs.iterdir()] == ["mine"]


def test_users_fetch_what_the_disk_has_lost_until_they_forget_the_job(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEFRONT_ARTIFACTS", (tmp_path / "elsewhere").as_uri())
    with Store.open(place.store) as store, served(store, place.runs / ".service") as address:
        ServiceJobs(store).submit("ann", "mine", {}, "")
        store.set_job_state("mine", JobState.DONE)
        Copies((tmp_path / "elsewhere").as_uri(), place.runs).keep(store.job("mine"))
        shutil.rmtree(place.folder)
        with client(address, token(store, Role.SUBMITTER, "ann")) as ann:
            found = {file["path"] for file in ann.get("/jobs/mine/artifacts").json()}
            assert found == set(MADE)
            assert ann.get("/jobs/mine/artifacts/report.html").text == "<p>"
            shutil.rmtree(place.folder)
            answer = ann.get("/jobs/mine/artifacts/report.html", headers={"Range": "bytes=1-1"})
            assert (answer.status_code, answer.text) == (206, "p")
            assert ann.delete("/jobs/mine").status_code == 204
    assert not (tmp_path / "elsewhere" / "mine").exists()


def test_without_an_address_nothing_is_copied(place: Place) -> None:
    copies, before = Copies("", place.runs), files(place.runs)
    copies.keep(MINE)
    copies.bring_back(replace(MINE, name="other"))
    copies.forget("mine")
    assert files(place.runs) == before


def test_an_address_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"PRUNEFRONT_ARTIFACTS is .*; allowed is a URL that fsspec knows"):
        Copies("nowhere://bucket", tmp_path)
