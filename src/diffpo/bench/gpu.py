"""The suite of one large GPU: LLaDA-8B's shape, random weights, 8 prompts x 8 completions of 256 tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from diffpo.bench import plain
from diffpo.bench.measure import Tally, in_turn, matmul_peak
from diffpo.bench.steps import measure, open_bench
from diffpo.bench.suite import Row
from diffpo.bench.workloads import PROMPT_LENGTHS, decode, random_policy, random_requests
from diffpo.config import LoraConfig, ObjectiveConfig, OptimConfig, RolloutConfig, TrainConfig
from diffpo.models.families import FAMILIES, PUBLISHED
from diffpo.models.policy import Policy
from diffpo.models.transformer import TransformerConfig
from diffpo.types import Request

GROUP, CANVAS, SAMPLER = 8, 256, "entropy_bound:0.1"
SHARPNESS = 24.0
"""Of the head: at fresh weights every call would commit one token."""
MODEL = "GSAI-ML/LLaDA-8B-Instruct"


def llada_8b() -> TransformerConfig:
    return FAMILIES["llada"].shape(PUBLISHED[MODEL])


def large(
    repeats: int = 1,
    shape: TransformerConfig | None = None,
    lengths: Sequence[int] = PROMPT_LENGTHS,
    canvas: int = CANVAS,
    device: str = "cuda",
) -> list[Row]:
    """Rollouts against the plain loop, exact and with the dual cache; shares of the machine's peak.

    ValueError without a GPU. The plain loop takes the completions of one prompt at a time, or its noise would not fit.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--suite h100 takes a GPU of 80 GB, and torch finds none: --suite published runs on a CPU")
    shape, place = shape or llada_8b(), torch.device(device)
    policy = random_policy(shape, SHARPNESS, torch.bfloat16, place)
    exact = random_requests(policy, lengths, SAMPLER, canvas, group=GROUP)
    cached = [replace(request, cache="dual", refresh_every=8) for request in exact]
    rows = list(_rollouts(policy, exact, cached, repeats, place))
    peak = matmul_peak(torch.bfloat16, place)
    with Tally(policy) as tally:
        decode(policy, exact)
    rows.append(_share("rollouts: share of the matmul peak", tally.flops, rows[0].ours_seconds, peak, 0.55))
    del policy
    config = TrainConfig(
        model=MODEL,
        train="model",
        prompts_per_step=len(lengths),
        num_generations=GROUP,
        lora=LoraConfig(rank=128),
        rollout=RolloutConfig(sampler="steps:16", gen_length=canvas, block_length=32, num_slots=64),
        objective=ObjectiveConfig(num_iterations=1),
        optim=OptimConfig(micro_batch_size=8, gradient_checkpointing=True),
    )
    bench = open_bench(replace(config, load=replace(config.load, device=device, dtype="bfloat16")), shape)
    *_, learning = measure(bench, max(1, repeats), quiet=True).phases
    rows.append(_share("update with LoRA: share of the matmul peak", learning.flops, learning.seconds, peak, 0.45))
    return rows


def _rollouts(
    policy: Policy, exact: list[Request], cached: list[Request], repeats: int, device: torch.device
) -> list[Row]:
    def theirs() -> None:
        for start in range(0, len(exact), GROUP):
            plain.decode(policy, exact[start : start + GROUP])

    works: dict[str, Callable[[], object]] = {
        "exact": lambda: decode(policy, exact),
        "cached": lambda: decode(policy, cached),
        "plain": theirs,
    }
    taken = in_turn(works, repeats, device)
    names = {"exact": ("rollouts: LLaDA's loop", 3.0), "cached": ("rollouts, dual cache: LLaDA's loop", 8.0)}
    return [
        Row(name, taken[key], taken["plain"], taken["plain"] / taken[key], target)
        for key, (name, target) in names.items()
    ]


def _share(name: str, flops: float, taken: float, peak: float, target: float) -> Row:
    """Seconds that the operations would take at the peak, over those they took."""
    return Row(name, taken, flops / peak, flops / peak / taken, target)
