"""recipes/rl_loop.py is the algorithm: it gives the trainer's numbers, bit for bit."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffpo.config import ObjectiveConfig, TaskConfig, TrainConfig
from diffpo.files.recipe import load_config
from diffpo.models.policy import load_policy
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics

FILE = Path(__file__).parents[2] / "recipes/rl_loop.py"


@pytest.fixture
def rl_loop() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rl_loop", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_constants_are_the_recipe(rl_loop: ModuleType) -> None:
    recipe = load_config(TrainConfig, "sudoku_tiny")
    assert recipe == TrainConfig(
        model=rl_loop.MODEL,
        output="runs/sudoku_tiny",
        steps=rl_loop.STEPS,
        prompts_per_step=rl_loop.PROMPTS,
        num_generations=rl_loop.GROUP,
        seed=rl_loop.SEED,
        save_every=30,
        task=rl_loop.TASK,
        objective=ObjectiveConfig(
            surrogate="mean_field:2",
            loss=f"clipped:{rl_loop.EPSILON}",
            importance_clamp=rl_loop.CLAMP,
            num_iterations=rl_loop.PASSES,
            speed_weight=rl_loop.SPEED,
            speed_gate=rl_loop.GATE,
        ),
        optim=replace(
            recipe.optim,
            learning_rate=rl_loop.RATE,
            warmup_steps=rl_loop.WARMUP,
            adam_betas=rl_loop.BETAS,
            weight_decay=0.0,
            max_grad_norm=rl_loop.MAX_NORM,
        ),
        threshold=rl_loop.HEAD,
    )


def test_it_gives_the_numbers_of_the_trainer(
    rl_loop: ModuleType,
    start: str,
    easy_task: TaskConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = load_config(TrainConfig, "sudoku_tiny")
    head = replace(recipe.threshold, delay_steps=1)
    config = replace(
        recipe,
        model=start,
        output=str(tmp_path / "trained"),
        task=easy_task,
        steps=3,
        prompts_per_step=6,
        num_generations=4,
        threshold=head,
    )
    train(config, quiet=True)
    changes = {"MODEL": start, "OUTPUT": str(tmp_path / "loop"), "TASK": easy_task, "HEAD": head}
    for name, value in (changes | {"STEPS": 3, "PROMPTS": 6, "GROUP": 4}).items():
        monkeypatch.setattr(rl_loop, name, value)
    rl_loop.train()
    ours, theirs = (load_policy(tmp_path / name) for name in ("loop", "trained"))
    for part in ("denoiser", "sampler_head"):
        learned, expected = (getattr(policy, part).state_dict() for policy in (ours, theirs))
        assert learned.keys() == expected.keys()
        assert all(torch.equal(learned[name], expected[name]) for name in learned), part
    assert not torch.equal(ours.denoiser.head.weight, load_policy(start).denoiser.head.weight)
    assert ours.sampler_head is not None and not ours.sampler_head.untrained
    said = re.findall(r"step \d+: reward (\S+), accuracy (\S+), (\S+) calls", capsys.readouterr().out)
    logged = [
        (f"{step['reward']:.4f}", f"{step['accuracy']:.3f}", f"{step['nfe']:.2f}")
        for step in read_metrics(tmp_path / "trained/metrics.jsonl")
    ]
    assert said == logged


def test_it_is_read_in_ten_minutes() -> None:
    text = FILE.read_text()
    assert len(text.splitlines()) <= 200 and "._" not in text
