"""AGRPO's surrogate (arXiv 2510.04019): the exact log-probabilities of K calls of the trajectory, drawn uniformly.

    sum_i f_i  =  E  T/K  sum_{calls t drawn}  sum_{i: s_i = t} f_i,    log pi^(o_i) = log pi(o_i | c, z_{s_i - 1})

A call is drawn, without replacement, with probability K/T, so that a token of one that was drawn counts T/K: J and its
gradient are the exact trajectory's in expectation, at K rows rather than T, and noisy. K >= T is the exact trajectory.
T counts the calls that committed a token of the loss; those of what follows the first EOS have nothing to add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.config.checks import bound
from diffpo.functional.latents import Latents, call_latents, call_masks
from diffpo.functional.random import fold
from diffpo.functional.surrogate import best_calls, mean_by_call
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class Agrpo(Surrogate):
    """K calls of each row."""

    num_calls: int = 2
    """K."""

    def __post_init__(self) -> None:
        bound(self, "", "num_calls", ">=", 1)

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        return call_latents(batch, self.calls(batch, keys), mask_id)

    def calls(self, batch: Batch, keys: Tensor) -> Tensor:
        """[B, K] of those that committed a token of the loss; what a row lacks is no call."""
        return best_calls(_alike(batch), self.num_calls, fold(keys, 0), math.inf)

    def counts(self, batch: Batch, keys: Tensor, old_logprobs: Tensor | None) -> Tensor:
        num_calls = (_alike(batch) == 0).sum(-1, keepdim=True)
        drawn = call_masks(batch.committed_at, self.calls(batch, keys))[1].any(1)
        return drawn * num_calls / num_calls.clamp_max(self.num_calls)

    def cost(self, nfe: float) -> Cost:
        return Cost(min(self.num_calls, nfe), 1 / nfe)


def _alike(batch: Batch) -> Tensor:
    """0 for each call that committed a token of the loss, -inf for others, [B, T]."""
    return mean_by_call(torch.zeros_like(batch.entropies), batch.committed_at, batch.loss_mask)
