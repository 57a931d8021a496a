"""The best policy of a run so far, kept beside the newest: training may undo what it has learned."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffpo.config import SftConfig, TrainConfig
from diffpo.files.folder import write_folder
from diffpo.files.places import BEST
from diffpo.files.recipe import read_json
from diffpo.models.export import save_with_card
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.training.checkpoint import consolation
from diffpo.training.metrics import Metrics
from diffpo.training.resume import FILES, Digests, settings

RECORD = "best.json"
"""Beside the policy: after how many steps it was, how it scored, and a digest of what that was measured on."""


def keep_best(run: Path, policy: Policy, num_steps: int, metrics: Metrics, measured: str, world: World) -> Metrics:
    """Keep the policy after `num_steps` in RUN/best where no evaluation of the run scored higher; all ranks call it.

    Returns what to log of it. Only evaluations that `measured` the same are compared.
    """
    score = _score(metrics)
    best = world.on_main(lambda: best_of(run, measured))
    if best is None or score > best["score"]:
        best = {"steps": num_steps, "score": score, "measured": measured}
        weights = world.whole(policy.trainable())

        def write(draft: Path) -> None:
            save_with_card(policy, draft, weights)
            (draft / RECORD).write_text(json.dumps(best, indent=2) + "\n")

        world.on_main(lambda: write_folder(run / BEST, write, consolation(run / "checkpoints")))
    return {"eval/below_best": best["score"][0] - score[0]}


def best_of(run: Path, measured: str) -> dict[str, Any] | None:
    """The record of a run's best policy; None where there is none that was `measured` so."""
    path = run / BEST / RECORD
    found = read_json(path) if path.is_file() else {}
    return found if found.get("measured") == measured else None


def measured_by(config: TrainConfig | SftConfig, inputs: Digests) -> str:
    """A digest of what evaluations of a run are of: its settings, how it evaluates, and the files that both name."""
    own = {name: value for name, value in settings(config).items() if name not in FILES}
    evaluation = dataclasses.asdict(config.eval) if isinstance(config, TrainConfig) else None
    files = {name: sorted(found.values()) for name, found in inputs.items()}
    return hashlib.sha256(json.dumps([own, evaluation, files], sort_keys=True).encode()).hexdigest()


def _score(metrics: Mapping[str, float]) -> list[float]:
    """What is the better the larger it is: accuracy, then fewer calls; or a lower loss."""
    if "eval/accuracy" in metrics:
        return [metrics["eval/accuracy"], -metrics["eval/nfe"]]
    loss = metrics["eval/loss"]
    return [-loss if math.isfinite(loss) else -math.inf]  # NaN would be neither better nor worse than any
