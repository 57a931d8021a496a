"""Rank correlations, thresholds against difficulty, and the order of commitment."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from lab.analysis.subjects import some_subject
from lab.analysis.test_calibration import group

from diffpo.lab.analysis.behaviour import (
    correlation_interval,
    left_to_right,
    order_sections,
    rank_correlation,
    threshold_sections,
)
from diffpo.lab.analysis.subject import decode


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert rank_correlation([1, 2, 3, 4], [2, 2, 8, 9]) == pytest.approx(4.5 / math.sqrt(5 * 4.5))  # ties: 1.5, 1.5
    assert rank_correlation([1, 2, 3], [math.exp(-x) for x in (1, 2, 3)]) == pytest.approx(-1)
    assert math.isnan(rank_correlation([1, 2, 3], [5, 5, 5]))


def test_its_interval_covers_it_and_is_a_function_of_the_seed() -> None:
    x = list(range(20))
    y = [(7 * value) % 20 + value for value in x]
    rho, low, high = correlation_interval(x, y, seed=1)
    assert rho == rank_correlation(x, y) and low < rho < high and low >= -1 and high <= 1
    assert correlation_interval(x, y, seed=1) == (rho, low, high)
    assert all(map(math.isnan, correlation_interval(x, [1.0] * 20)))


def test_thresholds_are_the_means_of_the_head() -> None:
    subject = some_subject(learned=True)
    (section,) = threshold_sections(subject)
    gammas = [rollouts.rollouts[0].completion for rollouts in decode(subject, subject.policy, "learned")]
    head = subject.policy.sampler_head
    means = [head.gamma(head(completion.features)).mean().item() for completion in gammas]
    assert section.figures["mean gamma"] == pytest.approx(sum(means) / len(means), rel=1e-5)
    assert section.figures["prompts"] == len(subject.prompts)
    assert -1 <= section.figures["rank correlation, gamma and difficulty"] <= 1
    levels = replace(
        subject, prompts=[replace(p, level="easy" if i else "hard") for i, p in enumerate(subject.prompts)]
    )
    figures = threshold_sections(levels)[0].figures
    assert figures["mean gamma, hard"] == pytest.approx(means[0], rel=1e-5)
    assert not threshold_sections(some_subject())


def test_order_is_the_mean_call_of_each_position() -> None:
    subject = some_subject(compared=True)
    (section,) = order_sections(subject)
    assert [s.label for s in section.series] == [
        "after, as in training",
        "before, one token a call",
        "after, one token a call",
    ]
    batch = subject.batch
    place, mean = section.series[0].x[1], section.series[0].y[1]
    assert place == 2 and mean == pytest.approx(float(batch.committed_at[:, 1][batch.loss_mask[:, 1]].float().mean()))


def test_left_to_right_is_one() -> None:
    answer = group([1, 2, 3])
    rollout = answer.rollouts[0]
    for calls, expected in (([1, 2, 3], 1.0), ([3, 2, 1], -1.0)):
        completion = replace(rollout.completion, committed_at=rollout.completion.tokens.new_tensor(calls))
        assert left_to_right([replace(answer, rollouts=[replace(rollout, completion=completion)])]) == pytest.approx(
            expected
        )
    assert math.isnan(left_to_right([answer]))
