"""The objective: closed forms, limits, enumerated expectations and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffpo.functional.objective import (
    clipped_surrogate,
    effective_sample_size,
    gaussian_logprob,
    group_advantages,
    importance_weights,
    is_cut,
    kl_k3,
    sampler_objective,
    speed_reward,
    token_weights,
)

T = torch.tensor
SMALL = st.floats(-5, 5, width=32)


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- rewards and advantages ---------------------------------------------------------------------------------------


def test_speed_counts_for_right_answers_of_mastered_groups_only() -> None:
    rewards = T([[1.0, 0.0, 2.0, 0.5], [1.0, 0.0, 0.0, 0.0]])
    correct = T([[True, False, True, False], [True, False, False, False]])
    nfe, length = T([[2, 1, 8, 4], [2, 1, 1, 1]]), torch.full((2, 4), 8)
    by_hand = T([[1 * (1 + 0.4 * 0.75), 0.0, 2.0, 0.5], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(speed_reward(rewards, correct, nfe, length, weight=0.4, gate=0.5), by_hand)
    by_hand[1, 0] = 1.3
    torch.testing.assert_close(speed_reward(rewards, correct, nfe, length, weight=0.4, gate=0.25), by_hand)
    torch.testing.assert_close(speed_reward(rewards, correct, nfe, length, weight=0.4), by_hand)
    torch.testing.assert_close(speed_reward(rewards, correct, nfe, length, weight=0.0), rewards)


@given(
    st.lists(st.tuples(SMALL, st.booleans(), st.integers(1, 8)), min_size=2, max_size=6),
    st.floats(0, 2, width=32),
    st.floats(0, 1, width=32),
)
def test_speed_never_lowers_a_reward(rows: list[tuple[float, bool, int]], weight: float, gate: float) -> None:
    """Of whatever sign: one call less never earns less, and no answer earns less than its task's reward."""
    rewards, correct, nfe = (T([column]) for column in zip(*rows, strict=True))
    length = torch.full_like(nfe, 8)
    earned = speed_reward(rewards, correct, nfe, length, weight, gate)
    assert (earned >= rewards).all()
    assert (speed_reward(rewards, correct, (nfe - 1).clamp_min(1), length, weight, gate) >= earned).all()


def test_a_penalised_right_answer_is_not_charged_for_speed() -> None:
    rewards, correct = T([[-1.0, -1.0, 0.0, 0.5]]), torch.ones(1, 4, dtype=torch.bool)
    nfe, length = T([[2, 8, 2, 4]]), torch.full((1, 4), 8)
    torch.testing.assert_close(speed_reward(rewards, correct, nfe, length, 0.2), T([[-1.0, -1.0, 0.0, 0.55]]))


def test_rows_without_a_reward_count_in_no_groups_accuracy() -> None:
    nan = float("nan")
    rewards, correct = T([[1.0, nan, nan, 0.0]]), T([[True, False, False, False]])
    nfe, length = torch.full((1, 4), 4), torch.full((1, 4), 8)
    earned = speed_reward(rewards, correct, nfe, length, weight=0.4, gate=0.5)  # one of two is right
    torch.testing.assert_close(earned, T([[1.2, nan, nan, 0.0]]), equal_nan=True)


def test_group_advantages_are_centred_and_optionally_scaled() -> None:
    rewards = T([[1.0, 0.0, 0.0, 0.0], [3.0, 1.0, 1.0, 3.0]])
    torch.testing.assert_close(group_advantages(rewards), T([[0.75, -0.25, -0.25, -0.25], [1.0, -1.0, -1.0, 1.0]]))
    scaled = group_advantages(rewards, scale=True)
    torch.testing.assert_close(scaled, T([[1.5, -0.5, -0.5, -0.5], [0.866, -0.866, -0.866, 0.866]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [False, True])
def test_a_group_of_equal_rewards_has_no_advantage(scale: bool) -> None:
    """Not even one of rounding size, which scaling would blow up."""
    assert not group_advantages(torch.full((3, 7), 0.1), scale).any()


@pytest.mark.parametrize("scale", [False, True])
def test_a_row_without_a_reward_is_left_out(scale: bool) -> None:
    nan = float("nan")
    some = group_advantages(T([[1.0, nan, 0.0, 0.0], [nan, nan, nan, 1.0], [nan, nan, nan, nan]]), scale)
    without = group_advantages(T([[1.0, 0.0, 0.0]]), scale)
    torch.testing.assert_close(some[0], torch.cat([without[0, :1], T([0.0]), without[0, 1:]]))
    assert not some[1:].any()


@given(st.lists(SMALL, min_size=2, max_size=6), SMALL)
def test_advantages_ignore_a_constant_and_sum_to_zero(rewards: list[float], constant: float) -> None:
    group = T([rewards], dtype=torch.float64)
    advantages = group_advantages(group)
    assert abs(advantages.sum()) < 1e-9
    torch.testing.assert_close(group_advantages(group + constant), advantages, atol=1e-9, rtol=0)


# --- token weights ------------------------------------------------------------------------------------------------


def slow_weight(loss_type: str, lengths: list[int], gen_lengths: list[int], row: int) -> float:
    return {
        "grpo": 1 / len(lengths) / lengths[row],
        "bnpo": 1 / sum(lengths),
        "dr_grpo": 1 / len(lengths) / gen_lengths[row],
    }[loss_type]


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_token_weights_are_those_of_their_formula(loss_type: str) -> None:
    lengths, gen_lengths = [1, 4, 6, 3], [6, 4, 6, 5]
    mask = torch.arange(6) < T(lengths)[:, None]
    weights = token_weights(mask, T(gen_lengths), loss_type)
    for row in range(4):
        for position in range(6):
            expected = slow_weight(loss_type, lengths, gen_lengths, row) if position < lengths[row] else 0.0
            assert math.isclose(weights[row, position], expected, rel_tol=1e-6)
    total = {"grpo": 1.0, "bnpo": 1.0, "dr_grpo": sum(n / g for n, g in zip(lengths, gen_lengths, strict=True)) / 4}
    assert math.isclose(weights.sum(), total[loss_type], rel_tol=1e-6)


# --- importance weights, ratio, KL ---------------------------------------------------------------------------------


def test_a_tie_with_the_clamp_is_no_cut() -> None:
    weights = torch.tensor([0.5, 1.0, 1.0 + 3e-7, 1.001])
    assert is_cut(weights, 1.0).tolist() == [False, False, False, True]
    assert not is_cut(weights, math.inf).any()


def test_importance_weights_at_their_limits() -> None:
    old, behaviour = doubles(5, 3).requires_grad_(), doubles(5, 3, seed=1)
    raw = (old - behaviour).exp()
    torch.testing.assert_close(importance_weights(old - behaviour, math.inf), raw)
    torch.testing.assert_close(importance_weights(old - behaviour, 0.0), torch.ones(5, 3, dtype=torch.float64))
    clamped = importance_weights(old - behaviour, 1.5)
    torch.testing.assert_close(clamped, raw.clamp(max=1.5))
    torch.testing.assert_close(importance_weights(torch.zeros(4), 2.0), torch.ones(4))
    assert not clamped.requires_grad and not importance_weights(old - behaviour, 0.0).requires_grad


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "high"),
    [
        (1.0, 2.0, 2.0, 2.0, 0.0),
        (1.1, 2.0, 2.2, 2.0, 0.0),
        (1.5, 2.0, 2.4, 0.0, 0.0),  # far enough up: no more to gain
        (0.5, 2.0, 1.0, 2.0, 0.0),  # too low: the way back is open
        (1.5, -2.0, -3.0, -2.0, 0.0),
        (0.5, -2.0, -1.6, 0.0, 0.0),
        (3.0, 0.0, 0.0, 0.0, 0.0),
        (1.5, 2.0, 3.0, 2.0, 0.6),  # which may rise further
        (1.7, 2.0, 3.2, 0.0, 0.6),
        (0.5, -2.0, -1.6, 0.0, 0.6),  # and fall no further
    ],
)
def test_clipped_surrogate_case_by_case(
    ratio: float, advantage: float, value: float, slope: float, high: float
) -> None:
    rho = T([ratio], requires_grad=True)
    gain = clipped_surrogate(rho, T([advantage]), 0.2, high)
    gain.sum().backward()
    torch.testing.assert_close(gain.detach(), T([value]))
    torch.testing.assert_close(rho.grad, T([slope]))


def test_at_ratio_one_the_gradient_is_reinforce() -> None:
    """d/dtheta of sum_t weight w rho A is sum_t weight w A d log pi."""
    logits, tokens = doubles(4, 5, 7).requires_grad_(), torch.randint(7, (4, 5), generator=torch.Generator())
    advantages = doubles(4, 1, seed=2).expand(4, 5)
    weights = token_weights(torch.arange(5) < T([5, 2, 3, 5])[:, None], T([5] * 4), "grpo")
    behaviour = doubles(4, 5, seed=3)

    def logprobs() -> torch.Tensor:
        return logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)

    old = logprobs().detach()
    importance = importance_weights(old - behaviour, 2.0)
    objective = (weights * importance * clipped_surrogate((logprobs() - old).exp(), advantages, 0.2)).sum()
    reinforce = (weights * importance * advantages * logprobs()).sum()
    torch.testing.assert_close(*(torch.autograd.grad(loss, logits)[0] for loss in (objective, reinforce)))


def test_gradients_are_those_of_finite_differences() -> None:
    logprobs, other = doubles(3, 4).requires_grad_(), doubles(3, 4, seed=1)
    check = torch.autograd.gradcheck
    assert check(lambda x: clipped_surrogate((x - other).exp(), other, 0.3), logprobs)
    assert check(lambda x: kl_k3(x, other), logprobs)
    row = logprobs[0].detach().requires_grad_()
    assert check(lambda x: gaussian_logprob(other[0], x, 0.7), row)
    assert check(lambda x: sampler_objective(x, other[0], other[1], 0.2, 0.5), row)


@given(st.floats(-20, 10, width=32), st.floats(-20, 10, width=32))
def test_k3_is_never_negative_and_zero_at_equality(logprob: float, ref: float) -> None:
    assert kl_k3(T([logprob]), T([ref])) >= 0
    assert kl_k3(T([logprob]), T([logprob])) == 0


def test_k3_is_not_negative_where_rounding_bites() -> None:
    gap = torch.logspace(-12, 0, 4000)
    for sign in (1, -1):
        assert (kl_k3(torch.zeros(4000), sign * gap) >= 0).all()


def test_k3_is_unbiased() -> None:
    """E over all tokens of k3 is KL(pi || pi_ref)."""
    policy, reference = doubles(6).log_softmax(-1), doubles(6, seed=1).log_softmax(-1)
    expected = (policy.exp() * (policy - reference)).sum()
    torch.testing.assert_close((policy.exp() * kl_k3(policy, reference)).sum(), expected)


# --- the sampler's objective ----------------------------------------------------------------------------------------


def test_gaussian_logprob_is_that_of_torch() -> None:
    action, mean = doubles(20), doubles(20, seed=1)
    for sigma in (0.1, 0.7, 3.0):
        reference = torch.distributions.Normal(mean, sigma).log_prob(action)
        torch.testing.assert_close(gaussian_logprob(action, mean, sigma), reference)


def threshold_slopes(log_ratios: list[float], advantage: float, max_log_ratio: float = 1.0) -> tuple[Tensor, Tensor]:
    """Value and slope of the sampler's objective at some log-ratios."""
    logprobs = T(log_ratios, requires_grad=True)
    gain = sampler_objective(
        logprobs, torch.zeros(len(log_ratios)), T([advantage] * len(log_ratios)), 0.2, max_log_ratio
    )
    gain.sum().backward()
    assert logprobs.grad is not None
    return gain.detach(), logprobs.grad


def test_sampler_objective_case_by_case() -> None:
    e = math.e
    # equality; a little up; far up, where its tangent stands for the ratio; down beyond the clip
    gain, slope = threshold_slopes([0.0, 0.1, 10.0, -0.5], -2.0)
    torch.testing.assert_close(gain, -2 * T([1.0, math.exp(0.1), e * 10, 0.8]))
    torch.testing.assert_close(slope, -2 * T([1.0, math.exp(0.1), e, 0.0]))
    gain, slope = threshold_slopes([0.0, -0.1, -10.0, 0.5, 300.0], 2.0)
    torch.testing.assert_close(gain, 2 * T([1.0, math.exp(-0.1), math.exp(-10), 1.2, 1.2]))
    torch.testing.assert_close(slope, 2 * T([1.0, math.exp(-0.1), math.exp(-10), 0.0, 0.0]))


@given(st.floats(-80, 80, width=32), st.sampled_from([-1.5, 0.7]), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_samplers_ratio_is_dead_only_where_ppos_is(log_ratio: float, advantage: float, most: float) -> None:
    """Where PPO clips, it is 0; elsewhere PPO's, though no steeper than at `max_log_ratio`."""
    _, slope = threshold_slopes([log_ratio], advantage, most)
    ratio = math.exp(log_ratio)
    clipped = ratio > 1.2 if advantage > 0 else ratio < 0.8
    expected = 0.0 if clipped else advantage * min(ratio, math.exp(most))
    torch.testing.assert_close(slope, T([expected]), rtol=1e-4, atol=0)


def test_effective_sample_size_at_its_limits() -> None:
    assert effective_sample_size(torch.full((8,), 0.3)).isclose(T(1.0))
    assert effective_sample_size(T([5.0, 0.0, 0.0, 0.0])).isclose(T(0.25))
    assert effective_sample_size(T([1.0, 3.0])).isclose(T(16 / 20))
    assert effective_sample_size(torch.zeros(3)) == 0
