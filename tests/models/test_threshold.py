"""The threshold head."""

from __future__ import annotations

import pytest
import torch
from helpers import keys

from diffpo.config import ThresholdConfig
from diffpo.functional.random import normal
from diffpo.models.threshold import ThresholdHead

SIZE = 6
CONFIG = ThresholdConfig()


def features(rows: int, seed: int = 0) -> torch.Tensor:
    scales = torch.tensor([0.01, 1.0, 30.0, 1.0, 0.0, 2.0])
    return 5 + scales * torch.randn(rows, SIZE, generator=torch.Generator().manual_seed(seed))


def trained_head() -> ThresholdHead:
    head = ThresholdHead(SIZE, CONFIG)
    head.observe(features(200))
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return head


@pytest.mark.parametrize("gamma_init", [0.1, 0.36, 1.5, 2.9])
def test_every_prompt_starts_at_gamma_init(gamma_init: float) -> None:
    head = ThresholdHead(SIZE, ThresholdConfig(gamma_init=gamma_init))
    assert head.untrained
    for scale in (0.0, 1.0, 1e6):
        gamma = head.gamma(head(scale * features(10)))
        torch.testing.assert_close(gamma, torch.full((10,), gamma_init), atol=1e-5, rtol=1e-5)


def test_a_start_outside_the_range_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"gamma_init = 0\.36.*raise threshold\.bound"):
        ThresholdHead(SIZE, ThresholdConfig(bound=1.0))


def test_observing_changes_nothing_while_the_weights_are_zero() -> None:
    head = ThresholdHead(SIZE, CONFIG)
    before = head(features(10))
    for seed in range(3):
        head.observe(features(50, seed))
    assert torch.equal(head(features(10)), before)


def test_observed_statistics_are_those_of_all_features_together() -> None:
    head = ThresholdHead(SIZE, CONFIG)
    parts = [features(rows, rows) for rows in (3, 50, 7)]
    for part in parts:
        head.observe(part)
    everything = torch.cat(parts)
    assert head.count == 60
    torch.testing.assert_close(head.mean, everything.mean(0))
    torch.testing.assert_close(head.variance, everything.var(0, correction=0))
    head.observe(everything[:0])  # a step without rewards
    assert head.count == 60 and head.variance.isfinite().all()


@pytest.mark.parametrize("std", [0.3, 1.0, 10.0])
def test_a_feature_far_from_zero_is_standardised_as_any_other(std: float) -> None:
    """Massive activations: of a mean of 10,000 the square has no digit left for the variance."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(600, 2, generator=generator, dtype=torch.float64)
    rows = (torch.tensor([0.0, 1e4]) + std * noise[:, :1]).float()  # the same but for the mean
    head = ThresholdHead(2, CONFIG)
    for part in rows.split([7, 300, 1, 292]):
        head.observe(part)
    found = []
    for feature in torch.eye(2):
        with torch.no_grad():
            head.weight.copy_(feature)
        found.append(head(rows).detach())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-2 * float(found[0].std()))


def test_a_feature_that_never_varies_is_not_blown_up() -> None:
    head = ThresholdHead(3, CONFIG)
    constant = torch.tensor([0.0, 5.0, 3e4])
    head.observe(constant.expand(50, 3))
    with torch.no_grad():
        head.weight.fill_(1.0)
    rounding = constant * (1 + 3e-7)
    assert (head(rounding) - head(constant)).abs() < 0.1


@pytest.mark.parametrize("width", [96, 768, 4096])
def test_an_update_moves_f_as_far_whatever_the_width(width: int) -> None:
    """Hidden states of a few directions, as many as at any width; the move of f over eight prompts in one Adam step."""
    generator = torch.Generator().manual_seed(0)
    place = torch.randn(264, 6, generator=generator)
    rows = place @ torch.randn(6, width, generator=generator)
    head = ThresholdHead(width, CONFIG)
    head.observe(rows)
    optimizer = torch.optim.Adam(head.parameters(), CONFIG.learning_rate)
    before = head(rows).detach()
    (head(rows[:8]) * torch.tensor([1.0, -1.0] * 4)).sum().backward()
    optimizer.step()
    moved = float((head(rows) - before).detach().square().mean().sqrt())
    assert moved == pytest.approx(0.012, rel=0.1)


def test_at_the_base_width_features_have_unit_norm() -> None:
    rows = torch.randn(500, 96, generator=torch.Generator().manual_seed(0))
    head = ThresholdHead(96, CONFIG)
    head.observe(rows)
    z = (rows - rows.mean(0)) / (rows.std(0, correction=0) * 96**0.5)
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(1))
    f = CONFIG.bound * torch.tanh(((z * head.weight).sum(-1) + head.bias) / CONFIG.bound)
    torch.testing.assert_close(head(rows), f)


def test_f_stays_within_its_bound() -> None:
    head = trained_head()
    with torch.no_grad():
        head.weight.mul_(1e4)
    f = head(features(100, 1))
    assert (f.abs() <= CONFIG.bound).all() and (f.abs() > 0.99 * CONFIG.bound).any()
    gamma = head.gamma(f)
    assert (gamma > 0).all() and (gamma < CONFIG.gamma_max).all()


def test_f_is_a_function_of_its_row_alone() -> None:
    head, rows = trained_head(), features(33)
    assert torch.equal(head(rows), torch.cat([head(row[None]) for row in rows]))


def test_actions_are_keyed_by_row_and_follow_the_head() -> None:
    head, rows, some_keys = trained_head(), features(40), keys(40)
    explore = torch.arange(40) % 3 > 0
    action, logprob = head.choose(rows, some_keys, explore)
    mean = head(rows)
    torch.testing.assert_close(action, torch.where(explore, mean + CONFIG.sigma * normal(some_keys), mean))
    torch.testing.assert_close(logprob, torch.distributions.Normal(mean, CONFIG.sigma).log_prob(action))
    for row in range(40):
        alone = head.choose(rows[row][None], some_keys[row][None], explore[row][None])
        assert torch.equal(alone[0][0], action[row]) and torch.equal(alone[1][0], logprob[row])


def test_gradients_reach_weight_and_bias_from_the_first_step_on() -> None:
    head = ThresholdHead(SIZE, CONFIG)
    head.observe(features(50))
    rows = features(8, 1)
    action, _ = head.choose(rows, keys(8), torch.ones(8, dtype=torch.bool))
    (head.logprob(action.detach(), head(rows)) * torch.arange(8)).sum().backward()
    assert head.weight.grad[[0, 1, 2, 3, 5]].all() and head.bias.grad
    assert head.weight.grad.isfinite().all()


def test_a_threshold_depends_on_no_neighbour() -> None:
    """To the last digit: where an action stands in its tensor must not show."""
    head, actions = ThresholdHead(4, ThresholdConfig()), torch.linspace(-4, 4, 997)
    assert torch.equal(torch.cat([head.gamma(action[None]) for action in actions]), head.gamma(actions))
