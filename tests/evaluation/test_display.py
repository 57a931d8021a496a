"""The live unmasking, on a terminal and in a pipe."""

from __future__ import annotations

import io
import time

import pytest
import torch
from helpers import tiny_policy
from rich.console import Console

from diffpo.config import ModelConfig, RolloutConfig, TaskConfig
from diffpo.evaluation.display import LiveUnmasking, show_turn, show_unmasking
from diffpo.models.policy import create_policy
from diffpo.rollout.engine import Committed
from diffpo.rollout.local import TINY_LENGTH
from diffpo.tasks.tiny_sudoku import TinySudoku
from diffpo.types import Completion, Prompt, Verdict

CALLS = ({0: 1, 3: 3}, {2: 2}, {1: 4})
"""Tokens by position that each call commits."""


def play(terminal: bool, columns: int | None = None, delay: float = 0.0, verdict: Verdict | None = None) -> str:
    """What a canvas of four tokens, committed in three calls, writes."""
    colours = "truecolor" if terminal else None
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=colours, _environ={})
    with LiveUnmasking("1+1=", str, [None] * 4, delay, columns, console) as live:
        for call, tokens in enumerate(CALLS, start=1):
            positions, ids = torch.tensor(list(tokens)), torch.tensor(list(tokens.values()))
            zeros = torch.zeros(len(ids))
            live.show(Committed(0, call, positions, ids, zeros, zeros, gamma=0.0))
    committed_at = torch.tensor([1, 3, 2, 1])
    completion = Completion(
        torch.tensor([1, 4, 2, 3]), committed_at, torch.zeros(4), torch.zeros(4), 3, 3, 4, gamma=0.25, text="1423"
    )
    live.summary(completion, verdict)
    assert live.committed_at == committed_at.tolist()
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_pipe_gets_a_line_a_call() -> None:
    lines = play(terminal=False, verdict=Verdict(True, 1.0)).splitlines()
    assert lines[:3] == ["call   1  1__3", "call   2  1_23", "call   3  1423"]
    assert lines[3] == "answer  1423   NFE 3   1.33 tokens per NFE   gamma 0.25   right"
    assert len(lines) == 4


def test_a_grid_is_shown_row_by_row() -> None:
    assert play(terminal=False, columns=2).splitlines()[:2] == ["call   1  1_ _3", "call   2  1_ 23"]
    assert "░" in play(terminal=True, columns=2)


def test_a_terminal_gets_the_canvas_in_colour() -> None:
    text = play(terminal=True, verdict=Verdict(False, 0.0))
    assert "call 2: +1, 1 left" in text
    assert "\x1b[2m░" in text  # masks dim
    assert "\x1b[1;7;38;2;42;161;152m2" in text  # the token of call 2 when it is new, then in its colour
    assert "\x1b[38;2;42;161;152m2" in text
    assert "wrong" in text


def test_each_call_stays_on_the_terminal() -> None:
    started = time.perf_counter()
    play(terminal=True, delay=0.02)
    assert time.perf_counter() - started >= 3 * 0.02
    started = time.perf_counter()
    play(terminal=False, delay=5.0)
    assert time.perf_counter() - started < 5.0


def test_show_unmasking_answers_and_judges(capsys: pytest.CaptureFixture[str]) -> None:
    task = TinySudoku(TaskConfig())
    policy = create_policy(task.alphabet, ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32))
    rollout = RolloutConfig(sampler="top_k:4", temperature=0.0)
    (prompt,) = task.prompts("test", 1)
    completion = show_unmasking(policy, task, prompt, rollout)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["prompt", prompt.text]
    assert [line[:8] for line in lines[1:-1]] == [f"call   {call}" for call in range(1, completion.nfe + 1)]
    assert lines[-1].split()[:2] == ["answer", completion.text] if completion.text else ["answer", "NFE"]
    assert lines[-1].endswith("wrong")
    show_unmasking(policy, task, Prompt("prompt", prompt.text), rollout)  # a user's prompt has no known answer
    assert "wrong" not in capsys.readouterr().out


def test_where_nothing_says_the_canvas_is_as_long_as_sample_makes_it(capsys: pytest.CaptureFixture[str]) -> None:
    rollout, prompt = RolloutConfig(sampler="top_k:4", temperature=0.0), Prompt("prompt", "012")
    assert len(show_unmasking(tiny_policy(), None, prompt, rollout).tokens) == TINY_LENGTH
    assert len(show_turn(tiny_policy(padding=0), "012", rollout).tokens) == TINY_LENGTH
    assert "call   1" in capsys.readouterr().out
