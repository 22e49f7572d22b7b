"""Users are told nothing of where things lie on the server, wherever a name of it stands."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import httpx
import pytest

from search.place import Place
from search.service.told import LOG_BYTES
from tests.service.done.test_jobs import stream, told
from tests.serving import client, token
from trials.candidate import Candidate, Trial
from trials.leases import Leases
from trials.records import JobState
from trials.service_jobs import ServiceJobs
from trials.store import Store
from trials.tokens import Role


def page(caller: httpx.Client, path: str) -> str:
    """A page of the dashboard, as a browser of the caller's would get it."""
    answer = caller.get(str(caller.base_url.copy_with(path=path)))
    assert answer.status_code == 200, answer.text
    return answer.text


def test_what_cannot_be_read_is_named_without_where_the_service_lies(
    ann: httpx.Client, runs: Path, store: Store
) -> None:
    store.create_job("torn", store.job("small").spec, store.job("small").plan)
    ServiceJobs(store).adopt("torn", "ann")
    said = told(ann.get("/jobs/torn/front"), 422)["detail"]
    assert said.startswith("torn/bundle/graph.json cannot be read")


def test_users_are_told_no_place_of_the_server(
    ann: httpx.Client, runs: Path, store: Store, address: str
) -> None:
    place = Place(runs, "placed")
    here = f"{place.bundle}/ä.json and {runs} and 'file:///tmp/tmp1a/b c', \"/usr/lib/python3/x.py\", line 3"
    elsewhere = "; s3://bucket/tmp/x, and/or 4/5 of /api/v1/jobs/placed"
    said = here + elsewhere
    meant = f"placed/bundle/ä.json and {runs.name} and 'file://b c', \"x.py\", line 3" + elsewhere
    store.create_job("placed", store.job("small").spec, store.job("small").plan)
    ServiceJobs(store).adopt("placed", "ann")
    trial = Trial(number=0, candidate=Candidate((4,)), seed=0, target=0.5, origin="random")
    for each in (trial, trial.start(), trial.start().fail(said)):
        store.save("placed", each)
    store.add_event("placed", "note", said)
    leases = Leases(store)
    while (lease := leases.take("test", most=99)) and lease.job != "placed":
        pass
    assert lease
    leases.renew(lease, {"text": said}, 0.0)
    leases.release(lease, said, JobState.FAILED)
    log = runs / ".service" / "logs" / "placed.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"{said}\n")

    def found(caller: httpx.Client) -> list[str]:
        job, listed = told(caller.get("/jobs/placed")), told(caller.get("/jobs"))["jobs"]
        [events, jobs] = [
            [json.loads(data) for _, kind, data in stream(caller, "placed") if kind == wanted]
            for wanted in ("note", "job")
        ]
        return [
            job["reason"],
            job["progress"]["text"],
            next(each["reason"] for each in listed if each["name"] == "placed"),
            *(e["message"] for e in told(caller.get("/jobs/placed/events"))["events"] if e["kind"] == "note"),
            *(event["message"] for event in events),
            *(each["reason"] for each in jobs),
            told(caller.get("/jobs/placed/trials"))["trials"][0]["reason"],
            caller.get("/jobs/placed/log").text.rstrip(),
            unescape(re.search(r"<small>([^<]*placed[^<]*)</small>", page(caller, "/"))[1]),
        ]

    with client(address, token(store, Role.ADMIN, "root")) as admin:
        assert found(admin) == [said] * 9
    assert found(ann) == [meant] * 9


@pytest.mark.parametrize("is_held", [False, True])
def test_no_part_of_a_log_begins_within_a_line(
    is_held: bool, ann: httpx.Client, runs: Path, store: Store
) -> None:
    """Behind its first name a path looks like none; so do the first letters of one that is being written."""
    name = "held" if is_held else "waiting"
    store.create_job(name, store.job("small").spec, store.job("small").plan)
    ServiceJobs(store).adopt(name, "ann")
    log = runs / ".service" / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    written = ["at first\n", "/tmp/secret/file\n", "at last /tmp/secr"]
    log.write_text("".join(written))
    if is_held:
        while (lease := Leases(store).take("test", most=99)) and lease.job != name:
            pass
    told = ["at first\n", "file\n", *([] if is_held else ["at last secr"])]
    ends = [len("".join(written[:k])) for k in range(len(written) + 1)]
    for after in range(ends[-1] + 1):
        answer = ann.get(f"/jobs/{name}/log?after={after}")
        begun = sum(end < after for end in ends)
        assert answer.text == "".join(told[begun:]), after
        assert answer.headers["x-log-end"] == str(ends[-1] if after > ends[2] else ends[len(told)]), after


def test_damaged_profiles_are_named_without_where_they_lie(ann: httpx.Client, runs: Path) -> None:
    (runs / "devices" / "torn.parquet").write_bytes(b"PAR1")
    wrong = next(each["wrong"] for each in told(ann.get("/devices")) if each["device"] == "torn")
    (runs / "devices" / "torn.parquet").unlink()
    assert "devices/torn.parquet" in wrong
    assert str(runs) not in wrong


def test_a_report_names_no_place_of_the_server(ann: httpx.Client, runs: Path) -> None:
    for name in ("report.html", "report.json", "export/report.html", "export/config.json"):
        content = ann.get(f"/jobs/small/artifacts/{name}").text
        assert "small" in content
        assert str(Path(json.loads(Place(runs, "small").report_json.read_text())["job"]).parent) == "."
        assert not re.search(r"/(?:tmp|home|work)/", content), name


def test_a_place_that_a_part_of_a_log_would_end_in_is_told_with_the_next(
    ann: httpx.Client, runs: Path
) -> None:
    log = runs / ".service" / "logs" / "small.log"
    log.parent.mkdir(exist_ok=True)
    before = "x" * (LOG_BYTES - 8) + "\n"
    log.write_text(f"{before}/tmp/secret/file\n" + "y" * (LOG_BYTES - 12) + "\n")
    parts, end = [], "0"
    while not parts or parts[-1]:
        answer = ann.get(f"/jobs/small/log?after={end}")
        end, parts = answer.headers["x-log-end"], [*parts, answer.text]
    assert "".join(parts) == before + "file\n" + "y" * (LOG_BYTES - 12) + "\n"
    assert ann.get("/jobs/small/log").text == "y" * (LOG_BYTES - 12) + "\n"
    log.unlink()
