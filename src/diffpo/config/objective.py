"""What is maximised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import bound, check, check_kinds
from diffpo.config.idle import Idle, Knobs, refuse_idle
from diffpo.config.specs import parse_spec

SURROGATES = {
    "mean_field": "MeanField",  # d1, DiFFPO, d2, the exact trajectory
    "coupled": "Coupled",  # coupled-GRPO
    "elbo": "Elbo",  # ESPO
    "gdpo": "Gdpo",
    "agrpo": "Agrpo",
    "egspo": "Egspo",
    "rldf": "Rldf",
    "gdsd": "Gdsd",
    "spg": "Spg",
}
"""Surrogates by name, and the class in the file of that name below diffpo/surrogates: what can be drawn and scored."""
LOSSES = {
    "clipped": "Clipped",  # PPO, GRPO
    "wd1": "Wd1",
    "gdsd": "Gdsd",
    "spg": "Spg",
}
"""Losses likewise, below diffpo/losses: what can be made of it."""


@dataclass(frozen=True)
class ObjectiveConfig(Knobs):
    """What is maximised (docs/algorithm.md)."""

    surrogate: str = "mean_field:2,cut_law=surprisal"
    """What stands for a token's likelihood, with its knobs: NAME, NAME:VALUE,KNOB=VALUE, or PATH.py:CLASS likewise.
    mean_field:2 is DiFFPO, whose cuts are uniform; the default's, before unlikely tokens, taught more at the same cost
    (docs/results.md). mean_field:1 is d1, mean_field:0 the exact trajectory; the others are in docs/algorithm.md."""
    loss: str = "clipped:0.2"
    """What is made of it, written likewise: clipped:0.2 is PPO's ratio, clipped at 0.2."""
    importance_clamp: float = 2.0
    """C: upper clamp of the weight from surrogate to behaviour policy; inf for none, 0 leaves the weight out."""
    importance_level: Literal["token", "call", "sequence"] = "token"
    """What has one importance weight: a token, the tokens of one call, or the completion; several have their
    geometric mean."""
    self_normalize: bool = False  # divide importance weights, once clamped, by their mean over the batch
    beta: float = 0.0  # weight of the KL to the policy at the start of the run
    num_iterations: int = 4  # mu: passes over each batch of rollouts, each with fresh latents
    loss_type: Literal["grpo", "bnpo", "dr_grpo"] = "grpo"
    """Length normalisation: mean per completion, mean over all tokens, or sum over the canvas length."""
    scale_rewards: bool = False  # divide advantages by the group's standard deviation
    speed_weight: float = 0.2
    """lambda: a correct answer earns reward * (1 + lambda * (1 - NFE / L)); 0 for the task's reward alone."""
    speed_gate: float = 0.5  # the speed term counts only in groups of at least this accuracy: right first, then fast

    def __post_init__(self) -> None:
        check_kinds(self, "objective.")
        parse_spec(self.surrogate, SURROGATES, "objective.surrogate")
        parse_spec(self.loss, LOSSES, "objective.loss")
        bound(self, "objective.", "importance_clamp", ">=", 0)
        bound(self, "objective.", "beta speed_weight", ">=", 0, finite=True)
        bound(self, "objective.", "num_iterations", ">=", 1)
        check(0 <= self.speed_gate <= 1, f"objective.speed_gate must lie in [0, 1], got {self.speed_gate}")
        refuse_idle(self, "objective.")

    def idle(self) -> Idle:
        return {
            "importance_level self_normalize": not self.importance_clamp and "with importance_clamp 0",
            "speed_gate": not self.speed_weight and "with speed_weight 0",
        }
