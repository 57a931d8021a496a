"""A policy that a second of pre-training makes right about as often as wrong, on puzzles of one or two blanks."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffpo.config import (
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    SftConfig,
    TaskConfig,
    ThresholdConfig,
    TrainConfig,
)
from diffpo.training.sft import fine_tune

TASK = TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2))


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the policy."""
    output = str(tmp_path_factory.mktemp("start"))
    shape = ModelConfig(hidden_size=48, num_layers=1, num_heads=2, mlp_size=64)
    fine_tune(
        SftConfig(
            output=output,
            steps=120,
            schedule_steps=300,
            batch_size=64,
            num_examples=2000,
            optim=OptimConfig(6e-3, warmup_steps=5, lr_schedule="cosine", weight_decay=0.01),
            label_noise=0.2,
            shape=shape,
            task=TASK,
        ),
        quiet=True,
    )
    return output


@pytest.fixture(scope="session")
def easy_task() -> TaskConfig:
    """The task the policy was trained on."""
    return TASK


@pytest.fixture
def short_run(start: str, easy_task: TaskConfig, tmp_path: Path) -> TrainConfig:
    """Four joint steps of two updates each, with a checkpoint after each."""
    return TrainConfig(
        model=start,
        task=easy_task,
        output=str(tmp_path / "run"),
        steps=4,
        prompts_per_step=4,
        num_generations=4,
        save_every=1,
        keep_checkpoints=10,
        objective=ObjectiveConfig(num_iterations=2),
        threshold=ThresholdConfig(delay_steps=1),
    )
