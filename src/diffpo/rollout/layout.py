"""Where the rows of a call lie: which tokens go through the denoiser, and whose hidden states come back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.models.transformer import Packing, Run, to_device
from diffpo.rollout.slots import DUAL, NO_CACHE, Roster, Slots

# Below this many rows BLAS sums a matrix product in another order, and a row's logits would depend on its batch.
MIN_ROWS = 32


@dataclass(frozen=True, eq=False)
class Layout:
    """A packed call of the R rows in B slots; the same for every call until rows come or go, or refresh their caches.

    S sequences are denoised: rows of one group that make their first call are one. M of their N tokens go through the
    denoiser, all but those whose keys and values are cached. Q hidden states come back: of each row's window, or of all
    its tokens where the threshold is read off them.
    """

    packing: Packing
    slots: Tensor  # [R] slot of each row
    width: int  # K, positions of the widest window
    tokens: Tensor  # [M] index of each token in the flattened `Slots.sequence`
    cached_at: Tensor | None  # [M] index of each token among the N; None: M = N
    query_slot: Tensor  # [Q] slot whose window the query belongs to
    query_base: Tensor  # [Q] where in M the first token of the query's row stands, or would
    query_offset: Tensor  # [Q] place in the window, or in the row where all of it is asked for
    query_all: Tensor  # [Q] bool: all tokens of the row are asked for
    first_query: Tensor  # [B] first query of each slot's row
    asks_all: Tensor  # [B] bool
    prompts: tuple[tuple[int, int, list[int]], ...]
    """First query and prompt length of each prompt whose threshold is read off, and the slots that share it."""
    home: Tensor  # [R] first of each row's N tokens, on the CPU

    def queries(self, slots: Slots, shift: int) -> Tensor:
        """Which of the M tokens predict the window of each row, [Q]."""
        start = (slots.prompt_length + slots.window_start - shift)[self.query_slot]
        place = torch.where(self.query_all, self.query_offset, (start + self.query_offset).clamp_min(0))
        return self.query_base + place


def lay_out(roster: Roster, slots: Slots, shift: int, window_start: Tensor | None = None) -> Layout:
    """The layout of the next call. `window_start` [R] on the CPU is wanted where a row may read its cache."""
    first, computed = _span(roster, shift, window_start)
    asks_all = roster.fresh & roster.learned
    wanted = torch.where(asks_all, roster.length, roster.window)
    order, place, runs = _sequences(roster, computed, wanted, window_start is not None)

    # of each sequence, in the order in which they are stored
    slot, prompt_length, all_of = roster.slot[order], roster.prompt_length[order], asks_all[order]
    length, computed, wanted, first = (column[order] for column in (roster.length, computed, wanted, first))
    home, first_token, first_query = (column.cumsum(0) - column for column in (length, computed, wanted))
    base = first_token - first  # where its first token stands, or would

    token, of_token = _places(computed)
    query, of_query = _places(wanted)
    positions = token - base[of_token]
    in_canvas = positions - prompt_length[of_token]
    columns = torch.where(in_canvas < 0, positions, slots.prompt_width + in_canvas)
    by_slot = torch.zeros(2, len(slots), dtype=torch.int64)
    by_slot[:, roster.slot] = torch.stack([first_query[place], asks_all.long()])
    cached = bool((computed < length).any())
    on_device = _ship(
        slots.key.device,
        positions=positions,
        starts=home,
        slots=roster.slot,
        tokens=slot[of_token] * slots.sequence.shape[1] + columns,
        cached_at=(home[of_token] + positions)[: int(computed.sum())] if cached else home[:0],
        query_slot=slot[of_query],
        query_base=base[of_query],
        query_offset=query - first_query[of_query],
        query_all=all_of[of_query].long(),
        first_query=by_slot[0],
        asks_all=by_slot[1],
    )
    return Layout(
        packing=Packing(on_device["positions"], on_device["starts"], runs),
        slots=on_device["slots"],
        width=int(roster.window.max()),
        tokens=on_device["tokens"],
        cached_at=on_device["cached_at"] if cached else None,
        query_slot=on_device["query_slot"],
        query_base=on_device["query_base"],
        query_offset=on_device["query_offset"],
        query_all=on_device["query_all"].bool(),
        first_query=on_device["first_query"],
        asks_all=on_device["asks_all"].bool(),
        prompts=_prompts(roster, asks_all, first_query[place]),
        home=home[place],
    )


def _span(roster: Roster, shift: int, window_start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The tokens of each row that go through the denoiser: the first and their number, [R] each."""
    if window_start is None:
        return torch.zeros_like(roster.length), roster.length
    whole = (roster.cache == NO_CACHE) | (roster.age == 0)
    window = roster.prompt_length + window_start
    first = (window - shift).clamp_min(0)
    end = torch.where(roster.cache == DUAL, window + roster.window, roster.length)
    return first.masked_fill(whole, 0), torch.where(whole, roster.length, end - first)


def _sequences(
    roster: Roster, computed: Tensor, wanted: Tensor, caching: bool
) -> tuple[Tensor, Tensor, tuple[Run, ...]]:
    """A row of each sequence, in the order in which they are stored, [S]; the sequence of each row, [R]; their runs."""
    # below zero: a group's first call must not be taken for the lead's own, when that row is already further on
    identity = torch.where(roster.fresh, -1 - roster.lead, roster.slot)
    _, source = identity.unique(return_inverse=True)
    distinct = torch.empty(int(source.max()) + 1, dtype=torch.int64).scatter(0, source, torch.arange(len(roster)))
    shape = (roster.length << 40) + (wanted << 20) + computed
    # caches lie in the order of the rows, which must not change with what is computed
    kind = (roster.length << 20) + roster.window if caching else shape
    ranks = kind[distinct].argsort(stable=True)
    order = distinct[ranks]
    counts = shape[order].unique_consecutive(return_counts=True)[1]
    heads = order[counts.cumsum(0) - counts]
    numbers = [counts, *(column[heads] for column in (roster.length, computed, wanted))]
    runs = tuple(Run(*run) for run in torch.stack(numbers, dim=1).tolist())
    return order, ranks.argsort()[source], runs


def _places(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Places in sequences of these sizes, end to end, and whose each is; up to MIN_ROWS the last again."""
    owners = torch.arange(len(sizes)).repeat_interleave(sizes)
    places = torch.arange(max(MIN_ROWS, len(owners))).clamp_max(len(owners) - 1)
    return places, owners[places]


def _prompts(roster: Roster, asking: Tensor, first_query: Tensor) -> tuple[tuple[int, int, list[int]], ...]:
    """`Layout.prompts` of the rows that are asking."""
    prompts: dict[int, tuple[int, int, list[int]]] = {}
    for row in asking.nonzero().squeeze(-1).tolist():
        start = int(first_query[row])
        prompts.setdefault(start, (start, int(roster.prompt_length[row]), []))[2].append(int(roster.slot[row]))
    return tuple(prompts.values())


def _ship(device: torch.device, **columns: Tensor) -> dict[str, Tensor]:
    """Whole numbers of the CPU on `device`, in one copy."""
    if device.type == "cpu":
        return columns
    parts = to_device(torch.cat(list(columns.values())), device).split([len(column) for column in columns.values()])
    return dict(zip(columns, parts, strict=True))
