"""The live line: timed lines in a log file, one line written anew in a notebook."""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
from contextlib import suppress

import pytest
from rich.console import Console
from rich.progress import BarColumn

from diffpo.view import progress
from diffpo.view.progress import Progress, counted


class ZMQInteractiveShell:
    """What rich knows a notebook by."""


def shown(text: str) -> list[str]:
    """What a notebook shows of a stream: a carriage return writes over the line."""
    lines = []
    for line in text.split("\n"):
        seen = ""
        for written in line.split("\r"):
            seen = written + seen[len(written) :]
        lines.append(seen.rstrip())
    return lines


def work(quiet: bool = False) -> None:
    with Progress("train", 300, quiet) as bar:
        bar.note("model: tiny")
        for step in range(300):
            bar.advance(reward=step / 300)
            if step == 100:
                bar.note("step 100: an alarm")


def test_a_notebook_has_one_line_that_is_written_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(progress, "REWRITE_EVERY", 0.0)
    work()
    written = capsys.readouterr()
    assert written.err == "" and written.out.count("\r") > 600
    assert [line.split("  ")[0] for line in shown(written.out)] == [
        "model: tiny",
        "step 100: an alarm",
        "train 300/300",
        "",
    ]
    work(quiet=True)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_is_not_flooded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(builtins, "get_ipython", ZMQInteractiveShell, raising=False)
    monkeypatch.setattr(progress, "REWRITE_EVERY", 60.0)
    work()
    assert capsys.readouterr().out.count("\r") == 8  # two each for the first step, the last, two notes


def test_a_log_file_gets_the_first_step_the_last_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    work()
    written = capsys.readouterr()
    assert written.out == "" and "\r" not in written.err
    assert len(written.err.splitlines()) == 4


def test_what_a_step_had_taken_before_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("train", 9, done=3, spent=100.0) as bar:
        bar.advance()
    assert "train 4/9  100 s a step, 8.33 min left" in capsys.readouterr().err


def test_what_was_done_before_says_nothing_of_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Progress("study", 9, unit="cell", every=0.0) as bar:
        for _ in range(2):
            bar.found()
            now[0] += 20
            bar.advance()
    lines = [line.split("  ", 1)[1].rstrip() for line in capsys.readouterr().err.splitlines()]
    assert lines == ["study 2/9  20 s a cell, 2.33 min left", "study 4/9  20 s a cell, 100 s left"]


@pytest.mark.parametrize("listens", [True, False])
def test_a_reader_that_leaves_asks_to_stop(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a terminal that is closed does, so that what is done is saved; rich would exit there and then."""
    reader, writer = os.pipe()
    os.close(reader)
    asked: list[int] = []
    before = signal.signal(signal.SIGHUP, (lambda number, _: asked.append(number)) if listens else signal.SIG_DFL)
    monkeypatch.setattr(sys, "stderr", os.fdopen(writer, "w"))
    try:
        shown = Progress("work", 2)
        if listens:
            shown.note("a line")
            shown.advance()
            assert asked == [signal.SIGHUP], "once"
        else:
            with pytest.raises(BrokenPipeError):
                shown.note("a line")
    finally:
        signal.signal(signal.SIGHUP, before)
        with suppress(BrokenPipeError):
            sys.stderr.close()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_narrow_terminal_has_the_steps_and_the_time_left(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    line = Progress("train", 625, done=7)
    line.phase("rollouts")
    line.advance(reward=0.512, accuracy=0.4, nfe=12.3, gamma=0.41)
    console = Console(width=width, file=io.StringIO())
    console.print(line.bar.get_renderable())
    seen = console.file.getvalue()
    assert seen.count("\n") == 1 and " 8/625 " in seen and " left -:--:-- " in seen
    assert any(isinstance(column, BarColumn) for column in line.bar.columns) == (width >= 120)


def test_one_is_no_plural() -> None:
    assert [counted(number, "answer") for number in (0, 1, 1200)] == ["0 answers", "1 answer", "1,200 answers"]
    assert [counted(number, "row is", "rows are") for number in (1, 2)] == ["1 row is", "2 rows are"]
