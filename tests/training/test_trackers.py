"""Trackers file a run under its project and name, and find it again."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from diffpo.config import ObjectiveConfig, TaskConfig, TrackerConfig, TrainConfig
from diffpo.training.loop import train
from diffpo.training.metrics import alarms
from diffpo.training.trackers import settings


class FakeRun:
    """What wandb.init returns."""

    def __init__(self) -> None:
        self.logged: list[tuple[dict, int]] = []

    def log(self, values: dict, step: int) -> None:
        self.logged.append((values, step))

    def finish(self) -> None:
        pass


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """A stand-in for the package; the arguments of each start."""
    starts: list[dict] = []
    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.run = FakeRun()  # type: ignore[attr-defined]
    module.init = lambda **given: starts.append(given) or module.run  # type: ignore[attr-defined]
    module.config = type("Config", (), {"update": lambda *_, **__: None})()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return starts


def test_a_resumed_run_is_the_same_run(short_run: TrainConfig, wandb: list[dict]) -> None:
    config = replace(short_run, steps=1, log_with=("wandb",), tracker=TrackerConfig(tags=("a",)), show_rollouts=1)
    train(config, quiet=True)
    train(replace(config, steps=2), resume=True, quiet=True)
    first, second = wandb
    assert first == second and first["project"] == "diffpo" and first["name"] == "run" and first["tags"] == ["a"]
    assert first["id"] == json.loads((Path(config.output) / "run.json").read_text())["id"]
    logged = sys.modules["wandb"].run.logged
    assert [step for _, step in logged] == [0, 0, 1, 1] and {"rollouts/best", "rollouts/worst"} == logged[0][0].keys()


def test_names_of_the_environment_and_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "team")
    assert settings("wandb", Path("runs/x"), TrackerConfig(), "id", 3)[0] == "team"
    title, more = settings("trackio", Path("runs/x"), TrackerConfig("own", "name"), "id", 3)
    assert title == "own" and more == {"name": "name-id", "resume": "allow"}
    assert settings("tensorboard", Path("runs/x"), TrackerConfig(), "id", 3) == ("trackers", {"purge_step": 3})


def test_alarms_name_only_knobs_that_the_run_has() -> None:
    metrics = {"frac_reward_zero_std": 1.0, "importance/clamped": 0.5}
    (prompts, clamp) = alarms(metrics, TrainConfig(task=TaskConfig(name="tiny_sudoku"))).values()
    assert "task.easy" in prompts and "threshold.sigma" in prompts and "objective.surrogate" in clamp
    rollout = replace(TrainConfig().rollout, sampler="top_k:2")
    objective = ObjectiveConfig(speed_weight=0.0)
    config = TrainConfig(train="model", task=TaskConfig(name="countdown_cd3"), rollout=rollout, objective=objective)
    (prompts, clamp) = alarms(metrics, config).values()
    assert "task." not in prompts and "threshold" not in prompts and "rollout.temperature" in prompts
    assert "importance_clamp" in clamp
