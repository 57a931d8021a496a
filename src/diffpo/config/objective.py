"""What is maximised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import bound, check
from diffpo.config.idle import Idle, Knobs, refuse_idle


@dataclass(frozen=True)
class ObjectiveConfig(Knobs):
    """What is maximised (docs/algorithm.md)."""

    surrogate: Literal["mean_field", "coupled", "elbo"] = "mean_field"
    """What stands for a token's likelihood: m-times mean field, coupled-GRPO's masks, or its share of ESPO's ELBO."""
    num_latents: int = 2
    """m of the m-times mean-field surrogate: 1 mean field (d1), 2 DiFFPO, 0 every call (the exact trajectory)."""
    cut_law: Literal["uniform", "middle", "tokens"] = "uniform"
    """Law of the mean-field cuts tau over the calls: equal, t * (T - t), or tokens committed at t."""
    num_pairs: int = 1  # pairs of complementary masks of the coupled and elbo surrogates
    loss: Literal["clipped", "wd1"] = "clipped"
    """What is made of it: PPO's clipped ratio, or wd1's likelihood weighted by softmax(A) - softmax(-A)."""
    ratio_level: Literal["token", "call", "sequence"] = "token"
    """What has one ratio rho: a token, the tokens of one call, or the completion; several have their geometric mean."""
    importance_clamp: float = 2.0
    """C: upper clamp of the weight from surrogate to behaviour policy; inf for none, 0 leaves the weight out."""
    importance_level: Literal["token", "call", "sequence"] = "token"
    """What has one importance weight, likewise."""
    self_normalize: bool = False  # divide importance weights, once clamped, by their mean over the batch
    epsilon: float = 0.2  # clip range of the probability ratio
    beta: float = 0.0  # weight of the k3 KL to the policy at the start of the run
    num_iterations: int = 4  # mu: passes over each batch of rollouts, each with fresh cuts
    loss_type: Literal["grpo", "bnpo", "dr_grpo"] = "grpo"
    """Length normalisation: mean per completion, mean over all tokens, or sum over the canvas length."""
    scale_rewards: bool = False  # divide advantages by the group's standard deviation
    prompt_mask_prob: float = 0.0  # share of prompt tokens masked at random in the mean-field pass (0.15 in d1)
    speed_weight: float = 0.2
    """lambda: a correct answer earns reward * (1 + lambda * (1 - NFE / L)); 0 for the task's reward alone."""
    speed_gate: float = 0.5  # the speed term counts only in groups of at least this accuracy: right first, then fast

    def __post_init__(self) -> None:
        bound(self, "objective.", "num_latents importance_clamp beta speed_weight", ">=", 0)
        bound(self, "objective.", "epsilon", ">", 0)
        bound(self, "objective.", "num_iterations", ">=", 1)
        share = self.prompt_mask_prob
        check(0 <= share < 1, f"objective.prompt_mask_prob must lie in [0, 1), got {share}")
        check(0 <= self.speed_gate <= 1, f"objective.speed_gate must lie in [0, 1], got {self.speed_gate}")
        bound(self, "objective.", "num_pairs", ">=", 1)
        refuse_idle(self, "objective.")

    def idle(self) -> Idle:
        mean_field = self.surrogate == "mean_field"
        unweighted = not self.importance_clamp and "with importance_clamp 0"
        no_ratio = self.loss == "wd1" and "with loss wd1, which has no ratio"
        return {
            "num_pairs": mean_field and "with surrogate mean_field",
            "num_latents prompt_mask_prob": not mean_field and f"with surrogate {self.surrogate}",
            "cut_law": (not mean_field or self.num_latents < 2) and "without drawn cuts",
            "ratio_level epsilon": no_ratio,
            "importance_level self_normalize": unweighted,
            "speed_gate": not self.speed_weight and "with speed_weight 0",
        }

    @property
    def has_old_policy(self) -> bool:
        """Whether the policy before the first update is in J: as the ratio's denominator, or in importance weights."""
        return self.loss != "wd1" or self.importance_clamp > 0
