"""From logits to a drawn token, its log-probability, and how sure the model was: one fp32 pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Mode:
    """What is known of all rows of a prediction, so that passes over the vocabulary can be left out."""

    greedy: Literal["none", "some", "all"] = "some"
    """Which rows have temperature 0."""
    shared: bool = False
    """Whether each row's temperature is its entropy temperature."""
    plain: bool = False
    """Whether all temperatures are 1 (of greedy rows, the entropy temperature)."""
    finite: bool = False
    """Whether no logit is -inf."""
    margin: bool = True
    """Whether margins are asked for."""


def ban(
    logits: Float[Tensor, "... V"], banned: Int64[Tensor, " K"], floor: float = -torch.inf
) -> Float[Tensor, "... V"]:
    """Logits in fp32 with the banned ids (mask, vocabulary padding) at `floor`: what no one may emit, no one scores.

    Logits that are fp32 already are changed in place.
    """
    return logits.float().index_fill_(-1, banned, floor)


def predict(
    logits: Float[Tensor, "N V"],
    temperature: Float[Tensor, " N"],
    entropy_temperature: Float[Tensor, " N"],
    uniforms: Float[Tensor, " N"],
    answers: Int64[Tensor, " N"] | None = None,
    mode: Mode | None = None,
) -> tuple[Int64[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, " N"]]:
    """A drawn token a row, its log-probability, and the row's entropy (nats), largest probability and margin.

    Token and log-probability are of softmax(logits / temperature), by inverse CDF; at temperature 0 the argmax, a point
    mass of log-probability 0. `answers` take the place of what is drawn by inverse CDF, where they are not -1. Entropy,
    largest probability, and margin, by which that is larger than the second, are of softmax(logits /
    entropy_temperature). Logits are finite, or -inf where nothing may be drawn. `mode` saves passes, and changes no
    number that is asked for: a margin that is not is 0.
    """
    mode = mode or Mode()
    looked_at = _log_softmax(logits, entropy_temperature, mode)
    probs = looked_at.exp()
    # 0 * -inf is no number: what is impossible adds nothing to the entropy
    entropies = -torch.linalg.vecdot(probs, looked_at if mode.finite else looked_at.clamp_min(-1e4))
    max_probs = looked_at.amax(-1).exp()
    margins = -probs.topk(2).values.diff().squeeze(-1) if mode.margin else torch.zeros_like(max_probs)
    if mode.greedy == "all":
        return logits.argmax(-1), torch.zeros_like(uniforms), entropies, max_probs, margins
    greedy = temperature == 0
    if mode.shared:
        logprobs = looked_at
    else:
        logprobs = _log_softmax(logits, torch.where(greedy, 1.0, temperature), mode)
        probs = logprobs.exp()
    tokens = invert_cdf(probs, uniforms)
    if answers is not None:
        tokens = torch.where(answers < 0, tokens, answers)
    chosen = logprobs.gather(-1, tokens[:, None]).squeeze(-1)
    if mode.greedy == "some":
        tokens = torch.where(greedy, logits.argmax(-1), tokens)
        chosen = chosen.masked_fill(greedy, 0.0)
    return tokens, chosen, entropies, max_probs, margins


def _log_softmax(logits: Tensor, temperature: Tensor, mode: Mode) -> Tensor:
    return (logits if mode.plain else logits / temperature[:, None]).log_softmax(-1)


def invert_cdf(probs: Float[Tensor, "N V"], uniforms: Float[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """The first index whose cumulative probability exceeds `uniforms`; never one of probability 0.

    First the segment of the vocabulary, then the token in it: sums of segments are faster than a running sum of all.
    """
    width = next((size for size in range(256, 31, -1) if probs.shape[-1] % size == 0), probs.shape[-1])
    segments = probs.unflatten(-1, (-1, width))
    sums = segments.sum(-1).cumsum(-1)
    target = uniforms * sums[:, -1]
    segment = _search(sums, target)
    before = sums.gather(-1, (segment - 1).clamp_min(0)).squeeze(-1).masked_fill(segment.squeeze(-1) == 0, 0.0)
    inside = segments.gather(1, segment[:, :, None].expand(-1, -1, width)).squeeze(1).cumsum(-1)
    return (segment * width + _search(inside, target - before)).squeeze(-1)


def _search(sums: Tensor, target: Tensor) -> Tensor:
    """The first index at which running sums [N, K] exceed `target` [N], [N, 1]."""
    total = sums[:, -1]
    # strictly below the total, so that the search stops at a positive term
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    # sums that are no numbers have no such index: the caller sees them in the entropy
    return torch.searchsorted(sums, target[:, None], right=True).clamp_max(sums.shape[-1] - 1)
