"""Where the rows of a call lie: which tokens go through the denoiser, and whose hidden states come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffpo.models.attention import Packing, Run, Store, label
from diffpo.models.device import MIN_ROWS, ship
from diffpo.models.policy import Policy
from diffpo.rollout.slots import Roster, Slots


class Span(NamedTuple):
    """What a call computes of each row, [R] each."""

    first: Tensor  # position of the first token that goes through the denoiser
    computed: Tensor  # tokens that do
    keys: Tensor  # tokens, from the start of the row, that they see
    masked: Tensor  # bool: though some of them do not see all of those
    context: Tensor  # tokens before the active block, if they see causally; else 0

    @classmethod
    def whole(cls, roster: Roster, policy: Policy, block_start: Tensor | None = None) -> Span:
        """Everything. Where the context is causal it must be known where on their canvases active blocks begin, [R]."""
        config, zeros = policy.denoiser.config, torch.zeros_like(roster.length)
        masked, context = torch.full_like(roster.fresh, config.block_length is not None), zeros
        if config.causal_context:
            assert block_start is not None
            context = roster.prompt_length + block_start
        return cls(zeros, roster.length, roster.length, masked, context)


@dataclass(frozen=True, eq=False)
class Layout:
    """A packed call of the R rows in B slots.

    It is the same for every call until rows come or go, unless there are caches or a causal context.

    S sequences are denoised: rows of one group that make their first call are one. M tokens go through the denoiser,
    all but those whose keys and values are cached. Q hidden states come back: of each row's window, or of all its
    tokens where the threshold is read off them.
    """

    packing: Packing
    slots: Tensor  # [R] slot of each row
    width: int  # K, positions of the widest window
    tokens: Tensor  # [M] index of each token in the flattened `Slots.sequence`
    query_slot: Tensor  # [Q] slot whose window the query belongs to
    query_base: Tensor  # [Q] where in M the first token of the query's row stands, or would
    query_first: Tensor  # [Q] positions in its row of the first and the last token that is computed
    query_last: Tensor
    query_offset: Tensor  # [Q] place in the window, or in the row where all of it is asked for
    query_all: Tensor  # [Q] bool: all tokens of the row are asked for
    first_query: Tensor  # [B] first query of each slot's row
    asks_all: Tensor  # [B] bool
    prompts: tuple[tuple[int, int, list[int]], ...]
    """First query and prompt length of each prompt whose threshold is read off, and the slots that share it."""
    kept: Tensor  # [T] which of the M tokens a cache keeps
    kept_at: Tensor  # [T] and where, by row

    def queries(self, slots: Slots, shift: int) -> Tensor:
        """Which of the M tokens predict the window of each row, [Q]."""
        start = (slots.prompt_length + slots.window_start - shift)[self.query_slot]
        place = torch.where(self.query_all, self.query_offset, start + self.query_offset)
        return self.query_base + torch.minimum(torch.maximum(place, self.query_first), self.query_last)


def lay_out(roster: Roster, slots: Slots, span: Span, store: Tensor | None = None) -> Layout:
    """The layout of the next call, which computes `span`. `store` [B, S] are the labels of keys that caches keep."""
    asks_all = roster.fresh & roster.learned
    wanted = torch.where(asks_all, span.keys, roster.window)
    # a GPU's kernel goes through the slots of a store one after the other
    order, place, runs = _sequences(roster, span, wanted, store is not None and slots.key.is_cuda)

    # of each sequence, in the order in which they are stored
    slot, prompt_length, all_of = roster.slot[order], roster.prompt_length[order], asks_all[order]
    first, computed, wanted = span.first[order], span.computed[order], wanted[order]
    first_token, first_query = (column.cumsum(0) - column for column in (computed, wanted))
    base = first_token - first  # where its first token stands, or would

    token, of_token = _padded(*_places(computed))
    query, of_query = _padded(*_places(wanted))
    positions = token - base[of_token]
    in_canvas = positions - prompt_length[of_token]
    in_slot = torch.where(in_canvas < 0, positions, slots.prompt_width + in_canvas)
    row = (roster.prompt_length, roster.block_length, roster.block_offset, span.context)
    by_slot = torch.zeros(2, len(slots), dtype=torch.int64)
    by_slot[:, roster.slot] = torch.stack([first_query[place], asks_all.long()])
    kept, kept_at = _kept(roster, span, base[place], store)
    columns = ship(
        slots.key.device,
        positions=positions,
        labels=label(positions, *(column[order][of_token] for column in row)),
        starts=first_token,
        stored=slot,
        slots=roster.slot,
        tokens=slot[of_token] * slots.sequence.shape[1] + in_slot,
        query_slot=slot[of_query],
        query_base=base[of_query],
        query_first=first[of_query],
        query_last=(first + computed - 1)[of_query],
        query_offset=query - first_query[of_query],
        query_all=all_of[of_query],
        first_query=by_slot[0],
        asks_all=by_slot[1].bool(),
        kept=kept,
        kept_at=kept_at,
    )
    positions, starts, labels, stored = (columns.pop(name) for name in ("positions", "starts", "labels", "stored"))
    store_of_runs = None if store is None else Store(slot, stored, store)
    packing = Packing(positions, starts, runs, labels if any(run.masked for run in runs) else None, store_of_runs)
    prompts = _prompts(roster, asks_all, first_query[place])
    return Layout(packing=packing, width=int(roster.window.max()), prompts=prompts, **columns)


def _sequences(roster: Roster, span: Span, wanted: Tensor, by_slot: bool) -> tuple[Tensor, Tensor, tuple[Run, ...]]:
    """A row of each sequence, in the order in which they are stored, [S]; the sequence of each row, [R]; their runs."""
    # below zero: a group's first call must not be taken for the lead's own, when that row is already further on
    identity = torch.where(roster.fresh, -1 - roster.lead, roster.slot)
    _, source = identity.unique(return_inverse=True)
    distinct = torch.empty(int(source.max()) + 1, dtype=torch.int64).scatter(0, source, torch.arange(len(roster)))
    shape = (span.keys << 41) + (span.masked.long() << 40) + (wanted << 20) + span.computed
    ranks = (roster.slot if by_slot else shape)[distinct].argsort(stable=True)
    order = distinct[ranks]
    counts = shape[order].unique_consecutive(return_counts=True)[1]
    heads = order[counts.cumsum(0) - counts]
    numbers = [counts, *(column[heads] for column in (span.keys, span.computed, wanted, span.masked.long()))]
    runs = tuple(Run(*run, masked=bool(masked)) for *run, masked in torch.stack(numbers, dim=1).tolist())
    return order, ranks.argsort()[source], runs


def _kept(roster: Roster, span: Span, base: Tensor, store: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which tokens a cache keeps and where, [T] each; rows that share a call, whose first token is `base`, each do."""
    if store is None:
        return base[:0], base[:0]
    place, row = _places(span.computed)
    position = place - (span.computed.cumsum(0) - span.computed - span.first)[row]
    return base[row] + position, roster.slot[row] * store.shape[1] + position


def _places(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Places in sequences of these sizes, end to end, and whose each is."""
    owners = torch.arange(len(sizes)).repeat_interleave(sizes)
    return torch.arange(len(owners)), owners


def _padded(*columns: Tensor) -> list[Tensor]:
    """The columns up to MIN_ROWS, the last entry again."""
    index = torch.arange(max(MIN_ROWS, len(columns[0]))).clamp_max(len(columns[0]) - 1)
    return [column[index] for column in columns]


def _prompts(roster: Roster, asking: Tensor, first_query: Tensor) -> tuple[tuple[int, int, list[int]], ...]:
    """`Layout.prompts` of the rows that are asking."""
    prompts: dict[int, tuple[int, int, list[int]]] = {}
    for row in asking.nonzero().squeeze(-1).tolist():
        start = int(first_query[row])
        prompts.setdefault(start, (start, int(roster.prompt_length[row]), []))[2].append(int(roster.slot[row]))
    return tuple(prompts.values())
