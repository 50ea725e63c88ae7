"""What runs, how far it is and how long it will take: live in a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Live

SECONDS_BETWEEN_LINES = 15.0


class Bar:
    """One task's progress; made by `Progress.start`, shown until `finish`."""

    def __init__(self, progress: "Progress", label: str, total: int) -> None:
        self._progress = progress
        self.label = label
        self.total = total
        self.done = 0
        self.note = ""
        self._began = self._spoke = time.monotonic()
        live = progress._live
        self._task = live.add_task(label, total=total, note="") if live else None

    def advance(self, n: int = 1, note: str = "") -> None:
        """``n`` more units are done; ``note`` says what runs now (empty keeps the last note)."""
        self.done += n
        self.note = note or self.note
        live = self._progress._live
        if live and self._task is not None:
            live.update(self._task, completed=self.done, note=self.note)
        elif time.monotonic() - self._spoke >= SECONDS_BETWEEN_LINES:
            self._spoke = time.monotonic()
            self._progress.print(self._line())

    def finish(self) -> None:
        """The task is over; a terminal keeps nothing of it, a log keeps one line."""
        live = self._progress._live
        if live and self._task is not None:
            live.remove_task(self._task)
        else:
            self._progress.print(self._line())

    def _line(self) -> str:
        seconds = time.monotonic() - self._began
        text = f"{self.label}: {self.done}/{self.total} in {clock(seconds)}"
        if 0 < self.done < self.total:
            text += f", {clock(seconds / self.done * (self.total - self.done))} left"
        return f"{text} ({self.note})" if self.note else text


class Progress:
    """A context manager around rich; on a stream that is no terminal it prints a line now and then.

    Args:
        stream: where to write; default stderr, so that stdout holds results only.
        silent: shows nothing (workers and tests).
    """

    def __init__(self, stream: TextIO | None = None, *, silent: bool = False) -> None:
        self._console = Console(
            file=stream or sys.stderr, quiet=silent, highlight=False, soft_wrap=True
        )
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim", markup=False),
                console=self._console,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def start(self, label: str, total: int) -> Bar:
        """A new bar of ``total`` units."""
        return Bar(self, label, total)

    def print(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)


def clock(seconds: float) -> str:
    """A duration for people: 42 s, 3:05, 1:02:09."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
