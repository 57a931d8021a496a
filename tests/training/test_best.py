"""The best policy of a run: kept beside the newest, through a resume, and what stands for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffpo.cli import parse
from diffpo.config import EvalConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.files.places import find_run
from diffpo.models.policy import load_policy
from diffpo.training import best, loop, sft
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune

Scored = Callable[..., None]


@pytest.fixture
def config(short_run: TrainConfig) -> TrainConfig:
    return replace(short_run, eval_every=1, save_every=1, keep_checkpoints=9, steps=3)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> Scored:
    """Have the evaluations of the start and after steps 1, 2, ... give these accuracies and calls."""

    def script(*scores: tuple[float, float]) -> None:
        def evaluation(*arguments) -> dict[str, float]:  # type: ignore[no-untyped-def]
            accuracy, nfe = scores[arguments[-1]]
            return {"eval/accuracy": accuracy, "eval/nfe": nfe}

        monkeypatch.setattr(loop, "evaluate_policy", evaluation)

    return script


def step_of(run: str) -> int:
    return json.loads((Path(run) / "best/best.json").read_text())["steps"]


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())


def test_the_policy_that_evaluates_best_is_kept(
    config: TrainConfig, scored: Scored, capsys: pytest.CaptureFixture[str]
) -> None:
    scored((0.5, 9), (0.2, 3), (0.6, 3), (0.4, 2))
    train(config)
    run, said = Path(config.output), capsys.readouterr().err
    assert step_of(config.output) == 2
    assert_same_weights(run / "best", run / "checkpoints/step_000002/policy")
    assert [row["eval/below_best"] for row in read_metrics(run / "metrics.jsonl")] == pytest.approx([0.3, 0, 0.2])
    assert "at the start eval/accuracy 0.5, eval/nfe 9" in said
    assert "eval/below_best = 0.2: it evaluated better before" in said
    assert f"the best evaluation was after step 2: {run / 'best'} has that policy" in said
    policy = load_policy(run / "best", device="cpu")
    assert policy.version == load_policy(run / "checkpoints/step_000002", device="cpu").version
    assert policy.task and policy.task.name == config.task.name


@pytest.mark.parametrize("after", [0, 2])
def test_a_full_disk_points_to_checkpoints_where_there_are_some(
    config: TrainConfig, scored: Scored, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    save, saved = best.save_with_card, list[object]()

    def full_disk(*arguments) -> None:  # type: ignore[no-untyped-def]
        saved.append(arguments)
        if len(saved) > after:
            raise OSError(28, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(best, "save_with_card", full_disk)
    scored((0.1, 9), (0.2, 9), (0.3, 9), (0.4, 9))
    with pytest.raises(OSError, match=r"No space left on device.*: make room") as raised:
        train(config, quiet=True)
    assert ("earlier checkpoints are untouched" in str(raised.value)) == bool(after)


def test_fewer_calls_decide_between_equal_accuracies(config: TrainConfig, scored: Scored) -> None:
    scored((0.5, 5), (0.5, 4), (0.5, 3), (0.5, 3))
    train(config, quiet=True)
    assert step_of(config.output) == 2


def test_a_resumed_run_knows_its_best(config: TrainConfig, scored: Scored) -> None:
    scored((0.1, 3), (0.6, 3), (0.2, 3), (0.4, 3))
    train(replace(config, steps=2), quiet=True)
    train(config, resume=True, quiet=True)
    assert step_of(config.output) == 1
    assert read_metrics(Path(config.output) / "metrics.jsonl")[-1]["eval/below_best"] == pytest.approx(0.2)


def test_a_run_that_only_loses_keeps_its_start(
    config: TrainConfig, scored: Scored, capsys: pytest.CaptureFixture[str]
) -> None:
    scored((0.6, 3), (0.2, 3), (0.4, 3), (0.5, 3))
    train(config)
    assert "the best evaluation was of the start: " in capsys.readouterr().err
    assert step_of(config.output) == 0
    assert_same_weights(Path(config.output) / "best", Path(config.model) / "policy")


def test_what_was_measured_otherwise_is_no_measure(config: TrainConfig, scored: Scored) -> None:
    scored((0.6, 3), (0.2, 3), (0.2, 3), (0.4, 3))
    train(replace(config, steps=1), quiet=True)
    train(replace(config, eval=EvalConfig(num_prompts=3)), resume=True, quiet=True)
    assert step_of(config.output) == 3


def test_it_is_asked_by_its_folder(config: TrainConfig, scored: Scored) -> None:
    scored((0.5, 3), (0.6, 3))
    train(replace(config, steps=1), quiet=True)
    run = Path(config.output)
    assert find_run(run / "best") == run
    command = parse("eval", str(run / "best"))
    assert command.task == config.task and command._place() == (run / "eval/best", "")


def test_fine_tuning_keeps_the_lowest_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1234123412341234=", "completion": "1234123412341234"}\n' * 4)
    start = SftConfig(task=TaskConfig("tiny_sudoku"), steps=1, batch_size=2, output=str(tmp_path / "start"))
    fine_tune(start, quiet=True)
    losses = iter((float("nan"), 2.0, 1.0, 1.5))
    monkeypatch.setattr(sft, "mean_loss", lambda *_: next(losses))
    config = SftConfig(
        model=start.output, data=str(rows), eval_data=str(rows), eval_every=1, steps=3, save_every=1, keep_checkpoints=9
    )
    fine_tune(replace(config, batch_size=2, output=str(tmp_path / "run")), quiet=True)
    run = tmp_path / "run"
    assert step_of(str(run)) == 2
    assert_same_weights(run / "best", run / "checkpoints/step_000002/policy")
    assert [row["eval/below_best"] for row in read_metrics(run / "metrics.jsonl")] == [0, 0, 0.5]
