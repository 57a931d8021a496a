"""One batch of rollouts and the mu updates on it: old log-probs, objective, backward, optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, get_args

import torch
from torch import Tensor

from diffpo.config import TrainConfig
from diffpo.functional.latents import Latents
from diffpo.functional.objective import (
    effective_sample_size,
    importance_weights,
    is_cut,
    kl_k3,
    self_normalize,
    token_weights,
)
from diffpo.functional.random import fold, make_key
from diffpo.losses import Lines
from diffpo.losses.base import Unit
from diffpo.models.finite import not_finite
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy
from diffpo.objective import Objective, lines_of
from diffpo.processes.world import World
from diffpo.training.sampler import sampler_backward
from diffpo.training.sharding import gathered
from diffpo.training.state import Experience, TrainState, learning_parameters, learning_rate_factor, optimizer_step
from diffpo.types import Batch

T = TypeVar("T")


def in_step(parts: Sequence[T], num_passes: int, idle: Callable[[], T]) -> Iterator[tuple[T, bool]]:
    """Parts for the backward pass, and whether each counts: `num_passes` of them (`World.passes`).

    Who has run out of parts goes on with `idle()`, which then must weigh nothing.
    """
    yield from ((part, True) for part in parts)
    yield from ((idle(), False) for _ in range(num_passes - len(parts)))


@torch.no_grad()
def prepare(state: TrainState, batch: Batch, config: TrainConfig, world: World | None = None) -> Experience:
    """A batch to learn from: latents of all mu iterations are drawn, and scored before anything moves.

    With one iteration nothing has moved when its update scores them, whose log-probs are the old ones.

    A sampler head that learns sees the features of its decisions first, to standardise them. `world` None is this
    process alone. FloatingPointError if scores are not finite.
    """
    world = world or World(device=state.policy.device)
    batch, device = batch.to(world.device), world.device
    objective, head = Objective.of(config.objective), state.policy.sampler_head
    # with nothing to hold it a row of zero advantage has no gradient: it is left out, exactly
    everyone = objective.learns_from_all
    live = torch.arange(len(batch), device=device) if everyone else batch.advantages.nonzero().squeeze(-1)
    rows = fold(torch.tensor(make_key(config.seed, "update", state.step), device=device), live)
    keys = fold(rows, torch.arange(config.objective.num_iterations, device=device)[:, None])
    experience = Experience(batch, live, keys)
    if config.train != "sampler" and len(live):
        if objective.scores_ahead:
            experience.old_logprobs = score_batch(state.policy, experience, config, world)
        if state.start is not None:
            with state.at_start() as reference:
                experience.ref_logprobs = score_batch(reference, experience, config, world)
    # last: where scoring fails, the same batch is prepared again
    if head and state.optimizers.sampler and batch.features is not None:
        head.observe(batch.features[batch.decided])
    return experience


@torch.no_grad()
def score_batch(policy: Policy, experience: Experience, config: TrainConfig, world: World) -> Tensor:
    """Log-probs of all live rows given each iteration's latents, [mu, B' M, L]; each rank scores its share.

    FloatingPointError if they are not finite.
    """
    objective = Objective.of(config.objective)
    rows, canvas = world.share(len(experience.live)), experience.batch.tokens.shape[1]
    num_lines = len(rows) * objective.surrogate.num_lines
    scores = torch.zeros(len(experience.keys), num_lines, canvas, device=world.device)
    with gathered(world, policy.denoiser):
        for iteration, scored in enumerate(scores):
            for part in _parts(policy, experience, iteration, rows, objective, config):
                scored += score(policy, part, config.rollout.temperature)
    return _gathered(policy, scores, world)


def _gathered(policy: Policy, scores: Tensor, world: World) -> Tensor:
    """The scores of all ranks' lines, [mu, B' M, L]; FloatingPointError if they are not finite."""
    found = torch.cat(world.gather([scores.cpu()]), dim=1)
    if not found.isfinite().all():
        raise not_finite(policy)
    return found.to(world.device)


def _parts(
    policy: Policy, experience: Experience, iteration: int, rows: range, objective: Objective, config: TrainConfig
) -> list[Latents]:
    """The latents of `rows` in an iteration, as many at a time as go through the denoiser at once."""
    if not rows:
        return []
    latents = latents_of(experience, iteration, rows, objective, policy.mask_id)
    return latents.split(config.optim.micro_batch_tokens)


def latents_of(experience: Experience, iteration: int, rows: range, objective: Objective, mask_id: int) -> Latents:
    """The latents given which `iteration` scores live `rows`."""
    some = slice(rows.start, rows.stop)
    return objective.draw(experience.batch.take(experience.live[some]), experience.keys[iteration, some], mask_id)


def update(state: TrainState, config: TrainConfig, world: World | None = None) -> dict[str, float]:
    """One optimiser step on the whole batch in hand (`state.experience`), the next of its mu; returns its metrics.

    A non-finite gradient leaves the weights as they are. `world` None is this process alone.
    """
    world = world or World(device=state.policy.device)
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
    if optimizers.sampler and state.step >= config.head.delay_steps:
        live = experience.live
        if Objective.of(config.objective).learns_from_all:  # what holds the denoiser gives a head no gradient
            live = experience.batch.advantages.nonzero().squeeze(-1)
        if len(live):
            # the head is tiny: every rank computes the gradient of the whole batch, and nothing is sent
            metrics |= sampler_backward(policy, replace(experience, live=live), config.head)
            rate = config.head.learning_rate
            metrics |= optimizer_step(optimizers.sampler, parameters["sampler"], rate, max_norm, "sampler", world)
    policy.version += 1
    experience.updates.append(metrics)
    state.iteration += 1
    return metrics


@dataclass(frozen=True, eq=False)
class _Share:
    """N scored lines and what weighs their tokens in J."""

    lines: Lines
    weights: Tensor  # [N, L]
    importance: Tensor | None  # [N, L]; None: until it is scored

    def part(self, lines: slice) -> _Share:
        """Some of the lines."""
        whole = self.lines
        old, ref, importance = (None if t is None else t[lines] for t in (whole.old, whole.ref, self.importance))
        some = replace(whole, batch=whole.batch.take(lines), mask=whole.mask[lines], old=old, ref=ref)
        return _Share(some, self.weights[lines], importance)

    def only(self, some: Tensor) -> _Share:
        """The same where J sees no other tokens than `some` [N, L]."""
        old, ref = (None if t is None else t * some for t in (self.lines.old, self.lines.ref))
        lines = replace(self.lines, mask=self.lines.mask & some, old=old, ref=ref)
        return replace(self, lines=lines, weights=self.weights * some)

    def scored(self, old: Tensor, objective: Objective) -> _Share:
        """The same where `old` [N, L] are the log-probs before the first update."""
        lines = replace(self.lines, old=old)
        return replace(self, lines=lines, importance=_importance(lines, self.weights, objective))

    def units(self, objective: Objective) -> Tensor:
        """Number of what is scored as one, [N, L]: by the loss, and by importance weights that are yet to be found."""
        unit, units = objective.loss.unit, get_args(Unit)
        if self.importance is None:
            unit = units[max(units.index(unit), units.index(objective.config.importance_level))]
        return self.lines.units(unit)


def policy_backward(
    policy: Policy, experience: Experience, config: TrainConfig, iteration: int, world: World
) -> dict[str, float]:
    """Accumulate the gradient of -J over this rank's rows; all weights are those of the whole batch.

    Latents go through the denoiser in parts. Where what a token adds to J hangs on latents of several parts, all are
    scored first, without gradients, and J's slopes taken there.
    """
    objective, temperature = Objective.of(config.objective), config.rollout.temperature
    whole = _whole(experience, iteration, objective)
    rows, num_lines = world.share(len(experience.live)), objective.surrogate.num_lines
    share = whole.part(slice(rows.start * num_lines, rows.stop * num_lines))
    names = [*objective.loss.measures, *(["surrogate_kl"] if objective.needs_old else [])]
    names += ["kl"] if whole.lines.ref is not None else []
    totals = {name: torch.zeros((), device=world.device) for name in names}  # of a rank without rows too

    parts, slopes = _parts(policy, experience, iteration, rows, objective, config), None
    units, scored = share.units(objective), torch.zeros_like(share.weights)
    if world.any(_torn(parts, units)):
        with torch.no_grad(), gathered(world, policy.denoiser):
            logprobs = sum((score(policy, part, temperature) for part in parts), torch.zeros_like(share.weights))
        if rows:  # where others have torn theirs, a rank may have none
            loss, totals = _loss(share, logprobs.requires_grad_(), objective)
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
            reached = _touched(part, units)[units]  # a mean is over the whole unit
            loss, sums = _loss(share.only(reached), logprobs, objective)
            totals = {name: total + sums[name] for name, total in totals.items()}
        loss.backward()
        scored += logprobs.detach()
    lines = whole.lines
    if whole.importance is None:
        (old,) = _gathered(policy, scored[None], world)
        lines = replace(lines, old=old)
    count = lines.mask.sum()
    means = {name: float(total / count) for name, total in world.sum(totals).items()}
    return means | _distance(lines, objective)


def _torn(parts: Sequence[Latents], units: Tensor) -> bool:
    """Whether the latents of anything that is scored as one are in several parts."""
    return len(parts) > 1 and bool((torch.stack([_touched(part, units) for part in parts]).sum(0) > 1).any())


def _touched(part: Latents, units: Tensor) -> Tensor:
    """Which of what is scored as one, `units` [N, L] by number, the part scores any token of."""
    found = torch.zeros(units.shape[0] * (units.shape[1] + 1), dtype=torch.bool, device=units.device)
    found[units[part.rows, part.positions]] = True
    return found


def _whole(experience: Experience, iteration: int, objective: Objective) -> _Share:
    """All live rows in one iteration."""
    whole, counts = lines_in(experience, iteration, objective)
    of_tokens = token_weights(experience.batch.loss_mask, experience.batch.gen_lengths, objective.config.loss_type)
    weights = of_tokens[experience.live].repeat_interleave(whole.num_lines, 0)
    weights = weights if counts is None else weights * counts
    waits = objective.needs_old and whole.old is None
    return _Share(whole, weights, None if waits else _importance(whole, weights, objective))


def lines_in(experience: Experience, iteration: int, objective: Objective) -> tuple[Lines, Tensor | None]:
    """The lines of all live rows, and what each token counts, [B' M, L]; None: once."""
    surrogate, batch = objective.surrogate, experience.batch.take(experience.live)
    old, ref = (None if t is None else t[iteration] for t in (experience.old_logprobs, experience.ref_logprobs))
    lines, counts = lines_of(batch, surrogate), surrogate.counts(batch, experience.keys[iteration], old)
    mask = lines.loss_mask if counts is None else lines.loss_mask & (counts > 0)
    return Lines(lines, mask, old, ref, surrogate.num_lines), counts


def _loss(share: _Share, logprobs: Tensor, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
    """The part of -J that the tokens of `share` make, and sums over them of what is measured."""
    if share.importance is None:
        share = share.scored(logprobs.detach(), objective)
    assert share.importance is not None
    lines, loss = share.lines, objective.loss
    gain, measured = loss.gain(logprobs, lines)
    gain = share.importance * gain
    if lines.old is not None:  # KL(old, now)
        log_ratio = lines.log_ratio(logprobs, lines.old, loss.level).detach()
        measured["surrogate_kl"] = kl_k3(torch.zeros_like(log_ratio), log_ratio)
    if lines.ref is not None:
        measured["kl"] = loss.kl(logprobs, lines.ref, lines)
        gain = gain - objective.config.beta * measured["kl"]
    sums = {name: values.detach().where(lines.mask, 0).sum() for name, values in measured.items()}
    return -(share.weights * gain).sum(), sums


def _gap(lines: Lines, objective: Objective) -> Tensor | None:
    """log pi^_old / b, pooled, [N, L]; None where the surrogate is no likelihood, or no old one is known."""
    if lines.old is None or not objective.surrogate.is_likelihood:
        return None
    return lines.log_ratio(lines.old, lines.batch.behaviour_logprobs, objective.config.importance_level)


def _importance(lines: Lines, weights: Tensor, objective: Objective) -> Tensor:
    """Importance weights of the lines, [N, L]."""
    gap, config = _gap(lines, objective), objective.config
    if gap is None:
        return torch.ones_like(weights)
    importance = importance_weights(gap, config.importance_clamp)
    return self_normalize(importance, weights) if config.self_normalize else importance


def _distance(lines: Lines, objective: Objective) -> dict[str, float]:
    """Metrics of how far the surrogate is from the behaviour policy."""
    gap, clamp = _gap(lines, objective), objective.config.importance_clamp
    if gap is None:
        return {}
    raw = gap.exp()[lines.mask]
    return {
        "importance/mean": float(raw.mean()),
        "importance/kl": float(kl_k3(torch.zeros_like(gap), gap)[lines.mask].mean()),
        "importance/clamped": float(is_cut(raw, clamp or math.inf).float().mean()),
        "importance/ess": float(effective_sample_size(importance_weights(gap, clamp)[lines.mask])),
    }


def count_forwards(state: TrainState, experience: Experience, rollouts: int, config: TrainConfig) -> dict[str, float]:
    """Rows forwarded by this step's `rollouts`, by its scoring and updates, and by the run so far (state.forwards).

    A rollout counts its NFE, though a group's first call is shared, and also where it got no reward and is in no batch.
    Each of the mu updates scores its latents for the old log-probs, if there are several, for those of the reference,
    where J has them, and for the gradient. A backward pass is none. What rows of a prompt share counts once, however
    the batch is divided for memory's sake.
    """
    updates = 0
    if config.train != "sampler" and len(experience.live):
        num_passes = 1 + (experience.old_logprobs is not None) + (experience.ref_logprobs is not None)
        rows, mask_id = range(len(experience.live)), state.policy.mask_id
        iterations, objective = range(config.objective.num_iterations), Objective.of(config.objective)
        updates = num_passes * sum(len(latents_of(experience, i, rows, objective, mask_id)) for i in iterations)
    state.forwards += rollouts + updates
    return {"forwards": state.forwards, "forwards/rollouts": rollouts, "forwards/updates": updates}
