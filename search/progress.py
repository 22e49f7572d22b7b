"""What a long job says while it works: stages, how far each is, what it found so far."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

STAGES = ("exporting", "profiling", "searching", "finishing", "measuring", "reporting")


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


class Bars:
    """One bar per stage on a terminal, with time left; plain lines where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
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
        )
        self._task: TaskID | None = None
        self._stage, self._last_text = "", ""

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
        self._stage, self._last_text = name, ""
        self._task = self._progress.add_task(name, total=1.0, text="")
        if not self.console.is_terminal:
            self.console.print(f"{name} …", markup=False)

    def update(self, share: float, text: str = "") -> None:
        if self._task is not None:
            self._last_text = text or self._last_text
            self._progress.update(self._task, completed=min(1.0, share), text=self._last_text)

    def note(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def _finish(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1.0)
            if not self.console.is_terminal and self._last_text:
                self.console.print(f"  {self._last_text}", markup=False, highlight=False)
