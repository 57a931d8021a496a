"""Rollouts by a policy of the past: a fixed lag, what it keeps in hand, and what is measured of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from training.test_loop import assert_same_run, train_until_sigterm

from diffpo.config import RolloutConfig, TrainConfig
from diffpo.files.places import latest_checkpoint
from diffpo.models.policy import Policy
from diffpo.rollout.log import read_rollouts
from diffpo.training import clock, collect, loop, run
from diffpo.training.collect import InProcess
from diffpo.training.loop import train
from diffpo.training.metrics import alarms, read_metrics
from diffpo.training.state import TrainState
from diffpo.training.update import prepare
from diffpo.types import Prompt, RolloutGroup


@pytest.fixture
def config(short_run: TrainConfig) -> TrainConfig:
    return with_lag(short_run, 2)


def with_lag(config: TrainConfig, lag: int) -> TrainConfig:
    return replace(config, rollout=replace(config.rollout, lag=lag))


class Watched(InProcess):
    """Which version of the policy began each step, and when it was asked for."""

    seen: list[tuple[str, int, int]]

    def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
        self.seen.append(("begin", step, policy.version))
        super().begin(step, prompts, policy)

    def finish(self, step: int) -> list[RolloutGroup]:
        self.seen.append(("finish", step, -1))
        return super().finish(step)


@pytest.mark.parametrize("lag", [0, 1])
def test_seconds_are_of_what_they_are_spent_on(config: TrainConfig, lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a checkpoint is written with the rollouts of the next step in it; nothing else takes any time."""
    now = [0.0]

    def takes(seconds: float, module: ModuleType, name: str) -> None:
        original = getattr(module, name)

        def slow(*given: Any, **more: Any) -> Any:
            now[0] += seconds
            return original(*given, **more)

        monkeypatch.setattr(module, name, slow)

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    for seconds, module, name in (
        *((1000, collect, "roll_out"), (100, loop, "prepare"), (10, loop, "update")),
        (1, run, "save_checkpoint"),
    ):
        takes(seconds, module, name)
    config = with_lag(config, lag)
    train(config, quiet=True)
    rows = read_metrics(Path(config.output) / "metrics.jsonl")
    spent = [
        [row.get(f"time/{phase}_seconds", 0) for phase in ("rollouts", "scoring", "updates", "step")] for row in rows
    ]
    assert [row[1:3] for row in spent] == [[100, 20]] * config.steps
    assert [row[0] for row in spent] == [1000 * (1 + lag), *[1000] * (config.steps - 1 - lag), *[0] * lag]
    assert [row[3] - sum(row[:3]) for row in spent] == [0, *[1] * (config.steps - 1)]


@pytest.mark.parametrize("lag", [0, 1, 2, 9])
def test_rollouts_are_made_by_the_policy_after_step_s_minus_k(config: TrainConfig, lag: int) -> None:
    """Two updates a step: the policy after step t has 2 t updates more."""
    seen: list[tuple[str, int, int]] = []

    def watched(*arguments) -> Watched:  # type: ignore[no-untyped-def]
        collector = Watched(*arguments)
        collector.seen = seen
        return collector

    config = with_lag(config, lag)
    train(replace(config, save_every=100), quiet=True, collect=watched)
    begun = {step: version for kind, step, version in seen if kind == "begin"}
    assert begun == {step: begun[0] + 2 * max(0, step - lag) for step in range(4)}
    assert [step for kind, step, _ in seen if kind == "finish"] == [0, 1, 2, 3]
    ages = [metrics["age"] for metrics in read_metrics(Path(config.output) / "metrics.jsonl")]
    assert ages == [min(step, lag) for step in range(4)]


def test_a_lag_is_a_run_that_keeps_its_old_policies(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow twin: no rollout is made before its step, but by a copy of the policy of k steps before."""
    policy = train(config, quiet=True)
    kept: list[dict[str, torch.Tensor]] = []
    original = collect.collect

    def by_an_old_policy(policy: Policy, *rest):  # type: ignore[no-untyped-def]
        modules = [policy.denoiser, policy.sampler_head]
        now = [{name: tensor.clone() for name, tensor in module.state_dict().items()} for module in modules]
        kept.append(now)
        for module, state in zip(modules, kept[max(0, len(kept) - 3)], strict=True):
            module.load_state_dict(state)
        groups = original(policy, *rest)
        for module, state in zip(modules, now, strict=True):
            module.load_state_dict(state)
        return groups

    monkeypatch.setattr(collect, "collect", by_an_old_policy)
    twin = train(replace(with_lag(config, 0), output=config.output + "_twin"), quiet=True)
    for name, tensor in policy.denoiser.state_dict().items():
        assert torch.equal(tensor, twin.denoiser.state_dict()[name])


@pytest.mark.parametrize("stop_after", [1, 2, 5])
def test_a_stopped_run_goes_on_with_the_rollouts_in_hand(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    train_until_sigterm(config, stop_after, monkeypatch)
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)
    logs = [list(read_rollouts(Path(folder) / "rollouts.jsonl.gz")) for folder in (config.output, straight.output)]
    assert logs[0] == logs[1] and [row["step"] for row in logs[0]] == sorted(row["step"] for row in logs[0])


def test_a_run_killed_between_two_checkpoints_is_the_run_that_was_not(config: TrainConfig, tmp_path: Path) -> None:
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)

    class Killed(BaseException):
        pass

    def killed(step: int, *_: object) -> None:
        if step == 3:
            raise Killed

    class Mortal(InProcess):
        def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
            killed(step)
            super().begin(step, prompts, policy)

    with pytest.raises(Killed):
        train(config, quiet=True, collect=Mortal)
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)


def test_a_lagging_run_does_not_outgrow_its_policies(config: TrainConfig) -> None:
    """Until the rollouts of its last step are begun it may; the policies that would have made more are gone then."""
    train(replace(config, steps=3), quiet=True)
    with pytest.raises(ValueError, match=r"steps = 4: the run was to end after 3, and the policies .*rollout\.lag = 2"):
        train(config, resume=True, quiet=True)
    with pytest.raises(ValueError, match=r"differs from this config in rollout\.lag"):
        train(replace(with_lag(config, 1), steps=3), resume=True, quiet=True)


def test_a_reward_that_fails_ahead_leaves_a_run_that_goes_on(config: TrainConfig, tmp_path: Path) -> None:
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    original = collect.roll_out

    def failing(policy: Policy, task: object, prompts: object, step: int, *rest):  # type: ignore[no-untyped-def]
        if step == 3:
            raise ValueError("reward 'r' on my.jsonl, line 7 raised KeyError")
        return original(policy, task, prompts, step, *rest)

    assert_goes_on_after(collect, "roll_out", failing, "line 7", config, straight)


def assert_goes_on_after(
    place: ModuleType, name: str, failing: Callable[..., Any], said: str, config: TrainConfig, straight: TrainConfig
) -> None:
    """A run that ends with the ValueError of `failing` in place of a function resumes to what `straight` came to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, failing)
        with pytest.raises(ValueError, match=said):
            train(replace(config, save_every=100), quiet=True)
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)


def test_trackers_are_told_of_steps_in_their_order(config: TrainConfig, tmp_path: Path) -> None:
    """Rollouts that a checkpoint awaits are those of later steps; W&B drops what is logged behind the newest."""
    own = tmp_path / "tracker.py"
    own.write_text(
        "from diffpo import Tracker\n\n\nclass Steps(Tracker):\n"
        "    def __init__(self, folder, config, step):\n        self.path = folder / 'steps.txt'\n\n"
        "    def log(self, step, values):\n"
        "        with self.path.open('a') as file:\n            file.write(f'{step}\\n')\n"
    )
    train(replace(config, show_rollouts=1, log_with=(f"{own}:Steps",)), quiet=True)
    told = [int(line) for line in (Path(config.output) / "steps.txt").read_text().split()]
    assert told == sorted(told) and set(told) == {0, 1, 2, 3}


def test_scoring_that_fails_leaves_a_run_that_goes_on(config: TrainConfig, tmp_path: Path) -> None:
    """The rollouts that it failed on are those of a policy that is gone."""
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)

    def failing(state: TrainState, *rest):  # type: ignore[no-untyped-def]
        if state.step == 2:
            raise ValueError("objective.surrogate s.py:S: no good")
        return prepare(state, *rest)

    assert_goes_on_after(loop, "prepare", failing, "no good", config, straight)
    logs = [list(read_rollouts(Path(run.output) / "rollouts.jsonl.gz")) for run in (config, straight)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("lag", [0, 2])
def test_a_reward_that_fails_behind_the_seam_leaves_a_run_that_goes_on(
    config: TrainConfig, tmp_path: Path, lag: int
) -> None:
    """Where others make the rollouts the error comes when they are asked for; what is made again is not awaited."""
    config = replace(with_lag(config, lag), save_every=100)
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)

    class Failing(InProcess):
        def finish(self, step: int) -> list[RolloutGroup]:
            if step == 2 + lag:
                raise ValueError("reward 'r' on my.jsonl, line 7 raised KeyError")
            return super().finish(step)

    class Impatient(Failing):
        """Asks for everything as soon as it is begun."""

        def begin(self, step: int, prompts: Sequence[Prompt], policy: Policy) -> None:
            super().begin(step, prompts, policy)
            if step == 2 + lag:
                self.finish(step)

    with pytest.raises(ValueError, match="line 7"):
        train(replace(config, steps=5), quiet=True, collect=Impatient if lag else Failing)
    assert latest_checkpoint(Path(config.output) / "checkpoints")[0].name == "step_000002"
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)


def test_what_a_policy_is_known_by_has_no_lag(config: TrainConfig) -> None:
    policy = train(replace(config, steps=1), quiet=True)
    assert type(policy.rollout) is RolloutConfig
    assert "lag" not in (Path(config.output) / "policy/diffpo.json").read_text()


def test_the_weights_alarms_name_the_lag_where_there_is_one(config: TrainConfig) -> None:
    metrics = {"importance/ess": 0.1, "importance/clamped": 0.9}
    assert all("lower rollout.lag" in line for line in alarms(metrics, config).values())
    assert not any("rollout.lag" in line for line in alarms(metrics, with_lag(config, 0)).values())


def test_staleness_is_seen(config: TrainConfig) -> None:
    """Scored on the very canvases of the rollouts, a policy's own tokens weigh 1, old ones not."""
    config = replace(
        config,
        objective=replace(config.objective, surrogate="mean_field:0"),
        optim=replace(config.optim, learning_rate=3e-3),
    )
    train(config, quiet=True)
    first, *_, last = read_metrics(Path(config.output) / "metrics.jsonl")
    assert (first["age"], last["age"]) == (0, 2)
    assert first["importance/kl"] < 1e-6 and first["importance/ess"] > 1 - 1e-6
    assert last["importance/kl"] > 1e-2 and last["importance/ess"] < 0.99
    assert first["replay/changed"] == 0 < last["replay/changed"]
