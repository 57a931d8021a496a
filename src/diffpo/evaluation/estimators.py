"""What answers say: mean accuracy with standard error and interval, a change's interval, pass@k, majority vote.

The prompts are the sample. Answers to one prompt are alike, so more of them do not stand for more prompts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist, fmean, pvariance, stdev

Z = NormalDist().inv_cdf(0.975)


def wilson_interval(successes: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion. `trials` need not be whole: an effective number."""
    share = successes / trials
    centre = share + Z**2 / (2 * trials)
    spread = Z * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    scale = 1 + Z**2 / trials
    low = (centre - spread) / scale if successes > 0 else 0.0  # exactly: rounding would leave 1e-17
    high = (centre + spread) / scale if successes < trials else 1.0
    return low, high


def clustered_interval(means: Sequence[float], num_samples: int) -> tuple[float, float]:
    """95 % interval of the mean accuracy; `means` has each prompt's share of right answers among `num_samples`.

    Wilson's, at the number of independent answers that would spread as much as the prompts do (Korn and Graubard
    1998): between the number of prompts, which one answer a prompt gives, and the number of answers.
    """
    prompts, share, spread = len(means), fmean(means), pvariance(means)
    alone = share * (1 - share)
    effective = prompts * alone / spread if spread else prompts * (num_samples if alone else 1)
    effective = min(max(effective, prompts), prompts * num_samples)
    return wilson_interval(share * effective, effective)


def paired_interval(changes: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of prompts' `changes`, each in [-1, 1]: Bonett and Price's adjusted Wald (2012).

    Two prompts more are imagined, which changed as far as any, one each way (by 1 where none did): that none of a few
    prompts changed does not say that none will.
    """
    most = max(map(abs, changes)) or 1.0
    seen = (*changes, most, -most)
    middle, half = fmean(seen), Z * math.sqrt(pvariance(seen) / len(seen))
    return max(-1.0, middle - half), min(1.0, middle + half)


def standard_error(means: Sequence[float]) -> float | None:
    """Of the mean over prompts of `means`, each prompt's share of right answers; None for a single prompt."""
    return stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None


def sizes(num_samples: int) -> list[int]:
    """The k of pass@k: the powers of two up to `num_samples`, and `num_samples`."""
    return sorted({*(2**power for power in range(num_samples.bit_length())), num_samples})


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """Chance that k of `num_samples` answers, drawn without replacement, hold a right one.

    Unbiased for the chance that k fresh answers do (Chen et al. 2021, arXiv 2107.03374, Eq. 1).
    """
    return 1 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def majority(answers: Sequence[str], correct: Sequence[bool]) -> float:
    """Whether the most frequent of `answers` to one prompt is right; where several are, the share of them that are.

    That share is what a toss among them would give. Completions without an answer ("") abstain, unless all do.
    """
    votes: dict[str, list[bool]] = defaultdict(list)
    for answer, right in zip(answers, correct, strict=True):
        votes[answer].append(right)
    if len(votes) > 1:
        votes.pop("", None)
    most = max(map(len, votes.values()))
    return fmean(fmean(found) for found in votes.values() if len(found) == most)
