"""One batch of rollouts and the mu updates on it: old log-probs, objective, backward, optimiser step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor, nn

from diffpo.config import TrainConfig
from diffpo.functional.objective import (
    clipped_surrogate,
    effective_sample_size,
    importance_weights,
    kl_k3,
    threshold_objective,
    token_weights,
)
from diffpo.functional.random import fold, make_key
from diffpo.functional.surrogate import draw_cuts
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.types import Batch


@dataclass(eq=False)
class Experience:
    """A batch in hand: the rollouts, and what must be known before the first update moves the policy."""

    batch: Batch
    live: Tensor  # [B'] rows that have a gradient
    cuts: Tensor | None  # [mu, B', M]
    old_logprobs: Tensor | None  # [mu, B', L]
    ref_logprobs: Tensor | None  # [mu, B', L]
    mask_keys: Tensor  # [mu, B'] keys of the prompt masks
    summary: dict[str, float]
    """Metrics of the rollouts."""
    updates: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the updates made so far."""


@dataclass(eq=False)
class Optimizers:
    """AdamW over the denoiser and over the threshold head; None for what does not learn."""

    denoiser: torch.optim.AdamW | None
    threshold: torch.optim.AdamW | None

    @classmethod
    def create(cls, policy: Policy, config: TrainConfig) -> Optimizers:
        def adamw(module: nn.Module | None, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
            assert module is not None
            return torch.optim.AdamW(
                module.parameters(), learning_rate, betas=config.optim.adam_betas, weight_decay=weight_decay
            )

        model, sampler = config.train != "sampler", config.train != "model"
        return cls(
            adamw(policy.denoiser, config.optim.learning_rate, config.optim.weight_decay) if model else None,
            adamw(policy.threshold, config.threshold.learning_rate, 0.0) if sampler else None,
        )

    def items(self) -> Iterator[tuple[str, torch.optim.AdamW]]:
        """The optimisers there are, by field name."""
        for entry in fields(self):
            if (optimizer := getattr(self, entry.name)) is not None:
                yield entry.name, optimizer


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Share of the peak learning rate at `step` (0, 1, ...): a pure function, so a resumed run needs no scheduler."""
    optim = config.optim
    warmup = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    if optim.lr_schedule == "constant":
        return warmup
    progress = max(0, step - optim.warmup_steps) / max(1, config.steps - optim.warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * progress))


def micro_batches(rows: int, size: int) -> Iterator[Tensor]:
    yield from torch.arange(rows).split(size)


@torch.no_grad()
def prepare(
    policy: Policy, reference: Policy | None, batch: Batch, config: TrainConfig, step: int, summary: dict[str, float]
) -> Experience:
    """Draw the cuts of all mu iterations and score the rollouts at each, before anything moves."""
    objective = config.objective
    # without a KL term a row of zero advantage has no gradient: it is left out, exactly
    live = torch.arange(len(batch)) if objective.beta else batch.advantages.nonzero().squeeze(-1)
    rows = fold(torch.tensor(make_key(config.seed, "update", step)), live)
    iterations = torch.arange(objective.num_iterations)[:, None]
    keys = fold(rows, iterations, 0)
    mask_keys = fold(rows, iterations, 1)
    experience = Experience(batch, live, None, None, None, mask_keys, summary)
    if config.train == "sampler" or not len(live):
        return experience
    part = batch.take(live)
    cuts = torch.stack([draw_cuts(part.nfe, objective.num_latents, key) for key in keys])
    experience = replace(experience, cuts=cuts)

    def score(of: Policy) -> Tensor:
        return torch.stack([_score(of, experience, i, config) for i in range(objective.num_iterations)])

    return replace(experience, old_logprobs=score(policy), ref_logprobs=score(reference) if reference else None)


def _score(policy: Policy, experience: Experience, iteration: int, config: TrainConfig) -> Tensor:
    """Surrogate log-probs of all live rows, [B', L], micro-batch by micro-batch."""
    chunks = micro_batches(len(experience.live), config.optim.micro_batch_size)
    return torch.cat([_logprobs(policy, experience, iteration, rows, config) for rows in chunks])


def _logprobs(policy: Policy, experience: Experience, iteration: int, rows: Tensor, config: TrainConfig) -> Tensor:
    assert experience.cuts is not None
    return surrogate_logprobs(
        policy,
        experience.batch.take(experience.live[rows]),
        experience.cuts[iteration, rows],
        config.rollout.temperature,
        config.objective.prompt_mask_prob,
        experience.mask_keys[iteration, rows],
    )


def update(
    policy: Policy, optimizers: Optimizers, experience: Experience, config: TrainConfig, step: int, iteration: int
) -> dict[str, float]:
    """One optimiser step on the whole batch; returns its metrics. A non-finite gradient skips the step."""
    metrics: dict[str, float] = {}
    for _, optimizer in optimizers.items():
        optimizer.zero_grad(set_to_none=True)
    if optimizers.denoiser and experience.old_logprobs is not None:
        metrics |= _policy_backward(policy, experience, config, iteration)
        rate = config.optim.learning_rate * learning_rate_factor(config, step)
        metrics |= _step(optimizers.denoiser, policy.denoiser, rate, config, "model")
    if optimizers.threshold and step >= config.threshold.delay_steps and len(experience.live):
        assert policy.threshold is not None
        metrics |= _threshold_backward(policy, experience, config)
        metrics |= _step(optimizers.threshold, policy.threshold, config.threshold.learning_rate, config, "sampler")
    policy.version += 1
    return metrics


def _policy_backward(policy: Policy, experience: Experience, config: TrainConfig, iteration: int) -> dict[str, float]:
    """Accumulate the gradient of -J over micro-batches; the token weights are those of the whole batch."""
    batch, objective = experience.batch, config.objective
    assert experience.old_logprobs is not None
    weights = token_weights(batch.loss_mask, batch.gen_lengths, objective.loss_type)[experience.live]
    totals: dict[str, Tensor] = {}
    importance = importance_weights(
        experience.old_logprobs[iteration], batch.behaviour_logprobs[experience.live], objective.importance_clamp
    )
    for rows in micro_batches(len(experience.live), config.optim.micro_batch_size):
        part = batch.take(experience.live[rows])
        logprobs = _logprobs(policy, experience, iteration, rows, config)
        old = experience.old_logprobs[iteration, rows]
        ratio = (logprobs - old).exp()
        advantages = part.advantages[:, None].expand_as(ratio)
        gain = importance[rows] * clipped_surrogate(ratio, advantages, objective.epsilon)
        if experience.ref_logprobs is not None:
            kl = kl_k3(logprobs, experience.ref_logprobs[iteration, rows])
            gain = gain - objective.beta * kl
            _add(totals, "kl", kl[part.loss_mask])
        (-(weights[rows] * gain).sum()).backward()
        mask = part.loss_mask
        clipped = ((ratio - 1) * advantages.sign() > objective.epsilon)[mask]
        _add(totals, "surrogate_kl", kl_k3(old, logprobs)[mask])
        _add(totals, "clip_ratio", clipped.float())
    count = batch.loss_mask[experience.live].sum()
    metrics = {name: float(total / count) for name, total in totals.items()}
    return metrics | _importance_metrics(experience, iteration, objective.importance_clamp)


def _add(totals: dict[str, Tensor], name: str, values: Tensor) -> None:
    totals[name] = totals.get(name, torch.zeros(())) + values.detach().sum()


def _importance_metrics(experience: Experience, iteration: int, clamp: float) -> dict[str, float]:
    """How far the surrogate is from the behaviour policy, and what the clamp leaves of it."""
    assert experience.old_logprobs is not None
    mask = experience.batch.loss_mask[experience.live]
    behaviour = experience.batch.behaviour_logprobs[experience.live]
    raw = (experience.old_logprobs[iteration] - behaviour).exp()[mask]
    limit = clamp or math.inf
    return {
        "importance/mean": float(raw.mean()),
        "importance/clamped": float((raw > limit).float().mean()),
        "importance/ess": float(effective_sample_size(raw.clamp_max(limit))),
    }


def _threshold_backward(policy: Policy, experience: Experience, config: TrainConfig) -> dict[str, float]:
    """The head's clipped objective, from features recorded at the rollout: no gradient enters the denoiser."""
    batch, head = experience.batch, policy.threshold
    assert head is not None and batch.features is not None
    assert batch.gamma_actions is not None and batch.gamma_logprobs is not None
    mean = head(batch.features)
    logprobs = head.logprob(batch.gamma_actions, mean)
    settings = config.threshold
    gain = threshold_objective(
        logprobs, batch.gamma_logprobs, batch.advantages, settings.epsilon, settings.max_log_ratio
    )
    (-gain.mean()).backward()
    log_ratio = (logprobs - batch.gamma_logprobs).detach()
    outside = (log_ratio.exp() - 1) * batch.advantages.sign() > settings.epsilon
    return {"sampler/clip_ratio": float(outside.float().mean()), "sampler/kl": float(log_ratio.square().mean() / 2)}


def _step(
    optimizer: torch.optim.AdamW, module: nn.Module, rate: float, config: TrainConfig, name: str
) -> dict[str, float]:
    """Clip and step; a non-finite gradient norm leaves weights and moments as they are."""
    norm = float(nn.utils.clip_grad_norm_(module.parameters(), config.optim.max_grad_norm))
    finite = math.isfinite(norm)
    if finite:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return {f"{name}/grad_norm": norm if finite else 0.0, f"{name}/skipped": float(not finite), f"{name}/lr": rate}
