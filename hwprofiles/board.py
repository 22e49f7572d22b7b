"""What a board says about itself while it is measured: power mode, clocks, temperatures, throttling, energy.

Everything is read from where Linux or NVIDIA's management library puts it. What is not there is absent from
the answer; nothing is worked out from anything else, and rails are not added up, as some contain others.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite, nan
from pathlib import Path
from typing import Any, TypeVar

from hwprofiles.samples import only_measurement

K = TypeVar("K")

_GPU_ENERGY = "nvmlDeviceGetTotalEnergyConsumption"
SECONDS = 0.5
"""For how long a network runs in each pass to tell its energy."""
SAMPLE_S = 0.01
"""How often a rail that tells its power, not its energy, is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A board at one moment.

    `power_mode` is the name of a Jetson's nvpmodel mode, or the CPU's frequency governor; "" where there is
    neither. `throttle_events` counts since the board was started, for a GPU the nanoseconds that heat slowed
    it: it was throttled between two moments if a count grew.
    """

    power_mode: str = ""
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttle_events: Mapping[str, int] = field(default_factory=dict)


def read_board(root: Path = Path("/")) -> Board:
    """Read this machine's board from the file system at `root`, and its first NVIDIA GPU where it has one."""
    cpus = root / "sys/devices/system/cpu"
    clocks_mhz = {
        file.parts[-3]: khz / 1e3 for file, khz in _numbers(cpus, "cpu[0-9]*/cpufreq/scaling_cur_freq")
    }
    clocks_mhz |= {
        file.parent.name: hz / 1e6
        for file, hz in _numbers(root / "sys/class/devfreq", "*/cur_freq")
        if re.search(r"gpu|ga10b|gv11b|gp10b", file.parent.name)
    }
    temperatures_c = {
        f"{_text(file.parent / 'type')} ({file.parent.name})": millidegrees / 1e3
        for file, millidegrees in _numbers(root / "sys/class/thermal", "thermal_zone*/temp")
    }
    throttle_events = {
        f"{file.parts[-3]} {file.stem}": count
        for file, count in _numbers(cpus, "cpu[0-9]*/thermal_throttle/core_throttle_count")
    }
    throttle_events |= {
        file.name: count for file, count in _numbers(root / "sys/class/hwmon", "hwmon*/oc*_event_cnt")
    }
    if gpu := _Gpu.of(root):
        clocks_mhz |= gpu.ask("nvmlDeviceGetClockInfo", "NVML_CLOCK_SM")
        temperatures_c |= gpu.ask("nvmlDeviceGetTemperature", "NVML_TEMPERATURE_GPU")
        throttled = gpu.ask("nvmlDeviceGetViolationStatus", "NVML_PERF_POLICY_THERMAL")
        throttle_events |= {name: status.violationTime for name, status in throttled.items()}
    return Board(
        power_mode=power_mode(root),
        clocks_mhz=clocks_mhz,
        temperatures_c=temperatures_c,
        throttle_events=throttle_events,
    )


def power_mode(root: Path = Path("/")) -> str:
    """This machine's power mode, as `Board` has it."""
    return _nvpmodel(root) or _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def energy_mj(
    run: Callable[[], object], *, seconds: float = SECONDS, root: Path = Path("/")
) -> dict[str, float]:
    """Millijoules that one call of `run` takes, per rail, idle power included; empty where nothing tells.

    Calls it again and again for about `seconds`, at least twice.

    Rails: channels of an INA3221 (Jetson), packages of RAPL (a PC, where the user may read it), "gpu 0" of
    NVIDIA's management library.
    """
    counters, power_mw = _counters(root), _rails(root)
    if not counters and not power_mw:
        return {}
    calls = 0
    with _Integrated(power_mw) as integrated:
        before = {name: counter.read_mj() for name, counter in counters.items()}
        end = time.monotonic() + seconds
        while calls < 2 or time.monotonic() < end:
            run()
            calls += 1
        used_mj = {name: counter.since_mj(before[name]) for name, counter in counters.items()}
    known = {name: energy for name, energy in (used_mj | integrated.energy_mj).items() if isfinite(energy)}
    return {name: energy / calls for name, energy in known.items()}


def tells_energy(root: Path = Path("/")) -> bool:
    """Whether any rail of this machine tells that a moment's rest takes energy; so long as that is tried."""
    rest = energy_mj(lambda: time.sleep(SAMPLE_S), root=root)
    return any(mj > 0 for mj in rest.values())


def energies_mj(
    runs: Mapping[K, Callable[[], object]], progress: Callable[[], None] = lambda: None
) -> dict[K, dict[str, float]]:
    """`energy_mj` of each of `runs` that it tells of, while nothing else is measured on this machine.

    Args:
        progress: called after each.

    Raises:
        TransientError: the machine stayed busy with another measurement.
    """
    found = {}
    with only_measurement():
        for key, run in runs.items():
            if rails := energy_mj(run, seconds=SECONDS):
                found[key] = rails
            progress()
    return found


@dataclass(frozen=True, slots=True)
class _Counter:
    """Energy that grows, and starts again from 0 after `wrap_mj`."""

    read_mj: Callable[[], float]
    wrap_mj: float = 0.0

    def since_mj(self, before: float) -> float:
        grown = self.read_mj() - before
        return grown + self.wrap_mj if grown < 0 else grown


def _counters(root: Path) -> dict[str, _Counter]:
    found = {}
    for file, _ in _numbers(root / "sys/class/powercap", "intel-rapl:[0-9]*/energy_uj"):
        domain = file.parent
        if domain.name.count(":") == 1:  # the others are parts of a package

            def read_mj(file: Path = file) -> float:
                return _number(file) / 1e3

            limit_uj = _text(domain / "max_energy_range_uj")
            found[_text(domain / "name") or domain.name] = _Counter(read_mj, float(limit_uj or 0) / 1e3)
    gpu = _Gpu.of(root)
    if gpu and gpu.ask(_GPU_ENERGY):
        found[gpu.NAME] = _Counter(lambda: float(gpu.ask(_GPU_ENERGY)[gpu.NAME]))
    return found


def _rails(root: Path) -> dict[str, Callable[[], float]]:
    """Milliwatts of each labelled channel of each INA3221."""
    found: dict[str, Callable[[], float]] = {}
    for name in sorted((root / "sys/class/hwmon").glob("hwmon*/name")):
        if _text(name) != "ina3221":
            continue
        for label in sorted(name.parent.glob("in[0-9]*_label")):
            volts = label.with_name(label.name.replace("_label", "_input"))
            amperes = volts.with_name(volts.name.replace("in", "curr", 1))
            if volts.exists() and amperes.exists():

                def read_mw(volts: Path = volts, amperes: Path = amperes) -> float:
                    return _number(volts) * _number(amperes) / 1e3  # mV x mA = uW

                found[_text(label)] = read_mw
    return found


class _Integrated:
    """The energy that goes through rails while it is entered, sampled on a thread of its own."""

    def __init__(self, power_mw: Mapping[str, Callable[[], float]]) -> None:
        self.energy_mj = dict.fromkeys(power_mw, 0.0)
        self._power_mw = power_mw
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        last_s, last_mw = time.monotonic(), {name: read() for name, read in self._power_mw.items()}
        ended = False
        while not ended:
            ended = self._ended.wait(SAMPLE_S)
            now_s, now_mw = time.monotonic(), {name: read() for name, read in self._power_mw.items()}
            for name in now_mw:
                self.energy_mj[name] += (now_s - last_s) * (last_mw[name] + now_mw[name]) / 2
            last_s, last_mw = now_s, now_mw

    def __enter__(self) -> _Integrated:
        if self._power_mw:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._power_mw:
            self._thread.join()


class _Gpu:
    """The first NVIDIA GPU, through NVIDIA's management library; what that does not tell is absent."""

    NAME = "gpu 0"

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(0)

    @classmethod
    def of(cls, root: Path) -> _Gpu | None:
        """None where there is no GPU, no driver, or no library (nvidia-ml-py), and for another's files."""
        if root == Path("/"):
            with suppress(Exception):  # the library has one class for each way to fail
                return cls()
        return None

    def ask(self, name: str, *arguments: str) -> dict[str, Any]:
        """What the library's function `name` says; its arguments are names of the library, too."""
        with suppress(Exception):  # as above; older boards know fewer functions
            values = [getattr(self._nvml, argument) for argument in arguments]
            return {self.NAME: getattr(self._nvml, name)(self._handle, *values)}
        return {}


def _nvpmodel(root: Path) -> str:
    """The name of the mode that nvpmodel last set; its number where the configuration has no name for it."""
    mode = re.search(r"pmode:0*(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not mode:
        return ""
    named = re.search(
        rf"<\s*POWER_MODEL\s+ID=0*{mode[1]}\s+NAME=(\S+)\s*>", _text(root / "etc/nvpmodel.conf")
    )
    return named[1] if named else mode[1]


def _numbers(folder: Path, pattern: str) -> Iterator[tuple[Path, int]]:
    """Every file of a pattern that can be read and holds a whole number."""
    for file in sorted(folder.glob(pattern)):
        with suppress(OSError, ValueError):
            yield file, int(file.read_text())


def _number(file: Path) -> float:
    """What a sensor says now; NaN where it fails, which makes all that is worked out from it absent."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return nan


def _text(path: Path) -> str:
    """What a file holds, or "" where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
