"""The knobs of an analysis. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import bound, check, check_kinds
from diffpo.config.idle import Idle, Knobs, refuse_idle
from diffpo.config.objective import SURROGATES
from diffpo.config.specs import parse_spec

Part = Literal["kl", "weights", "gradients", "calibration", "thresholds", "order"]
USERS: dict[str, tuple[Part, ...]] = {
    "latents": ("kl", "gradients"),
    "surrogates": ("gradients",),
    "clamps": ("weights", "gradients"),
    "gammas": ("calibration",),
    "num_draws": ("kl",),
    "weight_draws": ("weights",),
    "gradient_batches gradient_draws": ("gradients",),
}
"""Knobs that only these parts look at."""


@dataclass(frozen=True)
class AnalysisConfig(Knobs):
    """What is measured, and on how much."""

    parts: tuple[Part, ...] = ("kl", "weights", "gradients", "calibration", "thresholds", "order")
    """What is measured."""
    num_prompts: int = 64  # test prompts; fewer if the task has fewer
    num_generations: int = 8  # G: completions a prompt
    latents: tuple[int, ...] = (1, 2, 3, 4)
    """Numbers of latents m whose surrogates are measured; the exact trajectory is always among the gradients."""
    surrogates: tuple[str, ...] = ("coupled", "elbo")
    """More surrogates whose gradients are measured, written as objective.surrogate is."""
    clamps: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, math.inf)
    """Clamps C of the importance weights under which gradients are measured; 0 leaves the weights out."""
    gammas: tuple[float, ...] = (0.03, 0.1, 0.3, 0.5, 1.0, 2.0)  # fixed thresholds whose commitments are measured, nats
    num_draws: int = 64  # draws that a mean over two or more random cuts is taken over; one cut is enumerated
    weight_draws: int = 4  # draws of cuts, or of masks, that importance weights are taken over
    gradient_batches: int = 8  # batches that the prompts are divided into, each an estimate of the gradient
    gradient_draws: int = 2  # gradients of each batch, each with its own cuts or masks
    micro_batch_tokens: int = 32768  # tokens that a pass holds at once; changes memory, not results

    def idle(self) -> Idle:
        return {
            knobs: not set(parts) & set(self.parts) and f"without the part {' or '.join(parts)}"
            for knobs, parts in USERS.items()
        }

    def __post_init__(self) -> None:
        check_kinds(self, "analysis.")
        bound(self, "analysis.", "num_prompts num_draws weight_draws micro_batch_tokens", ">=", 1)
        bound(self, "analysis.", "num_generations gradient_draws", ">=", 2)
        self._check("gradient_batches", self.gradient_batches >= 3, ">= 3: their spread is what is measured")
        self._check("latents", bool(self.latents) and min(self.latents) >= 1, "one or more numbers >= 1")
        self._check("clamps", bool(self.clamps) and all(clamp >= 0 for clamp in self.clamps), "one or more, each >= 0")
        self._check("gammas", bool(self.gammas) and all(gamma >= 0 for gamma in self.gammas), "one or more, each >= 0")
        for spec in self.surrogates:
            parse_spec(spec, SURROGATES, "analysis.surrogates")
        self._check("parts", bool(self.parts), "one or more")
        refuse_idle(self, "analysis.")

    def _check(self, name: str, fine: bool, wanted: str) -> None:
        check(fine, f"analysis.{name} must be {wanted}, got {getattr(self, name)}")
