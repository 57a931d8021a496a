"""A live line on long work: steps, phases, the latest figures, time left."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

REWRITE_EVERY = 0.2
"""Seconds after which a notebook's line is written anew."""

NARROW = 120
"""Columns of a terminal below which the line goes without its bar: steps and time left are what is looked for."""


class Told(Console):
    """A console whose reader may leave: to whoever listens for it that is as a terminal that is closed, SIGHUP."""

    def on_broken_pipe(self) -> None:
        """Rich would exit here, whatever was to be saved."""
        self.quiet = True
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # no command, but a program of the user's own
            raise BrokenPipeError("nobody reads the progress any more")
        with open(os.devnull, "wb") as null:  # the last line has no reader either
            os.dup2(null.fileno(), self.file.fileno())
        signal.raise_signal(signal.SIGHUP)


class Cut(TextColumn):
    """Words that are cut where the line is too long; the columns beside them are whole."""

    def __init__(self, text: str) -> None:
        super().__init__(text, table_column=Column(overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap = True
        return text


class Progress:
    """Context manager around a rich progress bar; `advance(name=value, ...)` shows the figures beside it.

    Where the output is no terminal (a log file, CI) it prints a line for the first step, for the last, and after
    `every` seconds without one: when it was, steps, seconds a step (`unit`), time left, figures. In a notebook that is
    one line, written anew at most five times a second.
    """

    def __init__(
        self,
        title: str,
        total: int,
        quiet: bool = False,
        done: int = 0,
        every: float = 60.0,
        unit: str = "step",
        spent: float = 0.0,
    ) -> None:
        """`done` steps are, and `spent` seconds of the next, before it begins."""
        self.console = Told(stderr=True, quiet=quiet)
        self.every = REWRITE_EVERY if self.console.is_jupyter else every
        self.unit = unit
        self.width = 0  # of the line that is shown in a notebook
        self.title, self.total, self.done = title, total, done
        self.first, self.spent = done + 1, spent
        self.started = self.said = time.perf_counter()
        whole, wide = Column(no_wrap=True), self.console.width >= NARROW
        self.bar = RichProgress(
            Cut("{task.description}"),
            *([BarColumn(bar_width=24, table_column=whole)] if wide else []),
            MofNCompleteColumn(table_column=whole),
            *([TimeElapsedColumn(table_column=whole)] if wide else []),
            TextColumn("left"),
            TimeRemainingColumn(table_column=whole),
            Cut("{task.fields[figures]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=total, completed=done, figures="")

    def phase(self, name: str) -> None:
        """What is being done now."""
        self.bar.update(self.task, description=f"{self.title}: {name}")
        if time.perf_counter() - self.said >= self.every:
            self._say(name)

    def advance(self, **figures: float) -> None:
        """One step is done; show these figures."""
        self.done += 1
        seconds = (time.perf_counter() - self.started + self.spent) / (self.done - self.first + 1)
        line = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self.bar.update(self.task, advance=1, figures=line)
        if self.done in (self.first, self.total) or time.perf_counter() - self.said >= self.every:
            left = "" if self.done == self.total else f", {duration(seconds * (self.total - self.done))} left"
            self._say(f"{duration(seconds)} a {self.unit}{left}  {line}")

    def found(self) -> None:
        """One step had been done before: it says nothing of how long the others take."""
        self.done, self.first = self.done + 1, self.first + 1
        self.bar.update(self.task, advance=1)

    def _say(self, what: str) -> None:
        self.said = time.perf_counter()
        if self.console.is_jupyter:
            self._write(f"{self.title} {self.done}/{self.total}  {what}")
        elif not self.console.is_terminal:
            line = f"{datetime.now():%Y-%m-%d %H:%M:%S}  {self.title} {self.done}/{self.total}  {what}"
            self._print(line.rstrip())

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        if self.console.is_jupyter:
            return self._write(line, end="\n")
        self._print(line)

    def _print(self, line: str) -> None:
        try:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        except OSError:  # of a terminal that is gone, or in an older rich
            self.console.on_broken_pipe()

    def _write(self, line: str, end: str = "") -> None:
        """In a notebook: a line in the place of the last; with an end it stays. Rich would put it below."""
        if not self.console.quiet:
            print(f"\r{'':{self.width}}\r{line}", end=end, flush=True)
            self.width = 0 if end else len(line)

    def __enter__(self) -> Progress:
        self.started = self.said = time.perf_counter()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self.width:
            print()


def short(value: float, digits: int = 3) -> str:
    """A number to so many digits; a whole one where it has as many before its point."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would choose."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def counted(number: int, one: str, many: str = "") -> str:
    """So many of something: 1 answer, 1,200 answers; `many` where that is more than an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def count(number: int) -> str:
    """A number of parameters as people say it."""
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"
