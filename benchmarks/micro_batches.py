"""Rows that one pass of a recipe's scoring or update sends through the denoiser, by how the batch is cut: by rows, as
optimisers usually do, or by tokens with groups whole (optim.micro_batch_tokens).

    python benchmarks/micro_batches.py [RECIPE ...]

Completions are random: as many calls as half the canvas, each call the same number of tokens. Only latents are counted.
"""

from __future__ import annotations

import sys

import torch

from diffpo.config import TrainConfig
from diffpo.files.recipe import find_recipe, load_config
from diffpo.functional.latents import Latents
from diffpo.functional.random import fold, make_key
from diffpo.surrogates import load_surrogate
from diffpo.types import Batch

PROMPT_LENGTH = 200


def random_batch(config: TrainConfig) -> Batch:
    """A batch of the recipe's shape whose rows commit two tokens a call, anywhere."""
    rows, canvas = config.prompts_per_step * config.num_generations, config.rollout.gen_length or 256
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(rows, canvas, generator=generator).argsort(-1)
    prompts = torch.arange(config.prompts_per_step).repeat_interleave(config.num_generations)
    nothing = torch.zeros(rows, canvas)
    return Batch(
        prompts=prompts[:, None].expand(-1, PROMPT_LENGTH),
        prompt_lengths=torch.full((rows,), PROMPT_LENGTH),
        tokens=torch.zeros_like(order),
        committed_at=order // 2 + 1,
        behaviour_logprobs=nothing,
        entropies=nothing,
        loss_mask=torch.ones(rows, canvas, dtype=torch.bool),
        gen_lengths=torch.full((rows,), canvas),
        nfe=torch.full((rows,), canvas // 2),
        keys=torch.arange(rows),
        advantages=torch.ones(rows),
        features=None,
        actions=None,
        action_logprobs=None,
    )


def latents_of(batch: Batch, config: TrainConfig) -> Latents:
    keys = fold(torch.tensor(make_key(0, "cuts")), torch.arange(len(batch)))
    return load_surrogate(config.objective.surrogate).draw(batch, keys, -1)


def line(name: str, cut: str, parts: list[Latents]) -> str:
    tokens = [int((part.prompt_lengths + part.gen_lengths).sum()) for part in parts]
    return f"| {name} | {cut} | {sum(map(len, parts))} | {len(parts)} | {max(tokens):,} |"


def main(names: list[str]) -> None:
    print("| recipe | cut | rows forward | passes | tokens of the largest |\n| --- | --- | --- | --- | --- |")
    for name in names:
        config = load_config(TrainConfig, find_recipe(name))
        batch = random_batch(config)
        by_rows = [latents_of(batch.take(rows), config) for rows in torch.arange(len(batch)).split(4)]
        print(line(name, "4 rows", by_rows))
        tokens = config.optim.micro_batch_tokens
        print(line(name, f"{tokens:,} tokens", latents_of(batch, config).split(tokens)))


if __name__ == "__main__":
    main(sys.argv[1:] or ["llada8b_gsm8k_diffpo", "llada8b_gsm8k_d1"])
