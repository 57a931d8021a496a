"""Noise of gradients against vectors written out, and gradients against autograd through the exact likelihood."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from lab.analysis.subjects import SETTINGS, some_subject

from diffpo.config import ObjectiveConfig
from diffpo.functional.objective import token_weights
from diffpo.functional.surrogate import draw_cuts
from diffpo.lab.analysis.gradients import (
    CONFIGURED,
    clamp_variants,
    direction_of_means,
    directions,
    gradient_sections,
    gradients,
    noise,
    noise_with_intervals,
    split_batch,
    surrogate_variants,
)
from diffpo.models.likelihood import surrogate_logprobs


def test_noise_is_the_trace_of_covariances_over_the_mean_squared_norm() -> None:
    found = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0)).double() + 0.5
    products = torch.einsum("krn,lsn->krls", found, found)
    total = sum(float(found[:, draw].var(0).sum()) for draw in range(3)) / 3
    by_draw = sum(float(found[batch].var(0).sum()) for batch in range(5)) / 5
    power = float((found**2).sum(-1).mean())
    assert noise(products) == pytest.approx((total / power, by_draw / power))
    (shares, widths) = noise_with_intervals(found.float())
    assert shares == pytest.approx((total / power, by_draw / power), rel=1e-4)
    left_out = torch.tensor(
        [noise(products[kept][:, :, kept]) for kept in map(list, itertools.combinations(range(5), 4))]
    )
    jackknife = ((left_out - left_out.mean(0)).square().sum(0) * 4 / 5).sqrt()
    assert widths == pytest.approx((2.776 * jackknife).tolist(), rel=1e-3)


def test_noise_at_its_limits() -> None:
    same = torch.ones(4, 2, 3).double()
    assert noise(torch.einsum("krn,lsn->krls", same, same)) == pytest.approx((0, 0))
    alternating = same * torch.tensor([1.0, -1.0]).view(1, 2, 1)
    total, by_draw = noise(torch.einsum("krn,lsn->krls", alternating, alternating))
    assert total == pytest.approx(0) and by_draw == pytest.approx(2)  # draws differ, batches do not
    assert all(map(math.isnan, noise(torch.zeros(3, 2, 3, 2))))


def test_directions_are_cosines_to_the_exact_gradient_of_the_same_batch() -> None:
    exact = torch.tensor([[[1.0, 0.0]] * 2, [[0.0, 2.0]] * 2, [[0.0, 0.0]] * 2])
    assert directions(exact, exact) == (1.0, 0.0)  # the batch without a gradient does not count
    found = torch.tensor([[[1.0, 1.0]] * 2, [[0.0, -3.0]] * 2, [[1.0, 1.0]] * 2])
    assert directions(found, exact)[0] == pytest.approx((math.sqrt(0.5) - 1) / 2)
    assert all(map(math.isnan, directions(found[2:], exact[2:])))


def test_the_direction_of_means_is_that_of_expectations_under_any_noise() -> None:
    """Noise that both share, and noise of the cuts, ten times the signal: the cosine is that of (1, 0) and (1, 1)."""
    generator = torch.Generator().manual_seed(0)
    rollouts, cuts = 10 * torch.randn(2, 4000, 2, 2, generator=generator)
    exact = torch.tensor([1.0, 0.0]) + rollouts.mean(1, keepdim=True).expand(-1, 2, -1)
    found = exact + torch.tensor([0.0, 1.0]) + cuts
    value, width = direction_of_means(found, exact)
    assert abs(value - math.sqrt(0.5)) < width < 0.3
    assert directions(found, exact)[0] < 0.6  # the noise of cuts hides it
    assert direction_of_means(exact, exact)[0] == pytest.approx(1)
    assert math.isnan(direction_of_means(torch.zeros_like(exact), exact)[0])


def test_the_direction_of_means_has_the_width_of_a_jackknife() -> None:
    exact = 5 + torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    found = exact.flip(2).square()
    kept = [torch.tensor([other for other in range(6) if other != batch]) for batch in range(6)]
    left_out = torch.tensor([direction_of_means(found[rows], exact[rows])[0] for rows in kept])
    jackknife = ((left_out - left_out.mean()).square().sum() * 5 / 6).sqrt()
    assert direction_of_means(found, exact)[1] == pytest.approx(2.571 * float(jackknife), rel=1e-3)


def test_gradients_are_reinforces_where_the_likelihood_is_exact() -> None:
    subject = some_subject(surrogate="mean_field:0", speed_weight=0.0)
    own = subject.config.objective
    found = gradients(subject, {"": own, **clamp_variants(own, (0.0, 2.0))})
    assert found[""].shape[:2] == (SETTINGS.gradient_batches, SETTINGS.gradient_draws)
    for index, batch in enumerate(split_batch(subject)):
        weights = token_weights(batch.loss_mask, batch.gen_lengths, "grpo")
        cuts = draw_cuts(batch.nfe, 0, torch.arange(len(batch)))
        subject.policy.denoiser.zero_grad(set_to_none=True)
        logprobs = surrogate_logprobs(subject.policy, batch, cuts, 1.0)
        (weights * batch.advantages[:, None] * logprobs).sum().backward()
        by_hand = torch.cat([p.grad.flatten() for p in subject.policy.denoiser.parameters()])
        for name, value in found.items():
            torch.testing.assert_close(value[index, 0], by_hand, atol=1e-5, rtol=1e-3, msg=name)
    assert found[""].any()


def test_every_surrogate_and_clamp_is_a_variant_once() -> None:
    plain = surrogate_variants(ObjectiveConfig(surrogate="mean_field:2"), (1, 2, 3), ("coupled", "elbo"))
    assert list(plain) == ["mean field", "2-MF", "3-MF", "exact", "coupled", "elbo"]
    assert plain["3-MF"].surrogate == "mean_field:3" and plain["exact"].surrogate == "mean_field:0"
    assert {name for name, variant in plain.items() if not variant.importance_clamp} == {"coupled", "elbo"}
    d1 = ObjectiveConfig(surrogate="mean_field:1,prompt_mask_prob=0.15", beta=0.1, importance_clamp=0.0)
    assert surrogate_variants(d1, (1, 2), ())[CONFIGURED].surrogate == d1.surrogate
    weighted = ObjectiveConfig(importance_level="sequence", self_normalize=True)
    assert {name: o.importance_clamp for name, o in clamp_variants(weighted, (math.inf, 0.0, 2.0)).items()} == {
        "off": 0.0,
        "2": 2.0,
        "inf": math.inf,
    }


D1 = {"surrogate": "mean_field:1,prompt_mask_prob=0.3", "importance_clamp": 0.0}


@pytest.mark.parametrize("objective", [{"surrogate": "mean_field:2"}, D1])
def test_sections_of_gradients(objective: dict) -> None:
    subject = some_subject(**objective)
    by_surrogate, towards, by_clamp, clamped_towards = gradient_sections(subject)
    names = ["mean field", "2-MF", "3-MF", "4-MF", "exact", "coupled", "elbo"]
    names = [CONFIGURED, *names] if objective is D1 else names
    assert by_surrogate.series[0].x == names and by_clamp.series[0].x == ["off", "2"]
    draws = dict(zip(names, by_surrogate.series[1].y, strict=True))
    assert draws["exact"] == pytest.approx(0, abs=1e-5) and draws["mean field"] == pytest.approx(0, abs=1e-5)
    assert draws["coupled"] > 0.01 and draws["2-MF"] > 0.001
    cosines = dict(zip(names, towards.series[0].y, strict=True))
    assert cosines["exact"] == pytest.approx(1) and cosines["mean field"] < 0.999
    own, at = (CONFIGURED, "off") if objective is D1 else ("2-MF", "2")
    again = dict(zip(clamped_towards.series[0].x, clamped_towards.series[0].y, strict=True))
    assert again[at] == pytest.approx(cosines[own])
    assert all(parameter.grad is None for parameter in subject.policy.denoiser.parameters())


def test_any_surrogate_is_measured_beside_any_loss() -> None:
    objective = {"surrogate": "spg:2,block_length=4", "loss": "spg", "importance_clamp": 0.0, "loss_type": "bnpo"}
    subject = some_subject(**objective)
    named = ("agrpo:3", "egspo:2", "rldf:2", "gdsd")
    subject = replace(subject, settings=replace(subject.settings, latents=(1,), surrogates=named))
    noise_of, direction = gradient_sections(subject)  # a loss without weights has no clamps to compare
    assert noise_of.series[0].x == [CONFIGURED, "mean field", "exact", *named]
    cosines = dict(zip(noise_of.series[0].x, direction.series[0].y, strict=True))
    assert cosines["agrpo:3"] > 0.3 and all(abs(cosine) <= 1 + 1e-6 for cosine in cosines.values())
