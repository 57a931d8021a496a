"""How a sampler head learns: its clipped objective, from decisions that the rollout recorded."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.config import HeadConfig
from diffpo.functional.bernoulli import positions_logprob
from diffpo.functional.objective import sampler_objective
from diffpo.models.bernoulli import BernoulliHead
from diffpo.models.policy import Policy
from diffpo.models.threshold import ThresholdHead
from diffpo.training.state import Experience
from diffpo.types import Batch

MAX_POSITIONS = 2**14
"""Positions of calls that a Bernoulli head reads at once: at its width of 128 some 300 MB of activations."""


def sampler_backward(policy: Policy, experience: Experience, settings: HeadConfig) -> dict[str, float]:
    """Accumulate the gradient of the head's objective over the whole batch; none enters the denoiser."""
    head = policy.sampler_head
    if isinstance(head, BernoulliHead):
        return _bernoulli_backward(head, experience.batch, experience.live, settings)
    assert head is not None
    return _threshold_backward(head, experience.batch, experience.live, settings)


def _threshold_backward(head: ThresholdHead, batch: Batch, live: Tensor, settings: HeadConfig) -> dict[str, float]:
    """One ratio a completion: the sampler's action is all of its decisions, whose log-probabilities add up."""
    assert batch.features is not None and batch.actions is not None and batch.action_logprobs is not None
    made = head.logprob(batch.actions, head(batch.features))
    logprobs, old = (values.masked_fill(~batch.decided, 0.0).sum(-1) for values in (made, batch.action_logprobs))
    gain = sampler_objective(logprobs, old, batch.advantages, settings.epsilon, settings.max_log_ratio)
    (-gain.mean()).backward()
    return _told((logprobs - old).detach()[live], batch.advantages[live], settings)


def _bernoulli_backward(head: BernoulliHead, batch: Batch, live: Tensor, settings: HeadConfig) -> dict[str, float]:
    """One ratio a call, and of a completion the mean over its calls (arXiv 2512.09106), some calls at a time.

    J is the mean over all rows, of which only those that are `live` have a gradient.
    """
    assert batch.features is not None and batch.actions is not None and batch.action_logprobs is not None
    places, calls = batch.decided[live].nonzero(as_tuple=True)
    rows = live[places]
    log_ratios, chance, num_masked = [], torch.zeros((), device=rows.device), 0
    for part in torch.arange(len(rows), device=rows.device).split(max(1, MAX_POSITIONS // batch.features.shape[-1])):
        at = rows[part], calls[part]
        features, old, advantages = batch.features[at], batch.action_logprobs[at], batch.advantages[at[0]]
        f, masked = head(features), features > 0
        logprobs = positions_logprob(f, masked, batch.actions[at]).float()
        gain = sampler_objective(logprobs, old, advantages, settings.epsilon, settings.max_log_ratio)
        (-(gain / batch.nfe[at[0]]).sum() / len(batch)).backward()
        log_ratios.append((logprobs - old).detach())
        chance = chance + (torch.sigmoid(f.detach()) * masked).sum()
        num_masked = num_masked + masked.sum()
    told = _told(torch.cat(log_ratios), batch.advantages[rows], settings)
    return told | {"sampler/chance": float(chance / num_masked)}


def _told(log_ratios: Tensor, advantages: Tensor, settings: HeadConfig) -> dict[str, float]:
    """Metrics of what has one ratio each."""
    outside = (log_ratios.exp() - 1) * advantages.sign() > settings.epsilon
    return {"sampler/clip_ratio": float(outside.float().mean()), "sampler/kl": float(log_ratios.square().mean() / 2)}
