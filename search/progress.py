"""What a long job says while it works: stages, how far each is, what it found so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

STAGES = ("exporting", "profiling", "searching", "finishing", "measuring", "reporting")


LINE_EVERY_S = 10.0
"""How long a log without a terminal may say nothing while updates come in."""
SPEED_OF_S = 600.0
"""Time left is told by what was done in so long a time: a single trial or finalist may take minutes."""


class Listener(Protocol):
    """Told what a job does. Calls come from one thread, stages in the order of `STAGES`."""

    def stage(self, name: str) -> None:
        """A stage begins, and the one before it is done."""
        ...

    def update(self, share: float, text: str = "") -> None:
        """The current stage is this far, 0..1; `text` says what it found so far."""
        ...

    def note(self, text: str) -> None:
        """A sentence for the user that should stay on the screen."""
        ...


class Silent:
    """Says nothing."""

    def stage(self, name: str) -> None:
        pass

    def update(self, share: float, text: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Prefixed:
    """Tells another listener whose work it hears of."""

    def __init__(self, listener: Listener, name: str) -> None:
        self._listener, self._name = listener, name

    def stage(self, name: str) -> None:
        self._listener.stage(f"{self._name}: {name}")

    def update(self, share: float, text: str = "") -> None:
        self._listener.update(share, text)

    def note(self, text: str) -> None:
        self._listener.note(f"{self._name}: {text}")


class Part:
    """Tells another listener of one of several equal parts of a stage, as that much of the stage.

    Args:
        name: what all that is said of it begins with; "" where that is clear.
    """

    def __init__(self, listener: Listener, number: int, parts: int, name: str = "") -> None:
        self._listener, self._number, self._parts = listener, number, parts
        self._of = f"{name}: " if name else ""

    def stage(self, name: str) -> None:
        self._listener.stage(name)

    def update(self, share: float, text: str = "") -> None:
        self._listener.update((self._number + share) / self._parts, text and self._of + text)

    def note(self, text: str) -> None:
        self._listener.note(self._of + text)


class Bars:
    """One bar per stage on a terminal, with time left; elsewhere a line now and then, for a log to keep.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._progress = Progress(
            TextColumn("[bold]{task.description:<9}", table_column=Column(no_wrap=True, min_width=9)),
            *([BarColumn(bar_width=16)] if console.width >= 100 else []),
            TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True, min_width=5)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            # What does not fit is cut here, where least is lost.
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console,
            disable=not console.is_terminal,
            get_time=clock,
            speed_estimate_period=SPEED_OF_S,
        )
        self._task: TaskID | None = None
        self._last_text, self._last_line_s = "", clock()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        self._progress.stop()

    def stage(self, name: str) -> None:
        self._finish()
        self._last_text = ""
        self._task = self._progress.add_task(name, total=1.0, text="")
        self._line(f"{name} …")

    def update(self, share: float, text: str = "") -> None:
        if self._task is not None:
            self._last_text = text or self._last_text
            self._progress.update(self._task, completed=min(1.0, share), text=self._last_text)
            if self.clock() - self._last_line_s >= LINE_EVERY_S:
                left_s = self._progress.tasks[-1].time_remaining
                left = "" if left_s is None or share >= 1.0 else f", {timedelta(seconds=left_s)} left"
                self._line(f"  {min(1.0, share):.0%}{left}  {self._last_text}")

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1.0)
            if self._last_text:
                self._line(f"  {self._last_text}")

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._last_line_s = self.clock()
