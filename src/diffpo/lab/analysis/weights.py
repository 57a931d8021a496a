"""Importance weights from the surrogate in use to the policy that drew the tokens, call by call."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from diffpo.config import ObjectiveConfig
from diffpo.functional.objective import effective_sample_size, is_cut
from diffpo.lab.analysis.sections import Section, Series, means_by, surrogate_name
from diffpo.lab.analysis.subject import Subject
from diffpo.objective import Objective
from diffpo.surrogates import load_surrogate
from diffpo.training.state import Optimizers, TrainState
from diffpo.training.update import lines_in, prepare, score_batch


def raw_weights(subject: Subject) -> Tensor:
    """w = pi^_old / b of what is scored in R draws, before any clamp, [R, B M, L]; NaN where a token is not.

    M lines a row; pooled as `objective.importance_level` says.
    """
    config, batch, draws = subject.config, subject.batch, subject.settings.weight_draws
    settings = replace(config.objective, loss=ObjectiveConfig.loss, beta=0.0, num_iterations=draws)
    objective, everyone = Objective.of(settings), replace(batch, advantages=torch.ones_like(batch.advantages))
    state = TrainState(subject.policy, Optimizers())
    config = replace(config, objective=settings)
    experience = prepare(state, everyone, config, subject.world)
    if experience.old_logprobs is None:  # of one draw, which an update would score itself
        experience.old_logprobs = score_batch(subject.policy, experience, config, subject.world)
    found = []
    for draw in range(draws):
        lines, _ = lines_in(experience, draw, objective)
        assert lines.old is not None
        gap = lines.log_ratio(lines.old, lines.batch.behaviour_logprobs, settings.importance_level)
        found.append(gap.exp().masked_fill(~lines.mask, torch.nan))
    return torch.stack(found)


def weight_sections(subject: Subject) -> list[Section]:
    """Mean, effective sample size and share at the clamp. A surrogate that is no likelihood has no weights."""
    objective = subject.config.objective
    if not load_surrogate(objective.surrogate).is_likelihood:
        return []
    weights = raw_weights(subject).cpu()
    clamp = objective.importance_clamp or type(objective).importance_clamp
    num_lines, scored = weights.shape[1] // len(subject.batch), ~weights.isnan()
    of_rows = (subject.batch.committed_at.cpu(), subject.clusters[:, None].expand(subject.batch.tokens.shape))
    calls, clusters = (t.repeat_interleave(num_lines, 0).expand_as(weights)[scored] for t in of_rows)
    weights = weights[scored]

    def averaged(label: str, values: Tensor) -> Series:
        return Series(label, *means_by(values, calls, clusters, subject.least))

    mean = averaged("w", weights)

    def effective(limit: float) -> Series:
        by_call = [effective_sample_size(weights[calls == call].clamp_max(limit)) for call in mean.x]
        return Series(f"effective sample size, {_clamp(limit)}", mean.x, [float(size) for size in by_call])

    clamped, above = averaged(f"min({clamp:g}, w)", weights.clamp_max(clamp)), is_cut(weights, clamp).float()
    figures: dict[str, float | None] = {}
    for limit in sorted({*subject.settings.clamps, clamp, math.inf} - {0.0}):
        figures[f"effective sample size, {_clamp(limit)}"] = float(effective_sample_size(weights.clamp_max(limit)))
        if limit < math.inf:
            figures[f"cut by {_clamp(limit)}"] = float(is_cut(weights, limit).float().mean())
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
            figures,
        ),
    ]


def _clamp(limit: float) -> str:
    return "no clamp" if limit == math.inf else f"C = {limit:g}"
