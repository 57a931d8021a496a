"""How likely a policy finds its task's solutions: exactly, under samplers, and by the bound over random orders.

diffpo sft arithmetic_tiny_pretrain --steps 2600                  # half an hour on one CPU core
python benchmarks/text_likelihoods.py runs/arithmetic_tiny_pretrain
"""

from __future__ import annotations

import argparse
from statistics import mean

import torch

from diffpo import RolloutConfig, load_policy, log_likelihoods
from diffpo.lab.bench.measure import now
from diffpo.models.bounds import evidence_bounds
from diffpo.tasks import load_solved_task

SAMPLERS = ("random:1", "top_k:1", "top_k:2", "entropy_bound:0.001", "entropy_bound:0.1")
MASKS = (4, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--num-prompts", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    policy = load_policy(options.model)
    assert policy.task is not None
    task, device = load_solved_task(policy.task), policy.device
    prompts = task.prompts("test", options.num_prompts)
    texts = [[*policy.tokenizer.encode(task.solution(prompt))] for prompt in prompts]
    texts = [text + [policy.eos_id] * (task.gen_length - len(text)) for text in texts]  # the whole canvas
    pairs = [(policy.encode(prompt.text), text) for prompt, text in zip(prompts, texts, strict=True)]
    print("| likelihood | nats a solution | standard error of one | seconds |\n| --- | ---: | ---: | ---: |")
    for sampler in SAMPLERS:
        started, config = now(device), RolloutConfig(sampler=sampler)
        found = mean(log_likelihoods(policy, pairs, config))
        print(f"| exact, `{sampler}` | {found:.2f} | 0 | {now(device) - started:.1f} |", flush=True)
    for count in MASKS:
        started = now(device)
        draws = torch.stack([evidence_bounds(policy, *pair, count, key) for key, pair in enumerate(pairs)])
        error = float(draws.std(1).mean()) / count**0.5
        print(f"| bound, {count} masks | {float(draws.mean()):.2f} | {error:.2f} | {now(device) - started:.1f} |")


if __name__ == "__main__":
    main()
