"""Importance weights by call: against the likelihoods they are made of, and at the exact trajectory."""

from __future__ import annotations

import math

import pytest
import torch
from lab.analysis.subjects import SETTINGS, some_subject

from diffpo.lab.analysis.weights import raw_weights, weight_sections
from diffpo.models.likelihood import surrogate_logprobs


def test_weights_are_surrogate_over_behaviour() -> None:
    subject = some_subject(surrogate="mean_field:1")
    batch = subject.batch
    cuts = torch.zeros(len(batch), 1, dtype=torch.int64)
    logprobs = surrogate_logprobs(subject.policy, batch, cuts, 1.0).detach()
    by_hand = (logprobs - batch.behaviour_logprobs).exp()
    found = raw_weights(subject)
    assert found.shape == (SETTINGS.weight_draws, *batch.tokens.shape)
    for draw in found:
        torch.testing.assert_close(draw[batch.loss_mask], by_hand[batch.loss_mask])
    mean, use = weight_sections(subject)
    assert mean.figures["mean of w"] == pytest.approx(float(by_hand[batch.loss_mask].mean()), rel=1e-4)
    first = batch.loss_mask & (batch.committed_at == mean.series[0].x[-1])
    assert mean.series[0].y[-1] == pytest.approx(float(by_hand[first].mean()), rel=1e-4)
    weights = by_hand[batch.loss_mask].clamp_max(2)
    assert use.figures["effective sample size, C = 2"] == pytest.approx(
        float(weights.mean() ** 2 / (weights**2).mean()), rel=1e-4
    )
    assert use.figures["cut by C = 2"] == pytest.approx(float((weights == 2).float().mean()))


def test_the_exact_trajectory_needs_no_weights() -> None:
    mean, use = weight_sections(some_subject(surrogate="mean_field:0"))
    assert mean.series[0].y == pytest.approx([1.0] * len(mean.series[0].x), abs=1e-4)
    assert use.figures["effective sample size, no clamp"] == pytest.approx(1, abs=1e-4)
    assert use.figures["cut by C = 2"] == 0


def test_what_is_no_likelihood_has_no_weights() -> None:
    assert weight_sections(some_subject(surrogate="coupled", importance_clamp=0.0)) == []


@pytest.mark.parametrize(
    "objective",
    [
        {"importance_clamp": 0.0},
        {"importance_clamp": math.inf, "self_normalize": True},
        {"loss": "wd1", "importance_clamp": 0.0},
        {"surrogate": "mean_field:2", "importance_level": "sequence"},
        {"surrogate": "agrpo:2"},
        {"surrogate": "rldf:3", "importance_clamp": 0.0},
        {"surrogate": "spg:2,block_length=4", "loss": "spg", "importance_clamp": 0.0},
        {"beta": 0.1, "surrogate": "mean_field:3,cut_law=tokens"},
    ],
)
def test_weights_of_any_objective(objective: dict) -> None:
    mean, use = weight_sections(some_subject(**objective))
    limit = objective.get("importance_clamp", 2.0) or 2.0
    assert all(value > 0 for value in mean.series[0].y)
    assert len(mean.series) == (1 if limit == math.inf else 2) and len(use.series) == (1 if limit == math.inf else 3)
    if objective.get("importance_level") == "sequence":
        weights = raw_weights(some_subject(**objective))[0]
        first = weights[:, :1].expand_as(weights)
        assert torch.equal(weights.where(~weights.isnan(), first), first)
