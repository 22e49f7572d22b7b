from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwprofiles import Rounds, measure, samples
from hwprofiles.errors import TransientError
from hwprofiles.samples import RUNS_PER_VISIT, only_measurement


def rounds_of(*medians_ms: float) -> Rounds:
    return Rounds(np.array(medians_ms).reshape(1, -1, 1).repeat(RUNS_PER_VISIT, axis=2))


def test_latency_is_the_mean_of_the_lowest_quartile_of_round_medians() -> None:
    assert rounds_of(8, 1, 7, 2, 6, 3, 5, 4).summary().latency_ms == 1.5


def test_one_slow_run_in_a_visit_changes_its_median_not_at_all() -> None:
    times = np.ones((1, 4, 4))
    times[:, :, 2] = 100
    summary = Rounds(times).summary()
    assert summary.latency_ms == summary.p50_ms == 1
    assert summary.p99_ms == 100


def test_the_first_run_of_a_visit_is_cold_and_counts_for_nothing_else() -> None:
    times = np.ones((1, 8, 4))
    times[:, :, 0] = [[8, 7, 6, 5, 4, 3, 3, 2]]
    summary = Rounds(times).summary()
    assert (summary.latency_ms, summary.cold_ms, summary.p99_ms) == (1, 2.5, 1)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.floats(0.5, 2))
def test_a_summary_stays_within_its_times_and_scales_with_them(times: list[float], factor: float) -> None:
    one, scaled = rounds_of(*times).summary(), rounds_of(*(factor * t for t in times)).summary()
    assert min(times) * (1 - 1e-12) <= one.latency_ms <= max(times) * (1 + 1e-12)
    assert one.p50_ms <= one.p90_ms <= one.p99_ms
    assert scaled.latency_ms == pytest.approx(factor * one.latency_ms)
    assert scaled.spread == pytest.approx(one.spread)


@pytest.mark.parametrize("time", [0.0, -1.0, float("nan"), float("inf"), 1e300, 5e-324])
def test_a_time_that_cannot_be_is_refused(time: float) -> None:
    with pytest.raises(ValueError, match=f"a time is {re.escape(str(time))} ms; allowed: from a nanosecond"):
        rounds_of(1.0, time)


def test_everything_has_one_turn_a_round_in_an_order_that_changes() -> None:
    order: list[str] = []
    done: list[float] = []
    runs = {name: lambda name=name: order.append(name) for name in "abcdefgh"}
    measured = measure(runs, passes=2, rounds=3, seed=0, progress=done.append)
    turns = np.array(order).reshape(6, 8, RUNS_PER_VISIT)
    assert (turns == turns[:, :, :1]).all()
    assert all(sorted(turn[:, 0]) == list("abcdefgh") for turn in turns)
    assert len({tuple(turn[:, 0]) for turn in turns}) > 1
    assert measured["a"].times_ms.shape == (2, 3, RUNS_PER_VISIT)
    assert done == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])


def test_milliseconds_of_a_devices_own_clock_count_and_the_wall_clock_where_it_has_none() -> None:
    own_ms = iter(range(1, 100))
    measured = measure({"own": lambda: float(next(own_ms)), "none": lambda: None}, passes=1, rounds=2, seed=0)
    assert measured["own"].times_ms.ravel().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert 0 < measured["none"].times_ms.max() < 1e3


def test_a_second_measurement_is_kept_waiting_and_told_why() -> None:
    refused: list[str] = []

    def second() -> None:
        try:
            with only_measurement(patience_s=0):
                pass
        except TransientError as error:
            refused.append(str(error))

    with only_measurement():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "has held" in refused[0]


HOLDING = (
    "import sys; from hwprofiles.samples import only_measurement\n"
    "with only_measurement(): print('held', flush=True); sys.stdin.readline()"
)


@contextmanager
def measuring_process() -> Iterator[subprocess.Popen[str]]:
    """A process that measures until it is killed or reads a line."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, "job.toml"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder


def test_a_killed_measurement_frees_the_machine() -> None:
    with measuring_process() as holder:
        holder.kill()
        holder.wait()
    with only_measurement(patience_s=60):
        pass


def test_whoever_waits_for_a_measurement_says_once_for_which(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(samples, "SILENT_S", 0.1)
    with measuring_process() as holder:
        with pytest.raises(TransientError, match=f"process {holder.pid} .*has held"):
            with only_measurement(patience_s=0.5):
                pass
        [said] = caplog.messages
        assert said.startswith(f"waiting to measure: process {holder.pid} ({sys.executable} -c import sys;")
        assert said.endswith("job.toml) measures on this machine now")
        holder.communicate("\n")
    with only_measurement(patience_s=60):
        assert caplog.messages == [said]
