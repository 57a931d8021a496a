"""Pictures are drawn whatever is missing."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation.measured import evaluation, point
from helpers import is_picture

from diffpo.evaluation.evaluate import Evaluation
from diffpo.evaluation.figures import frontier_figure, training_figure
from diffpo.view.drawing import save_figure


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
    save_figure(frontier_figure(evaluations), tmp_path / "new" / "frontier.png")
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
    save_figure(training_figure(lines), tmp_path / "training.png")
    assert is_picture(tmp_path / "training.png")


def test_missing_metrics_leave_their_panel_out() -> None:
    some = training_figure(metrics(5, "entropy", "surrogate_kl", "clip_ratio", "importance/ess"))
    assert some.get_figheight() < training_figure(metrics(5)).get_figheight()
    for lines in ([], [{"time/step_seconds": 1.0}]):
        with pytest.raises(ValueError, match=r"metrics\.jsonl"):
            training_figure(lines)


def test_figures_leave_pyplot_alone() -> None:
    """Neither a backend nor a global figure is touched: pyplot is not even imported."""
    check = "import sys, diffpo.evaluation.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
