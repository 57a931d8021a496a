"""Approximate key-value caches of the rollout engine, opt-in: what lies outside a row's window is not computed anew.

`prefix` keeps keys and values of what stands before the active block, `dual` also of what stands after it, as Fast-dLLM
does (arXiv 2505.22618). They are refreshed in the first call of a block, and every `refresh_every` calls within it. The
behaviour log-probabilities that are recorded are those of the cached model, which drew the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.functional.surrogate import draw_cuts
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.models.transformer import to_device
from diffpo.rollout.layout import Layout, lay_out
from diffpo.rollout.slots import Roster, Slots
from diffpo.types import Batch


class KeyValues:
    """Keys and values of all N tokens in every block, [N, H, D] each."""

    def __init__(self, num_layers: int) -> None:
        self.layers = [Layer() for _ in range(num_layers)]

    def take(self, index: Tensor | None) -> list[Layer]:
        """The blocks' caches for a call that computes the tokens at `index` [M], or all."""
        for layer in self.layers:
            layer.index = index
        return self.layers

    def move(self, source: Tensor) -> None:
        """Lay the tokens out anew: the N' tokens of the next call are those at `source` [N'] now."""
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys, layer.values = layer.keys[source], layer.values[source]

    def lay_out(self, roster: Roster, slots: Slots, at: Tensor, shift: int) -> Layout:
        """The layout of a call whose rows, in the slots `at` [R], may read their caches, which are laid out like it.

        Which rows refresh depends on where their blocks begin: the host waits for that, once.
        """
        block_call, window_start = torch.stack([slots.block_call[at], slots.window_start[at]]).cpu()
        due = (roster.refresh_every > 0) & (roster.age + 1 >= roster.refresh_every)
        roster.age = torch.where((block_call == 0) | due | (roster.home < 0), 0, roster.age + 1)
        layout = lay_out(roster, slots, shift, window_start)
        if not torch.equal(layout.home, roster.home) and layout.cached_at is not None:
            source = torch.zeros(sum(run.rows * run.length for run in layout.packing.runs), dtype=torch.int64)
            for new, old, length in zip(*(c.tolist() for c in (layout.home, roster.home, roster.length)), strict=True):
                if old >= 0:
                    source[new : new + length] = torch.arange(old, old + length)
            self.move(to_device(source, slots.key.device))
        roster.home = layout.home
        return layout


@dataclass(eq=False)
class Layer:
    """One block's part."""

    keys: Tensor | None = None
    values: Tensor | None = None
    index: Tensor | None = None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the tokens computed now, [M, H, D], and return those of all, [N, H, D]."""
        if self.index is None or self.keys is None or self.values is None:
            self.keys, self.values = k, v
        else:
            count = len(self.index)  # what makes up a number behind them is left out
            self.keys.index_copy_(0, self.index, k[:count].to(self.keys.dtype))
            self.values.index_copy_(0, self.index, v[:count].to(self.values.dtype))
        return self.keys, self.values


@torch.no_grad()
def cache_kl(policy: Policy, batch: Batch, temperature: float) -> Tensor:
    """KL(cached || uncached) of the conditionals that rollouts were drawn from, nats a token: a scalar estimate.

    The mean over tokens of behaviour less exact log-probability: the exact trajectory likelihood (m = T) scores each
    token under the uncached model at the very state it was drawn in.
    """
    keys = torch.zeros(len(batch), dtype=torch.int64, device=batch.tokens.device)
    exact = surrogate_logprobs(policy, batch, draw_cuts(batch.nfe, 0, keys), temperature)
    return (batch.behaviour_logprobs - exact)[batch.loss_mask].mean()
