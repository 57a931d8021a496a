"""Importance weights from the surrogate in use to the policy that drew the tokens, call by call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from diffpo.analysis.sections import Section, Series, means_by, surrogate_name
from diffpo.analysis.subject import Subject
from diffpo.functional.objective import effective_sample_size, pool_log_ratios
from diffpo.training.state import Optimizers, TrainState
from diffpo.training.update import prepare


def raw_weights(subject: Subject) -> Tensor:
    """w = pi^_old / b of every token before any clamp, pooled as `objective.importance_level` says, [R, B, L]."""
    config, batch, draws = subject.config, subject.batch, subject.settings.weight_draws
    objective = replace(config.objective, loss="clipped:0.2", beta=0.0, num_iterations=draws)
    everyone = replace(batch, advantages=torch.ones_like(batch.advantages))
    state = TrainState(subject.policy, Optimizers())
    old = prepare(state, everyone, {}, replace(config, objective=objective), subject.world).old_logprobs
    assert old is not None
    gaps = (scores - batch.behaviour_logprobs for scores in old)
    pooled = [pool_log_ratios(gap, batch.loss_mask, batch.committed_at, objective.importance_level) for gap in gaps]
    return torch.stack(pooled).exp()


def weight_sections(subject: Subject) -> list[Section]:
    """Mean, effective sample size and share at the clamp."""
    objective, mask = subject.config.objective, subject.batch.loss_mask.cpu()
    clamp = objective.importance_clamp or type(objective).importance_clamp
    weights = raw_weights(subject).cpu()[:, mask]
    calls = subject.batch.committed_at.cpu()[mask].expand_as(weights).flatten()
    clusters = subject.clusters[:, None].expand_as(mask)[mask].expand_as(weights).flatten()
    weights = weights.flatten()

    def averaged(label: str, values: Tensor) -> Series:
        means = means_by(values, calls, clusters, subject.least)
        return Series(label, means.bins, means.mean, means.half_width)

    mean = averaged("w", weights)

    def effective(limit: float) -> Series:
        by_call = [effective_sample_size(weights[calls == call].clamp_max(limit)) for call in mean.x]
        label = "no clamp" if limit == math.inf else f"C = {limit:g}"
        return Series(f"effective sample size, {label}", mean.x, [float(size) for size in by_call])

    clamped, above = averaged(f"min({clamp:g}, w)", weights.clamp_max(clamp)), (weights > clamp).float()
    limits = sorted({*subject.settings.clamps, clamp, math.inf} - {0.0})
    x = "call that committed the token"
    return [
        Section(
            "weights_by_call",
            f"Importance weights, surrogate {surrogate_name(objective.surrogate)}",
            "Mean weight w from the surrogate to the policy that drew the tokens, and clamped as in training: 1 where "
            "the cuts know nothing of the token.",
            x,
            "mean weight",
            [mean, clamped] if clamp < math.inf else [mean],
            {"mean of w": float(weights.mean()), "largest w": float(weights.max())},
        ),
        Section(
            "weights_in_use",
            f"What importance weights leave, surrogate {surrogate_name(objective.surrogate)}",
            "Effective sample size as a share of the tokens, without a clamp and with the one of training, and the "
            "share of tokens whose weight that clamp cuts.",
            x,
            "share of tokens",
            [effective(limit) for limit in sorted({clamp, math.inf})]
            + ([averaged(f"cut by C = {clamp:g}", above)] if clamp < math.inf else []),
            _overall(weights, limits),
        ),
    ]


def _overall(weights: Tensor, limits: Sequence[float]) -> dict[str, float | None]:
    """Effective sample size and share above each clamp, over all tokens."""
    figures: dict[str, float | None] = {}
    for limit in limits:
        label = "no clamp" if limit == math.inf else f"C = {limit:g}"
        figures[f"effective sample size, {label}"] = float(effective_sample_size(weights.clamp_max(limit)))
        if limit < math.inf:
            figures[f"cut by {label}"] = float((weights > limit).float().mean())
    return figures
