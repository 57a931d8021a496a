"""Key-value caches of the rollout engine: what a call need not compute anew.

`exact`, for models whose attention is block-causal: finished blocks never see later ones, so their keys and values stay
as they are. A block is stored by the call that opens the next one, in which both are computed; no call is spent on
storing, NFE and tokens are those without a cache, and log-probabilities to rounding.

`prefix` and `dual` are approximate and opt-in. They keep what stands before the active block, or also what stands after
it, as Fast-dLLM does (arXiv 2505.22618), and are refreshed in the first call of a block, and every `refresh_every`
calls within it. The behaviour log-probabilities that are recorded are those of the cached model, which drew the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.functional.latents import draw_batch_cuts
from diffpo.functional.objective import kl_k3
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.rollout.layout import Layout, Span, lay_out
from diffpo.rollout.slots import DUAL, EXACT, NO_CACHE, Roster, Slots
from diffpo.types import Batch


@dataclass(eq=False)
class Places:
    """What a call keeps, and where: told to all blocks at once."""

    size: torch.Size  # B slots, S places
    tokens: Tensor  # [T] which of the call's tokens
    at: Tensor  # [T] in the flattened places of the slots

    def keep(self, old: Tensor | None, new: Tensor) -> Tensor:
        """`old` [B, S, ...] with what is kept of the call's tokens, `new` [M, ...], in its places."""
        whole = _grown(old, self.size, new)
        whole.flatten(0, 1).index_copy_(0, self.at, new[self.tokens])
        return whole


class KeyValues:
    """Keys and values of every row in every block, [B, S, H, D]: a place for each position of each slot.

    Nothing in it refers to itself: gigabytes of a GPU are free as soon as the last row with a cache has ended.
    """

    def __init__(self, num_layers: int) -> None:
        self.layers = [Layer() for _ in range(num_layers)]
        self.labels: Tensor | None = None  # [B, S] of the tokens there (`attention.sees`)

    def lay_out(self, policy: Policy, roster: Roster, slots: Slots, at: Tensor) -> Layout:
        """The layout of a call whose rows, in the slots `at` [R], go on from what is kept of them.

        What they compute depends on where their blocks begin: the host waits for that, once.
        """
        columns = (slots.block_call, slots.window_start, slots.block_start, slots.block_end)
        block_call, window_start, block_start, block_end = torch.stack(columns)[:, at].cpu()
        due = (roster.refresh_every > 0) & (roster.age + 1 >= roster.refresh_every)
        roster.age = torch.where((block_call == 0) | due | ~roster.kept, 0, roster.age + 1)
        span, shift = Span.whole(roster, policy, block_start), policy.denoiser.config.shift
        if policy.denoiser.config.block_length is not None:
            span = _from_block(roster, span, shift, block_start, block_end)
            roster.reached = roster.prompt_length + block_start
        else:
            span = _from_window(roster, span, shift, window_start)
        self.labels = _grown(self.labels, slots.sequence.shape, slots.key)
        layout = lay_out(roster, slots, span, self.labels)
        places, labels = Places(self.labels.shape, layout.kept, layout.kept_at), layout.packing.labels
        if labels is not None:
            places.keep(self.labels, labels)
        for layer in self.layers:
            layer.places = places
        roster.kept = torch.ones_like(roster.kept)
        return layout


@dataclass(eq=False)
class Layer:
    """One block's part."""

    keys: Tensor | None = None
    values: Tensor | None = None
    places: Places | None = None

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the tokens computed now, [M, H, D], and return those of all slots, [B, S, H, D]."""
        assert self.places is not None
        self.keys, self.values = self.places.keep(self.keys, k), self.places.keep(self.values, v)
        return self.keys, self.values


def _grown(old: Tensor | None, size: torch.Size, like: Tensor) -> Tensor:
    """`old` [B', S', ...] with places for [B, S], each like an entry of `like`; what it holds stays where it is."""
    if old is not None and old.shape[:2] == size:
        return old
    new = like.new_zeros(*size, *like.shape[1:])
    if old is not None:
        new[: old.shape[0], : old.shape[1]] = old
    return new


def _from_window(roster: Roster, whole: Span, shift: int, window_start: Tensor) -> Span:
    """Rows of approximate caches, between refreshes: from the window on, or (dual) the window alone."""
    cached = (roster.cache != NO_CACHE) & (roster.age > 0)
    window = roster.prompt_length + window_start
    first = (window - shift).clamp_min(0)
    end = torch.where(roster.cache == DUAL, window + roster.window, roster.length)
    return whole._replace(
        first=torch.where(cached, first, whole.first), computed=torch.where(cached, end - first, whole.computed)
    )


def _from_block(roster: Roster, whole: Span, shift: int, block_start: Tensor, block_end: Tensor) -> Span:
    """Rows of the exact cache: the active block, in its first call with what is to be stored since the one before."""
    cached, start = roster.cache == EXACT, roster.prompt_length + block_start
    reached = torch.minimum(roster.reached, start)  # a row that is done, on a GPU, is back at its first block
    first = torch.where(roster.kept, reached - shift, 0).clamp_min(0)
    end = roster.prompt_length + block_end
    return whole._replace(
        first=torch.where(cached, first, whole.first),
        computed=torch.where(cached, end - first, whole.computed),
        keys=torch.where(cached, end, whole.keys),
        masked=torch.where(cached, first < start, whole.masked),
    )


@torch.no_grad()
def cache_kl(policy: Policy, batch: Batch, temperature: float) -> Tensor:
    """KL(cached || uncached) of the conditionals that rollouts were drawn from, nats a token: a scalar estimate.

    The mean of k3 over tokens, which varies far less than that of behaviour less exact log-probability: the exact
    trajectory likelihood (m = T) scores each token under the uncached model at the very state it was drawn in.
    """
    keys = torch.zeros(len(batch), dtype=torch.int64, device=batch.tokens.device)
    exact = surrogate_logprobs(policy, batch, draw_batch_cuts(batch, 0, keys), temperature)
    return kl_k3(batch.behaviour_logprobs, exact)[batch.loss_mask].mean()
