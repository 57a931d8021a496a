"""Recipes of published models make two steps on a small checkpoint of their family, as they stand but for sizes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models.published_llada import golden_checkpoint

from diffpo.config import LoraConfig, TrainConfig
from diffpo.models.families import PUBLISHED
from diffpo.models.policy import load_policy
from diffpo.recipe import load_config
from diffpo.shipped import list_recipes
from diffpo.tasks import load_task
from diffpo.training import loop
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.types import Prompt, Verdict

GOLDENS = {"a2d-qwen3": "a2d-qwen3"}
RECIPES = {
    recipe.name: load_config(TrainConfig, recipe.path)
    for recipe in list_recipes()
    if recipe.command == "train" and PUBLISHED.get(recipe.model, {}).get("model_type") in GOLDENS
}


def with_coins(task: Any) -> Any:
    """The task with every other answer right, so that an untrained model has advantages."""
    turns = itertools.count()

    def verify(prompt: Prompt, completion: str) -> Verdict:
        correct = next(turns) % 2 == 0
        return Verdict(correct, float(correct))

    task.verify = verify
    return task


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES[name]
    family = GOLDENS[PUBLISHED[recipe.model]["model_type"]]
    model = golden_checkpoint(tmp_path / "model", family, tokenizer=True, max_position_embeddings=2048)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"question": f"What is {n} + 3?", "answer": f"#### {n}"}) + "\n" for n in "1234")
    )
    monkeypatch.setattr(loop, "load_task", lambda config: with_coins(load_task(config)))
    data = {"data": str(rows), "test_data": str(rows)} if recipe.task.name == "gsm8k" else {}
    config = replace(
        recipe,
        model=str(model),
        output=str(tmp_path / "run"),
        steps=2,
        prompts_per_step=1,
        num_generations=4,
        load=replace(recipe.load, dtype="float32"),  # which a CPU is quicker in
        lora=LoraConfig(rank=rank),
        task=replace(recipe.task, **data),
        rollout=replace(recipe.rollout, gen_length=8, block_length=4),
        objective=replace(recipe.objective, num_iterations=2),
        threshold=replace(recipe.threshold, delay_steps=0),
    )
    policy = train(config, quiet=True)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["model/skipped"] for line in lines] == [0, 0] and all(line["model/grad_norm"] > 0 for line in lines)
    assert lines[-1]["sampler/grad_norm"] > 0
    again = load_policy(tmp_path / "run", "saved")
    assert bool(again.adapter) == bool(rank) and again.denoiser.config.tied
    assert again.trainable().keys() == policy.trainable().keys()
