"""The service from Python: what is submitted, once; what is watched, without a gap; what arrives, whole."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import search
from hwprofiles.errors import ConflictError, RequestError, TransientError
from hwprofiles.remote import NoAnswerError, RefusedError, Remote, ServerTroubleError
from search import remote_job, sending
from search.client import Client, RemoteJob
from search.job import Job
from search.place import Place
from search.sending import key_of, send
from search.service.brought import Brought
from search.settings import Settings
from tests.serving import token
from trials.leases import Leases
from trials.service_jobs import ServiceJobs
from trials.store import Store
from trials.tokens import Role


@pytest.fixture(scope="module")
def ann(store: Store, address: str) -> Iterator[Client]:
    with Client(address, token(store, Role.SUBMITTER, "ann")) as ann:
        yield ann


def queued(ann: Client, store: Store, name: str) -> RemoteJob:
    """A job of ann's that nobody works on."""
    ServiceJobs(store).submit("ann", name, store.job("small").spec, name)
    return ann.job(name)


def test_a_client_loads_no_torch_until_it_submits() -> None:
    told = "import search.client, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told]).returncode == 0


def test_what_was_sent_before_a_kill_is_not_sent_again_and_the_job_is_one(
    ann: Client, small_job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PART_BYTES", 50_000)
    parts: list[tuple[str, float]] = []

    def lost(share: float, file: str) -> None:
        parts.append((file, share))
        if file == "weights.safetensors" and share > 0.5:
            raise KeyboardInterrupt

    job = Job.load(small_job)
    with pytest.raises(KeyboardInterrupt):
        send(ann.remote, job, lost, patience_s=0)
    _, reached = parts[-1]
    assert 0.5 < reached < 1

    first: list[tuple[str, float]] = []
    tables = send(ann.remote, job, lambda share, file: first.append((file, share)), patience_s=0)
    assert first[0][0] == "weights.safetensors"
    assert first[0][1] > reached
    before = len(ann.jobs())  # here it is killed: all is sent, and no job asked for
    again: list[float] = []
    submitted = [ann.submit(small_job, progress=lambda share, file: again.append(share)) for _ in range(2)]
    assert again == []
    assert [(each.name, each.is_new) for each in submitted] == [("small-2", True), ("small-2", False)]
    assert len(ann.jobs()) == before + 1
    assert key_of(tables) != key_of({**tables, "name": "other"})


def test_what_a_factory_or_a_folder_of_images_gives_arrives_as_arrays(
    ann: Client, store: Store, runs: Path, small_job: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_job.parent, tmp_path / "job")
    (tmp_path / "job" / "made.py").write_text(
        "import numpy as np\n"
        "def splits(rows):\n"
        "    return {'train': (np.arange(rows * 64.0).reshape(rows, 1, 8, 8), np.arange(rows) % 2)}\n"
    )
    for label in ("cat", "dog"):
        folder = tmp_path / "job" / "images" / label
        folder.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), len(label) * ord(label[0]) % 256, np.uint8)).save(folder / "one.png")
    text = small_job.read_text()
    made = {"factory": 'factory = "made:splits"\nargs = { rows = 6 }', "folder": 'train = "images"'}
    for source, keys in made.items():
        path = tmp_path / "job" / f"{source}.toml"
        path.write_text(text.replace('source = "digits"', f'source = "{source}"\n{keys}'))
        asked = ann.remote.call("GET", f"/jobs/{ann.submit(path, name=source).name}/asked").json()
        assert (asked["data"]["source"], asked["model"]["factory"]) == ("npz", "")
        arrived = np.load(
            Brought(store, runs / ".service", Settings()).located("ann", asked["data"]["train"]["path"])
        )
        if source == "factory":
            np.testing.assert_array_equal(arrived["x0"], np.arange(6 * 64.0).reshape(6, 1, 8, 8))
            np.testing.assert_array_equal(arrived["y"], [0, 1, 0, 1, 0, 1])
        else:
            assert (arrived["x0"].dtype, arrived["x0"].shape) == (np.uint8, (2, 1, 8, 8))
            np.testing.assert_array_equal(arrived["x0"][1], 3 * ord("d") % 256)


def test_data_that_the_service_has_are_named_as_they_are(
    ann: Client, store: Store, address: str, small_job: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_job.parent, tmp_path / "job")
    path = tmp_path / "job" / "job.toml"
    named = 'source = "folder"\ntrain = "source:images"'
    path.write_text(small_job.read_text().replace('source = "digits"', named))
    with pytest.raises(RequestError, match="'source:images' is not here"):
        ann.submit(path)
    with Client(address, token(store, Role.ADMIN)) as admin:
        admin.remote.call("PUT", "/sources/images", json.dumps({"location": str(tmp_path)}))
    asked = ann.remote.call("GET", f"/jobs/{ann.submit(path, name='named').name}/asked").json()
    assert asked["data"]["train"]["path"] == "source:images"


def test_a_front_is_a_frame(ann: Client) -> None:
    job = ann.job("small")
    trials, front = job.trials(), job.front()
    assert list(trials.index) == list(range(12))
    assert list(front.index) == list(trials[trials["on_front"]].sort_values("latency_ms").index)
    assert front["latency_ms"].is_monotonic_increasing
    assert front["accuracy"].is_monotonic_increasing
    shown = job._repr_html_()
    assert "<b>small</b>: done" in shown
    assert all(f"<th>{number}</th>" in shown for number in front.index)


def test_before_the_first_trial_a_front_is_a_frame_without_rows(
    ann: Client, store: Store, runs: Path
) -> None:
    record = store.job("small")
    store.create_job("early", {**record.spec, "name": "early"}, record.plan)
    shutil.copytree(Place(runs, "small").bundle, Place(runs, "early").bundle)
    shutil.copy(Place(runs, "small").profile, Place(runs, "early").profile)
    ServiceJobs(store).adopt("early", "ann")
    job = ann.job("early")
    assert job.front().empty
    assert "accuracy" in job.front()
    assert "<b>early</b>: queued" in job._repr_html_()


@contextmanager
def cutting(address: str, after_bytes: int) -> Iterator[str]:
    """A way to a server that is cut off once, when so many bytes of an answer have passed."""
    host, port = address.removeprefix("http://").split(":")
    cut = threading.Event()

    def forward(source: socket.socket, target: socket.socket, *, answers: bool) -> None:
        passed = 0
        with suppress(ConnectionError):  # whoever reads may be gone by the time this is passed on
            while piece := source.recv(256):
                if answers and not cut.is_set() and (passed := passed + len(piece)) > after_bytes:
                    cut.set()
                    break
                target.sendall(piece)
        for each in (source, target):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with near, socket.create_connection((host, int(port))) as far:
                asking = threading.Thread(target=forward, args=(near, far), kwargs={"answers": False})
                asking.start()
                forward(far, near, answers=True)
                asking.join()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert cut.is_set()


def test_a_stream_that_is_cut_off_is_taken_up_where_it_was(ann: Client, store: Store, address: str) -> None:
    numbers = [event.number for event in store.events("small")]
    told = list(ann.job("small").watch())
    assert [each.data["number"] for each in told if each.kind != "job"] == numbers
    with cutting(address, 1200) as way, Client(way, token(store, Role.VIEWER, "ann")) as other:
        job = ann.job("small")
        job.client = other
        again = list(job.watch())
    assert [each.data["number"] for each in again if each.kind != "job"] == numbers
    assert sum(each.kind == "job" for each in again) >= 1


def test_who_waits_no_longer_is_told_that_the_job_goes_on(ann: Client, store: Store) -> None:
    assert ann.job("small").wait(timeout_s=5) == "done"
    job = queued(ann, store, "waiting")
    with pytest.raises(TransientError, match=r"'waiting' is still queued after 0.1 s of waiting; it goes on"):
        job.wait(timeout_s=0.1)


def test_verbs_give_the_state_and_those_that_do_not_fit_the_services_sentence(
    ann: Client, store: Store
) -> None:
    job = queued(ann, store, "steered")
    assert [job.pause(), job.resume(), job.cancel(), job.retry()] == [
        "paused",
        "queued",
        "cancelled",
        "queued",
    ]
    with pytest.raises(RefusedError, match="is queued and cannot take retry; it can take pause") as refused:
        job.retry()
    assert refused.value.status == 409
    assert job.state == "queued"
    job.cancel()
    assert "has nothing to show yet" in job._repr_html_()
    with pytest.raises(RequestError, match="no job 'nosuch'"):
        ann.job("nosuch")


def test_an_export_arrives_whole_or_not_at_all(ann: Client, runs: Path, tmp_path: Path) -> None:
    job = ann.job("small")
    place = Place(runs, "small")
    images = torch.rand(3, 1, 8, 8)
    made, arrived = search.load(place.export), search.load(job.export(tmp_path / "pruned"))
    assert torch.equal(made(images), arrived(images))
    assert {path.name for path in (tmp_path / "pruned").iterdir()} >= {"model.onnx", "config.json"}
    with pytest.raises(RequestError, match="exists already; choose another folder"):
        job.export(tmp_path / "pruned")
    trial = json.loads((place.export / "config.json").read_text())["trial"]
    assert job.export(tmp_path / "same", trial=trial).is_dir()
    whole = (place.export / "model.onnx").read_bytes()
    (place.export / "model.onnx").write_bytes(whole[:-1])
    with pytest.raises(TransientError, match=r"model\.onnx of job 'small' arrived damaged"):
        job.export(tmp_path / "damaged")
    (place.export / "model.onnx").write_bytes(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pruned", "same"]


def test_an_export_that_is_cut_off_goes_on(
    store: Store, address: str, runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Place(runs, "small").export / "model.onnx"
    text = token(store, Role.VIEWER, "ann")
    with cutting(address, 10_000 + model.stat().st_size // 2) as way, Client(way, text) as ann:
        ann.job("small").export(tmp_path / "pruned")
    assert (tmp_path / "pruned" / "model.onnx").read_bytes() == model.read_bytes()
    assert "trying again" in caplog.text


def test_what_has_exported_nothing_says_so(ann: Client, store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        ConflictError, match="'empty' is queued and has exported nothing; wait, or name a trial"
    ):
        queued(ann, store, "empty").export(tmp_path / "none")
    with pytest.raises(RequestError, match="has no trial 3"):
        ann.job("empty").export(tmp_path / "none", trial=3)


def export_as_a_process_would(store: Store, runs: Path, *, fails: bool) -> None:
    """Wait until an export of the job "small" is asked for, and make it of the winner's, or fail at it."""
    jobs, leases = ServiceJobs(store), Leases(store)
    while not (wanted := jobs.get("small").exports):
        time.sleep(0.02)
    while (lease := leases.take("test", most=99)) and lease.job != "small":
        leases.bury(lease, "killed")
    assert lease
    place = Place(runs, "small")
    if fails:
        store.add_event("small", "export failed", f"trial {wanted[0]}: it diverges")
    else:
        shutil.copytree(place.export, place.export_of(wanted[0]))
    leases.end_export(lease, wanted[0])
    leases.release(lease)


def test_a_trial_that_was_not_exported_is_asked_for_and_waited_for(
    ann: Client, store: Store, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_job, "POLL_S", 0.05)
    with ThreadPoolExecutor() as threads:
        threads.submit(export_as_a_process_would, store, runs, fails=True)
        with pytest.raises(
            RequestError, match="trial 3 of job 'small' could not be exported: trial 3: it div"
        ):
            ann.job("small").export(tmp_path / "three", trial=3)
        made = threads.submit(export_as_a_process_would, store, runs, fails=False)
        assert (ann.job("small").export(tmp_path / "three", trial=3) / "model.onnx").exists()
        made.result()


def test_what_the_processes_of_a_job_print_is_told_from_its_end_on(ann: Client, runs: Path) -> None:
    log = runs / ".service" / "logs" / "small.log"
    log.parent.mkdir(exist_ok=True)
    line = b"x" * 999 + b"\n"
    log.write_bytes(line * 300 + "starting …\n".encode())
    [end] = ann.job("small").log()
    assert end == line * 262 + "starting …\n".encode()  # what of 256 KiB is whole
    parts = ann.job("small").log(follow=True)
    assert next(parts) == end
    with log.open("ab") as file:
        file.write(b"more\n")
    assert b"".join(parts) == b"more\n"


def test_a_servers_time_and_ours_are_different_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with Remote(url, "t") as remote, pytest.raises(NoAnswerError, match="no answer came in time"):
            remote.call("GET", "/session", patience_s=0, answer_s=0.1)

        def answer() -> None:
            with listener.accept()[0] as waiting:  # the call above
                waiting.recv(4096)
            for said in ("504 Gateway Timeout", "200 OK"):
                with listener.accept()[0] as caller:
                    caller.recv(4096)
                    caller.sendall(f"HTTP/1.1 {said}\r\nContent-Length: 2\r\n\r\nhi".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        with (
            Remote(url, "t") as remote,
            pytest.raises(ServerTroubleError, match="answers 504 Gateway Timeout"),
        ):
            remote.call("GET", "/session", patience_s=0)
        with pytest.raises(RequestError, match="answers as no prunefront server does; check the address"):
            Client(url, "t").user()
        thread.join()
