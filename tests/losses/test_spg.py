"""SPG's bounds against probabilities as they are, at their limits, and where those would vanish."""

from __future__ import annotations

import pytest
import torch

from diffpo.losses.spg import elbo, eubo

GENERATOR = torch.Generator().manual_seed(0)
LOGPROBS = -3 * torch.rand(5, 3, 7, generator=GENERATOR, dtype=torch.float64)
MASKS = torch.rand(5, 3, 7, generator=GENERATOR) < 0.5
LENGTHS = torch.full((5, 3), 7)


@pytest.mark.parametrize("beta", [1.0, 1.5, 3.0])
def test_the_upper_bound_is_that_of_a_slow_loop(beta: float) -> None:
    for row, bound in enumerate(eubo(LOGPROBS, MASKS, LENGTHS, beta).tolist()):
        total, seen = 0.0, 0
        for token in range(7):
            terms = [
                LOGPROBS[row, draw, token].exp() ** beta / (float(MASKS[row, draw].sum()) / 7)
                for draw in range(3)
                if MASKS[row, draw, token]
            ]
            if terms:
                total, seen = total + float((sum(terms) / 3).log()), seen + 1
        assert bound == pytest.approx(total / seen / beta, rel=1e-6)


def test_of_whole_canvases_the_upper_bound_is_above_the_lower() -> None:
    whole = torch.ones_like(MASKS)
    assert bool((eubo(LOGPROBS, whole, LENGTHS, 1.0) >= elbo(LOGPROBS, whole)).all())
    alike = LOGPROBS[:, :1].expand(-1, 3, -1)
    for beta in (1.0, 2.0):  # draws that agree have one mean
        torch.testing.assert_close(eubo(alike, whole, LENGTHS, beta), elbo(alike, whole))


def test_probabilities_that_vanish_have_a_bound_and_a_gradient() -> None:
    tiny = (LOGPROBS - 2000).requires_grad_()
    bound = eubo(tiny, MASKS, LENGTHS, 1.5)
    torch.testing.assert_close(bound, eubo(LOGPROBS, MASKS, LENGTHS, 1.5) - 2000)
    (gradient,) = torch.autograd.grad(bound.sum(), tiny)
    assert bool(gradient.isfinite().all()) and bool((gradient[MASKS] > 0).all()) and not gradient[~MASKS].any()


def test_gradients_are_those_of_finite_differences() -> None:
    leaf = LOGPROBS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: eubo(x, MASKS, LENGTHS, 1.5), leaf)
    assert torch.autograd.gradcheck(lambda x: elbo(x, MASKS), leaf)
