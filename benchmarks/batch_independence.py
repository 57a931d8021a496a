"""Decode the same prompts alone, in batches, permuted and refilled, and compare every token and log-probability.

python benchmarks/batch_independence.py runs/demo/train --num 64
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch

from diffpo import Completion, RolloutConfig, generate, load_policy, load_task
from diffpo.files.recipe import find_training
from diffpo.functional.random import make_key
from diffpo.rollout.local import make_request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    options = parser.parse_args()
    policy, config = load_policy(options.model), RolloutConfig(temperature=options.temperature)
    task = load_task(find_training(Path(options.model))[1] or "tiny_sudoku")
    requests = [
        make_request(policy, prompt.text, config, task.gen_length, make_key(0, prompt.id))
        for prompt in task.prompts("test", options.num)
    ]
    order = random.Random(0).sample(range(len(requests)), len(requests))

    def in_batches(size: int) -> list[Completion]:
        return [c for i in range(0, len(requests), size) for c in generate(policy, requests[i : i + size])]

    permuted = generate(policy, [requests[i] for i in order])
    ways = {
        "alone": in_batches(1),
        "batches of 7": in_batches(7),
        "permuted": [permuted[order.index(i)] for i in range(len(requests))],
        "5 slots, refilled": generate(policy, requests, num_slots=5),
    }
    whole = generate(policy, requests)
    print(f"against one batch of {len(requests)}, temperature {options.temperature:g}, learned thresholds:")
    for way, completions in ways.items():
        pairs = list(zip(completions, whole, strict=True))
        tokens = sum(bool((a.tokens != b.tokens).any() or (a.committed_at != b.committed_at).any()) for a, b in pairs)
        gap = max(float((a.behaviour_logprobs - b.behaviour_logprobs).abs().max()) for a, b in pairs)
        bits = sum(torch.equal(a.behaviour_logprobs, b.behaviour_logprobs) for a, b in pairs)
        print(f"{way:18} other tokens or commits in {tokens} rows; log-probs bitwise equal in {bits}, gap {gap:.1e}")


if __name__ == "__main__":
    main()
