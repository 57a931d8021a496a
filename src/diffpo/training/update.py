"""One batch of rollouts and the mu updates on it: old log-probs, objective, backward, optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from diffpo.config import ObjectiveConfig, TrainConfig
from diffpo.functional.latents import Latents, coupled_latents, cut_latents, elbo_latents
from diffpo.functional.objective import (
    clipped_surrogate,
    effective_sample_size,
    importance_weights,
    kl_k3,
    pool_log_ratios,
    self_normalize,
    threshold_objective,
    token_weights,
)
from diffpo.functional.random import fold, make_key
from diffpo.functional.surrogate import cut_weights, draw_cuts
from diffpo.functional.wd1 import weighted_likelihood
from diffpo.models.finite import not_finite
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy
from diffpo.training.distributed import World
from diffpo.training.state import (
    Experience,
    TrainState,
    learning_parameters,
    learning_rate_factor,
    optimizer_step,
)
from diffpo.types import Batch

T = TypeVar("T")


def in_step(parts: Sequence[T], num_passes: int, idle: Callable[[], T]) -> Iterator[tuple[T, bool]]:
    """Parts for the backward pass, and whether each counts: `num_passes` of them (`World.passes`).

    Who has run out of parts goes on with `idle()`, which then must weigh nothing.
    """
    yield from ((part, True) for part in parts)
    yield from ((idle(), False) for _ in range(num_passes - len(parts)))


@torch.no_grad()
def prepare(
    state: TrainState, batch: Batch, summary: dict[str, float], config: TrainConfig, world: World
) -> Experience:
    """Draw the cuts of all mu iterations and score the rollouts at each, before anything moves."""
    objective, device = config.objective, batch.tokens.device
    # without a KL term a row of zero advantage has no gradient: it is left out, exactly
    live = torch.arange(len(batch), device=device) if objective.beta else batch.advantages.nonzero().squeeze(-1)
    rows = fold(torch.tensor(make_key(config.seed, "update", state.step), device=device), live)
    iterations = torch.arange(objective.num_iterations, device=device)[:, None]
    keys = fold(rows, iterations, 0)
    mask_keys = fold(rows, iterations, 1)
    experience = Experience(batch, live, None, None, None, mask_keys, summary)
    if config.train == "sampler" or not len(live):
        return experience
    part = batch.take(live)
    if objective.surrogate == "mean_field":
        law = cut_weights(part.nfe, part.committed_at, part.loss_mask, objective.cut_law)
        experience.cuts = torch.stack([draw_cuts(part.nfe, objective.num_latents, key, law) for key in keys])
    if objective.has_old_policy:
        experience.old_logprobs = _score(state.policy, experience, config, world)
    if state.start is not None:
        with state.at_start() as reference:
            experience.ref_logprobs = _score(reference, experience, config, world)
    return experience


def _score(policy: Policy, experience: Experience, config: TrainConfig, world: World) -> Tensor:
    """Surrogate log-probs of all live rows at each iteration's cuts, [mu, B', L]; each rank scores its share.

    FloatingPointError if they are not finite.
    """
    rows, canvas = world.share(len(experience.live)), experience.batch.tokens.shape[1]
    scores = torch.zeros(len(experience.mask_keys), len(rows), canvas, device=world.device)
    with world.gathered(policy.denoiser):
        for iteration, found in enumerate(scores):
            for part in _parts(policy, experience, iteration, rows, config):
                found += score(policy, part, config.rollout.temperature)
    gathered = torch.cat(world.gather([scores.cpu()]), dim=1)
    if not gathered.isfinite().all():
        raise not_finite(policy)
    return gathered.to(world.device)


def _parts(policy: Policy, experience: Experience, iteration: int, rows: range, config: TrainConfig) -> list[Latents]:
    """The latents of `rows` in an iteration, as many at a time as go through the denoiser at once."""
    if not rows:
        return []
    latents = latents_of(experience, iteration, rows, config.objective, policy.mask_id)
    return latents.split(config.optim.micro_batch_tokens)


def latents_of(
    experience: Experience, iteration: int, rows: range, objective: ObjectiveConfig, mask_id: int
) -> Latents:
    """The latents at which `iteration` scores live `rows`."""
    some = slice(rows.start, rows.stop)
    batch, keys = experience.batch.take(experience.live[some]), experience.mask_keys[iteration, some]
    if experience.cuts is not None:
        return cut_latents(batch, experience.cuts[iteration, some], mask_id, objective.prompt_mask_prob, keys)
    draw = {"coupled": coupled_latents, "elbo": elbo_latents}[objective.surrogate]
    return draw(batch, keys, objective.num_pairs, mask_id)


def update(state: TrainState, config: TrainConfig, world: World) -> dict[str, float]:
    """One optimiser step on the whole batch in hand; returns its metrics. A non-finite gradient skips the step."""
    policy, optimizers, experience = state.policy, state.optimizers, state.experience
    assert experience is not None
    parameters, max_norm = learning_parameters(policy), config.optim.max_grad_norm
    metrics: dict[str, float] = {}
    for _, optimizer in optimizers.items():
        optimizer.zero_grad(set_to_none=True)
    if optimizers.denoiser and len(experience.live):
        metrics |= policy_backward(policy, experience, config, state.iteration, world)
        rate = config.optim.learning_rate * learning_rate_factor(config, state.step)
        world.sum_gradients(parameters["denoiser"].values())
        metrics |= optimizer_step(optimizers.denoiser, parameters["denoiser"], rate, max_norm, "model", world)
    if optimizers.threshold and state.step >= config.threshold.delay_steps and len(experience.live):
        # the head is tiny: every rank computes the gradient of the whole batch, and nothing is sent
        metrics |= _threshold_backward(policy, experience, config)
        rate = config.threshold.learning_rate
        metrics |= optimizer_step(optimizers.threshold, parameters["threshold"], rate, max_norm, "sampler", world)
    policy.version += 1
    return metrics


@dataclass(frozen=True, eq=False)
class _Share:
    """The live rows of a rank in one iteration, b of them, and what weighs their tokens in J."""

    batch: Batch
    old: Tensor | None  # [b, L]
    ref: Tensor | None  # [b, L]
    weights: Tensor  # [b, L]
    importance: Tensor  # [b, L]

    def only(self, mask: Tensor) -> _Share:
        """The same where J sees no other tokens than those of `mask`."""
        others = (self.old, self.ref, self.weights, self.importance)
        return _Share(replace(self.batch, loss_mask=mask), *(None if t is None else t * mask for t in others))  # type: ignore[arg-type]


def policy_backward(
    policy: Policy, experience: Experience, config: TrainConfig, iteration: int, world: World
) -> dict[str, float]:
    """Accumulate the gradient of -J over this rank's rows; all weights are those of the whole batch.

    Latents go through the denoiser in parts. Where what a token adds to J hangs on latents of several parts, all are
    scored first, without gradients, and J's slopes taken there.
    """
    objective, live, temperature = config.objective, experience.live, config.rollout.temperature
    weights = token_weights(experience.batch.loss_mask, experience.batch.gen_lengths, objective.loss_type)[live]
    importance, metrics = _importance(experience, weights, iteration, objective)
    rows = world.share(len(live))
    some = slice(rows.start, rows.stop)
    old, ref = (None if t is None else t[iteration, some] for t in (experience.old_logprobs, experience.ref_logprobs))
    share = _Share(experience.batch.take(live[some]), old, ref, weights[some], importance[some])
    clipped = ("clip_ratio",) if objective.loss == "clipped" else ()
    names = [*clipped, *(("surrogate_kl",) if old is not None else ()), *(("kl",) if ref is not None else ())]
    totals = {name: torch.zeros((), device=world.device) for name in names}

    parts, slopes = _parts(policy, experience, iteration, rows, config), None
    apart = objective.surrogate == "mean_field" and objective.ratio_level != "sequence"
    if not apart and world.any(_tear_rows(parts)):
        with torch.no_grad(), world.gathered(policy.denoiser):
            logprobs = sum((score(policy, part, temperature) for part in parts), torch.zeros_like(weights[some]))
        logprobs = logprobs.requires_grad_()
        loss, totals = _loss(share, logprobs, objective)
        (slopes,) = torch.autograd.grad(loss, logprobs)

    def idle() -> Latents:
        first = latents_of(experience, iteration, range(1), objective, policy.mask_id)
        return first.take(torch.zeros(1, dtype=torch.int64, device=world.device))

    for part, counts in in_step(parts, world.passes(len(parts)), idle):
        logprobs = score(policy, part, temperature)
        if not counts:
            logprobs.backward(torch.zeros_like(logprobs))
            continue
        if slopes is not None:
            loss = (slopes * logprobs).sum()
        else:
            loss, sums = _loss(share.only(part.scored), logprobs, objective)
            totals = {name: total + sums[name] for name, total in totals.items()}
        loss.backward()
    count = experience.batch.loss_mask[live].sum()
    return {name: float(total / count) for name, total in world.sum(totals).items()} | metrics


def _tear_rows(parts: Sequence[Latents]) -> bool:
    """Whether tokens of one row are scored in several parts."""
    rows = [part.rows.unique() for part in parts]
    return len(parts) > 1 and sum(map(len, rows)) > len(torch.cat(rows).unique())


def _loss(share: _Share, logprobs: Tensor, objective: ObjectiveConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The part of -J that the tokens of `share` make, and sums over them of what is measured."""
    gain, measured = _gain(logprobs, share, objective)
    gain = share.importance * gain
    if share.ref is not None:
        gain = gain - objective.beta * measured["kl"]
    sums = {name: values.detach().where(share.batch.loss_mask, 0).sum() for name, values in measured.items()}
    return -(share.weights * gain).sum(), sums


def _gain(logprobs: Tensor, share: _Share, objective: ObjectiveConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """What each token adds to J before its weights, [b, L]; metrics of the tokens, the KL among them."""
    batch = share.batch
    advantages, zero = batch.advantages[:, None].expand_as(logprobs), torch.zeros_like(logprobs)
    measured: dict[str, Tensor] = {}

    def log_ratio(others: Tensor) -> Tensor:
        return pool_log_ratios(logprobs - others, batch.loss_mask, batch.committed_at, objective.ratio_level)

    # k3 knows its arguments by their difference alone, here a log-ratio that is pooled already
    if share.old is not None:
        measured["surrogate_kl"] = kl_k3(zero, log_ratio(share.old).detach())  # KL(old, now)
    if share.ref is not None:
        measured["kl"] = kl_k3(log_ratio(share.ref), zero)  # KL(now, reference)
    if objective.loss == "wd1":
        return weighted_likelihood(logprobs, advantages), measured
    assert share.old is not None
    ratio = log_ratio(share.old).exp()
    measured["clip_ratio"] = ((ratio.detach() - 1) * advantages.sign() > objective.epsilon).float()
    return clipped_surrogate(ratio, advantages, objective.epsilon), measured


def _importance(
    experience: Experience, weights: Tensor, iteration: int, objective: ObjectiveConfig
) -> tuple[Tensor, dict[str, float]]:
    """Importance weights of the live rows, [B', L]; how far the surrogate is from the behaviour policy."""
    if experience.old_logprobs is None:
        return torch.ones_like(weights), {}
    batch, clamp = experience.batch, objective.importance_clamp
    mask, committed_at = batch.loss_mask[experience.live], batch.committed_at[experience.live]
    gap = experience.old_logprobs[iteration] - batch.behaviour_logprobs[experience.live]
    gap = pool_log_ratios(gap, mask, committed_at, objective.importance_level)
    importance = importance_weights(gap, clamp)
    if objective.self_normalize:
        importance = self_normalize(importance, weights)
    raw, limit = gap.exp()[mask], clamp or math.inf
    return importance, {
        "importance/mean": float(raw.mean()),
        "importance/clamped": float((raw > limit).float().mean()),
        "importance/ess": float(effective_sample_size(importance[mask])),
    }


def _threshold_backward(policy: Policy, experience: Experience, config: TrainConfig) -> dict[str, float]:
    """The head's clipped objective, from features recorded at the rollout: no gradient enters the denoiser."""
    batch, head = experience.batch, policy.threshold
    assert head is not None and batch.features is not None
    assert batch.gamma_actions is not None and batch.gamma_logprobs is not None
    made = head.logprob(batch.gamma_actions, head(batch.features))
    # the sampler's action is all of a completion's decisions: their log-probabilities add up
    logprobs, old = (values.masked_fill(~batch.decided, 0.0).sum(-1) for values in (made, batch.gamma_logprobs))
    settings = config.threshold
    gain = threshold_objective(logprobs, old, batch.advantages, settings.epsilon, settings.max_log_ratio)
    (-gain.mean()).backward()
    log_ratio = (logprobs - old).detach()
    outside = (log_ratio.exp() - 1) * batch.advantages.sign() > settings.epsilon
    return {"sampler/clip_ratio": float(outside.float().mean()), "sampler/kl": float(log_ratio.square().mean() / 2)}
