"""One batch of rollouts and the mu updates on it: old log-probs, objective, backward, optimiser step."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffpo.config import ObjectiveConfig, TrainConfig
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
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.masked_likelihood import coupled_logprobs, elbo_logprobs
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


def share_of_rows(world: World, rows: int, size: int) -> Iterator[Tensor]:
    """This rank's share of `rows` (indices), at most `size` at a time."""
    share = world.share(rows)
    if share:
        yield from torch.arange(share.start, share.stop, device=world.device).split(size)


def micro_batches(world: World, rows: int, size: int) -> Iterator[tuple[Tensor, bool]]:
    """This rank's share of `rows` for the backward pass, and whether it counts.

    Where the denoiser is sharded, its weights are gathered in every pass, so all ranks make equally many: who has run
    out goes on with the first row, which then must weigh nothing.
    """
    yield from ((part, True) for part in share_of_rows(world, rows, size))
    if world.shards:
        largest = -(-rows // world.num_ranks)
        for _ in range(-(-largest // size) - -(-len(world.share(rows)) // size)):
            yield torch.zeros(1, dtype=torch.int64, device=world.device), False


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
    num_iterations, rows, canvas = len(experience.mask_keys), len(experience.live), experience.batch.tokens.shape[1]
    share = world.share(rows)
    scores = torch.zeros(num_iterations, len(share), canvas, device=world.device)
    with world.gathered(policy.denoiser):
        for iteration in range(num_iterations):
            for part in share_of_rows(world, rows, config.optim.micro_batch_size):
                scores[iteration, part - share.start] = _logprobs(policy, experience, iteration, part, config)
    gathered = torch.cat(world.gather([scores.cpu()]), dim=1)
    if not gathered.isfinite().all():
        raise not_finite(policy)
    return gathered.to(world.device)


def _logprobs(policy: Policy, experience: Experience, iteration: int, rows: Tensor, config: TrainConfig) -> Tensor:
    """log pi^ of live `rows`, [b, L], given the latents of `iteration`."""
    objective, temperature = config.objective, config.rollout.temperature
    part, keys = experience.batch.take(experience.live[rows]), experience.mask_keys[iteration, rows]
    if experience.cuts is not None:
        cuts = experience.cuts[iteration, rows]
        return surrogate_logprobs(policy, part, cuts, temperature, objective.prompt_mask_prob, keys)
    surrogate = {"coupled": coupled_logprobs, "elbo": elbo_logprobs}[objective.surrogate]
    return surrogate(policy, part, keys, objective.num_pairs, temperature)


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


def policy_backward(
    policy: Policy, experience: Experience, config: TrainConfig, iteration: int, world: World
) -> dict[str, float]:
    """Accumulate the gradient of -J over this rank's rows; all weights are those of the whole batch."""
    batch, objective = experience.batch, config.objective
    live, old, ref = experience.live, experience.old_logprobs, experience.ref_logprobs
    weights = token_weights(batch.loss_mask, batch.gen_lengths, objective.loss_type)[live]
    importance, metrics = _importance(experience, weights, iteration, objective)
    clipped = ("clip_ratio",) if objective.loss == "clipped" else ()
    names = [*clipped, *(("surrogate_kl",) if old is not None else ()), *(("kl",) if ref is not None else ())]
    totals = {name: torch.zeros((), device=world.device) for name in names}
    for rows, counted in micro_batches(world, len(live), config.optim.micro_batch_size):
        logprobs = _logprobs(policy, experience, iteration, rows, config)
        if not counted:
            logprobs.backward(torch.zeros_like(logprobs))  # not 0 * loss, which is NaN where the loss is
            continue
        gain, measured = _gain(logprobs, experience, iteration, rows, objective)
        gain = importance[rows] * gain
        if ref is not None:
            gain = gain - objective.beta * measured["kl"]
        (-(weights[rows] * gain).sum()).backward()
        for name, values in measured.items():
            totals[name] += values.detach()[batch.loss_mask[live[rows]]].sum()
    count = batch.loss_mask[live].sum()
    return {name: float(total / count) for name, total in world.sum(totals).items()} | metrics


def _gain(
    logprobs: Tensor, experience: Experience, iteration: int, rows: Tensor, objective: ObjectiveConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """What each token of live `rows` adds to J before its weights, [b, L]; metrics of the tokens, the KL among them."""
    batch, chosen = experience.batch, experience.live[rows]
    mask, committed_at = batch.loss_mask[chosen], batch.committed_at[chosen]
    advantages, zero = batch.advantages[chosen, None].expand_as(logprobs), torch.zeros_like(logprobs)
    measured: dict[str, Tensor] = {}

    def log_ratio(others: Tensor) -> Tensor:
        return pool_log_ratios(logprobs - others[iteration, rows], mask, committed_at, objective.ratio_level)

    # k3 knows its arguments by their difference alone, here a log-ratio that is pooled already
    if experience.old_logprobs is not None:
        measured["surrogate_kl"] = kl_k3(zero, log_ratio(experience.old_logprobs).detach())  # KL(old, now)
    if experience.ref_logprobs is not None:
        measured["kl"] = kl_k3(log_ratio(experience.ref_logprobs), zero)  # KL(now, reference)
    if objective.loss == "wd1":
        return weighted_likelihood(logprobs, advantages), measured
    assert experience.old_logprobs is not None
    ratio = log_ratio(experience.old_logprobs).exp()
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
