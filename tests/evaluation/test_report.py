"""Tables hold the figures, and pictures are drawn whatever is missing."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation
from diffpo.evaluation.report import (
    comparison_table,
    evaluation_table,
    frontier_figure,
    training_figure,
    unmasking_figure,
)
from diffpo.types import Completion


def point(sampler: str, level: str, accuracy: float, nfe: float, gamma: float | None = None, eos: float = 0) -> Point:
    return Point(
        sampler,
        level,
        200,
        accuracy,
        max(0, accuracy - 0.05),
        min(1, accuracy + 0.05),
        nfe,
        eos or nfe,
        16 / nfe,
        gamma,
    )


def evaluation(gain: float = 0.0, learned: bool = True, levels: Sequence[str] = ("easy", "hard")) -> Evaluation:
    """Top-k, a learned sampler and a frontier through (2, 0.4), (4, 0.5), (8, 0.6), all better by `gain`."""
    points, frontier = [], []
    for level in ("", *levels):
        points += [point("top_k:2", level, 0.55 + gain, 8), point("top_k:4", level, 0.45 + gain, 4)]
        points += [point("learned", level, 0.5123 + gain, 5 - 10 * gain, 0.2)] if learned else []
        fixed = ((0.1, 0.6, 8), (0.5, 0.5, 4), (2, 0.4, 2))
        frontier += [point(f"entropy_bound:{g:g}", level, accuracy + gain, nfe, g) for g, accuracy, nfe in fixed]
    return Evaluation("sudoku", tuple(points), tuple(frontier))


def render(table: Table) -> list[list[str]]:
    """The words of each line, as a terminal of 80 columns without colour shows them."""
    screen = io.StringIO()
    Console(file=screen, width=80).print(table)
    assert "…" not in screen.getvalue()
    return [line.split() for line in screen.getvalue().splitlines() if line.strip()]


def row(table: Table, name: str, nth: int = 0) -> str:
    return " ".join([words for words in render(table) if words[0] == name][nth])


def is_picture(path: Path) -> bool:
    """Whether a PNG of some size holds more than a blank page."""
    pixels = imread(path)
    return min(pixels.shape[:2]) > 200 and float((pixels[..., :3].min(-1) < 0.9).mean()) > 0.001


# --- tables ------------------------------------------------------------------------------------------------------


def test_evaluation_table_holds_the_figures() -> None:
    table = evaluation_table(evaluation())
    assert row(table, "top_k:2") == "top_k:2 55.0 [50.0, 60.0] 8.00 2.00"
    assert row(table, "easy", 2) == "easy 51.2 [46.2, 56.2] 5.00 3.20 0.2"
    assert row(table, "entropy_bound:0.5") == "entropy_bound:0.5 50.0 [45.0, 55.0] 4.00 4.00 0.5"
    assert sum(words[0] == "easy" for words in render(table)) == 3  # of the samplers, not of the frontier


def test_evaluation_table_shows_calls_until_eos_where_they_differ() -> None:
    same, differs = (Evaluation("s", (point("top_k:1", "", 0.5, 16, eos=eos),)) for eos in (16, 12.5))
    assert "until" not in str(render(evaluation_table(same)))
    assert row(evaluation_table(differs), "top_k:1") == "top_k:1 50.0 [45.0, 55.0] 16.0 12.5 1.00"


def test_comparison_table_shows_what_changed() -> None:
    table = comparison_table(evaluation(), evaluation(gain=0.1))
    assert row(table, "top_k:4") == "top_k:4 45.0 [40, 50] 55.0 [50, 60] +10.0 4.00 → 4.00 0 %"
    assert row(table, "learned") == "learned 51.2 [46, 56] 61.2 [56, 66] +10.0 5.00 → 4.00 -20 %"
    assert row(table, "hard") == "hard 51.2 [46, 56] 61.2 [56, 66] +10.0 5.00 → 4.00 -20 %"
    # the frontier before passes through 50 % at 4 calls
    assert row(table, "vs") == "vs fixed 50.0 61.2 [56, 66] +11.2 4.00 → 4.00 0 %"
    assert "+11.2 points" in " ".join(word for words in render(table) for word in words)


def test_comparison_table_is_coloured_by_better_and_worse() -> None:
    def styles(table: Table) -> set[str]:
        cells = [cell for column in table.columns for cell in column.cells if isinstance(cell, Text)]
        return {str(cell.style) for cell in cells} - {""}

    assert styles(comparison_table(evaluation(), evaluation(gain=0.1))) == {"green"}
    assert "red" in styles(comparison_table(evaluation(gain=0.1), evaluation()))


def test_comparison_table_when_nothing_was_learned_before() -> None:
    table = comparison_table(evaluation(learned=False), evaluation())
    assert row(table, "learned") == "learned - 51.2 [46, 56] - → 5.00"
    assert row(table, "vs").startswith("vs fixed 52.5 51.2 [46, 56] -1.3")


def test_comparison_table_without_a_frontier_or_a_learned_sampler() -> None:
    plain = Evaluation("sudoku", evaluation(learned=False).points)
    assert not any(words[0] == "vs" for words in render(comparison_table(plain, evaluation())))
    assert not any(words[0] in ("learned", "easy") for words in render(comparison_table(evaluation(), plain)))


def test_beyond_the_frontier_its_end_is_shown() -> None:
    slow = Evaluation("sudoku", (point("learned", "", 0.7, 12),))
    assert row(comparison_table(evaluation(), slow), "vs") == "vs fixed 60.0 70.0 [65, 75] +10.0 8.00 → 12.0 +50 %"


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "evaluations",
    [
        {"before": evaluation(), "after": evaluation(0.1)},
        {"a policy": evaluation()},
        {"before": evaluation(learned=False), "after": evaluation(0.1)},
        {"one level": evaluation(levels=["easy"])},
        {"no levels": evaluation(levels=[])},
        {"one gamma": Evaluation("s", evaluation().points, evaluation(levels=[]).frontier[:1])},
        {"no frontier": Evaluation("s", evaluation().points)},
        {"frontier only": Evaluation("s", (), evaluation().frontier)},
        {"one point": Evaluation("s", (point("learned", "", 1.0, 1),))},
        {f"policy {index}": evaluation(0.01 * index) for index in range(7)},
        {"long answers": Evaluation("s", (point("top_k:1", "", 0.5, 512), point("top_k:2", "", 0.5, 256)))},
    ],
    ids=lambda evaluations: next(iter(evaluations)),
)
def test_frontier_figure_is_drawn(evaluations: dict[str, Evaluation], tmp_path: Path) -> None:
    frontier_figure(evaluations, tmp_path / "new" / "frontier.png")
    assert is_picture(tmp_path / "new" / "frontier.png")


def metrics(steps: int, *missing: str) -> list[dict[str, float | None]]:
    names = ["reward", "accuracy", "accuracy/easy", "accuracy/hard", "nfe", "nfe/easy", "nfe/hard", "gamma"]
    names += ["gamma/easy", "gamma/hard", "entropy", "surrogate_kl", "clip_ratio", "importance/ess"]
    return [
        {"step": step} | {name: math.sin(step + len(name)) ** 2 for name in names if name not in missing}
        for step in range(steps)
    ]


@pytest.mark.parametrize(
    "lines",
    [
        metrics(12),
        metrics(1),
        metrics(2),
        metrics(6, "accuracy/easy", "accuracy/hard", "nfe/easy", "nfe/hard", "gamma/easy", "gamma/hard"),
        metrics(6, "gamma", "gamma/easy", "gamma/hard", "surrogate_kl", "clip_ratio", "importance/ess"),
        [line | {"surrogate_kl": None if line["step"] == 3 else 0.1} for line in metrics(6)],
        [{"reward": 0.5}, {"reward": 0.6}],
    ],
    ids=["all", "one step", "two steps", "no levels", "no update", "a gap", "reward alone"],
)
def test_training_figure_is_drawn(lines: list[dict[str, float | None]], tmp_path: Path) -> None:
    training_figure(lines, tmp_path / "training.png")
    assert is_picture(tmp_path / "training.png")


def test_missing_metrics_leave_their_panel_out(tmp_path: Path) -> None:
    training_figure(metrics(5), tmp_path / "all.png")
    training_figure(metrics(5, "entropy", "surrogate_kl", "clip_ratio", "importance/ess"), tmp_path / "some.png")
    assert imread(tmp_path / "some.png").shape[0] < imread(tmp_path / "all.png").shape[0]
    for lines in ([], [{"time/step_seconds": 1.0}]):
        with pytest.raises(ValueError, match=r"metrics\.jsonl"):
            training_figure(lines, tmp_path / "none.png")


def completion(committed_at: Sequence[int]) -> Completion:
    length, nfe = len(committed_at), max(committed_at)
    return Completion(
        tokens=torch.zeros(length, dtype=torch.int64),
        committed_at=torch.tensor(committed_at),
        behaviour_logprobs=torch.zeros(length),
        entropies=torch.linspace(0, 3, length),
        nfe=nfe,
        nfe_until_eos=nfe,
        length=length,
    )


@pytest.mark.parametrize(
    ("tokens", "calls", "columns"),
    [
        (list("1234") * 4, [1, 2, 3, 4] * 4, 4),
        (list("1234") * 4, [1] * 16, None),
        (["$", "", "\n", " the", "x^$_{", "international"], [1, 6, 2, 5, 4, 3], None),
        (["a"], [1], None),
        (["word", "+"] * 128, list(range(1, 129)) * 2, None),
    ],
    ids=["sudoku", "one call", "odd tokens", "one token", "long"],
)
def test_unmasking_figure_is_drawn(tokens: list[str], calls: list[int], columns: int | None, tmp_path: Path) -> None:
    prompt = "What is $3 + 4$, and\nwhy? " * 8
    unmasking_figure(prompt, tokens, completion(calls), tmp_path / "unmasking.png", columns)
    assert is_picture(tmp_path / "unmasking.png")


def test_figures_leave_pyplot_alone() -> None:
    """Neither a backend nor a global figure is touched: pyplot is not even imported."""
    check = "import sys, diffpo.evaluation.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
