"""What boards say of themselves, on recorded files; calls that outlive a server; how light the agent is."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hwprofiles import agent as agents
from hwprofiles import open_runtime
from hwprofiles import remote as calls
from hwprofiles.agent import _Agent, _only_agent, run_agent
from hwprofiles.board import Board, energy_mj, read_board
from hwprofiles.errors import RequestError, TransientError
from hwprofiles.remote import RefusedError, Remote
from hwprofiles.runtimes import CALL
from hwprofiles.wire import Claim, Measurement, Pass

JETSON = {
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n...\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1728000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": "435200000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/class/hwmon/hwmon0/name": "soctherm_oc\n",
    "sys/class/hwmon/hwmon0/oc1_event_cnt": "3\n",
    "sys/class/hwmon/hwmon1/name": "ina3221\n",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_IN\n",
    "sys/class/hwmon/hwmon1/in1_input": "5000\n",
    "sys/class/hwmon/hwmon1/curr1_input": "1200\n",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages\n",
    "sys/class/hwmon/hwmon1/in7_input": "12\n",
}
PC = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n",
    "sys/class/thermal/thermal_zone0/temp": "not now\n",
    "sys/class/powercap/intel-rapl:0/name": "package-0\n",
    "sys/class/powercap/intel-rapl:0/energy_uj": "5000000\n",
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": "262143328850\n",
    "sys/class/powercap/intel-rapl:0:0/name": "core\n",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": "1\n",
}


def recorded(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_jetson_tells_its_mode_by_name_its_clocks_heat_and_throttling(tmp_path: Path) -> None:
    assert read_board(recorded(tmp_path, JETSON)) == Board(
        power_mode="MAXN_SUPER",
        clocks_mhz={"cpu0": 1728.0, "17000000.gpu": 1020.0},
        temperatures_c={"cpu-thermal (thermal_zone0)": 48.312},
        throttle_events={"oc1_event_cnt": 3},
    )


def test_what_a_pc_does_not_tell_is_absent(tmp_path: Path) -> None:
    throttled = {"cpu0 core_throttle_count": 7}
    assert read_board(recorded(tmp_path, PC)) == Board(power_mode="powersave", throttle_events=throttled)
    assert read_board(tmp_path / "nothing") == Board()
    assert energy_mj(time.time, root=tmp_path / "nothing") == {}


def test_a_mode_without_a_name_is_told_by_its_number(tmp_path: Path) -> None:
    board = recorded(tmp_path, JETSON | {"etc/nvpmodel.conf": "< POWER_MODEL ID=12 NAME=15W >\n"})
    assert read_board(board).power_mode == "2"


def test_a_rail_at_6_watts_gives_6_millijoules_a_millisecond(tmp_path: Path) -> None:
    root, calls_s = recorded(tmp_path, JETSON), []

    def run() -> None:
        start = time.monotonic()
        time.sleep(0.02)
        calls_s.append(time.monotonic() - start)

    taken_mj = energy_mj(run, seconds=0.5, root=root)
    assert taken_mj.keys() == {"VDD_IN"}
    assert taken_mj["VDD_IN"] == pytest.approx(6000 * sum(calls_s) / len(calls_s), rel=0.3)


def test_a_rail_that_fails_in_between_is_absent_and_not_half_counted(tmp_path: Path) -> None:
    root = recorded(tmp_path, JETSON)

    def run() -> None:
        time.sleep(0.02)
        (root / "sys/class/hwmon/hwmon1/curr1_input").write_text("n/a")

    assert energy_mj(run, seconds=0.05, root=root) == {}


@pytest.mark.parametrize("start_uj", [5_000_000, 262_143_328_850 - 1_000])
def test_rapl_counts_a_package_once_and_through_its_wrap(tmp_path: Path, start_uj: int) -> None:
    root = recorded(tmp_path, PC)
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.write_text(str(start_uj))

    def run() -> None:
        counter.write_text(str((int(counter.read_text()) + 2_000_000) % 262_143_328_850))

    assert energy_mj(run, seconds=0, root=root) == {"package-0": pytest.approx(2000.0)}


def test_a_gpu_tells_what_its_library_knows_and_the_rest_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = ModuleType("pynvml")
    used_mj = iter(range(0, 1000, 50))
    nvml.__dict__.update(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda index: f"gpu {index}",
        NVML_CLOCK_SM=1,
        NVML_PERF_POLICY_THERMAL=1,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1980,
        nvmlDeviceGetViolationStatus=lambda handle, kind: SimpleNamespace(violationTime=12),
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(used_mj),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    board = read_board()
    assert board.clocks_mhz["gpu 0"] == 1980
    assert board.throttle_events["gpu 0"] == 12
    assert "gpu 0" not in board.temperatures_c
    assert energy_mj(lambda: None, seconds=0)["gpu 0"] == 25.0


class _Flaky(BaseHTTPRequestHandler):
    """Is not up at first, then answers, and refuses what it does not know."""

    answers: list[int]

    def do_GET(self) -> None:
        self.send_response(self.answers.pop(0))
        self.end_headers()
        self.wfile.write(b'{"detail": "no"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    monkeypatch.setattr(calls, "FIRST_DELAY_S", 0.01)
    with HTTPServer(("127.0.0.1", 0), _Flaky) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        with Remote(f"http://127.0.0.1:{server.server_port}", "token") as remote:
            yield remote
        server.shutdown()
        thread.join()


def test_a_call_is_made_until_it_is_answered(flaky: Remote, caplog: pytest.LogCaptureFixture) -> None:
    _Flaky.answers = [503, 502, 200]
    assert flaky.call("GET", "/x").status_code == 200
    assert _Flaky.answers == []
    first, then = (record.getMessage() for record in caplog.records)
    assert "answers 503 Service Unavailable: no; trying again" in first
    assert then.endswith("answers again")


def test_a_refusal_is_told_in_the_servers_own_words_and_not_tried_again(flaky: Remote) -> None:
    _Flaky.answers = [409, 200]
    with pytest.raises(RefusedError, match=r"^no$") as refused:
        flaky.call("GET", "/x")
    assert (refused.value.status, _Flaky.answers) == (409, [200])


def test_whoever_has_no_patience_is_told_that_nobody_answers(flaky: Remote) -> None:
    _Flaky.answers = [503, 200]
    with pytest.raises(TransientError, match=r"127\.0\.0\.1.* answers 503"):
        flaky.call("GET", "/x", patience_s=0)


@pytest.mark.parametrize(
    ("url", "token", "says"),
    [
        ("ftp://x", "t", "'ftp://x' is no"),
        ("http://x:y", "t", "no address"),
        ("http://x", "“t”", "has signs"),
    ],
)
def test_an_address_or_token_that_is_none_is_refused(url: str, token: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        Remote(url, token)


def test_two_agents_do_not_share_a_folder_and_one_is_known_again(tmp_path: Path) -> None:
    with _only_agent(tmp_path) as holder, pytest.raises(TransientError, match="another agent works in"):
        run_agent("http://127.0.0.1:1", "token", name="board", folder=tmp_path)
    with _only_agent(tmp_path) as again:
        assert again == holder
    (tmp_path / "holder").write_text(holder[:5])
    with _only_agent(tmp_path) as new:
        assert len(new) == 32


def test_a_power_mode_that_changes_in_a_pass_spoils_it_and_a_lost_server_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Measurement(agent="board", runtime="onnxruntime", kernels=(CALL,), passes=1, rounds=1)
    claim = Claim(id="job", measurement=wanted, done=())
    device = open_runtime("onnxruntime").describe(name="board", batch=1, threads=1)
    modes = iter(["15W", "15W", "15W", "MAXN"])
    monkeypatch.setattr(agents, "read_board", lambda: Board(power_mode=next(modes)))
    with Remote("http://127.0.0.1:1", "token") as nobody:
        agent = _Agent(nobody, "board", tmp_path)
        sent = Pass.model_validate_json(agent._one_pass(claim, device, [lambda: None], 0))
        assert (sent.device.power_mode, sent.before.power_mode) == ("15W", "15W")
        with pytest.raises(RequestError, match="power mode changed from '15W' to 'MAXN' in a pass"):
            agent._one_pass(claim, device, [lambda: None], 0)


LIGHT = """
import sys

class Heavy:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "ray", "sqlalchemy", "fastapi", "pandas", "optuna", "scipy"}:
            raise ModuleNotFoundError(f"{name} is not installed")

sys.meta_path.insert(0, Heavy())
import hwprofiles.agent, hwprofiles.runtimes.onnx_cpu
from search.cli import main
sys.argv = ["prunefront", "agent", "--server", "nowhere", "--token", "t", "--folder", sys.argv[1]]
main()
"""


def test_the_command_runs_where_torch_ray_and_the_service_are_not_installed(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: server 'nowhere' is no address; give one such as http://127.0.0.1:8321\n",
    )
