"""What a long job says where there is no terminal: enough for a log, and not more."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from search.progress import Bars, Part, Silent


def test_a_log_gets_each_stage_at_once_a_line_every_ten_seconds_and_how_it_ended() -> None:
    log, now_s = StringIO(), 0.0
    with Bars(Console(file=log), clock=lambda: now_s) as bars:
        bars.stage("searching")
        for second in range(1, 26):
            now_s = float(second)
            bars.update(second / 25, f"trial {second} of 25")
        now_s = 35.0
        bars.update(1.0, "looking at the last")
        bars.stage("finishing")
    assert log.getvalue().splitlines() == [
        "searching …",
        "  40%, 0:00:15 left  trial 10 of 25",
        "  80%, 0:00:05 left  trial 20 of 25",
        "  100%  looking at the last",
        "  looking at the last",
        "finishing …",
    ]


def test_a_terminal_gets_bars_and_no_lines() -> None:
    screen, now_s = StringIO(), 0.0
    with Bars(Console(file=screen, force_terminal=True, width=120), clock=lambda: now_s) as bars:
        bars.stage("searching")
        now_s = 60.0
        bars.update(0.5, "trial 5 of 10")
    assert "searching …" not in screen.getvalue()
    assert "100 %" in screen.getvalue()


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.updates: list[tuple[float, str]] = []
        self.notes: list[str] = []

    def update(self, share: float, text: str = "") -> None:
        self.updates.append((share, text))

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_part_of_a_stage_says_whose_it_is_and_how_far_that_brings_the_stage() -> None:
    heard = Heard()
    second = Part(heard, 1, 4, "npu")
    second.update(0.5, "40 kernels")
    second.update(1.0)
    second.note("not measured")
    assert heard.updates == [(0.375, "npu: 40 kernels"), (0.5, "")]
    assert heard.notes == ["npu: not measured"]
