"""How far cached conditionals are from uncached ones, and what a cache saves: KL, calls, tokens and accuracy.

python benchmarks/cache_kl.py runs/sudoku_tiny_pretrain --num 128 --block-length 4
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from diffpo.config import RolloutConfig
from diffpo.files.recipe import find_training
from diffpo.functional.objective import group_advantages
from diffpo.models.policy import load_policy
from diffpo.rollout.cache import cache_kl
from diffpo.rollout.local import collect
from diffpo.tasks import load_task
from diffpo.types import Batch

CACHES = (("none", 0), ("prefix", 0), ("dual", 4), ("dual", 2), ("dual", 0), ("dual", 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--num", type=int, default=128, help="prompts, two completions each")
    parser.add_argument("--block-length", type=int, default=4)
    parser.add_argument("--sampler", default="top_k:1")
    options = parser.parse_args()
    torch.set_num_threads(1)
    _, task_config = find_training(options.model)
    policy, task = load_policy(options.model), load_task(task_config)
    prompts = task.prompts("test", options.num)
    tokens = 0

    def count(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal tokens
        tokens += len(arguments[0])

    print(
        "| cache | refresh | accuracy % | NFE | KL to no cache, nats a token | tokens through the denoiser | seconds |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cache, refresh in CACHES:
        config = RolloutConfig(
            sampler=options.sampler, block_length=options.block_length, cache=cache, cache_refresh=refresh
        )
        tokens = 0
        with policy.denoiser.register_forward_pre_hook(count):
            started = time.perf_counter()
            groups = collect(policy, task, prompts, 2, config, seed=0)
            seconds = time.perf_counter() - started
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
        kl = cache_kl(policy, Batch.from_groups(groups, group_advantages(rewards).flatten()), config.temperature)
        accuracy = sum(rollout.verdict.correct for rollout in rollouts) / len(rollouts)
        nfe = sum(rollout.completion.nfe for rollout in rollouts) / len(rollouts)
        figures = f"{100 * accuracy:.1f} | {nfe:.2f} | {float(kl):.4f} | {tokens:,} | {seconds:.1f}"
        print(f"| {cache} | {refresh or 'block'} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
