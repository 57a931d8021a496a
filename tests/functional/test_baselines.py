"""The baselines' mathematics: coupled masks, the ELBO, wd1, and ratios and weights of more than a token."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from functional.test_latents import batch_of
from functional.test_trajectories import MASK, VOCAB, exact_denoiser
from helpers import canvases, chi_square_z, keys
from hypothesis import given
from hypothesis import strategies as st

from diffpo.functional.objective import (
    clipped_surrogate,
    group_advantages,
    importance_weights,
    pool_log_ratios,
    self_normalize,
    token_weights,
)
from diffpo.losses import Lines, load_loss
from diffpo.losses.wd1 import Wd1, wd1_advantages
from diffpo.surrogates.coupled import TIMES, coupled_masks
from diffpo.surrogates.elbo import elbo_masks
from diffpo.surrogates.gdpo import quadrature_masks

T = torch.tensor


def doubles(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- complementary masks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_pairs", [1, 3])
def test_every_token_is_masked_once_a_pair(num_pairs: int) -> None:
    lengths = T([6, 4, 1, 6])
    canvas = torch.arange(6) < lengths[:, None]
    canvas[0, 2] = canvas[3, 0] = canvas[3, 4] = False  # given: in no mask
    for (masks, weights), inside in (
        (coupled_masks(keys(4), num_pairs, 6), torch.ones(4, 6)),
        (elbo_masks(keys(4), num_pairs, canvas), canvas),
    ):
        assert masks.shape == weights.shape == (4, 2 * num_pairs, 6)
        assert torch.equal(weights > 0, masks)
        once = masks.unflatten(1, (num_pairs, 2)).sum(2)
        assert torch.equal(once, inside[:, None].expand_as(once).long())


def test_masks_do_not_depend_on_batch_mates_nor_on_padding() -> None:
    together = elbo_masks(keys(3), 2, torch.arange(5) < T([3, 5, 2])[:, None])
    for row, length in enumerate((3, 5, 2)):
        alone = elbo_masks(keys(3)[row : row + 1], 2, torch.ones(1, length, dtype=torch.bool))
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours[row, :, :length], theirs[0])
    wide, narrow = coupled_masks(keys(3), 2, 9), coupled_masks(keys(3)[1:2], 2, 4)
    assert all(torch.equal(a[1, :, :4], b[0]) for a, b in zip(wide, narrow, strict=True))


def test_coupled_weights_are_inverse_rates_of_masking() -> None:
    masks, weights = coupled_masks(keys(4000), 1, 16)
    inverse = (weights * 2).amax(-1)  # 1/t and 1/(1-t), where the latent masks anything
    t = 1 / inverse[:, 0][masks[:, 0].any(-1)]
    assert TIMES[0] <= t.min() and t.max() <= TIMES[1] and abs(t.mean() - 0.5) < 0.02
    both = masks.any(-1).all(-1)
    torch.testing.assert_close((1 / inverse[both]).sum(-1), torch.ones(int(both.sum())))
    assert abs(masks[:, 0].float().mean() - 0.5) < 0.01
    # z_T counts once and a pair twice: (1 + 2 lambda) / (lambda + 1) of a log-prob in all
    assert abs(weights.sum(1).mean() - 1.0) < 0.02
    assert abs(coupled_masks(keys(4000), 3, 16)[1].sum(1).mean() - 6 / 4) < 0.02


def test_coupled_at_time_one_is_the_mean_field() -> None:
    masks, weights = coupled_masks(keys(5), 1, 4, times=(1.0, 1.0))
    assert masks[:, 0].all() and not masks[:, 1].any()
    torch.testing.assert_close(weights[:, 0], torch.full((5, 4), 0.5))  # the other half is z_T's


def test_every_mask_of_a_size_is_as_likely_and_so_is_every_size() -> None:
    length = 3
    masks, weights = elbo_masks(keys(20_000), 1, torch.ones(20_000, length, dtype=torch.bool))
    code = (masks[:, 0] * T([4, 2, 1])).sum(-1)
    sizes = [bin(index).count("1") for index in range(8)]
    law = T([1 / (length + 1) / math.comb(length, size) for size in sizes])
    assert abs(chi_square_z(code.bincount(minlength=8), law)) < 4
    for size in range(1, length + 1):
        chosen = masks[:, 0].sum(-1) == size
        factors = weights[:, 0][chosen & masks[:, 0, 0], 0]
        torch.testing.assert_close(factors, torch.full_like(factors, (length + 1) / size / 2))


@pytest.mark.parametrize("given", [(), (1,)])
def test_the_mean_elbo_of_exact_conditionals_is_the_log_likelihood(given: tuple[int, ...]) -> None:
    """Enumerated over sizes and masks, with the weights that `elbo_masks` gives them; of the rest, if some is given."""
    length = 3
    denoiser, written = exact_denoiser(length, seed=5), [place for place in range(length) if place not in given]
    inside = torch.tensor([place in written for place in range(length)]).expand(400, -1)
    masks, weights = elbo_masks(keys(400), 1, inside)
    seen = {tuple(pair[0].tolist()): (pair, weight) for pair, weight in zip(masks, weights, strict=True)}
    assert len(seen) == 2 ** len(written)  # each mask, with its twin
    for canvas in itertools.islice(canvases(VOCAB, length), 0, None, 5):
        chain = 0.0
        for place in written:
            state = tuple(token if i < place or i in given else MASK for i, token in enumerate(canvas))
            chain += float(denoiser(state)[place, canvas[place]].log())
        bound = 0.0
        for mask, (pair, weight) in seen.items():
            probability = 1 / (len(written) + 1) / math.comb(len(written), sum(mask))
            for hidden, factors in zip(pair.tolist(), weight.tolist(), strict=True):
                state = tuple(MASK if hide else token for hide, token in zip(hidden, canvas, strict=True))
                logprobs = denoiser(state)[range(length), list(canvas)].log().tolist()
                bound += probability * sum(w * p for w, p in zip(factors, logprobs, strict=True) if w)
        assert math.isclose(bound, chain, rel_tol=1e-6)


# --- masks at fixed times ---------------------------------------------------------------------------------------------


def test_fixed_times_integrate_the_bound() -> None:
    """N nodes are exact for polynomials of t up to degree 2N - 1."""
    masks, weights = quadrature_masks(keys(20_000), 3, 4)
    assert torch.equal(weights > 0, masks)
    torch.testing.assert_close(weights.sum(1).mean(0), torch.ones(4), atol=0.05, rtol=0)  # a token counts once
    times = masks.float().mean((0, 2)).double()
    shares = (weights.amax((0, 2)) * times).double()
    for degree in range(1, 6):
        assert float((shares * times**degree).sum()) == pytest.approx(1 / (degree + 1), abs=0.01)
    assert torch.equal(quadrature_masks(keys(9), 1, 4)[1].unique(), T([0.0, 2.0]))  # one time, 1/2


def test_masks_at_fixed_times_depend_on_their_row_alone() -> None:
    together, alone = quadrature_masks(keys(3), 3, 9), quadrature_masks(keys(3)[1:2], 3, 4)
    assert all(torch.equal(ours[1, :, :4], theirs[0]) for ours, theirs in zip(together, alone, strict=True))
    first, second, _ = together[0][0]
    assert not torch.equal(first, second)


# --- wd1 -------------------------------------------------------------------------------------------------------------


def test_wd1_is_the_difference_of_two_softmaxes_over_the_group() -> None:
    rewards = T([[1.0, 0.0, 0.0, 0.5], [3.0, 1.0, 1.0, 3.0]])
    for scale, psi in itertools.product((False, True), (1.0, 3.0)):
        ours = wd1_advantages(rewards, scale, psi)
        for group, weights in zip(group_advantages(rewards, scale).tolist(), ours.tolist(), strict=True):
            good, bad = (sum(math.exp(sign * psi * other) for other in group) for sign in (1, -1))
            by_hand = [4 * (math.exp(psi * a) / good - math.exp(-psi * a) / bad) for a in group]
            assert weights == pytest.approx(by_hand, abs=1e-5)
    assert wd1_advantages(rewards).sum(-1).abs().max() < 1e-5
    assert torch.equal(load_loss("wd1:3").advantages(rewards, False), wd1_advantages(rewards, psi=3.0))


def test_wd1_at_large_psi_matches_the_best_and_unlearns_the_worst() -> None:
    """DMPO's tilted policy at a low temperature, with its baseline."""
    torch.testing.assert_close(wd1_advantages(T([[1.0, 0.5, 0.0, 1.0]]), psi=100.0), T([[2.0, 0.0, -4.0, 2.0]]))


def test_wd1_at_small_advantages_is_twice_reinforce() -> None:
    rewards = 1e-3 * doubles(3, 5)
    torch.testing.assert_close(wd1_advantages(rewards), 2 * group_advantages(rewards), rtol=1e-2, atol=1e-9)


def test_wd1_of_equal_rewards_is_zero_and_a_row_without_reward_is_left_out() -> None:
    nan = float("nan")
    assert not wd1_advantages(torch.full((3, 7), 0.1)).any()
    some = wd1_advantages(T([[1.0, nan, 0.0], [nan, nan, nan], [nan, 1.0, nan]]))
    torch.testing.assert_close(some[0, [0, 2]], wd1_advantages(T([[1.0, 0.0]]))[0])
    assert not some[1:].any()


def test_wd1s_gain_has_reinforces_gradient() -> None:
    logprobs, advantages = doubles(3, 4).requires_grad_(), doubles(3, seed=1)
    batch = replace(batch_of(["0", "1", "2"], [[1, 2, 3, 4]] * 3, [4] * 3), advantages=advantages)
    gain = lambda x: Wd1().gain(x, Lines(batch, batch.loss_mask, None, None))[0]  # noqa: E731
    (gradient,) = torch.autograd.grad(gain(logprobs).sum(), logprobs)
    assert torch.equal(gradient, advantages[:, None].expand(3, 4))
    assert torch.autograd.gradcheck(gain, logprobs)


# --- levels of ratios and weights ----------------------------------------------------------------------------------

COMMITTED = T([[1, 1, 2, 3, 3, 3], [2, 1, 1, 2, 4, 4], [1, 1, 1, 1, 0, 0]])
INSIDE = torch.arange(6) < T([6, 5, 1])[:, None]


@pytest.mark.parametrize("level", ["token", "call", "sequence"])
def test_pooled_log_ratios_are_means_over_what_has_one(level: str) -> None:
    values = doubles(3, 6)
    pooled = pool_log_ratios(values, INSIDE, COMMITTED, level)
    for row, place in INSIDE.nonzero().tolist():
        mates = {
            "token": [place],
            "call": [i for i in range(6) if COMMITTED[row, i] == COMMITTED[row, place] and INSIDE[row, i]],
            "sequence": [i for i in range(6) if INSIDE[row, i]],
        }[level]
        assert math.isclose(pooled[row, place], values[row, mates].mean(), rel_tol=1e-12)


@given(st.sampled_from(["token", "call", "sequence"]), st.integers(0, 2))
def test_pooling_does_not_depend_on_batch_mates(level: str, row: int) -> None:
    values = doubles(3, 6)
    alone = pool_log_ratios(*(part[row : row + 1] for part in (values, INSIDE, COMMITTED)), level)
    assert torch.equal(pool_log_ratios(values, INSIDE, COMMITTED, level)[row], alone[0])


@pytest.mark.parametrize("level", ["token", "call", "sequence"])
def test_at_ratio_one_the_gradient_is_reinforce_at_every_level(level: str) -> None:
    """A mean of log-ratios passes the gradient of its tokens on: with weights 1/|o|, REINFORCE's mean over tokens."""
    old = doubles(3, 6)
    new = old.clone().requires_grad_()
    advantages = doubles(3, 1, seed=2).expand(3, 6)
    weights = token_weights(INSIDE, T([6, 6, 6]), "grpo").double()
    ratio = pool_log_ratios(new - old, INSIDE, COMMITTED, level).exp()
    assert bool((ratio == 1).all())
    (ours,) = torch.autograd.grad((weights * clipped_surrogate(ratio, advantages, 0.2)).sum(), new)
    torch.testing.assert_close(ours, weights * advantages)


@pytest.mark.parametrize("level", ["call", "sequence"])
def test_gradients_through_a_pool_are_those_of_finite_differences(level: str) -> None:
    other, advantages = doubles(3, 6, seed=1), doubles(3, 6, seed=2)

    def gain(logprobs: torch.Tensor) -> torch.Tensor:
        ratio = pool_log_ratios(logprobs - other, INSIDE, COMMITTED, level).exp()
        return clipped_surrogate(ratio, advantages, 0.3)[INSIDE]

    assert torch.autograd.gradcheck(gain, doubles(3, 6).requires_grad_())


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_self_normalized_weights_keep_the_total_weight(loss_type: str) -> None:
    weights = token_weights(INSIDE, T([6, 6, 6]), loss_type)
    importance = importance_weights(doubles(3, 6).float(), 2.0)
    normal = self_normalize(importance, weights)
    assert math.isclose((weights * normal).sum(), weights.sum(), rel_tol=1e-6)
    ratio = (normal / importance)[INSIDE]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert torch.equal(self_normalize(torch.ones(3, 6), weights), torch.ones(3, 6))
