"""What the sampler does: the threshold it learned for each prompt against the prompt's difficulty, and its order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
import torch

from diffpo.lab.analysis.calibration import CAREFUL
from diffpo.lab.analysis.sections import Section, Series, means_by
from diffpo.lab.analysis.subject import Subject, decode
from diffpo.models.threshold import ThresholdHead
from diffpo.types import RolloutGroup

NUM_RESAMPLES = 1000


def threshold_sections(subject: Subject) -> list[Section]:
    """Thresholds against difficulty; none where the policy has no head for them.

    A prompt is as difficult as its share of wrong answers at one token a call, drawn at the rollouts' temperature:
    that does not depend on the threshold.
    """
    head = subject.policy.sampler_head
    if not isinstance(head, ThresholdHead):
        return []
    completions = [group.rollouts[0].completion for group in decode(subject, subject.policy, "learned")]
    made_on = [c.features.to(subject.policy.device) for c in completions if c.features is not None]
    with torch.no_grad():  # where each call has a threshold, their mean
        gammas = torch.stack([head.gamma(head(features)).mean() for features in made_on]).cpu()
    temperature, draws = subject.config.rollout.temperature, subject.settings.num_generations
    drawn = decode(subject, subject.policy, CAREFUL, temperature, draws)
    wrong = torch.tensor([sum(not rollout.verdict.correct for rollout in group.rollouts) for group in drawn])
    means = means_by(gammas, wrong, torch.arange(len(gammas)))
    figures: dict[str, float | None] = {"prompts": len(gammas), "mean gamma": float(gammas.mean())}
    name = "rank correlation, gamma and difficulty"
    figures[name], low, high = correlation_interval(gammas.tolist(), wrong.tolist(), subject.config.seed)
    figures |= {f"{name}, lower end of 95 %": low, f"{name}, upper end of 95 %": high}
    by_prompt = list(zip(gammas.tolist(), subject.prompts, strict=True))
    for level in sorted({prompt.level for prompt in subject.prompts} - {""}):
        figures[f"mean gamma, {level}"] = fmean(gamma for gamma, prompt in by_prompt if prompt.level == level)
    return [
        Section(
            "threshold_by_difficulty",
            "Learned thresholds and difficulty",
            f"Mean threshold of prompts by their share of wrong answers among {draws} drawn at one token a call: a "
            "sampler that has learned to be careful where it is hard has a falling line and a negative correlation.",
            "share of answers wrong",
            "gamma (nats)",
            [Series("mean gamma", [index / draws for index in means.bins], means.mean, means.half_width)],
            figures,
        )
    ]


def order_sections(subject: Subject) -> list[Section]:
    """Mean call by position: of the rollouts as in training, and of each policy at one token a call."""
    *_, own = subject.policies
    runs = {f"{own}, as in training": subject.groups}
    for name, policy in subject.policies.items():
        runs[f"{name}, one token a call"] = decode(subject, policy, CAREFUL)
    figures = {f"rank correlation, position and call, {name}": left_to_right(groups) for name, groups in runs.items()}
    return [
        Section(
            "order",
            "Order of commitment",
            "Mean call that committed each position, up to EOS: a line that rises decodes from left to right, a flat "
            "one has no order that all answers share.",
            "position",
            "call",
            [_order(name, groups) for name, groups in runs.items()],
            figures,
        )
    ]


def _order(name: str, groups: Sequence[RolloutGroup]) -> Series:
    rows = [(index, r.completion) for index, group in enumerate(groups) for r in group.rollouts]
    calls = torch.cat([completion.committed_at[completion.written] for _, completion in rows])
    places = torch.cat([completion.written.nonzero().squeeze(-1) + 1 for _, completion in rows])
    clusters = torch.cat([torch.full((int(completion.written.sum()),), index) for index, completion in rows])
    return Series(name, *means_by(calls.float(), places, clusters))


def left_to_right(groups: Sequence[RolloutGroup]) -> float:
    """Mean over answers of the rank correlation between position and call; nan where none is defined."""
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    answers = [completion.committed_at[completion.written].tolist() for completion in completions]
    found = [rank_correlation(range(len(calls)), calls) for calls in answers]
    known = [value for value in found if not math.isnan(value)]
    return fmean(known) if known else math.nan


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rho, ties at their mean rank; nan where one of them does not vary."""
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata([x, y], axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    norms = np.sqrt((ranks**2).sum(1))
    return float(ranks[0] @ ranks[1] / norms.prod()) if norms.all() else math.nan


def correlation_interval(x: Sequence[float], y: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Spearman's rho and its 95 % percentile bootstrap over pairs."""
    pairs, generator = np.array([x, y], dtype=float), np.random.default_rng(seed)
    chosen = generator.integers(pairs.shape[1], size=(NUM_RESAMPLES, pairs.shape[1]))
    found = [rank_correlation(*pairs[:, rows]) for rows in chosen]
    known = [value for value in found if not math.isnan(value)]
    low, high = np.quantile(known, [0.025, 0.975]) if known else (math.nan, math.nan)
    return rank_correlation(x, y), float(low), float(high)
