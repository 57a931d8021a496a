"""DiFFPO (arXiv 2510.02212) in one file, to be read from top to bottom and then changed.

A masked diffusion model answers by calls. The canvas is all masks at first; a call predicts every masked position,
draws tokens there, and commits some of them. Two policies are trained on the same rollouts. pi_theta, the denoiser,
says what is committed. pi_phi, a head on it, says how much at once: it draws a threshold gamma for each prompt, and a
call commits the positions of least entropy whose entropies, but for the largest, add up to at most gamma nats.

    diffpo sft sudoku_tiny_pretrain     # the model to start from: 15 seconds on two CPU cores
    python recipes/rl_loop.py           # two minutes

`diffpo train sudoku_tiny` gives the same numbers, bit for bit, and has what large models want beside the algorithm:
processes, checkpoints, micro-batches, other objectives. Shapes: B rows, L positions of a canvas.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import AdamW

from diffpo import (
    Batch,
    Latents,
    Policy,
    Request,
    Rollout,
    RolloutGroup,
    Sampler,
    Task,
    TaskConfig,
    ThresholdConfig,
    ThresholdHead,
    generate,
    load_policy,
    load_task,
    masked_latents,
)
from diffpo.functional.objective import group_advantages, speed_reward
from diffpo.functional.random import fold, make_key
from diffpo.functional.surrogate import draw_cuts
from diffpo.models.likelihood import score

MODEL, OUTPUT, SEED = "runs/sudoku_tiny_pretrain", "runs/rl_loop", 0
TASK = TaskConfig("tiny_sudoku")
STEPS, PROMPTS, GROUP = 90, 48, 8  # a step is 48 prompts with G = 8 completions each
PASSES = 2  # mu: updates on the rollouts of a step
EPSILON, CLAMP = 0.2, 2.0  # the clip of ratios, and C, that of importance weights
SPEED, GATE = 0.5, 0.75  # lambda, and the accuracy of a group from which on speed is paid for
RATE, WARMUP, BETAS, MAX_NORM = 1.5e-4, 5, (0.9, 0.99), 1.0
HEAD = ThresholdConfig(learning_rate=0.02)


def train() -> Policy:
    """Alternate rollouts and updates (Algorithm 1)."""
    policy, task = load_policy(MODEL), load_task(TASK)
    policy.sampler_head = head = ThresholdHead(policy.denoiser.config.hidden_size, HEAD).to(policy.device)
    denoiser_optimizer = AdamW(policy.denoiser.parameters(), betas=BETAS, weight_decay=0)
    head_optimizer = AdamW(head.parameters(), betas=BETAS, weight_decay=0)
    for step in range(STEPS):
        batch = roll_out(policy, task, step).to(policy.device)
        head.observe(batch.features[:, 0])  # their mean and variance, until the head begins to learn
        live = batch.advantages.nonzero().squeeze(-1)  # a row without an advantage has no gradient
        if not len(live):
            continue
        rows, keys = batch.take(live), fold(torch.tensor(make_key(SEED, "update", step), device=live.device), live)
        weights = rows.loss_mask / rows.loss_mask.sum(-1, keepdim=True) / len(batch)  # 1 / (B |o_i|), to the first EOS
        latents = [two_latents(rows, fold(keys, number, 0), policy.mask_id) for number in range(PASSES)]
        with torch.no_grad():  # of all passes before anything moves: only then is a ratio 1 on policy
            old = [score(policy, drawn, temperature=1.0) for drawn in latents]
        for drawn, before in zip(latents, old, strict=True):
            now = score(policy, drawn, temperature=1.0)  # log pi^(o_i) of each token, [B', L]
            objective = (weights * denoiser_gain(now, before, rows)).sum()
            climb(denoiser_optimizer, objective, RATE * min(1, (step + 1) / WARMUP))
            if step >= HEAD.delay_steps:
                climb(head_optimizer, head_gain(head, batch).mean(), HEAD.learning_rate)
    policy.save_pretrained(OUTPUT)
    return policy


# --- rollouts --------------------------------------------------------------------------------------------------------


def roll_out(policy: Policy, task: Task, step: int) -> Batch:
    """G completions of each prompt, and what each is worth beside the others of its group.

    A row keeps what an update needs: which call committed each token (`committed_at`, 1 .. T), with which probability
    (`behaviour_logprobs`), and the head's decision. Random numbers are keyed, not drawn in turn, so that a completion
    is a function of its request alone.
    """
    prompts, key = task.prompts("train", PROMPTS, start=step * PROMPTS), make_key(SEED, "rollout", step)
    requests = [
        Request(
            prompt_ids=policy.encode(prompt.text),
            key=make_key(key, prompt.id, member),
            gen_length=task.gen_length,
            block_length=task.gen_length,  # one block: any position may come first
            sampler=Sampler("learned"),
        )
        for prompt in prompts
        for member in range(GROUP)
    ]
    completions = generate(policy, requests)
    texts = [policy.tokenizer.decode(completion.tokens.tolist()) for completion in completions]
    verdicts = [task.verify(prompts[row // GROUP], text) for row, text in enumerate(texts)]
    # r (1 + lambda (1 - T / L)) for a right answer: first right, then fast
    rewards = speed_reward(
        torch.tensor([verdict.reward for verdict in verdicts]).view(-1, GROUP),
        torch.tensor([verdict.correct for verdict in verdicts]).view(-1, GROUP),
        torch.tensor([completion.nfe for completion in completions]).view(-1, GROUP),
        torch.full((len(prompts), GROUP), task.gen_length),
        SPEED,
        GATE,
    )
    rollouts = list(map(Rollout, completions, texts, verdicts, rewards.flatten().tolist()))
    groups = [
        RolloutGroup(prompt, requests[row].prompt_ids, rollouts[row : row + GROUP])
        for prompt, row in zip(prompts, range(0, len(rollouts), GROUP), strict=True)
    ]
    accuracy = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    calls = sum(completion.nfe for completion in completions) / len(completions)
    print(f"step {step + 1}: reward {rewards.mean():.4f}, accuracy {accuracy:.3f}, {calls:.2f} calls")
    advantages = group_advantages(rewards)  # A = r - mean of the group; 0 where a group has one reward
    return Batch.from_groups(groups, advantages.flatten())


# --- the objective ---------------------------------------------------------------------------------------------------


def two_latents(batch: Batch, keys: Tensor, mask_id: int) -> Latents:
    """The two-times mean field: a token is scored given z_tau if it came after call tau, else given z_0, all masks.

    The exact likelihood of a trajectory takes T calls, this takes two, and a group shares z_0. tau is uniform on
    1 .. T - 1, and drawn anew in each pass.
    """
    cuts = draw_cuts(batch.nfe, 2, keys)  # [B, 2]: 0 and tau
    masked = batch.committed_at[:, None] > cuts[:, :, None]  # [B, 2, L]: what z_0 and z_tau hide
    scored = torch.stack([masked[:, 0] & ~masked[:, 1], masked[:, 1]], dim=1)
    return masked_latents(batch, masked, scored, mask_id, shares_first=True)


def denoiser_gain(logprobs: Tensor, old: Tensor, batch: Batch) -> Tensor:
    """min(C, w) min(rho A, clip(rho, 1 - eps, 1 + eps) A) of each token, [B', L].

    rho is how far the surrogate moved since the rollouts. w = pi^_old / b takes the expectation from the surrogate to
    the policy that drew the tokens, each given what its own call saw.
    """
    importance = (old - batch.behaviour_logprobs).exp().clamp_max(CLAMP)
    return importance * clipped((logprobs - old).exp(), batch.advantages[:, None], EPSILON)


def head_gain(head: ThresholdHead, batch: Batch) -> Tensor:
    """The same of the head's action a, one a row, [B]: gamma = gamma_max sigmoid(a), a ~ N(f(prompt), sigma^2).

    The rollout recorded features, action and log-probability: the denoiser is not asked again. Beyond l_max the ratio
    goes on along its tangent, so that a bad action that became likely is pulled back and nothing explodes.
    """
    log_ratio = (head.logprob(batch.actions, head(batch.features)) - batch.action_logprobs).sum(-1)
    near = log_ratio.clamp_max(HEAD.max_log_ratio)
    return clipped(near.exp() * (log_ratio - near + 1), batch.advantages, HEAD.epsilon)


def clipped(ratio: Tensor, advantages: Tensor, epsilon: float) -> Tensor:
    """PPO's: no gain in going further than the clip, all of it in coming back."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)


def climb(optimizer: AdamW, objective: Tensor, rate: float) -> None:
    """One step up."""
    (group,) = optimizer.param_groups
    optimizer.zero_grad()
    (-objective).backward()
    torch.nn.utils.clip_grad_norm_(group["params"], MAX_NORM)
    group["lr"] = rate
    optimizer.step()


if __name__ == "__main__":
    train()
