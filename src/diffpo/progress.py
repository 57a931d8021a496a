"""A live line on long work: steps, the latest figures, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Context manager around a rich progress bar; `advance(name=value, ...)` shows the figures beside it.

    Where the output is no terminal (a log file, CI) it prints a line now and then instead.
    """

    def __init__(self, title: str, total: int, quiet: bool = False, done: int = 0) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.title, self.total, self.done = title, total, done
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=total, completed=done, figures="")

    def advance(self, **figures: float) -> None:
        """One step is done; show these figures."""
        self.done += 1
        line = "  ".join(f"{name} {value:.3g}" for name, value in figures.items())
        self.bar.update(self.task, advance=1, figures=line)
        if not self.console.is_terminal and (self.done % max(1, self.total // 10) == 0 or self.done == self.total):
            self.console.print(f"{self.title} {self.done}/{self.total}  {line}", highlight=False, soft_wrap=True)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self.bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
