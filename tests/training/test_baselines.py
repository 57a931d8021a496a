"""The baselines in the trainer: on policy, in micro-batches, across a resume, and what each leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from training.test_update import CONFIG, gradients, state_of

from diffpo.config import ObjectiveConfig, OptimConfig
from diffpo.functional.objective import importance_weights, pool_log_ratios, token_weights
from diffpo.losses import load_loss
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy, load_policy
from diffpo.objective import Objective
from diffpo.processes.world import World
from diffpo.training.checkpoint import _flatten_experience, _restore_experience
from diffpo.training.update import latents_of, policy_backward, update

OBJECTIVES = {
    "d1": ObjectiveConfig(surrogate="mean_field:1,prompt_mask_prob=0.15", importance_clamp=0.0),
    "coupled": ObjectiveConfig(surrogate="coupled:2", importance_clamp=0.0),
    "wd1": ObjectiveConfig(surrogate="mean_field:1,prompt_mask_prob=0.15", loss="wd1", importance_clamp=0.0),
    "espo": ObjectiveConfig(surrogate="elbo:2", loss="clipped:0.2,ratio_level=sequence", importance_clamp=0.0),
    "gdpo": ObjectiveConfig(surrogate="gdpo", loss="clipped:0.5,ratio_level=sequence", importance_clamp=0.0),
    "exact": ObjectiveConfig(surrogate="mean_field:0", importance_clamp=0.0),
    "2-MF, weights of a call": ObjectiveConfig(
        importance_level="call", surrogate="mean_field:2,cut_law=middle", loss="clipped:0.2,ratio_level=call"
    ),
    "2-MF, weights of a sequence": ObjectiveConfig(
        importance_level="sequence", self_normalize=True, surrogate="mean_field:2,cut_law=tokens"
    ),
    "3-MF, weights of a sequence": ObjectiveConfig(
        surrogate="mean_field:3", importance_level="sequence", loss_type="bnpo"
    ),
    "wd1 with weights": ObjectiveConfig(loss="wd1", self_normalize=True, scale_rewards=True),
}
EVERY = pytest.mark.parametrize("name", OBJECTIVES)


@pytest.fixture
def policy(start: str) -> Policy:
    return load_policy(start)


def config_of(name: str, **changes):
    return replace(CONFIG, objective=replace(OBJECTIVES[name], num_iterations=2, **changes))


def gradient_of(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in policy.denoiser.named_parameters() if p.grad is not None}


@EVERY
def test_on_policy_the_ratio_is_exactly_one(policy: Policy, name: str) -> None:
    config = replace(config_of(name, beta=0.1), optim=OptimConfig(learning_rate=1e-12, micro_batch_tokens=300))
    metrics = update(state_of(policy, config), config, World())
    assert metrics["kl"] == 0 and metrics.get("clip_ratio", 0) == 0 and metrics.get("surrogate_kl", 0) == 0
    assert metrics["model/grad_norm"] > 0


@EVERY
def test_at_ratio_one_the_gradient_is_reinforce(policy: Policy, name: str) -> None:
    """sum over tokens of weight, importance weight and A d log pi^, written anew."""
    config = config_of(name)
    objective = config.objective
    experience = state_of(policy, config).experience
    policy.denoiser.zero_grad()
    policy_backward(policy, experience, config, 1, World())
    ours = gradient_of(policy)
    policy.denoiser.zero_grad()
    live = experience.live
    batch = experience.batch
    latents = latents_of(experience, 1, range(len(live)), Objective.of(objective), policy.mask_id)
    logprobs = score(policy, latents, config.rollout.temperature)
    weights = token_weights(batch.loss_mask, batch.gen_lengths, objective.loss_type)[live]
    factors = weights * batch.advantages[live, None]
    if objective.importance_clamp:
        mask, calls = batch.loss_mask[live], batch.committed_at[live]
        gap = logprobs.detach() - batch.behaviour_logprobs[live]
        importance = importance_weights(
            pool_log_ratios(gap, mask, calls, objective.importance_level), objective.importance_clamp
        )
        if objective.self_normalize:
            importance = importance / ((weights * importance).sum() / weights.sum())
        # a completion's ratio gives every token the mean of the gradients, so of the weights too
        factors = factors * importance
        assert load_loss(objective.loss).level in (objective.importance_level, "token")
    (-(factors * logprobs).sum()).backward()
    for parameter, gradient in gradient_of(policy).items():
        torch.testing.assert_close(ours[parameter], gradient, rtol=1e-4, atol=1e-6)


@EVERY
def test_micro_batches_change_memory_not_gradients(policy: Policy, name: str) -> None:
    whole = gradients(policy, config_of(name, beta=0.1))
    parts = gradients(policy, replace(config_of(name, beta=0.1), optim=OptimConfig(micro_batch_tokens=200)))
    assert whole.keys() == parts.keys()
    for parameter, gradient in whole.items():
        torch.testing.assert_close(parts[parameter], gradient, rtol=1e-4, atol=1e-6)


@EVERY
def test_a_batch_in_hand_survives_a_checkpoint(policy: Policy, name: str) -> None:
    config = config_of(name)
    state = state_of(policy, config)
    tensors, plain = _flatten_experience(state.experience)
    policy.denoiser.zero_grad()
    policy_backward(policy, state.experience, config, 1, World())
    ours = gradient_of(policy)
    policy.denoiser.zero_grad()
    policy_backward(policy, _restore_experience(tensors, plain), config, 1, World())
    assert all(torch.equal(ours[name], gradient) for name, gradient in gradient_of(policy).items())


def test_wd1_scores_no_old_policy(policy: Policy) -> None:
    config = config_of("wd1")
    state = state_of(policy, config)
    assert state.experience.old_logprobs is None
    metrics = update(state, config, World())
    assert not {name for name in metrics if name.startswith("importance") or name in ("surrogate_kl", "clip_ratio")}


@pytest.mark.parametrize("name", ["coupled", "espo", "gdpo"])
def test_what_is_no_probability_is_not_compared_with_the_policy_that_drew(policy: Policy, name: str) -> None:
    metrics = update(state_of(policy, config_of(name)), config_of(name), World())
    assert "surrogate_kl" in metrics and not any(measured.startswith("importance") for measured in metrics)


def test_iterations_draw_fresh_latents(policy: Policy) -> None:
    for name in ("coupled", "espo", "2-MF, weights of a call"):
        old = state_of(policy, config_of(name)).experience.old_logprobs
        assert not torch.equal(old[0], old[1])


def test_the_exact_trajectory_needs_no_weight_at_any_level(policy: Policy) -> None:
    for level in ("token", "call", "sequence"):
        objective = ObjectiveConfig(surrogate="mean_field:0", importance_level=level, self_normalize=True)
        metrics = update(
            state_of(policy, replace(CONFIG, objective=objective)), replace(CONFIG, objective=objective), World()
        )
        assert metrics["importance/mean"] == pytest.approx(1, abs=1e-5)
        assert metrics["importance/ess"] == pytest.approx(1, abs=1e-5)
