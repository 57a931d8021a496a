"""SPG's surrogate (arXiv 2510.09541): canvases as a rollout in blocks meets them, kept apart for two bounds.

Each of M draws takes a block of the completion in which something was written, another in each draw while there are any
(the published code may take one twice).
Of the n tokens that were written there it masks l ~ U{1..n} at random, and everything behind; what stands before, the
prompt as well, is masked with probability 0.15 a token. All masked tokens are scored, each draw in a line of its own.
In a line of n_t tokens of |o| each counts |o| / (M n_t), so that with 1 / |o| a token J has the mean over draws of
their means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from diffpo.config.checks import bound, check
from diffpo.functional.latents import Latents, masked_latents
from diffpo.functional.random import fold, uniform
from diffpo.surrogates.base import Cost, Surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class Spg(Surrogate):
    """M draws of a block."""

    num_draws: int = 2
    """M."""
    block_length: int = 32
    clean_mask_prob: float = 0.15
    """Share of what stands before the block, and of the prompt, that is masked as well."""

    def __post_init__(self) -> None:
        bound(self, "", "num_draws", ">=", 2)
        bound(self, "", "block_length", ">=", 1)
        check(0 <= self.clean_mask_prob < 1, f"clean_mask_prob must lie in [0, 1), got {self.clean_mask_prob}")

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        masks, place = self.masks(batch, keys), torch.arange(batch.prompts.shape[1], device=keys.device)
        draws = torch.arange(self.num_draws, device=keys.device)[:, None]
        hidden = uniform(fold(keys[:, None, None], 2, draws, place)) < self.clean_mask_prob
        return masked_latents(batch, masks, masks, mask_id, hidden_prompts=hidden, apart=True)

    def masks(self, batch: Batch, keys: Tensor) -> Tensor:
        """[B, M, L]"""
        return block_masks(fold(keys, 1), self.num_draws, self.block_length, self.clean_mask_prob, batch.loss_mask)

    def counts(self, batch: Batch, keys: Tensor, old_logprobs: Tensor | None) -> Tensor:
        masks = self.masks(batch, keys) & batch.loss_mask[:, None]
        share = masks.sum(-1, keepdim=True) / batch.loss_mask.sum(-1)[:, None, None]
        return (masks / (self.num_draws * share).clamp_min(torch.finfo(share.dtype).tiny)).flatten(0, 1)

    @property
    def num_lines(self) -> int:
        return self.num_draws

    def cost(self, nfe: float) -> Cost:
        return Cost(self.num_draws, 0.5)


def block_masks(
    keys: Int64[Tensor, " B"],
    num_draws: int,
    block_length: int,
    clean_mask_prob: float,
    written: Bool[Tensor, "B L"],
) -> Bool[Tensor, "B M L"]:
    """What each draw masks of canvases whose completions end with the last token that was `written`."""
    draws, place = torch.arange(num_draws, device=keys.device), torch.arange(written.shape[1], device=keys.device)
    number = place // block_length
    sizes = written.new_zeros(len(written), int(number[-1]) + 1, dtype=torch.int64)
    empty = sizes.index_add(1, number, written.long()) == 0
    lottery = uniform(fold(keys[:, None], 0, torch.arange(sizes.shape[1], device=keys.device)))
    order = lottery.masked_fill(empty, torch.inf).argsort(dim=-1, stable=True)
    block = order.gather(1, draws % (~empty).sum(-1, keepdim=True))[:, :, None]
    inside = written[:, None] & (number == block)
    size, last = inside.sum(-1, keepdim=True), (written * place).amax(-1)[:, None, None]
    count = (uniform(fold(keys[:, None], 1, draws))[:, :, None] * size).long().clamp_max(size - 1) + 1
    lottery = uniform(fold(keys[:, None, None], 2, draws[:, None], place)).masked_fill(~inside, torch.inf)
    ranks = lottery.argsort(dim=-1, stable=True).argsort(dim=-1)
    before = uniform(fold(keys[:, None, None], 3, draws[:, None], place)) < clean_mask_prob
    return (inside & (ranks < count)) | (number > block) | (place > last) | (before & (number < block))
