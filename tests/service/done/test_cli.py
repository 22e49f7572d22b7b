"""The service from the command line: log in, submit, watch, look, compare, export; and what goes wrong."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import stat
import sys
from pathlib import Path

import pytest

import search
from search.service.supervisor import Supervisor
from tests.commands import Prunefront, finish, refused, start, written_json
from tests.serving import token
from trials.service_jobs import ServiceJobs
from trials.store import Store
from trials.tokens import Role

BENCH = """
[[devices]]
name = "bench"
profile = "bench"
"""


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the servers that were logged in to are kept: of none so far."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    for name in ("SERVER", "TOKEN", "RUNS"):
        monkeypatch.delenv(f"PRUNEFRONT_{name}", raising=False)
    return tmp_path / "config" / "prunefront" / "servers.toml"


@pytest.fixture
def lab(store: Store, address: str, prunefront: Prunefront) -> None:
    """Ann has logged in."""
    text = token(store, Role.SUBMITTER, "ann")
    assert prunefront("login", "lab", address, "--token", text).code == 0


def queued(store: Store, name: str) -> str:
    """A job of ann's that nobody works on."""
    spec = store.job("small").spec
    return ServiceJobs(store).submit("ann", name, spec, name)[0].record.name


def test_a_login_is_kept_for_its_user_alone_and_is_the_default(
    prunefront: Prunefront, store: Store, address: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(prunefront("watch", "small"), "no server is named; give --server, or make one known")
    monkeypatch.setattr(sys, "stdin", io.StringIO(token(store, Role.VIEWER, "ann") + "\n"))
    ran = prunefront("login", "lab", f"{address}/")
    assert f"logged in to {address} as ann (viewer), for 0 days" in ran.out
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert prunefront("login", "other", address, "--token", token(store, Role.ADMIN, "root")).code == 0
    assert 'default = "other"' in config.read_text()
    assert [each["user"] for each in written_json(prunefront("token", "ls", "--json"))][-1] == "root"
    refused(prunefront("token", "ls", "-s", "lab"), "has the role viewer; this call needs admin")
    refused(
        prunefront("login", "bad", address, "--token", "wrong"), "is not known, has expired or was revoked"
    )
    refused(prunefront("login", "../up", address, "--token", token(store, Role.VIEWER)), "cannot be called")
    assert "bad" not in config.read_text()


def test_errors_say_which_server_which_token_which_job(
    prunefront: Prunefront, lab: None, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(prunefront("ls", "-s", "lap"), "there is no server 'lap' (did you mean 'lab'?)")
    refused(prunefront("watch", "smal", "-s", "lab"), "no job 'smal'")
    refused(prunefront("retry", "small"), "job 'small' is done and cannot take retry")
    refused(prunefront("pareto", "small", "-s", "lab", "--runs", "runs"), "name two places")
    refused(prunefront("export", "small", "-s", "lab", "--budget", "latency_ms=5"), "takes no --budget")
    refused(prunefront("diff", "small", "3"), "'small' names no trial; give JOB/TRIAL")
    refused(prunefront("ls", "-s", "http://127.0.0.1:1"), "no token is known for http://127.0.0.1:1; log in")
    monkeypatch.setenv("PRUNEFRONT_TOKEN", "wrong")
    away = prunefront("ls", "-s", "http://127.0.0.1:1")
    assert (away.code, away.err.count("\n")) == (3, 1)
    assert "http://127.0.0.1:1 cannot be reached" in away.err
    assert prunefront("ls", "-s", address).code == 0  # with the token of its login
    (Path("config") / "prunefront" / "servers.toml").write_text("x")
    refused(prunefront("watch", "small"), "servers.toml cannot be read")


def test_only_who_names_a_server_means_it(
    prunefront: Prunefront, lab: None, monkeypatch: pytest.MonkeyPatch, runs: Path
) -> None:
    assert "no jobs in runs" in prunefront("ls").out
    assert "small" in prunefront("ls", "-s", "lab").out
    monkeypatch.setenv("PRUNEFRONT_SERVER", "lab")
    assert "small" in prunefront("ls").out
    assert "no jobs in runs" in prunefront("ls", "-s", "").out
    assert written_json(prunefront("ls", "--runs", runs, "--json"))[0]["job"] == "small"


def test_a_job_is_looked_at_as_those_of_this_machine_are(
    prunefront: Prunefront, lab: None, runs: Path
) -> None:
    [small] = [job for job in written_json(prunefront("ls", "-s", "lab", "--json")) if job["name"] == "small"]
    assert (small["state"], small["finished"]) == ("done", 12)
    here = written_json(prunefront("pareto", "small", "--runs", runs, "--json"))
    board = written_json(prunefront("pareto", "small", "-s", "lab", "--json"))
    assert board["trials"]["on_front"] == [point["on_front"] for point in here["points"]]
    shown = prunefront("pareto", "small", "-s", "lab").out
    assert "hypervolume" in shown
    assert "★" in shown
    rescored = written_json(prunefront("rescore", "small", "--device", "bench", "-s", "lab", "--json"))
    assert rescored["device"] == "bench"
    assert rescored["trials"]["latency_ms"] == pytest.approx(board["trials"]["latency_ms"], rel=1e-4)
    told = prunefront("show", "small", "-s", "lab").out
    assert "exported" in told
    assert "budget: latency at most 50%, 75% of dense" in told
    trial = prunefront("show", "small", "--trial", "3", "-s", "lab").out
    assert trial.startswith("trial 3: done, proposed by")


def test_two_trials_are_compared_by_group_and_by_layer(prunefront: Prunefront, lab: None) -> None:
    found = written_json(prunefront("diff", "small/3", "7", "--json"))
    board = written_json(prunefront("pareto", "small", "-s", "lab", "--json"))["trials"]
    assert found["trials"] == ["small/3", "small/7"]
    assert found["accuracy"] == pytest.approx([board["accuracy"][3], board["accuracy"][7]], rel=1e-5)
    assert found["macs"] == [board["macs"][3], board["macs"][7]]
    trials = [
        written_json(prunefront("show", "small", "--trial", number, "-s", "lab", "--json")) for number in "37"
    ]
    assert {name: kept[:2] for name, kept in found["widths"].items()} == {
        name: [trial["widths"][name] for trial in trials] for name in trials[0]["widths"]
    }
    gaps = [abs((after or 0) - (before or 0)) for before, after in found["layers"].values()]
    assert gaps == sorted(gaps, reverse=True)
    assert sum(before or 0 for before, _ in found["layers"].values()) == pytest.approx(
        sum(trials[0]["layers"].values())
    )
    shown = prunefront("diff", "small/3", "small/7").out
    assert all(word in shown for word in ("validation %", "predicted ms", "small/3 ms", *found["widths"]))


def test_verbs_say_what_became_of_the_job(prunefront: Prunefront, lab: None, store: Store) -> None:
    name = queued(store, "steered")
    resume = f"go on with: prunefront resume {name} -s lab\n"
    assert prunefront("pause", name).out == f"job {name!r} is paused\n{resume}"
    refused(prunefront("resume", name, "--runs", "none"), "-s lab")
    assert prunefront("watch", name).err.endswith(resume)
    assert prunefront("resume", name, "-s", "lab").out == f"job {name!r} is queued\n"
    assert written_json(prunefront("cancel", name, "--json"))["state"] == "cancelled"
    ended = prunefront("watch", name)
    told = f"error: job {name!r} is cancelled; go on with: prunefront retry {name} -s lab\n"
    assert (ended.code, ended.err) == (1, told)
    assert prunefront("retry", name).out == f"job {name!r} is queued\n"
    assert prunefront("stop", name).out == f"job {name!r} is queued, asked to stop\n"
    prunefront("cancel", name)


def test_ctrl_c_on_watch_leaves_the_job_alone_and_says_so(
    prunefront: Prunefront, lab: None, store: Store
) -> None:
    name = queued(store, "watched")
    watching = start("watch", name)
    assert watching.stdout
    assert watching.stdout.readline().strip()  # it has begun to watch
    watching.send_signal(signal.SIGINT)
    ran = finish(watching)
    assert (ran.code, ran.err.strip().splitlines()) == (
        0,
        [f"detached; job {name!r} goes on at lab", f"come back with: prunefront watch {name} -s lab"],
    )
    assert store.job(name).state == "queued"
    prunefront("cancel", name)


def test_a_trial_is_picked_within_what_it_may_cost(prunefront: Prunefront, lab: None) -> None:
    trials = written_json(prunefront("pareto", "small", "-s", "lab", "--json"))["trials"]
    limit = sorted(trials["macs"])[6]
    found = written_json(prunefront("pick", "small", "--macs", limit, "-s", "lab", "--json"))
    assert trials["macs"][found["number"]] <= limit
    if not found["finalist"]:
        held = [a for a, macs in zip(trials["accuracy"], trials["macs"], strict=True) if macs <= limit]
        assert found["accuracy"] == max(held)
    told = prunefront("pick", "small", "--macs", limit, "-s", "lab").out
    assert f"prunefront export small --trial {found['number']} -s lab" in told
    refused(prunefront("pick", "small", "--macs", 1, "-s", "lab"), "no trial of job 'small' holds macs=1 on")
    refused(
        prunefront("pick", "small", "--energy-mj", 1, "-s", "lab"), "takes no --energy-mj; allowed: --lat"
    )


def test_a_job_is_removed_at_a_server(prunefront: Prunefront, lab: None, store: Store) -> None:
    name = queued(store, "unwanted")
    assert prunefront("rm", name, "-s", "lab").out == f"removed {name} at lab\n"
    refused(prunefront("rm", name, "-s", "lab"), f"no job {name!r}")


def test_devices_of_a_server_are_listed_beside_those_here(
    prunefront: Prunefront, lab: None, address: str, tmp_path: Path
) -> None:
    [bench] = [
        each
        for each in written_json(prunefront("devices", "-s", "lab", "--runs", tmp_path, "--json"))
        if each["device"] == "bench"
    ]
    assert (bench["server"], bench["this_machine"]) == (address, False)
    assert "bench" in prunefront("devices", "-s", "lab", "--runs", tmp_path).out


def test_tokens_are_made_listed_and_revoked(
    prunefront: Prunefront, store: Store, address: str, lab: None
) -> None:
    assert prunefront("login", "root", address, "--token", token(store, Role.ADMIN, "root")).code == 0
    made = written_json(prunefront("token", "make", "bob", "submitter", "--days", "3", "--json"))
    assert prunefront("login", "bobs", address, "--token", made["token"]).code == 0
    refused(prunefront("token", "make", "bob", "king", "-s", "root"), "role")
    shown = prunefront("token", "ls", "-s", "root").out
    assert made["id"] in shown
    assert made["token"] not in shown
    assert prunefront("token", "revoke", made["id"], "-s", "root").out == f"token {made['id']} is revoked\n"
    assert "revoked" in prunefront("token", "ls", "-s", "root").out
    refused(prunefront("ls", "-s", "bobs"), "has expired or was revoked")


def test_a_job_is_submitted_watched_looked_at_and_exported(
    prunefront: Prunefront, lab: None, small_job: Path, runs: Path, store: Store, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_job.parent, tmp_path / "job"))
    text = small_job.read_text().replace('"least_squares"', '"none"')
    quick = text.replace("trials = 12", 'trials = 2\ncontroller = "random"')
    (folder / "job.toml").write_text(quick + BENCH)
    submitted = prunefront("submit", folder / "job.toml", "--name", "whole")
    commands = [shlex.split(line)[2:] for line in submitted.out.splitlines() if " prunefront " in line]
    assert [command[0] for command in commands] == ["watch", "pareto", "export"]
    prunefront("cancel", "whole")
    (folder / "edited.toml").write_text(quick.replace("trials = 2", "trials = 3") + BENCH)
    edited = prunefront("submit", folder / "edited.toml", "--name", "whole").out
    assert "'whole' is another job there, such as an earlier form of this file" in edited
    prunefront("cancel", "whole-2")
    again = prunefront("submit", folder / "job.toml", "--name", "whole").out
    assert "submitted before, and is cancelled" in again
    assert prunefront(*shlex.split(again.splitlines()[-1])[3:]).out == "job 'whole' is queued\n"
    supervisor = Supervisor(store, runs, runs / ".service" / "logs", most=1)
    supervisor.start()
    try:
        watch, pareto, export = (prunefront(*command) for command in commands)
        assert watch.code == 0, (watch, written_json(prunefront("logs", "whole", "--json"))["log"])
        assert "state: searching" in watch.out
        assert watch.out.index("job 'whole' is done") > watch.out.index("state: finishing")
        told = [json.loads(line) for line in prunefront("watch", "whole", "--json").out.splitlines()]
        assert "state" in {each["kind"] for each in told}
        assert "hypervolume" in pareto.out
        assert export.code == 0, export
        model = search.load(tmp_path / "whole-export")
        assert sum(each.numel() for each in model.parameters()) > 0
    finally:
        supervisor.stop()
