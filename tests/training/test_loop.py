"""The loop: what learns, how a run stops, resumes and survives damage."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training.troubled import Troubled

from diffpo.config import (
    BernoulliConfig,
    EvalConfig,
    LoadConfig,
    LoraConfig,
    ObjectiveConfig,
    RolloutConfig,
    TaskConfig,
    ThresholdConfig,
    TrainConfig,
)
from diffpo.evaluation.evaluate import evaluate
from diffpo.files.places import digest_of, find_damage, latest_checkpoint, list_checkpoints
from diffpo.models.lora import Adapted
from diffpo.models.policy import load_policy
from diffpo.processes.world import World
from diffpo.tasks import load_task
from diffpo.training import checkpoint, loop
from diffpo.training import collect as collecting
from diffpo.training.loop import start_policy, train
from diffpo.training.metrics import Metrics, read_metrics
from diffpo.training.state import TrainState


@pytest.fixture
def config(short_run: TrainConfig) -> TrainConfig:
    return short_run


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.stem}/{name}": tensor
        for path in sorted((Path(folder) / "policy").glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_run(one: str, other: str) -> None:
    """Bit for bit the same weights, and the same metrics but for wall-clock times."""
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    def figures(folder: str) -> list[dict[str, float]]:
        steps = read_metrics(Path(folder) / "metrics.jsonl")
        return [{name: value for name, value in step.items() if not name.startswith("time/")} for step in steps]

    assert figures(one) == figures(other)


def train_until_sigterm(config: TrainConfig, stop_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until this process is told to stop, during an update, counted from 1."""
    calls, original = [], loop.update

    def interrupting(*arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", interrupting)
        with pytest.raises(KeyboardInterrupt, match="a resumed run goes on"):
            train(config, quiet=True)


def test_a_run_repeats_itself(config: TrainConfig, tmp_path: Path) -> None:
    train(config, quiet=True)
    train(replace(config, output=str(tmp_path / "again")), quiet=True)
    assert_same_run(config.output, str(tmp_path / "again"))


def test_a_task_in_python_trains_as_by_its_name(config: TrainConfig, tmp_path: Path) -> None:
    train(config, quiet=True)
    steps: list[tuple[int, dict[str, float]]] = []
    unnamed = replace(config, output=str(tmp_path / "given"), task=TaskConfig())
    policy = train(
        unnamed,
        quiet=True,
        task=load_task(config.task),
        on_step=lambda state, metrics: steps.append((state.step, metrics)),
    )
    assert_same_run(config.output, unnamed.output)
    assert policy.task is None, "nobody could load it again by name"
    assert [step for step, _ in steps] == [1, 2, 3, 4]
    for (_, told), written in zip(steps, read_metrics(Path(config.output) / "metrics.jsonl"), strict=True):
        assert told.items() <= written.items()
    with pytest.raises(ValueError, match=r"task: tiny_sudoku is given, and config\.task says tiny_sudoku too"):
        train(replace(config, output=str(tmp_path / "both")), quiet=True, task=load_task(config.task))


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_sigterm_between_two_updates_saves_the_rollouts_in_hand(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    train_until_sigterm(config, stop_after, monkeypatch)
    newest, _ = latest_checkpoint(Path(config.output) / "checkpoints")
    assert newest is not None
    assert newest.name == f"step_{(stop_after - 1) // 2:06d}_iteration_{(stop_after - 1) % 2 + 1:02d}"
    saved = json.loads((newest / "state.json").read_text())
    assert saved["seconds"] >= sum(saved["phases"].values()) > 0
    saved["seconds"] += 1000  # what the step had taken before counts
    (newest / "state.json").write_text(json.dumps(saved))
    manifest = json.loads((newest / "manifest.json").read_text()) | {"state.json": digest_of(newest / "state.json")}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)
    steps = read_metrics(Path(config.output) / "metrics.jsonl")
    seconds = [step["time/step_seconds"] for step in steps]
    assert [value > 1000 for value in seconds] == [step == saved["step"] for step in range(len(seconds))]
    for step in steps:  # those of before it was saved included
        phases = [step[f"time/{phase}_seconds"] for phase in ("rollouts", "scoring", "updates")]
        assert min(phases) > 0 and sum(phases) <= step["time/step_seconds"]


def test_damaged_checkpoints_are_passed_over_with_a_line(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    train(config, quiet=True)
    folders = sorted((Path(config.output) / "checkpoints").iterdir())
    damaged = folders[-1] / "policy/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5] + b"\0\1\2\3\4")
    (folders[-2] / "optimizer.safetensors").unlink()
    (folders[-3] / "manifest.json").write_text('{"state.json": ')
    train(config, resume=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "its checksum differs" in said and "optimizer.safetensors is missing" in said
    assert "manifest.json is missing or unreadable" in said and f"resuming from {folders[-4]}" in said
    assert_same_run(config.output, straight.output)


def test_damaged_checkpoints_take_no_good_one_s_place(config: TrainConfig) -> None:
    train(replace(config, keep_checkpoints=9), quiet=True)
    root = Path(config.output) / "checkpoints"
    for number in (2, 3, 4):
        (root / f"step_{number:06d}" / "state.json").write_text("{}")

    class Killed(BaseException):
        """What a run does not see to."""

    def stop(state: TrainState, metrics: Metrics) -> None:
        if state.step == 3:  # after the checkpoint of step 2
            raise Killed

    with pytest.raises(Killed):
        train(replace(config, keep_checkpoints=1), resume=True, quiet=True, on_step=stop)
    assert latest_checkpoint(root)[0] == root / "step_000002"


def test_a_million_steps_are_more_than_999999(tmp_path: Path) -> None:
    names = ["step_1000000_iteration_01", "step_1000000", "step_999999", "step_000012_iteration_02", "step_000012"]
    for name in names:
        (tmp_path / name).mkdir()
    assert [folder.name for folder in list_checkpoints(tmp_path)] == names


def test_an_old_checkpoint_that_cannot_be_removed_ends_no_run(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was moved to another disk leaves a link; on NFS a folder of which a file is open is never empty."""
    config = replace(config, keep_checkpoints=1)
    train(replace(config, steps=1), quiet=True)
    root, away = Path(config.output) / "checkpoints", tmp_path / "away"
    (root / "step_000001").rename(away)
    (root / "step_000001").symlink_to(away)
    train(replace(config, steps=2), resume=True, quiet=True)
    assert [path.name for path in root.iterdir()] == ["step_000002"] and (away / "policy").is_dir()

    def busy(path: Path, **_: bool) -> None:
        if not path.name.startswith("."):
            raise OSError(39, "Directory not empty", str(path))

    monkeypatch.setattr(checkpoint.shutil, "rmtree", busy)
    with pytest.warns(UserWarning, match=r"step_000002 could not be removed \(Directory not empty\)"):
        train(replace(config, steps=3), resume=True, quiet=True)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    original, calls = checkpoint.save_file, []

    def full_disk(*arguments) -> None:  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) > kept:
            raise OSError(28, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match=r"No space left on device.*: make room") as raised:
        train(config, quiet=True)
    assert ("earlier checkpoints are untouched" in str(raised.value)) == bool(kept)
    folders = list((Path(config.output) / "checkpoints").iterdir())
    assert len(folders) == kept and not any(map(find_damage, folders))


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_a_verifier_that_raises_costs_no_step(
    short_run: TrainConfig, easy_task: TaskConfig, error: type[BaseException]
) -> None:
    config = replace(short_run, task=TaskConfig(), save_every=100)
    task = Troubled(easy_task)
    bad = task.prompts("train", 1, start=2 * config.prompts_per_step)[0].id  # of the third step
    with pytest.raises(RuntimeError, match=f"the verifier raised {error.__name__}"):
        train(config, quiet=True, task=Troubled(easy_task, bad=bad, error=error))
    saved, _ = latest_checkpoint(Path(config.output) / "checkpoints")
    assert saved and saved.name == "step_000002"
    train(config, resume=True, quiet=True, task=task)
    assert [step["step"] for step in read_metrics(Path(config.output) / "metrics.jsonl")] == [0, 1, 2, 3]


def test_resuming_without_any_checkpoint_starts_over(config: TrainConfig, tmp_path: Path) -> None:
    train(config, quiet=True)
    again = replace(config, output=str(tmp_path / "again"))
    train(again, resume=True, quiet=True)
    assert_same_run(config.output, again.output)


def test_a_folder_is_one_run(config: TrainConfig) -> None:
    train(config, quiet=True)
    with pytest.raises(ValueError, match="already holds a run: resume it"):
        train(config, quiet=True)
    with pytest.raises(ValueError, match=r"differs from this config in num_generations, objective.loss, obj"):
        train(
            replace(config, num_generations=8, objective=ObjectiveConfig(loss="clipped:0.3")), resume=True, quiet=True
        )


def test_a_start_that_fails_claims_no_folder(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="the model's alphabet lacks"):
        train(replace(config, task=TaskConfig(name="tiny_arithmetic")), quiet=True)
    train(replace(config, steps=1), quiet=True)


def test_sampler_mode_moves_the_head_alone(config: TrainConfig) -> None:
    policy = train(replace(config, train="sampler"), quiet=True)
    before = load_policy(config.model).denoiser.state_dict()
    after = policy.denoiser.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert policy.sampler_head is not None and not policy.sampler_head.untrained


def test_a_bernoulli_head_learns_alone_and_goes_on_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    """As if it had never stopped; its folder holds the head alone, and answers."""
    head = {"sampler_head": "bernoulli", "bernoulli": BernoulliConfig(width=8), "threshold": ThresholdConfig()}
    config = replace(config, train="sampler", **head)
    straight = replace(config, output=str(tmp_path / "straight"))
    policy = train(straight, quiet=True)
    train(replace(config, steps=2), quiet=True)
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)
    fresh = start_policy(config, World()).sampler_head
    assert policy.sampler_head and fresh
    moved = policy.sampler_head.state_dict()
    assert all(not torch.equal(tensor, moved[name]) for name, tensor in fresh.state_dict().items() if "out." in name)
    loaded = load_policy(config.output)
    assert loaded.sampler_head and loaded.decoding.sampler == "learned"
    evaluation = evaluate(loaded, load_task(config.task), replace(config.eval, num_prompts=8, gammas=()), quiet=True)
    assert evaluation.point("learned").gamma is None


def test_model_mode_moves_the_denoiser_alone(config: TrainConfig) -> None:
    config = replace(config, threshold=ThresholdConfig(), train="model", rollout=RolloutConfig(sampler="top_k:2"))
    policy = train(config, quiet=True)
    before, after = load_policy(config.model).denoiser.state_dict(), policy.denoiser.state_dict()
    assert policy.sampler_head is None
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("num_iterations", [1, 2])
def test_a_phase_is_said_where_it_is(
    config: TrainConfig, num_iterations: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """With one update a batch is scored by it, not ahead of it."""
    objective = replace(config.objective, num_iterations=num_iterations)
    train(replace(config, steps=1, log_every=1e-9, objective=objective))
    said = capfd.readouterr().err
    assert f"update 1/{num_iterations}" in said and ("old log-probs" in said) == (num_iterations > 1)


def test_the_head_waits_for_its_delay(config: TrainConfig, capfd: pytest.CaptureFixture) -> None:
    policy = train(replace(config, threshold=ThresholdConfig(delay_steps=4)))
    assert "all weights and the sampler head from step 4 on" in capfd.readouterr().err
    assert policy.sampler_head is not None and policy.sampler_head.untrained
    assert int(policy.sampler_head.count) == 4 * 4 * 4  # and has looked at every rollout meanwhile


def test_non_finite_gradients_are_skipped_and_end_the_run(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    original = loop.update
    before = load_policy(config.model).denoiser.state_dict()

    def poisoned(state, *rest):  # type: ignore[no-untyped-def]
        if state.experience.old_logprobs is not None:
            state.experience.old_logprobs[:] = torch.nan
        metrics = original(state, *rest)
        assert all(torch.equal(before[name], tensor) for name, tensor in state.policy.denoiser.state_dict().items())
        return metrics

    monkeypatch.setattr(loop, "update", poisoned)
    config = replace(
        config, steps=8, train="model", rollout=RolloutConfig(sampler="top_k:4"), threshold=ThresholdConfig()
    )
    with pytest.raises(FloatingPointError, match="5 updates in a row had a non-finite gradient: lower optim"):
        train(config, quiet=True)
    folders = list((Path(config.output) / "checkpoints").iterdir())
    assert folders and all(find_damage(folder) is None for folder in folders)


def test_evaluation_and_config_are_on_disk(config: TrainConfig) -> None:
    train(replace(config, steps=2, eval_every=2, eval=replace(config.eval, num_prompts=8)), quiet=True)
    last = read_metrics(Path(config.output) / "metrics.jsonl")[-1]
    assert {"eval/accuracy", "eval/nfe", "eval/accuracy/easy"} <= last.keys()
    assert json.loads((Path(config.output) / "config.json").read_text())["steps"] == 2


def test_an_evaluation_in_training_is_that_of_the_policy_it_left(config: TrainConfig) -> None:
    several = EvalConfig(samplers=("learned",), gammas=(), num_prompts=8, num_samples=3, temperature=1.0)
    train(replace(config, steps=2, eval_every=2, eval=several), quiet=True)
    last = read_metrics(Path(config.output) / "metrics.jsonl")[-1]
    policy = load_policy(config.output, device="cpu")
    point = evaluate(policy, load_task(config.task), several, config.rollout, quiet=True).point("learned")
    assert (point.accuracy, point.nfe) == pytest.approx((last["eval/accuracy"], last["eval/nfe"]))
    assert point.num_samples == 3


def test_tensorboard_gets_the_metrics(config: TrainConfig) -> None:
    pytest.importorskip("tensorboard")
    train(replace(config, steps=1, log_with=("tensorboard",)), quiet=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(Path(config.output) / "trackers")).Reload()
    assert log.Scalars("reward")[0].value == pytest.approx(
        read_metrics(Path(config.output) / "metrics.jsonl")[0]["reward"]
    )


def test_trackers_are_named(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="unknown tracker 'tensorbord'; did you mean 'tensorboard'"):
        train(replace(config, log_with=("tensorbord",)), quiet=True)
    if "wandb" not in sys.modules:
        with pytest.raises(ValueError, match=r"pip install 'diffpo\[wandb\]'"):
            train(replace(config, log_with=("wandb",)), quiet=True)


def test_rollouts_with_merged_adapters_learn_with_the_unmerged(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged while rollouts are decoded, and never else; asked for where it cannot be, a line says why."""
    seen: dict[str, set[bool]] = {"collect": set(), "update": set()}

    def watched(name: str, function):  # type: ignore[no-untyped-def]
        def call(*arguments, **settings):  # type: ignore[no-untyped-def]
            policy = arguments[0] if name == "collect" else arguments[0].policy
            adapted = (module for module in policy.denoiser.modules() if isinstance(module, Adapted))
            seen[name] |= {module.merged is not None for module in adapted}
            return function(*arguments, **settings)

        return call

    for name, module in {"collect": collecting, "update": loop}.items():
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    rollout = replace(config.rollout, merge_adapters=True)
    config = replace(config, rollout=rollout, lora=LoraConfig(rank=2), steps=1)
    train(config, quiet=True)
    assert seen == {"collect": {True}, "update": {False}}
    with pytest.raises(ValueError, match=r"rollout\.merge_adapters: .*importance_clamp"):
        replace(config, objective=replace(config.objective, importance_clamp=0.0))
    with pytest.raises(ValueError, match=r"rollout\.merge_adapters: .*4-bit"):
        replace(config, load=LoadConfig(four_bit=True))
    with pytest.raises(ValueError, match=r"rollout\.merge_adapters: the model has no adapters"):
        train(replace(config, lora=LoraConfig(), output=config.output + "2"), quiet=True)


def test_a_run_whose_terminal_is_closed_saves_what_is_done(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.update

    def interrupting(*arguments):  # type: ignore[no-untyped-def]
        signal.raise_signal(signal.SIGHUP)
        return original(*arguments)

    monkeypatch.setattr(loop, "update", interrupting)
    with pytest.raises(KeyboardInterrupt, match="a resumed run goes on"):
        train(config, quiet=True)
