"""Canvases in blocks as trees: what latents share goes through the denoiser once, and what nobody asks for not at all.

Where attention is block-causal no block sees a later one. So the states of a prompt are those of every canvas behind
it, and a clean canvas serves all latents of its completion (BD3-LM, arXiv 2503.09573, has one behind the other). A
prompt is a trunk. A completion is a branch: clean blocks, as far as later ones see them, and behind those of each
latent the noised blocks in which something is asked for.

    trunk       prompt
    branch          clean 1 2 3 | noised 1 2 3 4 of one latent | noised 2 4 of another
    branch          clean 1 2   | noised 1 3 of one latent

Trunks and branches are the rows of a packing. The keys of a branch are its trunk's and its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.functional.latents import Latents
from diffpo.models.attention import Packing, Run, Store, label
from diffpo.models.indexing import take
from diffpo.models.policy import Policy

BITS = 21
"""Of the number of tokens of a row, where three of them make one whole number."""


def block_states(policy: Policy, latents: Latents) -> Tensor:
    """Final hidden states that predict the tokens of N terms, [N, D], each in its noised block behind clean ones."""
    assert latents.blocks is not None
    sequences, prompt_lengths, row, place = latents.sequences, latents.prompt_lengths, latents.source, latents.positions
    lengths, (length, offset) = prompt_lengths + latents.gen_lengths, latents.blocks.unbind(1)
    text, trunk_of, trunk, branch_of, branch = latents.shared
    latent = torch.arange(len(sequences), device=sequences.device)
    position = torch.arange(sequences.shape[1], device=sequences.device)
    number = torch.div(position - (prompt_lengths - offset)[:, None], length[:, None], rounding_mode="floor")

    # strips of tokens, [G, S]: of each trunk, of each branch's clean blocks, of each latent's noised ones
    above, stems = len(trunk), len(trunk) + len(branch)
    block = latents.term_blocks
    asked = torch.zeros_like(sequences, dtype=torch.bool)
    asked[row, block] = True
    noised = (number >= 0) & (position < lengths[:, None]) & asked.gather(1, number.clamp_min(0))
    last = torch.zeros_like(branch).scatter_reduce(0, branch_of[row], block, "amax")[:, None]
    there = torch.cat([number[trunk] < 0, (number[branch] >= 0) & (number[branch] < last), noised])
    of = torch.cat([trunk, branch, latent])
    context = torch.zeros_like(of)
    if policy.denoiser.config.causal_context:
        context[:stems] = len(position)
    labels = label(position, prompt_lengths[of, None], length[of, None], offset[of, None], context[:, None])
    labels[stems:] += 1 + latent[:, None]
    ids = torch.cat([text[trunk], text[branch], sequences])

    # a place is predicted by a token of its own noised block, or by one before that, which is clean
    at = (prompt_lengths[row] + place - policy.denoiser.config.shift).clamp_min(0)
    from_block = number[row, at]
    strip = torch.where(from_block < 0, trunk_of[row], above + branch_of[row])
    strip = torch.where(from_block == block, stems + row, strip)
    wanted = torch.zeros_like(there)
    wanted[strip, at] = True

    tree = torch.cat([torch.arange(stems, device=latent.device), above + branch_of])
    parent = torch.cat([torch.full_like(trunk, -1), trunk_of[branch]])
    in_strip, position = there.nonzero(as_tuple=True)
    order, rows = _stand(tree[in_strip], wanted[there], parent)
    labels, numbers = labels[there][order], torch.arange(len(rows.keys), device=latent.device)
    packing = Packing(
        positions=position[order],
        starts=rows.starts,
        runs=rows.runs,
        labels=labels,
        store=Store(torch.arange(len(rows.keys)), numbers, labels[rows.keys]),
        longest=int(lengths.max()),
    )
    caches = [Keys(rows.keys)] * len(policy.denoiser.blocks)
    hidden = policy.denoiser(ids[there][order], packing, rows.queries, caches)
    token = torch.zeros_like(ids).masked_scatter(there, order.argsort())[strip, at]
    return take(hidden, torch.searchsorted(rows.queries, token))


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys and values of trunks and branches, from among those of this call: a `LayerCache` that keeps nothing."""

    tokens: Tensor  # [W, K] which they are of

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return take(k, self.tokens), take(v, self.tokens)


@dataclass(frozen=True, eq=False)
class _Rows:
    """W trunks and branches, those alike beside each other, of N tokens."""

    starts: Tensor  # [W]
    runs: tuple[Run, ...]
    keys: Tensor  # [W, K] tokens that each sees, and behind them its last again
    queries: Tensor  # [Q] tokens that are asked for, ascending


def _stand(tree: Tensor, wanted: Tensor, parent: Tensor) -> tuple[Tensor, _Rows]:
    """In which order to store N tokens of trees, and how they then stand.

    Of each token its `tree` [N] and whether its state is `wanted` [N]; of each tree its trunk, `parent` [T], or -1.
    """
    zeros, number = torch.zeros_like(parent), torch.arange(len(tree), device=tree.device)
    fresh = zeros.index_add(0, tree, torch.ones_like(tree))
    first = (zeros + len(tree)).scatter_reduce(0, tree, number, "amin")
    mute = (zeros.index_add(0, tree, wanted.long()) == 0) & (fresh > 0)
    wanted = wanted.index_fill(0, first[mute], True)  # attention without a query is none
    length = fresh + torch.where(parent < 0, 0, fresh[parent])
    shape = (length << 2 * BITS) + (fresh << BITS) + zeros.index_add(0, tree, wanted.long())
    trees = shape.argsort(stable=True)
    trees = trees[fresh[trees] > 0]
    rank = zeros.scatter(0, trees, torch.arange(len(trees), device=trees.device))
    order = rank[tree].argsort(stable=True)

    kinds, counts = shape[trees].unique_consecutive(return_counts=True)
    most = (1 << BITS) - 1
    numbers = torch.stack([counts, kinds >> 2 * BITS, kinds >> BITS & most, kinds & most], dim=1).tolist()
    ends = fresh[trees].cumsum(0)
    starts = ends - fresh[trees]
    trunk = parent[trees]
    size, begin = torch.where(trunk < 0, 0, fresh[trunk])[:, None], starts[rank[trunk]][:, None]
    place = torch.arange(max(length for _, length, *_ in numbers), device=trees.device)
    own = torch.minimum(starts[:, None] + place - size, ends[:, None] - 1)
    keys = torch.where(place < size, begin + place, own)
    runs = tuple(Run(*run, masked=True) for run in numbers)
    return order, _Rows(starts, runs, keys, wanted[order].nonzero().squeeze(-1))
