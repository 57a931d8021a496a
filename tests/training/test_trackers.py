"""Trackers file a run under its project and name, and find it again."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest
from training.test_loop import assert_same_run

from diffpo.config import ObjectiveConfig, TaskConfig, TrackerConfig, TrainConfig
from diffpo.training.loop import train
from diffpo.training.metrics import Metrics, alarms
from diffpo.training.state import TrainState
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
    (entropy,) = alarms({"entropy": 0.0}, TrainConfig(train="sampler")).values()
    assert entropy.endswith("explore with: stop here")


TROUBLED = """
from diffpo import Tracker


class Troubled(Tracker):
    def __init__(self, folder, config, step):
        self.told("open")

    def log(self, step, values):
        if step == 2:
            self.told("texts" if "rollouts/best" in values else "metrics")

    def close(self):
        self.told("close")

    def told(self, what):
        if what == "WHAT":
            raise WITH
"""


@pytest.mark.parametrize(
    ("what", "error", "lag", "saved"),
    [
        ("open", "ConnectionError('no answer')", 0, []),
        ("metrics", "SystemExit(0)", 0, ["step_000003"]),
        ("texts", "ConnectionError('no answer')", 2, ["step_000002"]),
        ("close", "ConnectionError('no answer')", 0, ["step_000004"]),
    ],
)
def test_a_tracker_that_raises_is_named_and_costs_no_step(
    short_run: TrainConfig, tmp_path: Path, what: str, error: str, lag: int, saved: list[str]
) -> None:
    own = tmp_path / "own.py"
    own.write_text(TROUBLED.replace("WHAT", what).replace("WITH", error))
    config = replace(short_run, rollout=replace(short_run.rollout, lag=lag), show_rollouts=1)
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    with pytest.raises(ValueError, match=rf"log_with .*own\.py:Troubled: {re.escape(error)}"):
        train(replace(config, log_with=(f"{own}:Troubled",), save_every=100), quiet=True)
    assert [path.name for path in (Path(config.output) / "checkpoints").glob("step*")] == saved
    train(config, resume=True, quiet=True)
    assert_same_run(straight.output, config.output)


def test_a_function_of_the_users_that_raises_costs_no_step(short_run: TrainConfig, tmp_path: Path) -> None:
    straight = replace(short_run, output=str(tmp_path / "straight"))
    train(straight, quiet=True)

    def raising(state: TrainState, metrics: Metrics) -> None:
        assert state.step < 3

    with pytest.raises(AssertionError):
        train(replace(short_run, save_every=100), quiet=True, on_step=raising)
    assert [path.name for path in (Path(short_run.output) / "checkpoints").iterdir()] == ["step_000003"]
    train(short_run, resume=True, quiet=True)
    assert_same_run(straight.output, short_run.output)
