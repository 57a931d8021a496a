"""Pre-training: the golden loss curve, what label noise touches, and what is on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpo.config import ModelConfig, OptimConfig, SftConfig, TaskConfig
from diffpo.files.recipe import from_dict
from diffpo.models.policy import create_policy, load_policy
from diffpo.tasks import load_task
from diffpo.training.examples import pretraining_examples
from diffpo.training.sft import fine_tune
from diffpo.view.progress import Progress

OPTIM = OptimConfig(2e-3, warmup_steps=2, lr_schedule="cosine", weight_decay=0.01)
SHAPE = ModelConfig(hidden_size=48, num_layers=1, num_heads=2, mlp_size=64)
TASK = TaskConfig("tiny_sudoku")
CONFIG = SftConfig(task=TASK, steps=10, batch_size=64, num_examples=500, label_noise=0.1, shape=SHAPE, optim=OPTIM)

GOLDEN = [1.89549, 1.75129, 1.85228, 1.76046, 1.51950, 1.73364, 1.59157, 1.63133, 1.48028, 1.61943]
"""NELBO a canvas position (nats). A change that should not touch the numerics leaves it as it is."""


def losses(config: SftConfig, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The NELBO of each step."""
    seen: list[float] = []
    monkeypatch.setattr(Progress, "advance", lambda self, loss: seen.append(loss))
    fine_tune(config, quiet=True)
    return seen


def test_the_golden_loss_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve = losses(replace(CONFIG, output=str(tmp_path)), monkeypatch)
    assert curve == pytest.approx(GOLDEN, rel=1e-4)


def test_the_policy_and_its_config_are_on_disk(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, output=str(tmp_path))
    policy = fine_tune(config, quiet=True)
    again = load_policy(tmp_path)
    ours, theirs = policy.denoiser.state_dict(), again.denoiser.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert from_dict(SftConfig, json.loads((tmp_path / "config.json").read_text())) == config


@pytest.mark.parametrize("name", ["tiny_sudoku", "tiny_arithmetic"])
def test_label_noise_falls_on_open_positions_at_its_rate(name: str) -> None:
    task = load_task(TaskConfig(name=name))
    policy = create_policy(task.alphabet, SHAPE)
    clean = pretraining_examples(policy, task, replace(CONFIG, label_noise=0.0)).canvases
    noisy = pretraining_examples(policy, task, replace(CONFIG, label_noise=0.4)).canvases
    is_open = torch.zeros_like(clean, dtype=torch.bool)
    for row, prompt in enumerate(task.prompts("train", 500)):
        is_open[row, list(task.open_positions(prompt))] = True
        assert policy.tokenizer.decode(clean[row].tolist()) == task.solution(prompt)
    changed = clean != noisy
    assert not changed[~is_open].any()
    assert 0.25 < float(changed[is_open].float().mean()) < 0.4  # a random symbol is now and then the same
