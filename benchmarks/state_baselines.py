"""Does a baseline of each state take noise out of the gradient? States are valued by what one more call makes of them.

EGSPO-SA (arXiv 2603.12554) completes intermediate canvases in a single call and takes their reward V for their value:
A_t = (A + lambda (R - V_t)) / (1 + lambda), where A is the reward less its group's mean. Beside it, V as a control
variate, A_t = A - c_t (V_t - its group's mean), whose c_t is fitted over the batch. K states of a rollout are valued,
evenly spaced; a token has the baseline of the last before its call.

    python benchmarks/state_baselines.py runs/sudoku_tiny_pretrain tiny_sudoku
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from diffpo import load_policy
from diffpo.config import CollectConfig, TaskConfig
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.rollout.judging import text_of
from diffpo.rollout.local import collect
from diffpo.surrogates import load_surrogate
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.types import Batch, Request, RolloutGroup, Sampler

GENERATIONS = 8
RESAMPLES = 2000


def state_values(policy: Policy, task: Task, groups: list[RolloutGroup], batch: Batch, calls: Tensor) -> Tensor:
    """The reward of the greedy completion, in one call, of the state before each of `calls` [B, K]."""
    length, requests = batch.tokens.shape[1], []
    for row, before in enumerate(calls.tolist()):
        for call in before:
            state = batch.tokens[row].masked_fill(batch.committed_at[row] >= call, policy.mask_id)
            settings = {"sampler": Sampler("top_k", length), "temperature": 0.0, "early_exit": False}
            prompt, canvas = groups[row // GENERATIONS].prompt_ids, tuple(state.tolist())
            requests.append(Request(prompt, 0, length, length, canvas_ids=canvas, **settings))  # type: ignore[arg-type]
    texts = [text_of(policy, completion) for completion in generate(policy, requests)]
    prompts = [groups[at // calls.shape[1] // GENERATIONS].prompt for at in range(len(texts))]
    rewards = [task.verify(prompt, text).reward for prompt, text in zip(prompts, texts, strict=True)]
    return torch.tensor(rewards).view(-1, GENERATIONS, calls.shape[1])


def gradients(policy: Policy, task: Task, prompts: int, index: int, args: argparse.Namespace) -> tuple[dict, Tensor]:
    """The gradient of a batch under each baseline, and the correlation of V_k with the reward within groups."""
    asked = task.prompts("train", prompts, start=index * prompts)
    groups = collect(policy, task, asked, GENERATIONS, CollectConfig(sampler=args.sampler), seed=index)
    batch = Batch.from_groups(groups, torch.zeros(prompts * GENERATIONS))
    rewards = torch.tensor([[rollout.reward for rollout in group.rollouts] for group in groups])
    calls = torch.stack([1 + k * batch.nfe // args.states for k in range(args.states)], 1)
    values = state_values(policy, task, groups, batch, calls)
    advantages, centred = (rewards - rewards.mean(1, keepdim=True))[..., None], values - values.mean(1, keepdim=True)
    shared, spread = (advantages * centred).sum((0, 1)), centred.square().sum((0, 1))
    gap = rewards[..., None] - values
    of_states = {
        "the group's mean": advantages.expand_as(values),
        "EGSPO-SA, lambda 1": (advantages + gap) / 2,
        "EGSPO-SA, lambda 0.3": (advantages + 0.3 * gap) / 1.3,
        "fitted": advantages - shared / spread.clamp_min(1e-9) * centred,
    }
    last = (batch.committed_at[..., None] >= calls[:, None]).sum(-1).clamp_min(1) - 1
    logprobs = score(policy, load_surrogate(args.surrogate).draw(batch, batch.keys, policy.mask_id), 1.0)
    weights = batch.loss_mask / batch.loss_mask.sum(-1, keepdim=True) / len(batch)
    parameters, found = list(policy.denoiser.parameters()), {}
    for name, of_state in of_states.items():
        of_tokens = of_state.flatten(0, 1).gather(1, last)
        each = torch.autograd.grad((weights * of_tokens * logprobs).sum(), parameters, retain_graph=True)
        found[name] = torch.cat([gradient.flatten() for gradient in each])
    return found, shared / (advantages.square().sum() * spread).sqrt().clamp_min(1e-9)


def noise_to_signal(products: Tensor) -> Tensor:
    """Squared noise of one batch over the squared mean gradient, of [..., N, N] products of N batches' gradients."""
    count = products.shape[-1]
    squares, total = products.diagonal(dim1=-2, dim2=-1).sum(-1), products.sum((-2, -1))
    signal = (total - squares) / (count * (count - 1))
    return (squares / count - signal) / signal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("--easy", type=int, nargs=2)
    parser.add_argument("--hard", type=int, nargs=2)
    parser.add_argument("--sampler", default="top_k:1")
    parser.add_argument("--surrogate", default="mean_field:2")
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--states", type=int, default=4)
    parser.add_argument("--output", help="JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dial = {name: tuple(span) for name in ("easy", "hard") if (span := getattr(args, name))}
    policy, task = load_policy(args.model), load_task(TaskConfig(args.task, **dial))
    policy.denoiser.requires_grad_(True)
    found = [gradients(policy, task, args.prompts, index, args) for index in range(args.batches)]
    correlations = torch.stack([correlation for _, correlation in found]).mean(0).tolist()
    print("correlation of V with R, by state:", " ".join(f"{value:.2f}" for value in correlations))
    drawn = torch.randint(args.batches, (RESAMPLES, args.batches), generator=torch.Generator().manual_seed(0))
    distinct = [rows.unique() for rows in drawn]  # a batch twice would count as its own signal
    ratios, report = {}, {"correlations": correlations}
    for name in found[0][0]:
        stacked = torch.stack([each[name] for each, _ in found])
        products = stacked @ stacked.T
        samples = torch.stack([noise_to_signal(products[rows][:, rows]) for rows in distinct])
        ratios[name] = samples
        low, high = (samples / ratios["the group's mean"]).quantile(torch.tensor([0.025, 0.975])).tolist()
        report[name] = {"noise_to_signal": float(noise_to_signal(products)), "over_group": [low, high]}
        print(f"{name:22} noise / signal {report[name]['noise_to_signal']:.2f}, of the group's {low:.2f} to {high:.2f}")
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
