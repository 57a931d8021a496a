"""Latents: partly masked canvases behind their prompts, and which tokens a surrogate scores given each.

Every surrogate is masks and weights: log pi^(o_i) = sum_j weight_ji log pi(o_i | c, canvas masked by j).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from diffpo.functional.random import fold, uniform
from diffpo.functional.surrogate import (
    CutLaw,
    block_places,
    cut_masks,
    cut_weights,
    draw_block_cuts,
    draw_cuts,
    even_cuts,
)
from diffpo.types import Batch


@dataclass(frozen=True, eq=False)
class Latents:
    """R latents of a batch of B rows, and N terms: each a token that is scored given one of them.

    Latents stand in the order of the rows that own them; the first row of a prompt owns what its rows share.
    """

    sequences: Tensor  # [R, S] ids: a prompt and a canvas, right-padded
    prompt_lengths: Tensor  # [R]
    gen_lengths: Tensor  # [R]
    owners: Tensor  # [R] row of the batch
    groups: Tensor  # [R] first row of the same prompt
    source: Tensor  # [N] the latent that a term is scored given
    rows: Tensor  # [N] line of its token: the row, or where a row has M lines one of those from M times the row on
    positions: Tensor  # [N] and its position in the canvas
    tokens: Tensor  # [N] and its id
    weights: Tensor  # [N] what its log-probability counts
    shape: tuple[int, int]
    """(lines, L)."""
    clean: Tensor | None = None  # [R, L] the canvas with all its tokens, where attention is block-causal
    blocks: Tensor | None = None  # [R, 2] and its blocks: each is scored given its mask and the clean ones before it
    centred: bool = False
    """What a token's score is: its log-probability, or that less the mean over the vocabulary."""

    def __len__(self) -> int:
        return len(self.sequences)

    @classmethod
    def of_rows(
        cls,
        sequences: Int64[Tensor, "R S"],
        prompt_lengths: Int64[Tensor, " R"],
        tokens: Int64[Tensor, "R L"],
        gen_lengths: Int64[Tensor, " R"],
        masked: Bool[Tensor, "R L"],
        blocks: Int64[Tensor, "R 2"] | None = None,
    ) -> Latents:
        """A latent a row, given which its `masked` ones of all the canvas's `tokens` are scored."""
        row, place = masked.nonzero(as_tuple=True)
        number, clean = torch.arange(len(tokens), device=tokens.device), None if blocks is None else tokens
        of_terms = (row, row, place, tokens[row, place], torch.ones(len(row), device=tokens.device))
        lengths = (prompt_lengths, gen_lengths)
        shape = (len(tokens), tokens.shape[1])
        return cls(sequences, *lengths, number, number, *of_terms, shape, clean, blocks)

    @property
    def term_blocks(self) -> Int64[Tensor, " N"]:
        """The block of its canvas that each term is in, by number."""
        assert self.blocks is not None
        return block_places(self.blocks, self.shape[1])[0][self.source, self.positions]

    @cached_property
    def shared(self) -> Shared:
        """What latents in blocks share."""
        assert self.blocks is not None and self.clean is not None
        place = torch.arange(self.sequences.shape[1], device=self.sequences.device)
        begin, in_canvas = (self.prompt_lengths - self.blocks[:, 1])[:, None], place - self.prompt_lengths[:, None]
        clean = self.clean.gather(1, in_canvas.clamp(0, self.clean.shape[1] - 1))
        text = torch.where(in_canvas < 0, self.sequences, clean).masked_fill(in_canvas >= self.gen_lengths[:, None], -1)
        before = torch.cat([begin, self.blocks[:, :1], text.masked_fill(place >= begin, -1)], dim=1)
        prompt, prompts = _same(before)
        whole = torch.cat([prompt[:, None], self.prompt_lengths[:, None], text], dim=1)
        return Shared(text, prompt, prompts, *_same(whole))

    def take(self, index: Int64[Tensor, " taken"]) -> Latents:
        """The latents at `index` with their terms; rows of the batch keep their numbers."""
        place = torch.full((len(self),), -1, device=index.device)
        place[index] = torch.arange(len(index), device=index.device)
        source = place[self.source]
        terms = (source >= 0).nonzero().squeeze(-1)
        of_latents = (self.sequences, self.prompt_lengths, self.gen_lengths, self.owners, self.groups)
        of_terms = (source, self.rows, self.positions, self.tokens, self.weights)
        clean, blocks = (None if t is None else t[index] for t in (self.clean, self.blocks))
        of_each = (*(t[index] for t in of_latents), *(t[terms] for t in of_terms))
        return Latents(*of_each, shape=self.shape, clean=clean, blocks=blocks, centred=self.centred)

    def split(self, max_tokens: int) -> list[Latents]:
        """In parts of at most `max_tokens` tokens, or of a single latent that has more.

        Groups stay whole where one fits, so that what their rows share is computed once; else rows do.
        """
        parts = cut_by_tokens(*self._sizes(), max_tokens)
        if len(parts) == 1:
            return [self]
        index = torch.tensor([latent for part in parts for latent in part]).to(self.rows.device)
        return [self.take(part) for part in index.split([len(part) for part in parts])]

    def _sizes(self) -> tuple[list[int], list[Unit]]:
        """Tokens of each latent that are its own, and of which units it shares others, coarse to fine."""
        columns = (self.groups, self.owners, self.prompt_lengths + self.gen_lengths)
        if self.blocks is None:
            groups, owners, sizes = torch.stack(columns).tolist()
            return sizes, [Unit(groups), Unit(owners)]
        prompts, answers, block = self.shared.prompt, self.shared.answer, self.term_blocks
        length, offset = self.blocks.unbind(1)
        noised = torch.stack([self.source, block]).unique(dim=1)[0].bincount(minlength=len(self)) * length
        last = torch.zeros_like(length).scatter_reduce(0, self.source, block, "amax") * length
        clean = torch.zeros_like(length).scatter_reduce(0, answers, last, "amax")
        columns = (prompts, answers, noised, self.prompt_lengths - offset, clean[answers])
        prompts, answers, noised, before, clean = torch.stack(columns).tolist()
        return noised, [Unit(prompts, before), Unit(answers, clean)]


class Shared(NamedTuple):
    """What R latents in blocks share: T prompts, each up to where the first block of a canvas begins, and A texts."""

    text: Tensor  # [R, S] with all its tokens, and -1 behind them
    prompt: Tensor  # [R] by number
    prompts: Tensor  # [T] the first latent that has it
    answer: Tensor  # [R]
    answers: Tensor  # [A]


class Unit(NamedTuple):
    """Which unit each thing is a part of, by its number, and the tokens that its things share."""

    names: Sequence[int]
    shared: Sequence[int] | None = None
    """Of each thing's unit; None: none."""

    def tokens(self, things: Sequence[int]) -> int:
        """What these share with each other and those that they belong to, once a unit."""
        return sum({self.names[thing]: self.shared[thing] for thing in things}.values()) if self.shared else 0


def cut_by_tokens(sizes: Sequence[int], units: Sequence[Unit], max_tokens: int) -> list[list[int]]:
    """Indices of things of these `sizes`, ascending, in parts of at most `max_tokens` or of one that has more.

    `units` say what each thing is a part of, coarse to fine: what would fit alone is not torn apart.
    """
    parts: list[list[int]] = []
    room, names = 0, [unit.names for unit in units]

    def put(things: list[int], units: Sequence[Sequence[int]]) -> None:
        nonlocal room
        size = size_of(things)
        if size > max_tokens and len(things) > 1:
            unit_of = (units[0] if units else range(len(sizes))).__getitem__
            for _, smaller in groupby(sorted(things, key=unit_of), key=unit_of):
                put(list(smaller), units[1:])
            return
        if not parts or size > room:
            parts.append([])
            room = max_tokens
        parts[-1] += things
        room -= size

    def size_of(things: list[int]) -> int:
        return sum(sizes[thing] for thing in things) + sum(unit.tokens(things) for unit in units)

    if sizes:
        put(list(range(len(sizes))), names)
    return [sorted(part) for part in parts]


def draw_batch_cuts(
    batch: Batch, num_latents: int, keys: Int64[Tensor, " B"], law: CutLaw = "uniform"
) -> Int64[Tensor, "B M"] | Int64[Tensor, "B L M"]:
    """Cuts of each rollout, or where attention is block-causal of each position's block."""
    worth = token_worth(batch, law)
    if batch.blocks is not None:
        return draw_block_cuts(batch.committed_at, worth, batch.blocks, num_latents, keys, law)
    if law == "even":
        return even_cuts(batch.nfe, num_latents)
    return draw_cuts(batch.nfe, num_latents, keys, cut_weights(batch.nfe, batch.committed_at, worth, law))


def token_worth(batch: Batch, law: CutLaw) -> Float[Tensor, "B L"] | None:
    """What each token adds to the weight of its call, in tokens or nats; None where a law does not ask."""
    worth = {"tokens": 1.0, "entropy": batch.entropies, "surprisal": -batch.behaviour_logprobs}.get(law)
    return None if worth is None else batch.loss_mask * worth


def cut_latents(
    batch: Batch,
    cuts: Int64[Tensor, "B M"] | Int64[Tensor, "B L M"],
    mask_id: int,
    prompt_mask_prob: float = 0.0,
    mask_keys: Int64[Tensor, " B"] | None = None,
) -> Latents:
    """Those of the m-times mean field, at `cuts` (`draw_batch_cuts`): each token is scored at its own cut.

    z_0 (prompt, all masks) is the same for every row of a prompt. With `prompt_mask_prob` each row masks that share of
    its prompt in z_0 instead (d1), keyed by `mask_keys`.
    """
    masks, scored = cut_masks(batch.committed_at, cuts)
    if not prompt_mask_prob:
        return masked_latents(batch, masks, scored, mask_id, shares_first=True)
    assert mask_keys is not None
    place = torch.arange(batch.prompts.shape[1], device=cuts.device)
    hidden = uniform(fold(mask_keys[:, None], place)) < prompt_mask_prob
    first = torch.arange(masks.shape[1], device=cuts.device) == 0
    return masked_latents(batch, masks, scored, mask_id, hidden_prompts=hidden[:, None] & first[:, None])


def call_latents(batch: Batch, calls: Int64[Tensor, "B K"], mask_id: int, forward: bool = False) -> Latents:
    """What each of the `calls` saw; given it the tokens that it committed are scored.

    `forward`: all that was still masked is scored, and each call has a line of its own.
    """
    masks, own = call_masks(batch.committed_at, calls)
    return masked_latents(batch, masks, masks if forward else own, mask_id, apart=forward)


def call_masks(
    committed_at: Int64[Tensor, "B L"], calls: Int64[Tensor, "B K"]
) -> tuple[Bool[Tensor, "B K L"], Bool[Tensor, "B K L"]]:
    """What was masked when each call was made, and which of it the call committed."""
    return committed_at[:, None] >= calls[:, :, None], committed_at[:, None] == calls[:, :, None]


def masked_latents(
    batch: Batch,
    masks: Bool[Tensor, "B M L"],
    weights: Float[Tensor, "B M L"] | Bool[Tensor, "B M L"],
    mask_id: int,
    shares_first: bool = False,
    hidden_prompts: Bool[Tensor, "B M P"] | None = None,
    apart: bool = False,
    centred: bool = False,
) -> Latents:
    """Canvases under each of M masks, with a term for each token of the loss whose weight there is not 0.

    What was given on a canvas is masked in none. A latent without a term is left out. `shares_first`: the first masks
    hide everything, and rows of a prompt share what they leave, unless blocks see those before them. `hidden_prompts`
    are tokens of the prompt that masks hide as well. `apart`: what is scored given each is not added up but has a line
    of its own, so that a row has M. `centred`: `Latents.centred`.
    """
    masks, blocks = masks & batch.written[:, None], batch.blocks
    rows, positions, latent = ((weights > 0) & batch.loss_mask[:, None]).transpose(1, 2).nonzero(as_tuple=True)
    groups, num_lines = _first_of_prompt(batch), masks.shape[1] if apart else 1
    owners = torch.where(latent == 0, groups[rows], rows) if shares_first and blocks is None else rows
    wanted, source = (owners * masks.shape[1] + latent).unique(return_inverse=True)
    owner, which = wanted // masks.shape[1], wanted % masks.shape[1]
    canvas, prompt_lengths = batch.tokens[owner].masked_fill(masks[owner, which], mask_id), batch.prompt_lengths[owner]
    sequences = with_prompts(batch.prompts[owner], prompt_lengths, canvas)
    if hidden_prompts is not None:
        hide = hidden_prompts[owner, which]
        inside = torch.arange(hide.shape[1], device=hide.device) < prompt_lengths[:, None]
        sequences[:, : hide.shape[1]].masked_fill_(hide & inside, mask_id)
    return Latents(
        sequences,
        prompt_lengths,
        batch.gen_lengths[owner],
        owner,
        groups[owner],
        source,
        rows * num_lines + latent if apart else rows,
        positions,
        batch.tokens[rows, positions],
        weights[rows, latent, positions].float(),
        (len(batch) * num_lines, batch.tokens.shape[1]),
        clean=None if blocks is None else batch.tokens[owner],
        blocks=None if blocks is None else blocks[owner],
        centred=centred,
    )


def with_prompts(
    prompts: Int64[Tensor, "R P"], lengths: Int64[Tensor, " R"], canvas: Int64[Tensor, "R L"]
) -> Int64[Tensor, "R S"]:
    """Prompts of these lengths with a `canvas` behind each, right-padded."""
    place = lengths[:, None] + torch.arange(canvas.shape[1], device=canvas.device)
    return torch.nn.functional.pad(prompts, (0, canvas.shape[1])).scatter(1, place, canvas)


def _first_of_prompt(batch: Batch) -> Int64[Tensor, " B"]:
    """The first row with the prompt, the canvas length and what was given on the canvas of each row."""
    rows, given = torch.arange(len(batch), device=batch.tokens.device), batch.tokens.masked_fill(batch.written, -1)
    names = torch.cat([batch.prompt_lengths[:, None], batch.gen_lengths[:, None], batch.prompts, given], 1)
    group = names.unique(dim=0, return_inverse=True)[1]
    return rows.scatter_reduce(0, group, rows, "amin", include_self=False)[group]


def _same(rows: Int64[Tensor, "R W"]) -> tuple[Int64[Tensor, " R"], Int64[Tensor, " T"]]:
    """The number of each row among those that differ, and the first row of each."""
    distinct, number = rows.unique(dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    return number, places.new_full((len(distinct),), len(rows)).scatter_reduce(0, number, places, "amin")
