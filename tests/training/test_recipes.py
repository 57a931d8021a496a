"""Recipes of published models make two steps on a small checkpoint of their family, as they stand but for sizes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from models import fast_dllm, ministral
from models.mixtures import CONFIGS, relative, save_checkpoint
from models.published_llada import golden_checkpoint
from small_tokenizers import TOKENIZERS

from diffpo.config import TrainConfig
from diffpo.files.recipe import find_recipe, from_dict, load_config
from diffpo.files.shipped import list_recipes
from diffpo.models.policy import load_policy
from diffpo.models.published import PUBLISHED, has_blocks
from diffpo.tasks import load_task
from diffpo.training import loop
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.types import Prompt, Verdict

GOLDENS = {"llada": "llada", "Dream": "dream", "a2d-qwen3": "a2d-qwen3", "sdar": "sdar"}
SMALL = [recipe.name for recipe in list_recipes() if recipe.name.startswith(("qwen06b", "sdar17b"))]
"""Those that learn with all weights, or with adapters."""
OTHERS = [
    "nemotron3b_gsm8k_diffpo",
    "fastdllm15b_gsm8k_diffpo",
    "llada2mini_gsm8k_diffpo",
    "llada8b_math500_diffpo",
    "llada8b_sudoku_d1",
    "dream7b_countdown_diffpo",
]
"""Of the others, which differ by family, task and method alone, one each."""
ROWS = [{"question": f"What is {n} + 3?", "problem": f"What is {n} + 3?", "answer": str(n)} for n in range(4)]


def with_coins(task: Any) -> Any:
    """The task with every other answer right, so that an untrained model has advantages."""
    turns = itertools.count()

    def verify(prompt: Prompt, completion: str) -> Verdict:
        correct = next(turns) % 2 == 0
        return Verdict(correct, float(correct))

    task.verify = verify
    return task


def test_heads_of_8b_models_move_alike_over_a_batch_of_rollouts() -> None:
    """By 0.02, whatever the number of passes (docs/algorithm.md)."""
    names = [r.name for r in list_recipes() if r.command == "train" and r.name.startswith(("llada8b", "dream7b"))]
    joint = [
        config for config in (load_config(TrainConfig, find_recipe(name)) for name in names) if config.train == "joint"
    ]
    assert len(joint) == 10
    for config in joint:
        assert config.threshold.learning_rate * config.objective.num_iterations == pytest.approx(0.02, rel=0.03)


@pytest.mark.parametrize(("name", "rank"), [*((name, 0) for name in SMALL), *((name, 4) for name in SMALL + OTHERS)])
def test_two_steps(name: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_config(TrainConfig, find_recipe(name))
    published = PUBLISHED[recipe.model]
    kind = published["model_type"]
    family = "bd3lm" if "bd3lm" in recipe.model else GOLDENS.get(kind, kind)
    longer = {"max_sequence_length" if family == "llada" else "max_position_embeddings": 2048}
    if family in CONFIGS:
        model = save_checkpoint(family, tmp_path / "model", relative(family), longer | {"block_size": 4})
        TOKENIZERS["sdar"](model)
    elif family == "nemotron_labs_diffusion":
        model = ministral.save_checkpoint(tmp_path / "model", rope_parameters={"rope_theta": 1e4}, **longer)
    elif family == "Fast_dLLM_Qwen":
        model = fast_dllm.save_checkpoint(tmp_path / "model", **longer)
    else:
        model = golden_checkpoint(tmp_path / "model", family, True, **longer)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setattr(loop, "load_task", lambda config: with_coins(load_task(config)))
    in_blocks = has_blocks(recipe.model, published)
    fetched = recipe.task.name in ("gsm8k", "math500")
    sampler = recipe.rollout.sampler if recipe.train == "joint" else "steps:4"
    small: dict[str, Any] = {
        "model": str(model),
        "output": str(tmp_path / "run"),
        "steps": 2,
        "prompts_per_step": 1,
        "num_generations": 4,
        "load": {"dtype": "float32"},  # which a CPU is quicker in
        "lora": {"rank": rank},
        "rollout": {"sampler": sampler, "gen_length": 8, **({} if in_blocks else {"block_length": 4})},
        "objective": {"num_iterations": 2},
        **({"task": {"data": str(tmp_path / "rows.jsonl")}} if fetched else {}),
        **({"threshold": {"delay_steps": 0}} if recipe.train == "joint" else {}),
    }
    config = from_dict(TrainConfig, small, base=recipe)
    policy = train(config, quiet=True)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["model/skipped"] for line in lines] == [0, 0] and all(line["model/grad_norm"] > 0 for line in lines)
    assert recipe.train == "model" or lines[-1]["sampler/grad_norm"] > 0
    again = load_policy(tmp_path / "run", "saved", four_bit=config.load.four_bit)
    assert bool(again.adapter) == bool(rank) and again.denoiser.config.tied == name.startswith(
        ("qwen06b", "fastdllm15b")
    )
    assert (again.denoiser.config.block_length is not None) == in_blocks
    assert again.trainable().keys() == policy.trainable().keys()
