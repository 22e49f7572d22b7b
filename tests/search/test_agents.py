"""Agents, servers and whoever asks them, as processes of their own: measured, killed, cut off, refused."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from hwprofiles import Rounds, open_runtime, read_profile
from hwprofiles.errors import RequestError
from hwprofiles.remote import Remote
from hwprofiles.runtimes import CALL
from latency_models import NetworkModel
from search import profiling
from search.devices import SHIPPED
from search.service import list_agents, open_on_agent, request_profile
from tests.bundles import export_images
from tests.commands import Prunefront, written_json
from tests.contracts.runtime import IDENTITY, save_identity
from tests.search.devices.conftest import network as small_network
from tests.service.test_measuring import BOARD, KERNELS, a_pass, ask, measurement
from tests.serving import client, token
from trials.measurements import Measurements
from trials.store import Store
from trials.tokens import Role


@contextmanager
def process(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A prunefront command that is killed at the end, whatever happens."""
    started = subprocess.Popen(
        [sys.executable, "-m", "search.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    try:
        yield started
    finally:
        started.kill()
        started.communicate(timeout=60)


@contextmanager
def server(runs: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A server, its address, and the token where it printed one."""
    with process("serve", "--port", str(port), "--runs", runs, *([] if port else ["--new-token"])) as started:
        assert started.stdout
        url = started.stdout.readline().split()[1]
        yield started, url, "" if port else started.stdout.readline().split()[1]


def wait_until(moment: Callable[[], object], *running: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not moment():
        for each in running:
            assert each.poll() is None, each.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def network(folder: Path) -> NetworkModel:
    save_identity(folder / "network.onnx", ["batch", 3])
    return NetworkModel(name="identity", graph=IDENTITY, onnx_path=folder / "network.onnx")


def test_a_board_is_profiled_through_kills_of_agent_and_server_and_every_pass_is_measured_once(
    prunefront: Prunefront, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for constant, count in {"ROUNDS": 40, "CALIBRATION_NETWORKS": 2, "HELD_OUT_NETWORKS": 2}.items():
        monkeypatch.setattr(profiling, constant, count)
    bundle, mine = tmp_path / "bundle", tmp_path / "mine"
    export_images(small_network(32), 3, 8, 8).write(bundle)
    runs, folder, passes = tmp_path / "runs", tmp_path / "agent", 12
    with server(runs) as (first, url, text), Remote(url, text) as remote, ThreadPoolExecutor() as asking:
        monkeypatch.setenv("PRUNEFRONT_SERVER", url)
        monkeypatch.setenv("PRUNEFRONT_TOKEN", text)
        agent = "agent", "--server", url, "--token", text, "--name", "board", "--folder", folder

        def done() -> int:
            return sum(found["passes_done"] for found in remote.call("GET", "/measurements").json())

        with process(*agent) as killed:
            wait_until(lambda: list_agents(remote), killed)
            options = ("--device", "board", "--model", bundle, "--passes", passes, "--runs", mine, "--json")
            profiled = asking.submit(prunefront, "profile", *options)
            wait_until(lambda: done() >= 1, killed)
            killed.send_signal(signal.SIGKILL)
            killed.wait()
        before = stored_passes(runs)
        assert 1 <= len(before) < passes
        with process(*agent) as survivor:
            wait_until(lambda: done() > len(before), survivor)
            first.kill()
            first.wait()
            time.sleep(0.5)
            with server(runs, port=int(url.rpartition(":")[2])) as (second, _, _):
                wait_until(lambda: done() == passes, survivor, second)
                found = written_json(profiled.result(timeout=60))
                predicted = written_json(
                    prunefront("predict", bundle, "--device", "board", "--measure", "--runs", mine, "--json")
                )
                listed = written_json(prunefront("devices", "--runs", mine, "--json"))
                assert re.search(r"board .* \d+ s ago", prunefront("devices", "--runs", mine).out)
            survivor.kill()
            assert survivor.stderr
            begun = [int(number) for number in re.findall(rf"pass (\d+) of {passes}", survivor.stderr.read())]
        away = prunefront("devices", "--runs", mine)
    assert begun == list(range(begun[0], passes + 1))
    assert begun[0] > len(before)
    assert stored_passes(runs)[: len(before)] == before
    assert not list(folder.glob("passes/*")) + list(folder.glob("networks/*"))

    assert [path.name for path in (mine / "devices").iterdir()] == ["board.parquet"]
    profile = read_profile(mine / "devices" / "board.parquet")
    assert {rounds.times_ms.shape[:2] for rounds in profile.kernels.values()} == {(passes, 40)}
    assert found["validation"]["networks"] == len(profile.held_out) > 0
    assert predicted["candidates"][0]["measured"]["latency_ms"] > 0
    shipped = {path.stem for path in SHIPPED.glob("*.parquet")}
    assert shipped <= {item["device"] for item in listed}  # the server has them, too
    in_fp32 = [item for item in listed if item["precision"] == "fp32" and item["device"] not in shipped]
    assert [(item["device"], item["profile"], item.get("alive")) for item in in_fp32] == [
        ("this-cpu", None, None),
        ("board", str(mine / "devices" / "board.parquet"), None),
        ("board", None, True),
    ]
    assert {item["identity"] for item in in_fp32} == {profile.device.identity}
    assert (away.code, "board" in away.out, away.err.count("\n")) == (3, True, 1)
    assert "cannot be reached" in away.err


@contextmanager
def board_agent(address: str, store: Store, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """An agent named "board" that works for the server of this test."""
    login = "--server", address, "--token", token(store, Role.AGENT)
    with process("agent", *login, "--name", "board", "--folder", folder) as running:
        yield running


def test_what_cannot_be_measured_is_told_and_the_agent_goes_on(
    address: str, store: Store, tmp_path: Path
) -> None:
    model = network(tmp_path)
    ask_for = partial(request_profile, device=BOARD, journal=tmp_path / "profile.parquet", passes=1, rounds=1)
    way = {"runtime": "onnxruntime", "precision": "fp32", "batch": 2, "threads": 1}
    with (
        Remote(address, token(store, Role.SUBMITTER)) as remote,
        pytest.raises(RequestError, match="knows no agent 'board'; it has heard of none"),
    ):
        open_on_agent(remote, "board", **way)
    with (
        board_agent(address, store, tmp_path / "agent") as running,
        Remote(address, token(store, Role.SUBMITTER)) as remote,
    ):
        wait_until(lambda: list_agents(remote), running)
        with pytest.raises(RequestError, match=r"knows no agent 'bord'; did you mean 'board'"):
            open_on_agent(remote, "bord", **way)
        with pytest.raises(RequestError, match=r"does not run 'abacus fp32'; .*onnxruntime fp32"):
            open_on_agent(remote, "board", **way | {"runtime": "abacus"})
        here = open_runtime("onnxruntime").describe(name="here", batch=2, threads=1)
        assert open_on_agent(remote, "board", **way).device.identity == here.identity
        (tmp_path / "here.journal").touch()
        with pytest.raises(RequestError, match=r"here.journal keeps finished passes .* on this machine"):
            ask_for(remote, kernels=KERNELS, networks=[], journal=tmp_path / "here.journal")
        with pytest.raises(RequestError, match=r"cannot be measured by an agent: rounds: Input should be"):
            ask_for(remote, kernels=KERNELS, networks=[], rounds=0)
        with pytest.raises(RequestError, match=r"agent 'board' could not.*runtime 'abacus' is not known"):
            ask_for(remote, device=replace(BOARD, runtime="abacus"), kernels=KERNELS, networks=[])
        content = model.onnx_path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        remote.call("PUT", f"/files/{sha256}", content)
        kept = tmp_path / "service" / "files" / sha256
        kept.write_bytes(content[:-1] + b"x")
        with pytest.raises(RequestError, match=f"file {sha256[:12]}… has another sha256, 3 times; send"):
            ask_for(remote, kernels=KERNELS, networks=[model])
        assert not (tmp_path / "profile.parquet").exists()
        kept.unlink()
        profile = ask_for(remote, kernels=KERNELS, networks=[], held_out=[model])
        assert [net.name for net in profile.held_out] == ["identity"]
        (agent,) = remote.call("GET", "/agents").json()
    assert {device["runtime"] for device in agent["devices"]} == {"onnxruntime"}
    assert profile.device.versions == agent["devices"][0]["versions"]


def test_a_pass_that_was_measured_but_not_sent_is_sent_and_not_measured_again(
    address: str, store: Store, tmp_path: Path
) -> None:
    wanted, passes = measurement(passes=1), tmp_path / "agent" / "passes"
    with client(address, token(store, Role.ADMIN)) as admin:
        job = ask(admin, wanted)
        passes.mkdir(parents=True)
        (passes / f"{job}-0.json").write_text(a_pass(wanted, times_ms=np.full((2, 2, 4), 7.0).tolist()))
        with board_agent(address, store, tmp_path / "agent") as running:
            wait_until(lambda: admin.get(f"/measurements/{job}").json()["state"] == "done", running)
        (tmp_path / "got.parquet").write_bytes(admin.get(f"/measurements/{job}/profile").content)
    measured = read_profile(tmp_path / "got.parquet").kernels[CALL]
    assert measured == Rounds(np.full((1, 2, 4), 7.0))


def test_an_agent_with_a_wrong_token_ends_in_a_sentence(address: str, tmp_path: Path) -> None:
    with process("agent", "--server", address, "--token", "wrong", "--folder", tmp_path) as running:
        _, said = running.communicate(timeout=60)
    assert (running.returncode, said.splitlines()[-1]) == (
        2,
        "error: the token of this call is not known, has expired or was revoked",
    )


def test_a_server_prints_its_token_once_and_ends_at_ctrl_c_without_a_word(tmp_path: Path) -> None:
    printed = []
    for _ in range(2):
        with process("serve", "--port", "0", "--runs", tmp_path) as running:
            assert running.stdout
            printed.append(running.stdout.readline())
            assert httpx.get(f"{printed[-1].split()[1]}/healthz").json() == {"status": "ok"}
            running.send_signal(signal.SIGINT)
            out, said = running.communicate(timeout=60)
            assert (running.returncode, said) == (0, "")
            printed.append(out)
    assert [text.split()[:1] for text in printed] == [["serving"], ["token"], ["serving"], []]


def stored_passes(runs: Path) -> list[Any]:
    with Store.open(runs / "prunefront.db") as store:
        record, *_ = Measurements(store).all()
        return Measurements(store).passes(record.id)
