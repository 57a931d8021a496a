"""DiFFPO's objective (arXiv 2510.02212): advantages, importance weights, the clipped surrogate, KL, the sampler's.

J = mean_i 1/|o_i| sum_t min(C, w_t) min(rho_t A_i, clip(rho_t, 1 - eps, 1 + eps) A_i) - beta KL, maximised.
P prompts, G completions a prompt, B = P G rows, L canvas positions.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Level = Literal["token", "call", "sequence"]
"""What has one ratio."""
TIE = 1e-4
"""How far above the clamp, as a share of it, rounding alone may put a weight that is equal to it: 1, of a token whose
own call is scored."""


def speed_reward(
    rewards: Float[Tensor, "P G"],
    correct: Bool[Tensor, "P G"],
    nfe: Int64[Tensor, "P G"],
    gen_length: Int64[Tensor, "P G"],
    weight: float,
    gate: float = 0.0,
) -> Float[Tensor, "P G"]:
    """r = r_task (1 + lambda (1 - NFE / L)) where the answer is right, its reward positive and its group mastered.

    Where penalties pull the reward of a right answer to 0 or below, a factor would charge for speed: it stays as it is.
    A group is mastered if its accuracy is at least `gate`, which keeps a prompt that the policy mostly fails from being
    learned fast and wrong. Rows whose reward is NaN count in no accuracy.
    """
    known = ~rewards.isnan()
    accuracy = (correct & known).sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp_min(1)
    earns = correct & (rewards > 0) & (accuracy >= gate)
    return torch.where(earns, rewards * (1 + weight * (1 - nfe / gen_length)), rewards)


def group_advantages(rewards: Float[Tensor, "P G"], scale: bool = False) -> Float[Tensor, "P G"]:
    """A_i = r_i - mean of the group, optionally over the group's standard deviation (GRPO, arXiv 2402.03300).

    A reward that is NaN leaves its row out: it counts in no mean and has no advantage.
    """
    out = rewards.isnan()
    count = (~out).sum(-1, keepdim=True)
    advantages = rewards - rewards.masked_fill(out, 0.0).sum(-1, keepdim=True) / count
    if scale:
        variance = advantages.masked_fill(out, 0.0).square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
        advantages = advantages / (variance.sqrt() + 1e-4)
    # a group of equal rewards has no advantage at all, not one of rounding size
    highest = rewards.masked_fill(out, -torch.inf).amax(-1, keepdim=True)
    return advantages.masked_fill(out | (highest <= rewards.masked_fill(out, torch.inf).amin(-1, keepdim=True)), 0.0)


def token_weights(
    loss_mask: Bool[Tensor, "B L"], gen_lengths: Int64[Tensor, " B"], loss_type: Literal["grpo", "bnpo", "dr_grpo"]
) -> Float[Tensor, "B L"]:
    """Weight of each token in J, so that J = sum of weight * token term over the whole batch, in any micro-batches.

    grpo: mean over rows of the mean over tokens; bnpo: mean over all tokens; dr_grpo: sum over B L (arXiv 2503.20783).
    """
    mask = loss_mask.float()
    if loss_type == "grpo":
        return mask / mask.sum(-1, keepdim=True).clamp_min(1) / len(mask)
    if loss_type == "bnpo":
        return mask / mask.sum().clamp_min(1)
    return mask / gen_lengths[:, None] / len(mask)


def pool_log_ratios(
    log_ratios: Float[Tensor, "B L"], mask: Bool[Tensor, "B L"], committed_at: Int64[Tensor, "B L"], level: Level
) -> Float[Tensor, "B L"]:
    """Log-ratios of what `level` treats as one action: a token, the tokens of one call, or a completion.

    Several tokens have the mean of theirs (GSPO, arXiv 2507.18071, Eq. 5), so that clips and clamps mean the same
    whatever the length. Positions outside `mask` count in no mean.
    """
    if level == "token":
        return log_ratios
    unit = committed_at if level == "call" else torch.zeros_like(committed_at)
    empty = log_ratios.new_zeros(len(unit), int(unit.max()) + 1)
    total = empty.scatter_add(1, unit, log_ratios * mask)
    count = empty.scatter_add(1, unit, mask.to(log_ratios.dtype))
    return (total / count.clamp_min(1)).gather(1, unit)


def importance_weights(log_ratios: Float[Tensor, "*S"], clamp: float) -> Float[Tensor, "*S"]:
    """min(C, w), w = pi^_old / b: from the surrogate to the policy that drew the tokens. `clamp` 0: all ones.

    `log_ratios` are log w, a token's or pooled.
    """
    if clamp == 0:
        return torch.ones_like(log_ratios)
    return log_ratios.exp().clamp_max(clamp).detach()


def is_cut(importance: Float[Tensor, "*S"], clamp: float) -> Bool[Tensor, "*S"]:
    """w > C (1 + TIE), of any shape: which weights the clamp C cuts, and not those that rounding puts above it."""
    return importance > clamp * (1 + TIE)


def self_normalize(importance: Float[Tensor, "B L"], weights: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """w / mean of w under the tokens' `weights` in J: the total weight of the batch is what it is without w."""
    return importance * (weights.sum() / (weights * importance).sum().clamp_min(1e-12))


def clipped_surrogate(
    ratio: Float[Tensor, "*S"], advantages: Float[Tensor, "*S"], epsilon: float, epsilon_high: float = 0.0
) -> Float[Tensor, "*S"]:
    """min(rho A, clip(rho, 1 - eps, 1 + eps_high) A) (PPO, arXiv 1707.06347, Eq. 7); 0: eps_high is eps."""
    return torch.minimum(ratio * advantages, ratio.clamp(1 - epsilon, 1 + (epsilon_high or epsilon)) * advantages)


def kl_k3(logprobs: Float[Tensor, "*S"], ref_logprobs: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """k3 estimate of KL(pi || pi_ref): r - log r - 1 with r = pi_ref / pi; never negative."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def gaussian_logprob(action: Float[Tensor, "*S"], mean: Float[Tensor, "*S"], sigma: float) -> Float[Tensor, "*S"]:
    """log N(a; mean, sigma^2)."""
    return -0.5 * ((action - mean) / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))


def sampler_objective(
    logprobs: Float[Tensor, " B"],
    old_logprobs: Float[Tensor, " B"],
    advantages: Float[Tensor, " B"],
    epsilon: float,
    max_log_ratio: float,
) -> Float[Tensor, " B"]:
    """The clipped objective of a sampler head's action a, one a row, of a ratio that cannot explode.

        l = log pi_phi(a) - log pi_old(a)    rho = exp(l) up to l = l_max, its tangent exp(l_max) (1 + l - l_max) beyond

    A bad action that became far likelier is pulled back with a slope of exp(l_max) |A|, neither exp(l) |A| nor 0, which
    would leave it where it is; everywhere else the gradient is PPO's. Decisions of one action have the sum of their
    log-probabilities, so that l may be large.
    """
    log_ratio = logprobs - old_logprobs
    near = log_ratio.clamp_max(max_log_ratio)
    return clipped_surrogate(near.exp() * (log_ratio - near + 1), advantages, epsilon)


def effective_sample_size(weights: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """(sum w)^2 / (n sum w^2), in (0, 1]."""
    return weights.sum() ** 2 / (len(weights) * (weights**2).sum()).clamp_min(1e-12)
