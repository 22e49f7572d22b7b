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
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from hwprofiles.errors import NotFoundError, RequestError, TransientError
from search.place import Place
from search.removal import remove_held
from search.service import copying as copying_module
from search.service.copies import LIST, Copies
from search.service.copying import Copying
from tests.serving import client, served, token
from trials.leases import Leases
from trials.records import JobRecord, JobState
from trials.service_jobs import ServiceJobs
from trials.store import Store
from trials.tokens import Role

MADE = {"report.html": "<p>", "export/config.json": "{}", "exports/trial-3/graph.json": "[]"}


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


@pytest.fixture
def mine(store: Store) -> JobRecord:
    """A job of ann's that is done."""
    ServiceJobs(store).submit("ann", "mine", {}, "")
    store.set_job_state("mine", JobState.DONE)
    return store.job("mine")


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()
    }


def test_what_a_disk_lost_comes_back(url: str, place: Place, mine: JobRecord, store: Store) -> None:
    Copies(url, place.runs).keep(mine)
    shutil.rmtree(place.runs)
    Copies(url, place.runs).bring_back(mine, store)
    assert files(place.folder) == MADE
    Copies(url, place.runs).bring_back(replace(mine, name="other"), store)
    assert not (place.runs / "other").exists()


def test_a_later_copy_takes_the_place_of_the_first(
    url: str, place: Place, mine: JobRecord, store: Store
) -> None:
    copies = Copies(url, place.runs)
    copies.keep(mine)
    (place.folder / "report.html").write_text("<p>anew")
    copies.keep(mine)
    shutil.rmtree(place.folder)
    copies.bring_back(mine, store)
    assert files(place.folder) == {**MADE, "report.html": "<p>anew"}


def test_what_is_on_the_disk_is_left_as_it_is(url: str, place: Place, mine: JobRecord, store: Store) -> None:
    copies = Copies(url, place.runs)
    copies.keep(mine)
    (place.folder / "report.html").unlink()
    copies.bring_back(mine, store)
    assert not (place.folder / "report.html").exists()


def test_a_forgotten_job_has_no_copy(url: str, place: Place, mine: JobRecord, store: Store) -> None:
    copies = Copies(url, place.runs)
    copies.forget("mine")
    copies.keep(mine)
    copies.forget("mine")
    shutil.rmtree(place.folder)
    copies.bring_back(mine, store)
    assert not place.folder.exists()


def test_half_a_copy_is_none(place: Place, tmp_path: Path, mine: JobRecord, store: Store) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(mine)
    (tmp_path / "elsewhere" / "mine" / LIST).unlink()
    shutil.rmtree(place.folder)
    copies.bring_back(mine, store)
    assert not place.folder.exists()


def test_a_copy_that_lacks_a_file_brings_nothing_back(
    place: Place, tmp_path: Path, mine: JobRecord, store: Store
) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(mine)
    (tmp_path / "elsewhere" / "mine" / "report.html").unlink()
    shutil.rmtree(place.runs)
    with pytest.raises(TransientError, match="the copy of job 'mine' cannot be reached now") as refused:
        copies.bring_back(mine, store)
    assert str(tmp_path) not in str(refused.value)
    assert not list(place.runs.glob("*"))


def test_a_later_job_of_the_name_gets_nothing_of_it(
    place: Place, tmp_path: Path, mine: JobRecord, store: Store
) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(mine)
    shutil.rmtree(place.folder)
    copies.bring_back(replace(mine, created_s=2.5), store)
    copies.bring_back(replace(mine, state=JobState.QUEUED), store)
    assert not place.folder.exists()


def test_many_calls_at_once_bring_it_back_once(
    place: Place, tmp_path: Path, mine: JobRecord, store: Store
) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(mine)
    shutil.rmtree(place.folder)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: copies.bring_back(mine, store), range(16)))
    assert files(place.folder) == MADE
    assert [path.name for path in place.runs.iterdir()] == ["mine"]


def test_users_fetch_what_the_disk_has_lost_until_they_forget_the_job(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEFRONT_ARTIFACTS", (tmp_path / "elsewhere").as_uri())
    with served(store, place.runs / ".service") as address:
        Copies((tmp_path / "elsewhere").as_uri(), place.runs).keep(mine)
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


def test_a_job_that_is_removed_while_it_comes_back_leaves_no_files(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies((tmp_path / "elsewhere").as_uri(), place.runs)
    copies.keep(mine)
    shutil.rmtree(place.folder)
    get_file = LocalFileSystem.get_file

    def get_and_remove(*arguments: Any, **named: Any) -> None:
        get_file(*arguments, **named)
        if "mine" in [job.name for job in store.jobs()]:
            with place.lock():
                remove_held(place, [], ServiceJobs(store).removing("mine"))

    monkeypatch.setattr(LocalFileSystem, "get_file", get_and_remove)
    with pytest.raises(NotFoundError, match="no job 'mine'"):
        copies.bring_back(mine, store)
    assert list(place.runs.iterdir()) == []


def test_a_file_that_is_there_already_is_not_sent_again(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path
) -> None:
    copies, there = Copies((tmp_path / "elsewhere").as_uri(), place.runs), tmp_path / "elsewhere" / "mine"

    def written_ns() -> dict[str, int]:
        return {name: (there / name).stat().st_mtime_ns for name in (*MADE, LIST)}

    copies.keep(mine)
    first = written_ns()
    copies.keep(mine)
    assert written_ns() == first
    (place.folder / "report.html").write_text("<b>")  # as long as it was
    (there / "export" / "config.json").write_text("{} ")
    (place.folder / "export" / "new.json").write_text("{}")
    copies.keep(mine)
    changed = {name for name, at_ns in written_ns().items() if at_ns != first[name]}
    assert changed == {"report.html", "export/config.json", LIST}
    shutil.rmtree(place.folder)
    copies.bring_back(mine, store)
    assert files(place.folder) == {**MADE, "report.html": "<b>", "export/new.json": "{}"}


def test_a_copy_that_is_cut_off_while_it_is_renewed_is_none(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path
) -> None:
    copies, there = Copies((tmp_path / "elsewhere").as_uri(), place.runs), tmp_path / "elsewhere" / "mine"
    copies.keep(mine)
    for name in ("report.html", "export/config.json"):
        (place.folder / name).write_text("anew")
    (there / "export" / "config.json").unlink()
    (there / "export" / "config.json").mkdir()  # so it cannot be written
    with pytest.raises(TransientError):
        copies.keep(mine)
    shutil.rmtree(place.folder)
    copies.bring_back(mine, store)
    assert not place.folder.exists()


def test_a_copy_that_failed_is_tried_again_by_itself_and_told_to_be_outstanding(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "elsewhere"
    there.write_text("in its place, so nothing can be written")
    copying = Copying(store, place.runs, Copies(there.as_uri(), place.runs))
    jobs = ServiceJobs(store)

    def told() -> list[str]:
        return [event.kind for event in store.events("mine") if "cop" in event.kind]

    copying.step()
    assert told() == []  # of a job that has made nothing
    jobs.set_uncopied("mine", True)
    monkeypatch.setattr(copying_module, "FIRST_PAUSE_S", 0.0)
    copying.step()
    copying.step()
    assert (told(), jobs.get("mine").is_to_be_copied) == (["copy failed"], True)
    monkeypatch.setattr(copying_module, "FIRST_PAUSE_S", 3600.0)
    waiting = Copying(store, place.runs, Copies(there.as_uri(), place.runs))
    waiting.step()
    there.unlink()
    waiting.step()
    assert not there.exists()  # its pause is not over
    with place.lock():
        copying.step()
    assert not there.exists()  # somebody works on it
    copying.step()
    assert (told()[-1], jobs.get("mine").is_to_be_copied) == ("copied", False)
    shutil.rmtree(place.folder)
    Copies(there.as_uri(), place.runs).bring_back(mine, store)
    assert files(place.folder) == MADE


def test_a_job_whose_files_cannot_be_read_keeps_no_other_from_its_copy(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path
) -> None:
    jobs, there = ServiceJobs(store), tmp_path / "elsewhere"
    jobs.submit("ann", "broken", {}, "")
    store.set_job_state("broken", JobState.DONE)
    Place(place.runs, "broken").folder.write_text("no folder")
    copying = Copying(store, place.runs, Copies(there.as_uri(), place.runs))
    for first, second in (("broken", "mine"), ("mine", "broken")):  # whichever comes first
        jobs.set_uncopied(first, True)
        jobs.set_uncopied(second, True)
        copying.step()
        assert [job.record.name for job in jobs.to_be_copied()] == ["broken"]
        copying = Copying(store, place.runs, Copies(there.as_uri(), place.runs))
    assert [event.kind for event in store.events("broken") if "cop" in event.kind] == ["copy failed"] * 2


def test_a_later_job_of_a_name_waits_for_no_pause_of_the_first(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path
) -> None:
    there = tmp_path / "elsewhere"
    there.write_text("in its place, so nothing can be written")
    jobs = ServiceJobs(store)
    copying = Copying(store, place.runs, Copies(there.as_uri(), place.runs))
    jobs.set_uncopied("mine", True)
    copying.step()
    with jobs.removing("mine"):
        pass
    jobs.submit("bob", "mine", {}, "")
    store.set_job_state("mine", JobState.DONE)
    jobs.set_uncopied("mine", True)
    there.unlink()
    copying.step()
    assert jobs.to_be_copied() == []


def test_a_list_that_was_cut_off_is_written_anew(
    place: Place, mine: JobRecord, store: Store, tmp_path: Path
) -> None:
    copies, there = Copies((tmp_path / "elsewhere").as_uri(), place.runs), tmp_path / "elsewhere" / "mine"
    copies.keep(mine)
    (there / LIST).write_bytes((there / LIST).read_bytes()[:-9])
    copies.keep(mine)
    shutil.rmtree(place.folder)
    copies.bring_back(mine, store)
    assert files(place.folder) == MADE


def test_a_set_that_stays_as_one_of_its_jobs_is_worked_on_is_copied_again(
    place: Place, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRUNEFRONT_ARTIFACTS", (tmp_path / "elsewhere").as_uri())
    jobs, runs = ServiceJobs(store), place.runs
    jobs.submit("ann", "pair", {"models": [{"name": "a"}, {"name": "b"}]}, "")
    store.create_job("pair.a", {}, {})
    store.set_job_state("pair", JobState.DONE)
    for name in ("pair", "pair.a"):
        shutil.copytree(place.folder, Place(runs, name).folder)
    jobs.set_uncopied("pair", True)
    copying = Copying(store, runs, Copies((tmp_path / "elsewhere").as_uri(), runs))
    copying.step()
    copied = files(tmp_path / "elsewhere" / "pair")
    with served(store, runs / ".service") as address:
        with client(address, token(store, Role.SUBMITTER, "ann")) as ann:
            with Place(runs, "pair.a").lock():
                assert ann.delete("/jobs/pair").status_code == 503
            assert not (tmp_path / "elsewhere" / "pair").exists()
            copying.step()
            assert files(tmp_path / "elsewhere" / "pair") == copied
            assert ann.delete("/jobs/pair").status_code == 204


def test_a_job_at_work_is_copied_when_it_is_let_go(mine: JobRecord, store: Store) -> None:
    jobs, leases = ServiceJobs(store), Leases(store)
    store.create_job("tried", {}, {})
    jobs.adopt("tried", "ann")
    lease = leases.take("h")
    assert lease
    assert lease.job == "tried"
    ServiceJobs(leases.guarded(lease)).set_uncopied("tried", True)
    leases.guarded(lease).set_job_state("tried", JobState.DONE)
    assert jobs.to_be_copied() == []
    leases.bury(lease, "killed by signal 9")  # before anything was copied
    assert [job.record.name for job in jobs.to_be_copied()] == ["tried"]


def test_without_an_address_nothing_is_copied(place: Place, mine: JobRecord, store: Store) -> None:
    copies, before = Copies("", place.runs), files(place.runs)
    copies.keep(mine)
    copies.bring_back(replace(mine, name="other"), store)
    copies.forget("mine")
    assert files(place.runs) == before


def test_an_address_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"PRUNEFRONT_ARTIFACTS is .*; allowed is a URL that fsspec knows"):
        Copies("nowhere://bucket", tmp_path)
