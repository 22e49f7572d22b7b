"""Jobs over HTTP: submitted, steered, watched and looked at, by whom they belong to and by nobody else."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from hwprofiles.errors import NotFoundError, RequestError
from search.place import Place
from search.service.asked import Located, read_asked
from tests.serving import client, token
from trials.leases import Leases
from trials.records import JobState
from trials.store import Store
from trials.tokens import Role, Tokens

BUNDLE = "sha256:" + "a" * 64


ASKED: dict[str, Any] = {
    "name": "mine",
    "model": {"bundle": BUNDLE},
    "data": {"source": "npz", "train": "source:digits"},
    "budget": {"latency": ["50%"]},
}


@pytest.fixture(scope="module")
def located(runs: Path) -> Located:
    def find(reference: str) -> Path:
        if reference in (BUNDLE, "source:digits"):
            return runs
        raise NotFoundError(f"nothing was sent as {reference}")

    return find


def told(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def submitted(caller: httpx.Client, **headers: str) -> str:
    answer = caller.post("/jobs", json=ASKED, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["name"])


def test_a_job_is_queued_under_its_owners_name(ann: httpx.Client, runs: Path) -> None:
    answer = ann.post("/jobs", json=ASKED)
    job = told(answer, 201)
    assert answer.headers["location"] == f"/api/v1/jobs/{job['name']}"
    assert (job["owner"], job["state"], job["budget"]) == ("ann", "queued", "latency at most 50% of dense")
    asked = told(ann.get(f"/jobs/{job['name']}/asked"))
    assert (asked["name"], asked["model"]["bundle"]) == (job["name"], runs.name)
    assert str(runs.parent) not in json.dumps(asked)


def test_the_same_key_is_the_same_job(ann: httpx.Client, bob: httpx.Client) -> None:
    first = submitted(ann, **{"Idempotency-Key": "k1"})
    assert submitted(ann, **{"Idempotency-Key": "k1"}) == first
    assert submitted(bob, **{"Idempotency-Key": "k1"}) != first
    other = {**ASKED, "search": {"trials": 7}}
    said = told(ann.post("/jobs", json=other, headers={"Idempotency-Key": "k1"}), 409)["detail"]
    assert f"came with another job before, '{first}'" in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model": {"factory": "os:getcwd", "input": {"shape": [1]}}}, "a service runs no code of yours"),
        ({"data": {"source": "factory", "factory": "os:getcwd"}}, "a service runs no code of yours"),
        ({"model": {"bundle": "/etc"}}, "model.bundle = '/etc' is no file of the service"),
        (
            {"data": {"source": "npz", "train": "../../etc/passwd"}},
            "data.train = '../../etc/passwd' is no file",
        ),
        ({"model": {"bundle": "sha256:" + "b" * 64}}, "nothing was sent as sha256:bbb"),
        ({"devices": [{"name": "x", "profile": "/tmp/x.parquet"}]}, "name a device of the service"),
        ({"name": "../up"}, "name"),
        ({"name": "devices"}, "is one of the service's own"),
        ({"name": "prunefront.db-wal"}, "is one of the service's own"),
        ({"budget": {}}, "budget"),
        ({"search": {"trials": 10**9}}, "is more than this service takes; allowed: 1 to 100000"),
        ({"what": 1}, "what"),
    ],
)
def test_what_a_service_cannot_run_is_refused_by_its_place(
    ann: httpx.Client, change: dict[str, Any], sentence: str
) -> None:
    answer = ann.post("/jobs", json={**ASKED, **change})
    assert answer.status_code in (404, 422), answer.text
    assert sentence in answer.json()["detail"]


def test_jobs_of_others_are_not_there(
    ann: httpx.Client, bob: httpx.Client, store: Store, address: str
) -> None:
    paths = [
        "",
        "/asked",
        "/trials",
        "/trials/0",
        "/front",
        "/widths",
        "/groups",
        "/log",
        "/events",
        "/artifacts",
        "/devices",
        "/archives/export",
    ]
    for path in (*paths, "/artifacts/report.html"):
        assert ann.get(f"/jobs/small{path}").status_code == 200, path
        assert "no job 'small'" in told(bob.get(f"/jobs/small{path}"), 404)["detail"], path
    for verb in ("pause", "resume", "stop", "cancel", "retry"):
        assert bob.post(f"/jobs/small/{verb}").status_code == 404
    assert bob.post("/jobs/small/exports", json={"trial": 0}).status_code == 404
    assert bob.delete("/jobs/small").status_code == 404
    assert "small" not in [job["name"] for job in told(bob.get("/jobs"))["jobs"]]
    for role, user in ((Role.ADMIN, "root"), (Role.VIEWER, "ann")):
        with client(address, token(store, role, user)) as other:
            assert told(other.get("/jobs/small"))["owner"] == "ann"


def test_a_set_around_somebody_elses_job_shows_nothing_of_it(ann: httpx.Client, bob: httpx.Client) -> None:
    assert told(bob.post("/jobs", json={**ASKED, "name": "bobs.v1"}), 201)["name"] == "bobs.v1"
    member = {"model": ASKED["model"], "data": ASKED["data"]}
    models = [{"name": name, **member} for name in ("v1", "v2")]
    asked = {"name": "bobs", "models": models, "budget": {"macs": ["50%"]}}
    assert told(ann.post("/jobs", json=asked), 201)["models"] == ["bobs-2.v1", "bobs-2.v2"]
    for path in ("", "/asked", "/trials", "/log", "/events", "/artifacts"):
        assert ann.get(f"/jobs/bobs.v1{path}").status_code == 404
    assert "has not begun yet" in told(ann.get("/jobs/bobs-2.v1"), 404)["detail"]
    assert told(bob.post("/jobs", json={**ASKED, "name": "bobs-2.v1"}), 201)["name"] == "bobs-2-v1"


def test_a_job_of_a_set_is_steered_exported_and_removed_with_the_set(ann: httpx.Client, store: Store) -> None:
    member = {"model": ASKED["model"], "data": ASKED["data"]}
    models = [{"name": name, **member} for name in ("v1", "v2")]
    asked = {"name": "pair", "models": models, "budget": {"macs": ["50%"]}}
    assert told(ann.post("/jobs", json=asked), 201)["models"] == ["pair.v1", "pair.v2"]
    store.create_job("pair.v1", store.job("small").spec, {})
    for verb in ("pause", "resume", "stop", "cancel", "retry"):
        said = told(ann.post(f"/jobs/pair.v1/{verb}"), 409)["detail"]
        assert "'pair.v1' is that of 'v1' in the set 'pair'" in said
    assert told(ann.post("/jobs/pair.v1/exports", json={"trial": 0}), 409)
    assert told(ann.delete("/jobs/pair.v1"), 409)
    said = told(ann.post("/jobs/pair/exports", json={"trial": 0}), 409)["detail"]
    assert "fetch what was exported of its jobs: pair.v1, pair.v2" in said
    assert told(ann.post("/jobs/pair/pause"))["state"] == "paused"
    assert ann.delete("/jobs/pair").status_code == 204
    assert "pair.v1" not in [record.name for record in store.jobs()]


def test_a_job_without_a_name_gets_one(ann: httpx.Client) -> None:
    assert told(ann.post("/jobs", json={**ASKED, "name": ""}), 201)["name"].startswith("job")


def test_what_a_removed_job_printed_its_heir_does_not_see(
    ann: httpx.Client, bob: httpx.Client, runs: Path
) -> None:
    ann.post("/jobs", json={**ASKED, "name": "heirloom"})
    log = runs / ".service" / "logs" / "heirloom.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("secret")
    assert ann.get("/jobs/heirloom/log").text == "secret"
    assert ann.delete("/jobs/heirloom").status_code == 204
    bob.post("/jobs", json={**ASKED, "name": "heirloom"})
    assert bob.get("/jobs/heirloom/log").text == ""


@pytest.mark.parametrize("end", ["revoked", "removed"])
def test_a_stream_ends_with_the_token_and_with_the_job(
    end: str, ann: httpx.Client, store: Store, address: str
) -> None:
    name = submitted(ann)
    held, text = Tokens(store).make("ann", Role.VIEWER, lifetime_s=60)
    with client(address, text) as viewer:
        headers = {"Accept": "text/event-stream"}
        with viewer.stream("GET", f"/jobs/{name}/events", headers=headers) as answer:
            lines = answer.iter_lines()
            assert any(line == "event: job" for line in lines)
            if end == "revoked":
                Tokens(store).revoke(held.id)
            else:
                ann.delete(f"/jobs/{name}")
            assert "event: end" in list(lines)


def test_pages_of_jobs_are_behind_each_other(bob: httpx.Client) -> None:
    names = [submitted(bob) for _ in range(5)]
    found, cursor = [], ""
    while True:
        page = told(bob.get("/jobs", params={"limit": 2, "cursor": cursor}))
        found += [job["name"] for job in page["jobs"]]
        if not (cursor := page["next"] or ""):
            break
    assert [name for name in found if name in names] == names[::-1]
    for none in ("x", "nan:x", "inf:x", "1.5:a\0", "1.5:", ":x", "٣.5:x"):
        assert "is none; take `next`" in told(bob.get("/jobs", params={"cursor": none}), 422)["detail"]


def test_verbs_that_do_not_fit_are_conflicts(ann: httpx.Client) -> None:
    name = submitted(ann)
    assert told(ann.post(f"/jobs/{name}/pause"))["state"] == "paused"
    assert told(ann.post(f"/jobs/{name}/resume"))["state"] == "queued"
    assert "cannot take retry; it can take pause" in told(ann.post(f"/jobs/{name}/retry"), 409)["detail"]
    assert told(ann.post(f"/jobs/{name}/cancel"))["state"] == "cancelled"
    events = [(e["kind"], e["message"]) for e in told(ann.get(f"/jobs/{name}/events"))["events"]]
    assert ("pause", "asked by ann") in events
    assert ("state", "cancelled") in events
    assert ann.delete(f"/jobs/{name}").status_code == 204
    assert ann.get(f"/jobs/{name}").status_code == 404


def test_who_has_used_their_quota_up_waits(store: Store, address: str) -> None:
    with client(address, token(store, Role.ADMIN, "root")) as admin:
        quota = {"queued_jobs": 1, "running_jobs": 1, "worker_minutes": 60, "stored_bytes": 0}
        assert admin.put("/quotas/cleo", json=quota).status_code < 300
    with client(address, token(store, Role.SUBMITTER, "cleo")) as cleo:
        first = submitted(cleo, **{"Idempotency-Key": "k"})
        assert submitted(cleo, **{"Idempotency-Key": "k"}) == first
        assert "'cleo' has 1 queued jobs of at most 1" in told(cleo.post("/jobs", json=ASKED), 409)["detail"]


def test_a_job_that_is_resumed_comes_into_the_queue_as_a_new_one_does(store: Store, address: str) -> None:
    with client(address, token(store, Role.ADMIN, "root")) as admin:
        quota = {"queued_jobs": 1, "running_jobs": 1, "worker_minutes": 60, "stored_bytes": 0}
        assert admin.put("/quotas/dora", json=quota).status_code < 300
    with client(address, token(store, Role.SUBMITTER, "dora")) as dora:
        first = submitted(dora)
        assert told(dora.post(f"/jobs/{first}/pause"))["state"] == "paused"
        second = submitted(dora)
        for verb in ("resume", "stop"):
            said = told(dora.post(f"/jobs/{first}/{verb}"), 409)["detail"]
            assert "'dora' has 1 queued jobs of at most 1" in said
        assert told(dora.get(f"/jobs/{first}"))["wish"] == ""
        assert told(dora.post(f"/jobs/{second}/cancel"))["state"] == "cancelled"
        assert told(dora.post(f"/jobs/{first}/resume"))["state"] == "queued"
        assert told(dora.post(f"/jobs/{second}/retry"), 409)


def test_a_job_that_the_command_line_works_on_stays(ann: httpx.Client, runs: Path) -> None:
    name = submitted(ann)
    with Place(runs, name).lock():
        assert "is worked on; cancel it first" in told(ann.delete(f"/jobs/{name}"), 409)["detail"]
    assert told(ann.get(f"/jobs/{name}"))["state"] == "queued"
    assert ann.delete(f"/jobs/{name}").status_code == 204
    assert not Place(runs, name).folder.exists()


def test_the_front_is_what_the_report_says(ann: httpx.Client, runs: Path) -> None:
    report = json.loads(Place(runs, "small").report_json.read_text())
    front = told(ann.get("/jobs/small/front"))
    points = report["points"]
    assert front["trials"]["number"] == [point["number"] for point in points]
    assert front["trials"]["on_front"] == [point["on_front"] for point in points]
    assert front["trials"]["accuracy"] == pytest.approx([point["accuracy"] for point in points], rel=1e-5)
    assert front["trials"]["latency_ms"] == pytest.approx([p["predicted_ms"] for p in points], rel=1e-5)
    assert front["hypervolume"] == pytest.approx(report["hypervolume"], rel=1e-5)
    rows = {row["trial"]: row for row in report["rows"]}
    assert {f["trial"]: f["measured_ms"] for f in front["finalists"]} == {
        n: r["measured_ms"] for n, r in rows.items()
    }
    assert front["dense"]["accuracy"] == report["dense"]["validation_accuracy"]
    assert "no profile goes by that name" in told(ann.get("/jobs/small/front?device=moon"), 404)["detail"]


def test_a_front_is_drawn_for_every_device_whose_profile_knows_the_model(
    ann: httpx.Client, runs: Path
) -> None:
    (runs / "devices").mkdir(exist_ok=True)
    shutil.copy(Place(runs, "small").profile, runs / "devices" / "elsewhere.parquet")
    (runs / "devices" / "broken.parquet").write_bytes(b"PAR1")
    devices = told(ann.get("/jobs/small/devices"))
    assert devices == ["this-cpu", "bench", "elsewhere"]
    for device in devices:
        assert told(ann.get(f"/jobs/small/front?device={device}"))["device"] == device
    assert "no set of models" in told(ann.get("/jobs/small/shares"), 404)["detail"]


def test_a_trial_tells_its_widths_and_what_each_layer_takes(ann: httpx.Client) -> None:
    front, widths = told(ann.get("/jobs/small/front")), told(ann.get("/jobs/small/widths"))
    trial = told(ann.get("/jobs/small/trials/3"))
    assert list(trial["widths"].values()) == widths["kept"][3]
    assert trial["latency_ms"] == pytest.approx(front["trials"]["latency_ms"][3], rel=1e-5)
    assert 0 < sum(trial["layers"].values()) < trial["latency_ms"] * 1.01
    assert "has no trial 99; its trials: 0 to 11" in told(ann.get("/jobs/small/trials/99"), 404)["detail"]
    listed = told(ann.get("/jobs/small/trials?after=9&limit=1"))
    assert ([row["trial"] for row in listed["trials"]], listed["next"]) == ([10], 10)


def test_files_of_a_job_are_fetched_whole_or_in_part_and_no_others(ann: httpx.Client, runs: Path) -> None:
    (runs / "small" / "link").symlink_to(runs / "prunefront.db")
    paths = [file["path"] for file in told(ann.get("/jobs/small/artifacts"))]
    assert {"report.html", "export/model.onnx", "export/config.json"} <= set(paths)
    assert not {"link", "bundle/manifest.json"} & set(paths)
    whole = (runs / "small" / "export" / "model.onnx").read_bytes()
    answer = ann.get("/jobs/small/artifacts/export/model.onnx", headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, whole[10:20])
    for path in (
        "link",
        "../prunefront.db",
        "%2e%2e/prunefront.db",
        "/etc/passwd",
        "export/../../prunefront.db",
        "",
    ):
        assert ann.get(f"/jobs/small/artifacts/{path}").status_code in (404, 405), path


def test_an_export_is_fetched_as_one_archive(ann: httpx.Client, runs: Path, tmp_path: Path) -> None:
    answer = ann.get("/jobs/small/archives/export")
    assert answer.headers["content-disposition"] == 'attachment; filename="small.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path)
    files = {path.name: path.read_bytes() for path in (runs / "small" / "export").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "small").iterdir()} == files
    for folder in ("", "bundle", "%2e%2e", "export/..", "exports", "export/model.onnx", "/etc"):
        assert ann.get(f"/jobs/small/archives/{folder}").status_code in (404, 405), folder


def stream(caller: httpx.Client, job: str, last: int = 0) -> list[tuple[str, str, str]]:
    """Id, kind and data of the events of a stream that ends."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
    with caller.stream("GET", f"/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines())
        if "event" in lines:
            found.append((lines.get("id", ""), lines["event"], lines["data"]))
    return found


def test_a_stream_that_is_taken_up_again_tells_each_event_once(ann: httpx.Client, store: Store) -> None:
    numbers = [event.number for event in store.events("small")]
    found = stream(ann, "small")
    assert [int(id_) for id_, _, _ in found if id_] == numbers
    assert [kind for _, kind, _ in found if kind in ("job", "end")] == ["job", "end"]
    again = stream(ann, "small", last=numbers[4])
    assert [int(id_) for id_, _, _ in again if id_] == numbers[5:]


def test_an_export_is_wanted_once(ann: httpx.Client, store: Store) -> None:
    assert told(ann.post("/jobs/small/exports", json={"trial": 3}), 202)["exports"] == [3]
    assert told(ann.post("/jobs/small/exports", json={"trial": 3}), 202)["exports"] == [3]
    assert told(ann.get("/jobs/small"))["exports"] == [3]
    assert "no trial 99" in told(ann.post("/jobs/small/exports", json={"trial": 99}), 404)["detail"]
    leases = Leases(store)
    while (lease := leases.take("test", most=99)) and lease.job != "small":
        pass
    assert lease
    assert store.job("small").state is JobState.DONE


def test_every_model_of_a_set_is_checked() -> None:
    member = {"name": "a", "model": {"bundle": BUNDLE}, "data": {"source": "npz", "train": "source:x"}}
    asked = {"models": [member, {**member, "name": "b"}], "budget": {"latency": ["50%"]}}
    found = read_asked(asked, Path("/runs"), lambda reference: Path("/here"))
    assert [Path(each["model"]["bundle"]) for each in found.to_json()["models"]] == [Path("/here")] * 2
    member["model"] = {"bundle": "/etc"}
    with pytest.raises(RequestError, match=r"models\[0\].model.bundle = '/etc'"):
        read_asked(asked, Path("/runs"), lambda reference: Path("/here"))
