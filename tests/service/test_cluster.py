"""A job on a real Ray cluster of two hosts: network namespaces of this machine, with a link to cut."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import finish, start
from tests.search.test_crash import check_end, descendants
from tests.service.test_controller import command, kill, wait
from trials.store import Store

RAY = Path(sys.executable).parent / "ray"
HEAD, WORKER = "10.213.77.1", "10.213.77.2"
PORT = 6379


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Host:
    """A network namespace with one address and one link."""

    name: str
    address: str
    token: str

    @property
    def link(self) -> str:
        return f"{self.name}-link"

    def run(self, *arguments: str | Path, output: Path) -> subprocess.Popen[bytes]:
        """Start a command there, in a session of its own."""
        settings = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "PRUNEFRONT_RAY_ADDRESS": f"{HEAD}:{PORT}",
        }
        with output.open("ab") as log:
            return subprocess.Popen(
                ["ip", "netns", "exec", self.name, *arguments],
                env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def switch_link(self, state: str) -> None:
        ip("-n", self.name, "link", "set", self.link, state)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts with nothing but a cable between them."""
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces need iproute2 and root")
    token, tag = secrets.token_hex(32), f"pf{os.getpid() % 10_000}"
    head, worker = Host(f"{tag}a", HEAD, token), Host(f"{tag}b", WORKER, token)
    with ExitStack() as opened:
        for host in (head, worker):
            made = subprocess.run(["ip", "netns", "add", host.name], capture_output=True, text=True)
            if "not permitted" in made.stderr:  # of a container, say; whatever else is wrong is a failure
                pytest.skip("this machine lets nobody make network namespaces")
            made.check_returncode()
            opened.callback(ip, "netns", "del", host.name)
        ip("link", "add", head.link, "netns", head.name, "type", "veth",
           "peer", "name", worker.link, "netns", worker.name)  # fmt: skip
        for host in (head, worker):
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.link)
            ip("-n", host.name, "link", "set", "lo", "up")
            host.switch_link("up")
        yield head, worker


@contextmanager
def node(host: Host, output: Path, *arguments: str) -> Iterator[Callable[[], None]]:
    """A node of the cluster there, with one processor; yields what starts it again where it has ended."""
    asked = ["start", f"--node-ip-address={host.address}", "--num-cpus=1", "--block", *arguments]
    running = [host.run(RAY, *asked, output=output)]

    def keep() -> None:
        if running[-1].poll() is not None:
            running.append(host.run(RAY, *asked, output=output))

    try:
        yield keep
    finally:
        for process in descendants(running[-1].pid):
            kill(process)
        running[-1].wait()


def workers(node: str) -> list[int]:
    """Processes that run trials in that namespace."""
    inside = subprocess.run(["ip", "netns", "pids", node], capture_output=True, text=True, check=True)
    return [int(pid) for pid in inside.stdout.split() if "ray::_Worker" in command(int(pid))]


@pytest.fixture
def undisturbed_in_one_thread(longer: Path, tmp_path: Path) -> Path:
    """The job done here by workers of one thread, as many as a node has cores: they round alike."""
    runs = Path(shutil.copytree(longer, tmp_path / "undisturbed"))
    ended = finish(start("resume", runs / "small", "--workers", str(os.cpu_count())))
    assert ended.code == 0, ended.err
    return runs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_on_a_cluster_ends_with_all_trials_though_a_link_is_cut_and_healed(
    hosts: tuple[Host, Host], longer: Path, undisturbed_in_one_thread: Path, tmp_path: Path
) -> None:
    """Once for a moment, and once until the cluster has given the node up."""
    head, worker = hosts
    runs = Path(shutil.copytree(longer, tmp_path / "runs"))
    ray = Path(f"/tmp/{head.name}")  # sockets have short paths
    with ExitStack() as opened, Store.open(runs / "prunefront.db") as store:
        opened.callback(shutil.rmtree, ray, ignore_errors=True)
        alone = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={ray}"]
        opened.enter_context(node(head, tmp_path / "head.log", *alone))
        keep = opened.enter_context(node(worker, tmp_path / "worker.log", f"--address={HEAD}:{PORT}"))

        def joined() -> bool:
            keep()  # it may have come before the head
            status = [RAY, "status", f"--address={HEAD}:{PORT}"]
            asked = head.run(*status, output=tmp_path / "status.log")
            asked.wait()
            return "2.0 CPU" in (tmp_path / "status.log").read_text()

        wait(joined)
        search = head.run(sys.executable, "-m", "search.cli", "resume", runs / "small", "--workers", "2",
                          output=tmp_path / "search.log")  # fmt: skip
        opened.callback(lambda: [kill(each) for each in descendants(search.pid)])

        def ended() -> int:
            keep()
            assert search.poll() in (None, 0), (tmp_path / "search.log").read_text()
            return sum(trial.state.finished for trial in store.trials("small"))

        wait(lambda: ended() >= 4)
        assert len(workers(head.name)) == len(workers(worker.name)) == 1
        worker.switch_link("down")
        time.sleep(5)
        worker.switch_link("up")
        before = ended()
        wait(lambda: ended() >= before + 4)
        [lost] = workers(worker.name)
        worker.switch_link("down")
        wait(lambda: "worker died" in [event.kind for event in store.events("small")])
        worker.switch_link("up")
        wait(lambda: not command(lost))
        wait(lambda: ended() and search.poll() is not None)
        assert search.returncode == 0, (tmp_path / "search.log").read_text()
    check_end(runs, undisturbed_in_one_thread)
