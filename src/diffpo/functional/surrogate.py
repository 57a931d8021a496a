"""Surrogate likelihoods of a rollout, one family: cut steps and the latents they stand for.

A rollout of T calls committed position i at call s_i. Given cuts 0 = tau_0 < tau_1 < ... < tau_{m-1} < T, token i is
scored given z_tau for the largest cut tau below s_i:

    log pi^(o_i) = log pi(o_i | c, z_sigma(i)),    sigma(i) = max{tau_j : tau_j < s_i}

m = 1 is the mean field of d1 (arXiv 2504.12216), m = 2 the two-times mean field of DiFFPO (arXiv 2510.02212), and
m = T the exact likelihood of the trajectory. Nothing outside this file knows m.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from diffpo.functional.random import fold, uniform

CutLaw = Literal["uniform", "middle", "tokens", "entropy", "surprisal", "even"]
"""How cuts fall on a rollout's calls."""
LEAST = 1e-6
"""What a step weighs at least, in tokens or in nats."""


def draw_steps(
    last: Int64[Tensor, " B"], count: int, keys: Int64[Tensor, " B"], weights: Float[Tensor, "B T"] | None = None
) -> Int64[Tensor, "B K"]:
    """`count` distinct steps of {1..last} of each row, ascending, or all where there are fewer.

    They are drawn one after the other, without replacement, uniformly or by the `weights` > 0 of steps 1, 2, ... What
    a row lacks is last + 1.
    """
    steps = torch.arange(1, max(1, int(last.max()) + 1), device=last.device)
    lottery = uniform(fold(keys[:, None], steps))
    if weights is not None:  # a race of exponential clocks: the first to ring are drawn by their rates
        lottery = -torch.log1p(-lottery) / weights
    lottery = lottery.masked_fill(steps > last[:, None], torch.inf)
    chosen = lottery.argsort(dim=-1, stable=True)[:, :count] + 1
    return torch.minimum(chosen, last[:, None] + 1).sort(dim=-1).values


def draw_cuts(
    nfe: Int64[Tensor, " B"], num_latents: int, keys: Int64[Tensor, " B"], weights: Float[Tensor, "B T"] | None = None
) -> Int64[Tensor, "B M"]:
    """Cuts of each row, ascending: 0 and m - 1 distinct steps of {1..T-1}. `num_latents` 0 takes them all.

    Steps are drawn as `draw_steps` does. A row with fewer than m calls gets every step; its unused cuts equal T, below
    which nothing was committed later.
    """
    m = num_latents or int(nfe.max())
    return torch.cat([torch.zeros_like(nfe)[:, None], draw_steps(nfe - 1, m - 1, keys, weights)], dim=-1)


def even_cuts(nfe: Int64[Tensor, " B"], num_latents: int) -> Int64[Tensor, "B M"]:
    """Cuts as `draw_cuts` returns them, at floor(j T / m): m segments of equal length (StepMerge, arXiv 2509.21474)."""
    m = torch.full_like(nfe, num_latents or int(nfe.max())).minimum(nfe)[:, None]
    index = torch.arange(int(m.max()), device=nfe.device)
    return torch.where(index < m, index * nfe[:, None] // m, nfe[:, None])


def best_calls(
    scores: Float[Tensor, "B T"], count: int, keys: Int64[Tensor, " B"], temperature: float
) -> Int64[Tensor, "B K"]:
    """`count` distinct calls of each row by their `scores`, -inf for calls that cannot be chosen, or all there are.

    At `temperature` 0 those of highest score; else drawn one after the other, without replacement, with probabilities
    proportional to exp(score / temperature): the largest sums of it and a Gumbel variable. What a row lacks is T + 1.
    """
    longest = scores.shape[1]
    if temperature:
        lottery = uniform(fold(keys[:, None], torch.arange(longest, device=keys.device))).clamp_min(2.0**-25)
        drawn = scores / temperature - torch.log(-torch.log(lottery))
        scores = drawn.where(scores > -torch.inf, -torch.inf)
    found = scores.sort(dim=-1, descending=True, stable=True)
    return torch.where(found.values > -torch.inf, found.indices + 1, longest + 1)[:, :count]


def mean_by_call(
    values: Float[Tensor, "B L"], committed_at: Int64[Tensor, "B L"], mask: Bool[Tensor, "B L"]
) -> Float[Tensor, "B T"]:
    """Mean of the `values` of the tokens in `mask` that calls 1, 2, ... committed; -inf where a call has none."""
    total, count = _sum_by_call(values * mask, committed_at), _sum_by_call(mask.float(), committed_at)
    return torch.where(count > 0, total / count.clamp_min(1), -torch.inf)[:, 1:]


def count_by_call(committed_at: Int64[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
    """Tokens in `mask` that were committed by the call of each token."""
    return _sum_by_call(mask.long(), committed_at).gather(1, committed_at)


def _sum_by_call(values: Num[Tensor, "B L"], committed_at: Int64[Tensor, "B L"]) -> Num[Tensor, "B calls"]:
    r"""Sums of `values` over the tokens that calls 0, 1, ..., T committed: $\sum_i v_i [s_i = t]$."""
    return values.new_zeros(len(values), int(committed_at.max()) + 1).scatter_add(1, committed_at, values)


def cut_weights(
    nfe: Int64[Tensor, " B"], committed_at: Int64[Tensor, "B L"], worth: Float[Tensor, "B L"] | None, law: CutLaw
) -> Float[Tensor, "B T"] | None:
    r"""Weights of steps t = 1 .. max T - 1 as cuts: equal (None), $t (T - t)$, or what tokens are `worth`.

    $w_t = \sum_i v_i [s_i = t]$, under "surprisal" of the call after it, $\sum_i v_i [s_i = t + 1]$ (tokens or nats).
    "middle" draws where the surrogate is closest to the truth if calls are alike; "tokens" halves tokens rather than
    calls on average. "entropy" cuts behind calls that were unsure: what is sure tells later calls nothing. "surprisal"
    cuts before calls whose tokens were unlikely, so that these, which the gradient is made of, are scored as they were
    drawn. A step that weighs nothing weighs little: a row has as many cuts as under any law.
    """
    if law == "middle":
        inner = torch.arange(1, int(nfe.max()), device=nfe.device)
        return (inner * (nfe[:, None] - inner)).clamp_min(1).float()
    if worth is None:
        return None
    of_calls = _sum_by_call(worth, committed_at)
    return (of_calls[:, 2:] if law == "surprisal" else of_calls[:, 1:-1]).clamp_min(LEAST)


def draw_block_cuts(
    committed_at: Int64[Tensor, "B L"],
    worth: Float[Tensor, "B L"] | None,
    blocks: Int64[Tensor, "B 2"],
    num_latents: int,
    keys: Int64[Tensor, " B"],
    law: CutLaw = "uniform",
) -> Int64[Tensor, "B L M"]:
    """Cuts of each position where attention is block-causal: each block is a rollout of its own, with m cuts.

    Blocks are decoded one after the other, and one forward pass scores a cut in every block. `num_latents` 0 takes as
    many as the block of most calls has.
    """
    number, place = block_places(blocks, committed_at.shape[1])
    last = torch.zeros(len(blocks), int(number.max()) + 1, dtype=torch.int64, device=blocks.device)
    last = last.scatter_reduce(1, number, committed_at, "amax").cummax(-1).values
    before = torch.nn.functional.pad(last[:, :-1], (1, 0))
    local = (committed_at - before.gather(1, number)).clamp_min(0)
    shape, row = (*last.shape, int(place.max()) + 1), torch.arange(len(blocks), device=blocks.device)[:, None]

    def apart(values: Tensor) -> Tensor:
        """Values of positions, a row a block."""
        return values.new_zeros(shape).index_put((row, number, place), values).flatten(0, 1)

    nfe = (last - before).clamp_min(1).flatten()
    names = fold(keys[:, None], torch.arange(last.shape[1], device=keys.device)).flatten()
    if law == "even":
        cuts = even_cuts(nfe, num_latents)
    else:
        weights = cut_weights(nfe, apart(local), None if worth is None else apart(worth), law)
        cuts = draw_cuts(nfe, num_latents, names, weights)
    return (cuts.unflatten(0, last.shape) + before[..., None])[row, number]


def block_places(blocks: Int64[Tensor, "B 2"], length: int) -> tuple[Int64[Tensor, "B L"], Int64[Tensor, "B L"]]:
    """The block of each canvas position, and its place within."""
    size, offset = blocks[:, :1], blocks[:, 1:]
    place = torch.arange(length, device=blocks.device) + offset
    return place // size, place % size


def assign_cuts(
    committed_at: Int64[Tensor, "B L"], cuts: Int64[Tensor, "B M"] | Int64[Tensor, "B L M"]
) -> Int64[Tensor, "B L"]:
    """Index j of the cut each position is scored at: the largest with tau_j < s_i."""
    return (_by_position(cuts) < committed_at[:, :, None]).sum(-1) - 1


def cut_masks(
    committed_at: Int64[Tensor, "B L"], cuts: Int64[Tensor, "B M"] | Int64[Tensor, "B L M"]
) -> tuple[Bool[Tensor, "B M L"], Bool[Tensor, "B M L"]]:
    """What z_tau masks at each cut, and which positions are scored there."""
    masks = (committed_at[:, :, None] > _by_position(cuts)).transpose(1, 2)
    index = torch.arange(cuts.shape[-1], device=cuts.device)
    return masks, assign_cuts(committed_at, cuts)[:, None] == index[:, None]


def _by_position(cuts: Tensor) -> Tensor:
    """Cuts of rows, or of their positions, [B, 1 or L, M]."""
    return cuts[:, None] if cuts.ndim == 2 else cuts


def latents(
    tokens: Int64[Tensor, "B L"], committed_at: Int64[Tensor, "B L"], cut: Int64[Tensor, " B"], mask_id: int
) -> Int64[Tensor, "B L"]:
    """z_tau: the canvas after call tau, with masks where nothing was committed yet."""
    return tokens.masked_fill(committed_at > cut[:, None], mask_id)
