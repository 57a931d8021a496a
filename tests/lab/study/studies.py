"""A study small enough for tests."""

from __future__ import annotations

from pathlib import Path

TINY = """
title = "Tiny"
seeds = [0, 1]
baseline = "one"
pretrain = "sudoku_tiny_pretrain"
recipe = "sudoku_tiny"
[sft]
steps = 20
batch_size = 16
num_examples = 200
shape = { hidden_size = 32, num_layers = 1, num_heads = 2, mlp_size = 32 }
task = { easy = [1, 1], hard = [2, 2] }
[train]
train = "model"
steps = 2
prompts_per_step = 6
num_generations = 4
rollout.sampler = "top_k:8"
task = { easy = [1, 1], hard = [2, 2] }
[measure]
num_prompts = 24
num_points = 2
samplers = ["top_k:8"]
track = ["top_k:8"]
gammas = [0.5, 3.0]
[[arms]]
name = "one"
label = "MF"
objective.surrogate = "mean_field:1"
[[arms]]
name = "two"
label = "2-MF"
tune = { "optim.learning_rate" = [1e-4, 3e-4] }
[tune]
seeds = [100, 101]
num_prompts = 16
metric = "accuracy/top_k:8"
"""


NO_PRETRAINING = TINY[: TINY.index("pretrain")] + 'recipe = "sudoku_tiny"\n' + TINY[TINY.index("[train]") :]


def write_study(folder: Path, text: str = TINY, name: str = "tiny") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path
