"""What entropies are worth: how often a token committed at an entropy is right, and what a fixed gamma commits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffpo.lab.analysis.sections import Section, Series, means_by
from diffpo.lab.analysis.subject import Subject, decode
from diffpo.types import RolloutGroup

CAREFUL = "top_k:1"
"""One token a call, greedily: the surest way that a model has to answer."""
EDGES = (0.0, 0.02, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Bins of entropy, nats; the last takes what is above, too."""


def calibration_sections(subject: Subject) -> list[Section]:
    """Chance that a token is right by its entropy; tokens a call and accuracy by gamma; of each policy compared."""
    calibrated, committed, accurate = [], [], []
    figures: dict[str, float | None] = {}
    for name, policy in subject.policies.items():
        careful = decode(subject, policy, CAREFUL)
        by_gamma = [decode(subject, policy, f"entropy_bound:{gamma}") for gamma in subject.settings.gammas]
        right, entropies, clusters = commitments(careful, by_gamma)
        means = means_by(right, torch.bucketize(entropies, torch.tensor(EDGES[1:-1])), clusters)
        middles = [(EDGES[index] + EDGES[index + 1]) / 2 for index in means.bins]
        calibrated.append(Series(name, middles, means.mean, means.half_width))
        figures[f"right one token a call, share of prompts, {name}"] = sum(map(_correct, careful)) / len(careful)
        answers = [group.rollouts[0].completion for group in careful]
        mean = torch.cat([answer.entropies[: answer.length] for answer in answers]).mean()
        figures[f"mean entropy of a committed token, {name}"] = float(mean)
        committed.append(_by_gamma(name, subject.settings.gammas, by_gamma, tokens_per_call))
        accurate.append(_by_gamma(name, subject.settings.gammas, by_gamma, _correct))
    return [
        Section(
            "calibration",
            "What an entropy is worth",
            "Share of committed tokens that are the ones of the same prompt's answer at one token a call, where that "
            "answer is right, by the entropy they were committed at (middles of bins). Greedy decoding at the fixed "
            "gammas, pooled.",
            "entropy when committed (nats)",
            "share of tokens right",
            calibrated,
            figures,
        ),
        Section(
            "gamma_commits",
            "What a fixed gamma commits",
            "Tokens up to EOS over denoiser calls, mean over prompts, decoding greedily: a sharper model commits more "
            "at the same gamma.",
            "gamma (nats)",
            "tokens a call",
            committed,
        ),
        Section(
            "gamma_accuracy",
            "What a fixed gamma gets right",
            "Share of prompts answered right, decoding greedily.",
            "gamma (nats)",
            "accuracy",
            accurate,
        ),
    ]


def commitments(
    careful: Sequence[RolloutGroup], runs: Sequence[Sequence[RolloutGroup]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every token of `runs`, [N]: whether it is that of the careful answer, its entropy, and its prompt.

    Prompts whose careful answer is wrong are left out: of them nobody knows which tokens are right.
    """
    right, entropies, clusters = [torch.zeros(0)], [torch.zeros(0)], [torch.zeros(0).long()]
    for groups in runs:
        for index, (reference, group) in enumerate(zip(careful, groups, strict=True)):
            if reference.rollouts[0].verdict.correct:
                completion = group.rollouts[0].completion
                said = completion.written
                right.append((completion.tokens[said] == reference.rollouts[0].completion.tokens[said]).float())
                entropies.append(completion.entropies[said])
                clusters.append(torch.full((int(said.sum()),), index))
    return torch.cat(right), torch.cat(entropies), torch.cat(clusters)


def tokens_per_call(group: RolloutGroup) -> float:
    """Tokens up to EOS over calls, of the first answer."""
    completion = group.rollouts[0].completion
    return int(completion.written.sum()) / completion.nfe


def _correct(group: RolloutGroup) -> float:
    return float(group.rollouts[0].verdict.correct)


def _by_gamma(
    name: str, gammas: Sequence[float], runs: Sequence[Sequence[RolloutGroup]], measure: Callable[[RolloutGroup], float]
) -> Series:
    values = torch.tensor([[measure(group) for group in groups] for groups in runs])
    bins = torch.arange(len(gammas))[:, None].expand_as(values).flatten()
    means = means_by(values.flatten(), bins, torch.arange(values.shape[1]).repeat(len(gammas)))
    return Series(name, [gammas[index] for index in means.bins], means.mean, means.half_width)
