"""What the images install, installed in virtual environments of their own, and what they start, started."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.docker.files import FOLDER, ROOT, compose, exec_form, instructions, last
from tests.search.test_crash import descendants
from tests.service.test_controller import kill

PATIENCE_S = 300
LACKING = re.compile(r'"?(cuda-core|tensorrt)\S*"?')
"""What is of NVIDIA's machines alone, and what the base images have."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an engine is sent to build."""
    folder = tmp_path_factory.mktemp("sent")
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            sent, kept = ROOT / line[1:], folder / line[1:]
            kept.parent.mkdir(exist_ok=True)
            shutil.copytree(sent, kept) if sent.is_dir() else shutil.copy(sent, kept)
    return folder


def installed(image: str, source: Path, at: Path) -> Path:
    """The folder of programs of an environment that is made by the image's own commands."""
    for each in instructions(FOLDER / f"{image}.Dockerfile"):
        if each.name != "RUN" or "/opt/prunefront" not in each.value or "useradd" in each.value:
            continue
        made = each.value.replace("/opt/prunefront", str(at)).replace("python3.12", sys.executable)
        made = LACKING.sub("", made.replace("--system-site-packages", ""))
        ran = subprocess.run(["sh", "-c", made], cwd=source, capture_output=True, text=True, env=clean({}))
        assert ran.returncode == 0, ran.stderr
    return at / "bin"


def clean(settings: dict[str, str]) -> dict[str, str]:
    """An environment that knows nothing of where these tests run."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    return {**kept, **settings}


@pytest.fixture(scope="module")
def service(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    programs = installed("service", source, tmp_path_factory.mktemp("service") / "opt")
    shutil.copy(FOLDER / "serve", programs)
    return programs


@pytest.fixture(scope="module")
def agent(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed("agent", source, tmp_path_factory.mktemp("agent") / "opt")


Start = Callable[..., Path]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command with the programs of an environment; gives the file that has what it prints."""
    running = list[subprocess.Popen[bytes]]()

    def begin(command: list[str], programs: Path, **settings: str) -> Path:
        said = tmp_path / f"said-{len(running)}"
        path = f"{programs}:/usr/bin:/bin"
        with said.open("wb") as log:
            running.append(
                subprocess.Popen(
                    command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True,
                    env=clean({"PATH": path, "HOME": str(tmp_path), **settings}),
                )
            )  # fmt: skip
        return said

    yield begin
    for process in running:
        for each in descendants(process.pid):
            kill(each)
        process.wait()


def wait(until: Callable[[], object], said: Path) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < end_s, said.read_text()
        time.sleep(0.5)


def is_well(image: str, programs: Path, port: int, **settings: str) -> bool:
    """By the image's own check."""
    words = exec_form(last(FOLDER / f"{image}.Dockerfile", "HEALTHCHECK"))
    words = [each.replace("python3.12", "python").replace(":8321/", f":{port}/") for each in words]
    path = {"PATH": f"{programs}:/usr/bin:/bin"}
    return not subprocess.run(words, env=clean({**path, **settings}), capture_output=True).returncode


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def test_service_cluster_and_agent_start_as_their_images_start_them(
    service: Path, agent: Path, start: Start, tmp_path: Path
) -> None:
    head, port = f"127.0.0.1:{free_port()}", free_port()
    of_ray = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    settings = {**of_ray, "PRUNEFRONT_RAY_ADDRESS": head}

    asked = compose()["services"]["ray-head"]
    words = [*asked["entrypoint"], *asked["command"], "--node-ip-address=127.0.0.1"]
    words[words.index("--port=6379")] = f"--port={head.rpartition(':')[2]}"
    said = start(words, service, **of_ray)
    wait(lambda: is_well("worker", service, 0, **settings), said)

    words = exec_form(last(FOLDER / "worker.Dockerfile", "ENTRYPOINT"))
    said = start([*words, "--num-cpus=1", "--node-ip-address=127.0.0.1"], service, **settings)
    wait(lambda: "Ray runtime started" in said.read_text(), said)

    words = exec_form(last(FOLDER / "service.Dockerfile", "ENTRYPOINT"))
    said = start([*words, "--port", str(port)], service, **settings, PRUNEFRONT_RUNS=str(tmp_path / "runs"))
    wait(lambda: is_well("service", service, port), said)
    wait(lambda: "Ray runtime started" in said.read_text(), said)
    [admin] = re.findall(r"^token +(\S+)", said.read_text(), re.MULTILINE)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{port}/api/v1", headers={"Authorization": f"Bearer {admin}"}
    ) as api:
        made = api.post("/tokens", json={"user": "board", "role": "agent", "days": 1}).json()
        words = exec_form(last(FOLDER / "agent.Dockerfile", "ENTRYPOINT"))
        words += ["--server", f"http://127.0.0.1:{port}", "--name", "board"]
        said = start(words, agent, PRUNEFRONT_TOKEN=made["token"])
        wait(lambda: [each["name"] for each in api.get("/agents").json()] == ["board"], said)
