"""Sampler rules against brute force over every subset that a rule could mean."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffpo.functional import unmasking

# multiples of 1/8 add up exactly in fp32, so that brute force and the rule agree on ties with the bound
EIGHTHS = st.integers(0, 16).map(lambda n: n / 8)
ROWS = st.integers(1, 6).flatmap(
    lambda width: st.lists(
        st.tuples(
            st.lists(EIGHTHS, min_size=width, max_size=width),
            st.lists(st.booleans(), min_size=width, max_size=width),
            st.one_of(EIGHTHS, st.just(0.0), st.just(math.inf)),
            st.integers(1, 7),
        ),
        min_size=1,
        max_size=4,
    )
)


def columns(rows: list[tuple]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    scores, candidates, bounds, counts = zip(*rows, strict=True)
    return torch.tensor(scores), torch.tensor(candidates), torch.tensor(bounds), torch.tensor(counts)


def chosen(mask: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero().flatten().tolist()) for row in mask]


def largest_bounded_prefix(entropy: list[float], candidates: list[bool], gamma: float) -> set[int]:
    """Try every prefix, longest first: sum - max <= gamma, or a single position."""
    order = sorted((h, i) for i, (h, masked) in enumerate(zip(entropy, candidates, strict=True)) if masked)
    for size in range(len(order), 0, -1):
        values = [h for h, _ in order[:size]]
        if size == 1 or sum(values) - max(values) <= gamma:
            return {i for _, i in order[:size]}
    return set()


def best(score: list[float], candidates: list[bool], count: int) -> set[int]:
    order = sorted((-s, i) for i, (s, masked) in enumerate(zip(score, candidates, strict=True)) if masked)
    return {i for _, i in order[:count]}


@given(ROWS)
def test_entropy_bound_is_the_largest_prefix_within_the_bound(rows: list[tuple]) -> None:
    entropy, candidates, gamma, _ = columns(rows)
    expected = [largest_bounded_prefix(*row[:3]) for row in rows]
    assert chosen(unmasking.entropy_bound(entropy, candidates, gamma)) == expected


@given(ROWS)
def test_top_k_takes_the_best_and_the_leftmost_of_equals(rows: list[tuple]) -> None:
    score, candidates, _, count = columns(rows)
    expected = [best(row[0], row[1], row[3]) for row in rows]
    assert chosen(unmasking.top_k(score, candidates, count)) == expected


@given(ROWS)
def test_confidence_takes_all_that_reach_the_threshold_and_at_least_the_best(rows: list[tuple]) -> None:
    max_prob, candidates, threshold, _ = columns(rows)
    expected = [
        {i for i, (p, masked) in enumerate(zip(*row[:2], strict=True)) if masked and p >= row[2]} | best(*row[:2], 1)
        for row in rows
    ]
    assert chosen(unmasking.confidence(max_prob, candidates, threshold)) == expected


@given(ROWS)
def test_a_row_is_decided_alone(rows: list[tuple]) -> None:
    score, candidates, bound, count = columns(rows)
    for rule, setting in (
        (unmasking.entropy_bound, bound),
        (unmasking.confidence, bound),
        (unmasking.top_k, count),
    ):
        together = rule(score, candidates, setting)
        alone = [rule(score[i : i + 1], candidates[i : i + 1], setting[i : i + 1]) for i in range(len(rows))]
        assert torch.equal(together, torch.cat(alone))
        assert torch.equal(together.any(-1), candidates.any(-1)) and not (together & ~candidates).any()


def test_entropy_bound_at_its_limits() -> None:
    entropy = torch.tensor([[0.5, 0.0, 0.0, 1.0]])
    candidates = torch.ones(1, 4, dtype=torch.bool)
    bound = lambda gamma: chosen(unmasking.entropy_bound(entropy, candidates, torch.tensor([gamma])))[0]  # noqa: E731
    # sum - max over {0, 0, .5} is 0: positions that are certain, and one more, are free
    assert bound(0.0) == {0, 1, 2}
    assert bound(0.49) == {0, 1, 2}
    assert bound(0.5) == {0, 1, 2, 3}
    assert bound(math.inf) == {0, 1, 2, 3}
    assert not unmasking.entropy_bound(entropy, ~candidates, torch.tensor([math.inf])).any()


def published_counts(mask_count: int, steps: int) -> list[int]:
    """get_num_transfer_tokens of the published LLaDA code."""
    base, remainder = mask_count // steps, mask_count % steps
    counts = [base] * steps
    for step in range(remainder):
        counts[step] += 1
    return counts


@pytest.mark.parametrize("length", range(1, 14))
def test_steps_count_is_the_published_rounding(length: int) -> None:
    for steps in range(1, length + 1):
        calls = torch.arange(steps)
        counts = unmasking.steps_count(torch.full_like(calls, length), torch.full_like(calls, steps), calls)
        assert counts.tolist() == published_counts(length, steps)
        assert counts.sum() == length


def test_more_steps_than_positions_commit_one_a_call() -> None:
    """The published loop then makes calls that commit nothing; ours makes none of those."""
    calls = torch.arange(3)
    counts = unmasking.steps_count(torch.full_like(calls, 3), torch.full_like(calls, 8), calls)
    assert counts.tolist() == [n for n in published_counts(3, 8) if n]
