"""What it saves that latents in blocks share prompts and clean canvases: scoring and its gradients, with and without.

    python benchmarks/branches.py [--layers 30] [--device cuda]

Completions are random, of the shape of SmolLM2-135M's in blocks of 4 (`smollm2_laptop_diffpo`): prompts of 200 tokens,
8 completions of 72, seven blocks of eight decoded in one call. Weights are random; times are taken in turn.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from torch import Tensor

from diffpo.functional.latents import Latents, Shared
from diffpo.lab.bench.measure import in_turn
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import IdTokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.surrogates import load_surrogate
from diffpo.types import Batch

PROMPTS, SIZE, PROMPT_LENGTH, CANVAS, BLOCK = 2, 8, 200, 72, 4
SHAPE = {"num_heads": 9, "num_kv_heads": 3, "mlp_size": 1536, "tied": True, "shift": 1, "block_length": BLOCK}


def random_batch(generator: torch.Generator) -> Batch:
    """Groups of completions whose blocks take one call, or one in eight of them two."""
    rows = PROMPTS * SIZE
    calls = 1 + (torch.rand(rows, CANVAS // BLOCK, generator=generator) < 1 / 8).long()
    before = (calls.cumsum(1) - calls).repeat_interleave(BLOCK, 1)
    place = torch.arange(CANVAS) % BLOCK
    nothing = torch.zeros(rows, CANVAS)

    def ids(*size: int) -> Tensor:
        return torch.randint(0, 40_000, size, generator=generator)

    return Batch(
        prompts=ids(PROMPTS, PROMPT_LENGTH).repeat_interleave(SIZE, 0),
        prompt_lengths=torch.full((rows,), PROMPT_LENGTH),
        tokens=ids(rows, CANVAS),
        committed_at=before + 1 + place % calls.repeat_interleave(BLOCK, 1),
        behaviour_logprobs=nothing,
        entropies=nothing,
        loss_mask=torch.ones(rows, CANVAS, dtype=torch.bool),
        gen_lengths=torch.full((rows,), CANVAS),
        nfe=calls.sum(1),
        keys=torch.arange(rows),
        advantages=torch.ones(rows),
        features=None,
        actions=None,
        action_logprobs=None,
        blocks=torch.tensor([[BLOCK, 0]] * rows),
    )


def apart(latents: Latents) -> Latents:
    """The same latents, which share nothing."""
    each = torch.arange(len(latents), device=latents.rows.device)
    some = latents.take(each)
    vars(some)["shared"] = Shared(latents.shared.text, each, each, each, each)
    return some


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device, generator = torch.device(arguments.device), torch.Generator().manual_seed(0)
    denoiser = Transformer(TransformerConfig(49_154, hidden_size=576, num_layers=arguments.layers, **SHAPE))
    denoiser.initialize(generator)
    policy = Policy(denoiser.to(device, torch.bfloat16), IdTokenizer(49_154, 49_153, 49_152))
    batch = random_batch(generator).to(device)
    latents = load_surrogate("mean_field:2").draw(batch, batch.keys, policy.mask_id)
    through: list[int] = []
    denoiser.register_forward_pre_hook(lambda _, given: through.append(len(given[0])))

    def learn(some: Latents) -> None:
        score(policy, some, 1.0).sum().backward()

    taken = in_turn({"shared": partial(learn, latents), "apart": partial(learn, apart(latents))}, 5, device)
    tokens = {"shared": min(through), "apart": max(through)}
    for name, spent in taken.items():
        print(f"{name}: {len(latents)} latents, {tokens[name]:,} tokens, {spent:.3g} s")
    print(f"apart / shared: {taken['apart'] / taken['shared']:.2f}")


if __name__ == "__main__":
    main()
