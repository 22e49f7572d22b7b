"""Measurements of the service: what it refuses, and how it hands out work."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hwprofiles import Device, Rounds, open_runtime, read_profile
from hwprofiles.board import Board
from hwprofiles.runtimes import CALL
from hwprofiles.wire import HOLDER, Measurement, Pass
from tests.contracts.runtime import IDENTITY, conv
from trials.measurements import MAX_CLAIMS, Measurements, MeasurementState
from trials.store import Store

KERNELS = (CALL, conv(3, 8))
LINEAR = {"kind": "linear", "in_channels": 4, "out_channels": 4, "in_size": [1]}
BOARD = Device(name="board", runtime="onnxruntime", board="as it announced itself")
HOLDERS = {HOLDER: "0" * 32}, {HOLDER: "1" * 32}


def measurement(**changes: Any) -> Measurement:
    fields = {"agent": "board", "runtime": "onnxruntime", "kernels": KERNELS, "passes": 2, "rounds": 2}
    return Measurement(**(fields | changes))


def a_pass(wanted: Measurement, times_ms: Any = None, **device: Any) -> str:
    runtime = open_runtime("onnxruntime")
    sent = Pass(
        device=runtime.describe(name="board", batch=1, threads=device.pop("threads", 1)),
        times_ms=np.ones((len(wanted.rows), wanted.rounds, 4)).tolist(),
        before=Board(power_mode="15W", temperatures_c={"cpu": 40.0}),
        after=Board(power_mode="15W"),
    )
    return json.dumps(sent.model_dump(mode="json") | ({"times_ms": times_ms} if times_ms else {}) | device)


def ask(admin: httpx.Client, wanted: Measurement) -> str:
    answer = admin.post("/measurements", content=wanted.model_dump_json())
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["id"])


def claim(admin: httpx.Client, agent: str = "board", holder: int = 0) -> Any:
    announced = {"board": {}, "devices": []}
    answer = admin.post(f"/agents/{agent}/claim", json=announced, headers=HOLDERS[holder])
    return answer.json() if answer.status_code == 200 else None


def send(admin: httpx.Client, job: str, number: int, content: str, holder: int = 0) -> tuple[int, str]:
    path = f"/measurements/{job}/passes/{number}"
    answer = admin.put(path, content=content, headers=HOLDERS[holder])
    return answer.status_code, answer.json()["detail"] if answer.content else ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"passes": 0}, "passes.*greater than or equal to 1"),
        ({"agent": "../../etc"}, "agent.*pattern"),
        ({"kernels": [LINEAR]}, "lack.*'call'"),
        ({"kernels": ["call", LINEAR | {"in_channels": 2**20, "out_channels": 2**20}]}, "larger than"),
        ({"kernels": ["call", LINEAR | {"in_channels": 0}]}, "kernel 1: it has less than 1 channel"),
        ({"kernels": ["call", LINEAR | {"in_size": [10**4000] * 800}]}, "in_size of a 'linear' has 800"),
        ({"kernels": ["call", LINEAR | {"in_size": [2**40]}]}, "kernel 1: in_size has a number .* above"),
        ({"kernels": ["call", LINEAR | {"kind": "k" * 3000}]}, "kind: .*at most 2000 characters"),
        ({"kernels": ["call", "call"]}, "twice"),
        ({"surprise": 1}, "surprise.*not permitted"),
        ({"surprise" * 1000: 1}, r"^body\.(surprise){10}: .*not permitted"),
        ({"kernels": ["call", LINEAR | {"width": 1}]}, "width.*[Uu]nexp"),
    ],
)
def test_a_request_that_cannot_be_is_refused_naming_where(
    admin: httpx.Client, change: dict[str, Any], says: str
) -> None:
    call = {"kind": "call", "in_channels": 1, "out_channels": 1}
    wanted = json.loads(measurement().model_dump_json()) | change
    wanted["kernels"] = [call if kernel == "call" else kernel for kernel in wanted["kernels"]]
    answer = admin.post("/measurements", json=wanted)
    assert answer.status_code == 422
    assert re.search(says, answer.json()["detail"]), answer.json()["detail"]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (r'"\ud800"', "hex escape"),
        (r'{"\udfff": 1}', "hex escape"),
        ('{"cpu": 1, "cpu": 2}', "'cpu' is there twice"),
        ("[" * 100_000, "recursion limit"),
        ("9" * 5000, "number out of range"),
    ],
)
def test_json_that_cannot_be_stored_is_refused_and_nothing_of_it_is_kept(
    admin: httpx.Client, told: str, says: str
) -> None:
    """As a power mode, and as what no board has, whose name then is in the sentence."""
    for content in (f'{{"board": {{"power_mode": {told}}}, "devices": []}}', f'{{"colour": {told}}}'):
        answer = admin.post("/agents/board/claim", content=content, headers=HOLDERS[0])
        assert (answer.status_code, says in answer.json()["detail"]) == (422, True), answer.text
    assert admin.get("/agents").json() == []


@pytest.mark.parametrize("time_ms", ["NaN", "-1.0", "0.0", "Infinity"])
def test_a_time_that_cannot_be_is_refused_naming_its_row(admin: httpx.Client, time_ms: str) -> None:
    wanted = measurement()
    job = ask(admin, wanted)
    claim(admin)
    content = a_pass(wanted).replace("1.0", "9.5").replace("9.5]]]", f"{time_ms}]]]")
    status, said = send(admin, job, 0, content)
    assert status == 422
    assert re.search(r"row 1 \(conv2d 3x3 3->8 @6x6\) has a time of (nan|-1.0|0.0|inf) ms", said)
    assert admin.get(f"/measurements/{job}").json()["passes_done"] == 0


def test_a_pass_of_another_shape_or_device_is_refused(admin: httpx.Client) -> None:
    wanted = measurement()
    job = ask(admin, wanted)
    claim(admin)
    for content, says in [
        (a_pass(wanted, times_ms=[[[1.0]]]), "1 rows of times; wanted 2"),
        (a_pass(wanted, times_ms=[[[1.0], [1.0]], [[1.0]]]), "row 1"),
        (a_pass(wanted, times_ms=[[[1.0], [1.0]], [[1.0], [1.0, 2.0]]]), "row 1"),
        (a_pass(wanted, threads=2), "threads"),
        (a_pass(wanted, energy_mj={"other": {"VDD_IN": 1.0}}), "energy of a network 'other'"),
    ]:
        status, said = send(admin, job, 0, content)
        assert (status, says in said) == (422, True), said
    assert send(admin, job, 2, a_pass(wanted)) == (422, "there is no pass 2; allowed: 0 to 1")
    assert send(admin, job, 0, a_pass(wanted))[0] == 201
    fewer = a_pass(wanted, times_ms=np.ones((2, 2, 2)).tolist())
    assert send(admin, job, 1, fewer) == (
        422,
        "the pass has 2 runs a visit, and those before it 4; start over",
    )
    other = json.loads(a_pass(wanted))
    other["device"]["power_mode"] = "MAXN"
    status, said = send(admin, job, 1, json.dumps(other))
    assert (status, "changed between passes" in said) == (422, True)


def test_a_pass_that_is_sent_twice_counts_once_and_the_last_makes_the_profile(
    admin: httpx.Client, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(b"network").hexdigest()
    admin.put(f"/files/{sha256}", content=b"network")
    wanted = measurement(networks=({"name": "identity", "sha256": sha256, "graph": IDENTITY},))
    job = ask(admin, wanted)
    assert claim(admin)["done"] == []
    energy_mj = {"identity": {"VDD_IN": 1.5}}
    second = a_pass(wanted, times_ms=np.full((3, 2, 4), 2.0).tolist(), energy_mj=energy_mj)
    assert [send(admin, job, 0, a_pass(wanted))[0], send(admin, job, 0, second)[0]] == [201, 200]
    early = admin.get(f"/measurements/{job}/profile")
    assert (early.status_code, "running with 1 of 2 passes" in early.json()["detail"]) == (422, True)
    assert send(admin, job, 1, second)[0] == 201
    assert admin.get(f"/measurements/{job}").json()["state"] == "done"
    assert admin.get(f"/measurements/{job}").json()["boards"][0]["before"]["power_mode"] == "15W"
    assert send(admin, job, 1, second)[0] == 200
    (tmp_path / "got.parquet").write_bytes(admin.get(f"/measurements/{job}/profile").content)
    profile = read_profile(tmp_path / "got.parquet")
    times_ms = np.stack([np.ones((2, 4)), np.full((2, 4), 2.0)])
    assert profile.kernels == dict.fromkeys(KERNELS, Rounds(times_ms))
    assert profile.networks[0].energy_mj == ({"VDD_IN": 1.5},)
    assert ask(admin, wanted) == job
    assert claim(admin) is None


def test_a_job_goes_to_its_agent_and_to_another_holder_once_the_lease_has_run_out(
    admin: httpx.Client, store: Store
) -> None:
    job = ask(admin, measurement())
    assert claim(admin, agent="other") is None
    assert claim(admin)["id"] == job
    assert claim(admin, holder=1) is None
    assert claim(admin)["id"] == job
    with store.writing() as connection:
        connection.exec_driver_sql("UPDATE measurements SET lease_until_s = 0")
    assert claim(admin, holder=1)["id"] == job
    content = a_pass(measurement())
    assert send(admin, job, 0, content, holder=0)[0] == 409
    assert admin.post(f"/measurements/{job}/lease", headers=HOLDERS[0]).status_code == 409
    assert send(admin, job, 0, content, holder=1)[0] == 201


def test_an_agent_is_heard_of_while_it_measures_and_asks_for_no_work(
    admin: httpx.Client, store: Store
) -> None:
    job = ask(admin, measurement())
    claim(admin)

    def seen_s_ago() -> float:
        (agent,) = admin.get("/agents").json()
        return float(agent["seen_s_ago"])

    for heard in (
        lambda: admin.post(f"/measurements/{job}/lease", headers=HOLDERS[0]),
        lambda: send(admin, job, 0, a_pass(measurement())),
    ):
        with store.writing() as connection:
            connection.exec_driver_sql("UPDATE agents SET seen_s = 0")
        assert seen_s_ago() > 1e6
        heard()
        assert seen_s_ago() < 100


def test_a_job_that_kills_its_agents_ends_and_asked_for_again_starts_over(
    admin: httpx.Client, store: Store
) -> None:
    job = ask(admin, measurement())
    for _ in range(MAX_CLAIMS):
        assert claim(admin)["id"] == job
    assert claim(admin) is None
    record = Measurements(store).get(job)
    assert record
    assert (record.state, "10 times" in record.reason) == (MeasurementState.FAILED, True)
    assert ask(admin, measurement()) == job
    assert claim(admin)["id"] == job


def test_a_file_that_is_not_what_its_sha256_says_is_not_kept(admin: httpx.Client, tmp_path: Path) -> None:
    sha256 = hashlib.sha256(b"network").hexdigest()
    assert admin.put(f"/files/{sha256}", content=b"netw").status_code == 422
    assert admin.get(f"/files/{sha256}").status_code == 404
    assert admin.put(f"/files/{sha256}", content=b"network").status_code == 201
    assert admin.get(f"/files/{sha256}").content == b"network"
    assert [path.name for path in (tmp_path / "service" / "files").iterdir()] == [sha256]


def test_a_body_that_is_too_large_is_refused(admin: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.service.limits.MAX_MEASURED_BYTES", 100)
    answer = admin.post("/measurements", content=measurement().model_dump_json())
    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    large = admin.post("/session", json={"token": "t" * 5000})
    assert (large.status_code, large.json()["status"]) == (413, 413)
