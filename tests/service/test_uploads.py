"""What is brought to the service: in parts, cut off, at once, by several; and what is not what it says."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hwprofiles.errors import NotFoundError
from hwprofiles.wire import API
from search.service import incoming
from search.service.brought import Brought
from search.service.incoming import KEPT_S
from search.settings import Settings
from tests.serving import client, served, token
from trials.bundle import Bundle
from trials.graph import Graph, Input, Node, Tensor, TensorSpec, Value
from trials.store import Store
from trials.tokens import Role

FILES = ("graph.json", "weights.safetensors", "manifest.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the service, whose files and data may have so many bytes."""
    return tmp_path_factory.mktemp("served") / "service"


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Store]:
    folder.mkdir()
    with Store.open(folder.with_name("prunefront.db")) as store:
        yield store


@pytest.fixture(scope="module")
def address(store: Store, folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRUNEFRONT_MAX_UPLOAD_BYTES", "50_000_000")
        patch.setenv("PRUNEFRONT_MAX_DATA_BYTES", "10_000_000")
        with served(store, folder) as address:
            yield address


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a good bundle."""
    layer = {"input": Value("x"), "weight": Tensor("layer.weight"), "bias": None}
    graph = Graph(
        inputs=(Input(name="x", shape=(2,)),),
        nodes=(Node("y", "aten.linear.default", layer),),
        outputs=(Value("y"),),
        tensors={"layer.weight": TensorSpec(shape=(2, 2), dtype="float32", trainable=True)},
    )
    made = tmp_path_factory.mktemp("bundle") / "model"
    Bundle(graph, {"layer.weight": torch.eye(2)}).write(made)
    return {name: (made / name).read_bytes() for name in FILES}


def named(content: bytes) -> str:
    return sha256(content).hexdigest()


def put(
    caller: httpx.Client, content: bytes, first: int = 0, last: int | None = None, name: str = ""
) -> httpx.Response:
    """Send bytes first to last of a file, the last one included, by default all."""
    last = len(content) - 1 if last is None else last
    return caller.put(
        f"/uploads/{name or named(content)}",
        content=content[first : last + 1],
        headers={"Content-Range": f"bytes {first}-{last}/{len(content)}"},
    )


def whole(caller: httpx.Client, content: bytes) -> str:
    """Send all of a file; returns its sha256."""
    answer = put(caller, content)
    assert answer.json() == {"size_bytes": len(content), "whole": True}, answer.text
    return named(content)


def here(caller: httpx.Client, content: bytes) -> tuple[int, bool]:
    found = caller.get(f"/uploads/{named(content)}").json()
    return found["size_bytes"], found["whole"]


def said(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["detail"]


def some(count: int) -> bytes:
    return np.random.default_rng().bytes(count)


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **(arrays or {"x": np.ones((4, 2)), "y": np.arange(4)}))
    return buffer.getvalue()


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def test_a_file_comes_in_parts_each_where_the_last_one_ended(ann: httpx.Client) -> None:
    content = some(1000)
    assert here(ann, content) == (0, False)
    assert put(ann, content, 0, 399).json() == {"size_bytes": 400, "whole": False}
    for first in (401, 800):
        assert said(put(ann, content, first)) == (
            409,
            "400 bytes of this file are here; send the part that begins there",
        )
    assert put(ann, content, 300, 499).json() == {"size_bytes": 500, "whole": False}
    assert put(ann, content, 500).json() == {"size_bytes": 1000, "whole": True}
    assert put(ann, content, 0, 99).json() == {"size_bytes": 1000, "whole": True}
    assert here(ann, content) == (1000, True)


def test_a_part_that_is_cut_off_is_kept_as_far_as_it_came(ann: httpx.Client, address: str) -> None:
    content = some(100_000)
    url, bearer = httpx.URL(address), ann.headers["authorization"]
    with socket.create_connection((url.host, url.port)) as caller:
        head = [
            f"PUT {API}/uploads/{named(content)} HTTP/1.1",
            f"Host: {url.host}",
            f"Authorization: {bearer}",
            "Content-Range: bytes 0-99999/100000",
            "Content-Length: 100000",
        ]
        caller.sendall("\r\n".join([*head, "", ""]).encode() + content[:70_000])
        while not here(ann, content)[0]:
            time.sleep(0.01)
    end = time.monotonic() + 30
    while (answer := put(ann, content, came := here(ann, content)[0])).status_code == 409:
        assert time.monotonic() < end
    assert 0 < came <= 70_000
    assert answer.json() == {"size_bytes": 100_000, "whole": True}


def test_a_file_that_is_not_what_its_sha256_says_is_not_kept(ann: httpx.Client, folder: Path) -> None:
    content, other = some(100), some(100)
    status, sentence = said(put(ann, content, name=named(other)))
    assert (status, "send it again" in sentence) == (422, True)
    assert here(ann, other) == (0, False)
    assert not [path for path in folder.rglob("*") if named(other) in path.name]


@pytest.mark.parametrize(
    ("range_", "status"),
    [
        ("bytes 0-9/10, 0-9/10", 422),
        ("bytes 5-4/10", 422),
        ("bytes 0-10/10", 422),
        ("bytes -1-9/10", 422),
        (f"bytes 0-9/{'9' * 4000}", 422),
        ("bytes 0-9/50000001", 413),
        ("bytes 0-4/10", 422),
    ],
)
def test_a_part_that_cannot_be_is_refused(ann: httpx.Client, range_: str, status: int) -> None:
    content = some(10)
    answer = ann.put(f"/uploads/{named(content)}", content=content, headers={"Content-Range": range_})
    assert said(answer)[0] == status
    assert here(ann, content) == (0, False)


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "%00", "0" * 63, "A" * 64, "../x"]
)
def test_a_file_has_no_name_but_its_sha256(ann: httpx.Client, folder: Path, name: str) -> None:
    before = sorted(folder.rglob("*"))
    for path in ("/uploads/", "/bundles/", "/data/"):
        answer = ann.put(f"{path}{name}", content=b"x", headers={"Content-Range": "bytes 0-0/1"})
        assert answer.status_code in (404, 405, 422), answer.text
    assert sorted(folder.rglob("*")) == before


def test_calls_at_once_make_one_whole_file(ann: httpx.Client) -> None:
    content = some(3_000_000)

    def send_all(_: int) -> list[int]:
        statuses, end = [], time.monotonic() + 30
        while not (found := here(ann, content))[1]:
            first = min(found[0], len(content) - 1)
            statuses.append(put(ann, content, first, min(first + 99_999, len(content) - 1)).status_code)
            assert time.monotonic() < end
        return statuses

    with ThreadPoolExecutor(4) as threads:
        statuses = {status for each in threads.map(send_all, range(4)) for status in each}
    assert here(ann, content) == (3_000_000, True)
    assert statuses <= {200, 409}


def test_what_has_not_grown_for_a_day_is_removed_when_the_next_file_comes(
    ann: httpx.Client, folder: Path
) -> None:
    half, old, young = some(100), some(100), some(100)
    put(ann, half, 0, 49)
    whole(ann, old)
    put(ann, young, 0, 49)
    past_s = time.time() - KEPT_S - 1
    for name in (f"{named(half)}.part", named(old)):
        os.utime(folder / "incoming" / "ann" / name, (past_s, past_s))
    whole(ann, some(10))
    assert [here(ann, each)[0] for each in (half, old, young)] == [0, 0, 50]


def test_without_room_on_the_disk_nothing_is_taken(
    ann: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "ROOM_BYTES", 2**62)
    assert said(put(ann, some(100))) == (
        507,
        "the disk of the service has no room for this file; try again later",
    )


def test_a_user_keeps_no_more_than_their_quota_and_makes_room_by_removing(
    store: Store, address: str, folder: Path
) -> None:
    quota = {"queued_jobs": 1, "running_jobs": 1, "worker_minutes": 1, "stored_bytes": 3000}
    with client(address, token(store, Role.ADMIN)) as admin:
        assert admin.put("/quotas/cleo", json=quota).status_code == 204
    first, second = npz(x=np.zeros((7, 2))), some(3000)
    with client(address, token(store, Role.SUBMITTER, "cleo")) as cleo:
        name = whole(cleo, first)
        assert cleo.put(f"/data/{name}").json()["size_bytes"] == len(first)
        assert not list((folder / "incoming" / "cleo").iterdir())  # it is counted once
        status, sentence = said(put(cleo, second, 0, 9))
        assert (status, f"'cleo' would keep {len(first) + 3000} bytes of at most 3000" in sentence) == (
            507,
            True,
        )
        assert put(cleo, second[:1000]).status_code == 200
        assert said(put(cleo, second[:2990]))[0] == 507
        assert cleo.delete(f"/uploads/{named(second[:1000])}").status_code == 204
        assert said(cleo.delete(f"/uploads/{named(second[:1000])}"))[0] == 404
        assert cleo.delete(f"/inputs/{name}").status_code == 204
        assert said(cleo.delete(f"/inputs/{name}"))[0] == 404
        assert not (folder / "data" / f"{name}.npz").exists()
        assert put(cleo, second).status_code == 200


def test_what_a_job_or_another_user_needs_stays(
    ann: httpx.Client, bob: httpx.Client, folder: Path, bundle: dict[str, bytes]
) -> None:
    content = npz(x=np.ones((8, 2), dtype=np.float32), y=np.arange(8) % 2)
    for caller in (ann, bob):
        for each in (*bundle.values(), content):
            whole(caller, each)
        model, data = named(bundle["manifest.json"]), named(content)
        assert caller.put(f"/bundles/{model}").status_code == 200
        assert caller.put(f"/data/{data}").status_code == 200
    asked = {
        "name": "needs",
        "model": {"bundle": f"sha256:{model}"},
        "data": {"source": "npz", "train": f"sha256:{data}"},
        "budget": {"macs": ["50%"]},
    }
    job = ann.post("/jobs", json=asked).json()["name"]
    again = ann.get(f"/jobs/{job}/asked").json()
    assert (again["model"]["bundle"], again["data"]["train"]["path"]) == (f"sha256:{model}", f"sha256:{data}")
    assert ann.post("/jobs", json={**again, "name": "again"}).status_code == 201
    for name in (model, data):
        assert "is needed by 2 of your jobs, such as 'needs'" in said(ann.delete(f"/inputs/{name}"))[1]
    for job in ("needs", "again"):
        assert ann.delete(f"/jobs/{job}").status_code == 204
    for caller, left in ((ann, True), (bob, False)):
        for name, path in ((model, f"bundles/{model}"), (data, f"data/{data}.npz")):
            assert caller.delete(f"/inputs/{name}").status_code == 204
            assert (folder / path).exists() == left


def test_what_is_removed_while_a_job_is_submitted_is_named_and_there_is_no_job(
    ann: httpx.Client, address: str, store: Store, bundle: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (*bundle.values(), npz()):
        whole(ann, each)
    model, data = named(bundle["manifest.json"]), named(npz())
    assert ann.put(f"/bundles/{model}").status_code == 200
    assert ann.put(f"/data/{data}").status_code == 200
    located = Brought.located

    def locate_and_remove(brought: Brought, user: str, reference: str) -> Path:
        found = located(brought, user, reference)
        if reference == f"sha256:{data}":
            with client(address, token(store, Role.SUBMITTER, "ann")) as elsewhere:
                assert elsewhere.delete(f"/inputs/{data}").status_code == 204
        return found

    monkeypatch.setattr(Brought, "located", locate_and_remove)
    asked = {
        "name": "late",
        "model": {"bundle": f"sha256:{model}"},
        "data": {"source": "npz", "train": f"sha256:{data}"},
        "budget": {"macs": ["50%"]},
    }
    assert said(ann.post("/jobs", json=asked)) == (
        404,
        f"'sha256:{data}' was removed just now; send it again",
    )
    assert ann.get("/jobs").json()["jobs"] == []
    assert ann.delete(f"/inputs/{model}").status_code == 204


def test_a_bundle_is_made_of_its_files_and_kept_once(
    ann: httpx.Client, bob: httpx.Client, store: Store, address: str, folder: Path, bundle: dict[str, bytes]
) -> None:
    name = named(bundle["manifest.json"])
    for content in bundle.values():
        assert said(ann.put(f"/bundles/{name}"))[0] == 404
        whole(ann, content)
    made = ann.put(f"/bundles/{name}").json()
    assert (made["kind"], made["size_bytes"]) == ("bundle", sum(map(len, bundle.values())))
    assert ann.put(f"/bundles/{name}").json() == ann.get(f"/inputs/{name}").json() == made
    kept = folder / "bundles" / name
    assert {name: (kept / name).read_bytes() for name in FILES} == bundle
    # Another has it only with all of it, and does not learn that it is here.
    assert (said(bob.get(f"/inputs/{name}"))[0], said(bob.put(f"/bundles/{name}"))[0]) == (404, 404)
    assert here(bob, bundle["graph.json"]) == (0, False)
    for content in bundle.values():
        whole(bob, content)
    inode = (kept / "graph.json").stat().st_ino
    assert bob.put(f"/bundles/{name}").json()["user"] == "bob"
    assert (kept / "graph.json").stat().st_ino == inode
    with client(address, token(store, Role.ADMIN)) as admin:
        users = [each["user"] for each in admin.get("/inputs").json() if each["sha256"] == name]
    assert users == ["ann", "bob"]


class Canary:
    """What a pickle would run where it is loaded."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self._file),))


def changed(bundle: dict[str, bytes], **files: bytes) -> dict[str, bytes]:
    """A bundle with other files, signed by its manifest."""
    new = bundle | {name.replace("_", "."): content for name, content in files.items()}
    manifest = json.loads(new["manifest.json"])
    manifest["sha256"] = {name: named(new[name]) for name in FILES[:2]}
    return new | {"manifest.json": json.dumps(manifest).encode()}


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_what_is_no_bundle_is_refused_in_a_sentence_and_nothing_of_it_is_run_or_kept(
    ann: httpx.Client, folder: Path, bundle: dict[str, bytes], tmp_path: Path
) -> None:
    canary = Canary(tmp_path / "sung")
    nodes = json.loads(bundle["graph.json"])
    nodes["nodes"] += [None] * 1_000_000
    hostile = {
        r"weights.safetensors is not a safetensors": changed(bundle, weights_safetensors=saved(canary)),
        r"at most 50000 are allowed": changed(bundle, graph_json=json.dumps(nodes).encode()),
        r"this is no manifest": bundle | {"manifest.json": pickle.dumps(canary)},
    }
    for path in ("../../../etc/passwd", "/etc/passwd", "0" * 64 + "\0"):
        forged = {"format": 1, "sha256": dict.fromkeys(FILES[:2], path)}
        hostile[f"(?#{path!r})no manifest"] = bundle | {"manifest.json": json.dumps(forged).encode()}
    before = {*folder.joinpath("bundles").glob("**/*")}
    for sentence, files in hostile.items():
        for content in files.values():
            whole(ann, content)
        status, found = said(ann.put(f"/bundles/{named(files['manifest.json'])}"))
        assert status == 422
        assert re.search(sentence, found), found
        assert str(folder) not in found
    assert {*folder.joinpath("bundles").glob("**/*")} == before
    assert not (tmp_path / "sung").exists()


def test_data_are_npz_or_parquet(ann: httpx.Client, folder: Path) -> None:
    table = pa.table({"label": [0, 1], "x": [[0.0, 1.0], [2.0, 3.0]]})
    for content, kind in ((npz(), "npz"), (parquet(table), "parquet")):
        name = whole(ann, content)
        assert ann.put(f"/data/{name}").json()["kind"] == kind
        assert (folder / "data" / f"{name}.{kind}").read_bytes() == content
        assert ann.put(f"/data/{name}").status_code == 200


def test_what_is_no_data_is_refused_in_a_sentence_and_nothing_of_it_is_run_or_kept(
    ann: httpx.Client, folder: Path, tmp_path: Path
) -> None:
    canary = Canary(tmp_path / "sung")
    song = pa.DictionaryArray.from_arrays([0] * 100_000, ["<script>" * 1000]).cast("string")
    hostile = {
        "neither npz nor Parquet": pickle.dumps(canary),
        "hold 'archive/data.pkl', which is no array": saved(canary),
        "take 10000128 bytes unpacked; at most 10000000": npz(x=np.zeros(10_000_000, dtype=np.uint8)),
        "unpacked it takes more than 10 MiB": parquet(pa.table({"label": song})),
    }
    before = {*folder.joinpath("data").glob("**/*")}
    for sentence, content in hostile.items():
        name = whole(ann, content)
        status, found = said(ann.put(f"/data/{name}"))
        assert (status, sentence in found, str(folder) in found) == (422, True, False), found
        assert ann.get(f"/inputs/{name}").status_code == 404
    assert {*folder.joinpath("data").glob("**/*")} == before
    assert not (tmp_path / "sung").exists()


def test_an_admin_registers_data_and_others_only_name_them(
    ann: httpx.Client, address: str, store: Store, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "data.npz").write_bytes(npz())
    with client(address, token(store, Role.ADMIN)) as admin:
        for name, location in (("here", str(tmp_path)), ("there", f"file://{tmp_path}/data.npz")):
            assert admin.put(f"/sources/{name}", json={"location": location}).status_code == 204
        for location in (
            "data.npz",
            f"{tmp_path}/none",
            f"file://{tmp_path}/none",
            "nothing://x",
            "file:///dev/zero",
        ):
            assert said(admin.put("/sources/bad", json={"location": location}))[0] == 422
        assert [each["location"] for each in admin.get("/sources").json()] == [
            str(tmp_path),
            f"file://{tmp_path}/data.npz",
        ]
    (tmp_path / "data.npz").unlink()
    shown = [(each["name"], each["kind"], each["location"]) for each in ann.get("/sources").json()]
    assert shown == [("here", "folder", None), ("there", "npz", None)]
    brought = Brought(store, folder, Settings())
    assert brought.located("ann", "source:here") == tmp_path
    assert brought.located("ann", "source:there").read_bytes() == npz()
    name = whole(ann, npz())
    ann.put(f"/data/{name}")
    assert brought.located("ann", f"sha256:{name}").read_bytes() == npz()
    for reference in (
        f"sha256:{named(b'')}",
        "source:none",
        str(tmp_path),
        f"file://{tmp_path}",
        "sha256:../x",
    ):
        with pytest.raises(NotFoundError, match="is not here"):
            brought.located("ann", reference)
    with pytest.raises(NotFoundError, match="is not here"):
        brought.located("bob", f"sha256:{name}")
