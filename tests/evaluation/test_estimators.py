"""Estimates from several answers a prompt, against enumeration, scipy and simulation."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean, stdev

import numpy as np
import pytest
from scipy.stats import binomtest

from diffpo.evaluation.estimators import (
    clustered_interval,
    majority,
    pass_at_k,
    sizes,
    standard_error,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_wilson_interval_is_the_known_one(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize("successes", [0, 1, 13, 40])
def test_wilson_interval_is_scipys(successes: int) -> None:
    known = binomtest(successes, 40).proportion_ci(method="wilson")
    assert wilson_interval(successes, 40) == pytest.approx((known.low, known.high))
    means = [1.0] * successes + [0.0] * (40 - successes)
    assert clustered_interval(means, 1) == pytest.approx((known.low, known.high))  # one answer a prompt


def test_more_answers_narrow_the_interval_as_far_as_prompts_are_alike() -> None:
    def width(means: list[float], num_samples: int) -> float:
        low, high = clustered_interval(means, num_samples)
        assert 0 <= low <= fmean(means) <= high <= 1
        return high - low

    apart, alike, between = [0.0, 1.0] * 20, [0.5] * 40, [0.0, 0.5, 0.5, 1.0] * 10
    assert width(apart, 4) == pytest.approx(width(apart, 1))  # the same answer four times
    low, high = wilson_interval(80, 160)
    assert width(alike, 4) == pytest.approx(high - low)  # as many independent answers
    assert width(alike, 4) < width(between, 4) < width(apart, 4)
    assert width([0.0] * 40, 4) == width([0.0] * 40, 1) > 0  # no spread is no proof of none


@pytest.mark.parametrize("strength", [0.5, 4.0])
def test_the_interval_covers_as_it_says(strength: float) -> None:
    generator, covered = np.random.default_rng(0), 0
    for _ in range(400):
        chances = generator.beta(0.7 * strength, 0.3 * strength, size=60)
        low, high = clustered_interval((generator.binomial(4, chances) / 4).tolist(), 4)
        covered += low <= 0.7 <= high
    assert 0.92 < covered / 400 < 0.98


def test_the_standard_error_is_over_prompts() -> None:
    means = [0.0, 0.5, 1.0, 0.25]
    assert standard_error(means) == pytest.approx(stdev(means) / 2)
    assert standard_error([0.5]) is None
    assert standard_error([1.0, 0.0, 0.0, 0.0]) == pytest.approx(math.sqrt(0.25 * 0.75 / 3))


def test_the_sizes_of_pass_at_k() -> None:
    assert {n: sizes(n) for n in (1, 4, 6, 64)} == {1: [1], 4: [1, 2, 4], 6: [1, 2, 4, 6], 64: [1, 2, 4, 8, 16, 32, 64]}


@pytest.mark.parametrize(("num_samples", "num_right"), [(5, 0), (5, 2), (5, 5), (1, 1), (8, 1)])
def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_answer(num_samples: int, num_right: int) -> None:
    answers = [index < num_right for index in range(num_samples)]
    for k in range(1, num_samples + 1):
        subsets = list(combinations(answers, k))
        assert pass_at_k(num_samples, num_right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_unbiased_and_the_plain_guess_is_not() -> None:
    chance, k = 0.3, 4
    weights = {right: math.comb(8, right) * chance**right * (1 - chance) ** (8 - right) for right in range(9)}
    truth = 1 - (1 - chance) ** k
    assert sum(weight * pass_at_k(8, right, k) for right, weight in weights.items()) == pytest.approx(truth)
    assert sum(weight * (1 - (1 - right / 8) ** k) for right, weight in weights.items()) < truth - 0.01


@pytest.mark.parametrize(
    ("votes", "right", "expected"),
    [
        ("aab", "a", 1.0),
        ("abb", "a", 0.0),
        ("ab", "a", 0.5),  # a toss
        ("aabbc", "a", 0.5),
        ("abc", "c", 1 / 3),
        ("  a", "a", 1.0),  # abstentions
        ("   ", "a", 0.0),
        ("a", "a", 1.0),
    ],
)
def test_majority_of_votes(votes: str, right: str, expected: float) -> None:
    answers = [vote.strip() for vote in votes]
    assert majority(answers, [answer == right for answer in answers]) == pytest.approx(expected)
