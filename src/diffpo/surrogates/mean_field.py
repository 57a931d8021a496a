"""The m-times mean field (DiFFPO, arXiv 2510.02212): a token given the latest of m states of its own trajectory.

    log pi^(o_i) = log pi(o_i | c, z_sigma(i)),    sigma(i) = max{tau_j : tau_j < s_i}

m = 1 is the mean field of d1 (arXiv 2504.12216), m = 2 DiFFPO's 2-MF, m = T the exact likelihood of the trajectory;
even cuts are d2's StepMerge (arXiv 2509.21474). How cuts are drawn is in `functional.surrogate`; where attention is
block-causal each block is a trajectory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from diffpo.config.checks import bound, check, suggest
from diffpo.functional.latents import Latents, cut_latents, draw_batch_cuts
from diffpo.functional.random import fold
from diffpo.functional.surrogate import CutLaw
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class MeanField(Surrogate):
    """m cuts of the trajectory."""

    num_latents: int = 2
    """m: 1 mean field (d1), 2 DiFFPO, 0 every call (the exact trajectory)."""
    cut_law: CutLaw = "uniform"
    """Law of the cuts over calls: equal, t (T - t), tokens committed at t, their entropies, or how unlikely those of
    t + 1 were (surprisal); or not drawn but even."""
    prompt_mask_prob: float = 0.0
    """Share of the prompt's tokens masked at random in the empty canvas (0.15 in d1)."""

    def __post_init__(self) -> None:
        bound(self, "", "num_latents", ">=", 0)
        laws = get_args(CutLaw)
        check(self.cut_law in laws, f"no cut_law {self.cut_law!r}{suggest(self.cut_law, laws)}")
        idle = self.num_latents < 2 and self.cut_law != "uniform"
        check(not idle, "cut_law does nothing without cuts, which begin at num_latents 2: leave it out")
        check(0 <= self.prompt_mask_prob < 1, f"prompt_mask_prob must lie in [0, 1), got {self.prompt_mask_prob}")

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        return cut_latents(batch, self.cuts(batch, keys), mask_id, self.prompt_mask_prob, fold(keys, 1))

    def cuts(self, batch: Batch, keys: Tensor) -> Tensor:
        """Cuts of each row, [B, M], or of the block of each position, [B, L, M]."""
        return draw_batch_cuts(batch, self.num_latents, fold(keys, 0), self.cut_law)

    def cost(self, nfe: float) -> Cost:
        m = min(self.num_latents or nfe, nfe)
        return Cost(m, 1 / m) if self.prompt_mask_prob else Cost(m - 1, 1 / m, shared=1 / m)
