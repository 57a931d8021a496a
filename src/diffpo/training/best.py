"""The best policy of a run so far, kept beside the newest: training may undo what it has learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpo.files.folder import write_folder
from diffpo.files.places import BEST
from diffpo.files.recipe import read_json
from diffpo.models.export import save_with_card
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.training.metrics import Metrics

RECORD = "best.json"
"""Beside the policy: the step after which it was, how it scored, and what it was measured on."""


def keep_best(
    run: Path, policy: Policy, step: int, metrics: Metrics, measured: Mapping[str, Any], world: World
) -> Metrics:
    """Keep the policy after `step` steps in RUN/best where no evaluation of the run scored higher; all ranks call it.

    Returns what to log of it. Evaluations are compared where they `measured` the same.
    """
    score = _score(metrics)
    if not score:
        return {}
    best = world.on_main(lambda: best_of(run))
    if best is None or best["measured"] != measured or score > best["score"]:
        best = {"step": step, "score": score, "measured": measured}
        weights = world.whole(policy.trainable())

        def write(draft: Path) -> None:
            save_with_card(policy, draft, weights)
            (draft / RECORD).write_text(json.dumps(best, indent=2) + "\n")

        world.on_main(lambda: write_folder(run / BEST, write, "; checkpoints are untouched: make room and resume"))
    return {"eval/below_best": best["score"][0] - score[0]}


def best_of(run: Path) -> dict[str, Any] | None:
    """The record of a run's best policy; None if there is none."""
    path = run / BEST / RECORD
    return read_json(path) if path.is_file() else None


def _score(metrics: Metrics) -> list[float]:
    """What is the better the larger it is: accuracy, then fewer calls; or a lower loss. Empty: not evaluated."""
    if "eval/accuracy" in metrics:
        return [metrics["eval/accuracy"], -metrics["eval/nfe"]]
    return [-metrics["eval/loss"]] if "eval/loss" in metrics else []
