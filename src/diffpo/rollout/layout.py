"""Where the rows of a call lie: which tokens go through the denoiser, and whose hidden states come back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpo.models.transformer import Packing, Run, to_device
from diffpo.rollout.slots import DUAL, NO_CACHE, Roster, Slots

# Below this many rows BLAS sums a matrix product in another order, and a row's logits would depend on its batch.
MIN_ROWS = 32


@dataclass(frozen=True, eq=False)
class Layout:
    """A packed call; the same for every call until rows come or go, or refresh their caches.

    R rows are denoised: rows of one group that make their first call are one. M of their N tokens go through the
    denoiser, all but those whose keys and values are cached. Q hidden states come back: of each row's window, or of all
    its tokens where the threshold is read off them.
    """

    packing: Packing
    tokens: Tensor  # [M] index of each token in the flattened `Slots.sequence`
    cached_at: Tensor | None  # [M] index of each token among the N; None: M = N
    query_row: Tensor  # [Q] row of the slots whose window the query belongs to
    query_base: Tensor  # [Q] where in M the first token of the query's row stands, or would
    query_offset: Tensor  # [Q] place in the window, or in the row where all of it is asked for
    query_all: Tensor  # [Q] bool: all tokens of the row are asked for
    first_query: Tensor  # [B] first query of each row
    asks_all: Tensor  # [B] bool
    prompts: tuple[tuple[int, int, list[int]], ...]
    """First query and prompt length of each prompt whose threshold is read off, and the rows that share it."""
    home: Tensor  # [B] first of each row's N tokens, on the CPU

    def queries(self, slots: Slots, shift: int) -> Tensor:
        """Which of the M tokens predict the window of each row, [Q]."""
        start = (slots.prompt_length + slots.window_start - shift)[self.query_row]
        place = torch.where(self.query_all, self.query_offset, (start + self.query_offset).clamp_min(0))
        return self.query_base + place


def lay_out(roster: Roster, slots: Slots, shift: int, window_start: Tensor | None = None) -> Layout:
    """The layout of the next call. `window_start` [B] on the CPU is wanted where a row may read its cache."""
    device, width = slots.key.device, slots.sequence.shape[1]
    prompt_width = width - slots.committed_at.shape[1]
    rows = torch.arange(len(roster.request))
    # below zero: a group's first call must not be taken for the lead's own, when that row is already further on
    identity = torch.where(roster.fresh, -1 - roster.lead, roster.request)
    _, source = identity.unique(return_inverse=True)
    distinct = torch.empty(int(source.max()) + 1, dtype=torch.int64).scatter(0, source, rows)
    first, computed = _span(roster, shift, window_start)
    asks_all = roster.fresh & roster.learned
    wanted = torch.where(asks_all, roster.length, roster.window)

    shape = (roster.length << 40) + (wanted << 20) + computed
    # caches lie in the order of the rows, which must not change with what is computed
    kind = shape if window_start is None else (roster.length << 20) + roster.window
    order = distinct[kind[distinct].argsort(stable=True)]
    counts = shape[order].unique_consecutive(return_counts=True)[1]
    firsts = order[counts.cumsum(0) - counts]
    numbers = [counts, *(column[firsts] for column in (roster.length, computed, wanted))]
    runs = tuple(Run(*run) for run in torch.stack(numbers, dim=1).tolist())

    whole = window_start is None or bool((computed == roster.length).all())
    length, computed, wanted, first = (column[order] for column in (roster.length, computed, wanted, first))
    home, first_token, first_query = (column.cumsum(0) - column for column in (length, computed, wanted))
    at_row = torch.arange(len(order)).repeat_interleave(computed)
    positions = torch.arange(len(at_row)) - (first_token - first)[at_row]
    prompt_length = roster.prompt_length[order][at_row]
    column = torch.where(positions < prompt_length, positions, prompt_width + positions - prompt_length)
    tokens = order[at_row] * width + column
    cached_at = None if whole else to_device(home[at_row] + positions, device)
    if (missing := MIN_ROWS - len(tokens)) > 0:  # the last token again
        tokens, positions = (F.pad(x[None], (0, missing), mode="replicate")[0] for x in (tokens, positions))

    at_query = torch.arange(len(order)).repeat_interleave(wanted)
    query_offset = torch.arange(len(at_query)) - first_query[at_query]
    if (missing := MIN_ROWS - len(at_query)) > 0:  # the first query again
        at_query, query_offset = (F.pad(x, (0, missing)) for x in (at_query, query_offset))

    place = torch.empty(len(rows), dtype=torch.int64).scatter(0, order, torch.arange(len(order)))[distinct][source]
    starts = home[place]
    prompts: dict[int, tuple[int, int, list[int]]] = {}
    for row in asks_all.nonzero().squeeze(-1).tolist():
        start = int(first_query[place[row]])
        prompts.setdefault(start, (start, int(roster.prompt_length[row]), []))[2].append(row)
    positions, home, tokens, at_query, base, query_offset, query_all, first_query, asks_all = (
        to_device(column, device)
        for column in (
            *(positions, home, tokens, order[at_query], (first_token - first)[at_query]),
            *(query_offset, asks_all[order][at_query], first_query[place], asks_all),
        )
    )
    packing = Packing(positions, home, runs)
    queries = at_query, base, query_offset, query_all
    return Layout(packing, tokens, cached_at, *queries, first_query, asks_all, tuple(prompts.values()), starts)


def _span(roster: Roster, shift: int, window_start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens of each row that go through the denoiser: the first and their number, [B] each."""
    if window_start is None:
        return torch.zeros_like(roster.length), roster.length
    whole = (roster.cache == NO_CACHE) | (roster.age == 0)
    window = roster.prompt_length + window_start
    first = (window - shift).clamp_min(0)
    end = torch.where(roster.cache == DUAL, window + roster.window, roster.length)
    return first.masked_fill(whole, 0), torch.where(whole, roster.length, end - first)
