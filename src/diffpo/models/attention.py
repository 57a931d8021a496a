"""Who sees whom: rows of any length packed end to end, and the pattern of attention within each as a value.

No row ever sees another, and there is no padding. Within a row a token sees what its label lets it see (`sees`). Where
attention is block-causal the label is that of the token's block, and a likelihood adds noised copies of the canvas, of
which each block sees itself and the clean blocks before it (BD3-LM, arXiv 2503.09573); its rows may share their
beginnings (`diffpo.models.branches`). Where the context is causal each clean token before the active block, or the
noised ones, is a block of its own. Rows ask down, keys across; a prompt of 2, a canvas of 4 in blocks of 2:

    all of the row       block-causal         a noised copy behind it         a causal context, block 2 active
                         block  0 1 2         block  0 1 2  1 2 noised
    ■ ■ ■ ■ ■ ■          0      ■ ■ · · · ·   0      ■ ■ · · · ·  · · · ·     ■ · · · · ·
    ■ ■ ■ ■ ■ ■          0      ■ ■ · · · ·   0      ■ ■ · · · ·  · · · ·     ■ ■ · · · ·
    ■ ■ ■ ■ ■ ■          1      ■ ■ ■ ■ · ·   1      ■ ■ ■ ■ · ·  · · · ·     ■ ■ ■ · · ·
    ■ ■ ■ ■ ■ ■          1      ■ ■ ■ ■ · ·   1      ■ ■ ■ ■ · ·  · · · ·     ■ ■ ■ ■ · ·
    ■ ■ ■ ■ ■ ■          2      ■ ■ ■ ■ ■ ■   2      ■ ■ ■ ■ ■ ■  · · · ·     ■ ■ ■ ■ ■ ■
    ■ ■ ■ ■ ■ ■          2      ■ ■ ■ ■ ■ ■   2      ■ ■ ■ ■ ■ ■  · · · ·     ■ ■ ■ ■ ■ ■
                                              1 n.   ■ ■ · · · ·  ■ ■ · ·
                                              1 n.   ■ ■ · · · ·  ■ ■ · ·
                                              2 n.   ■ ■ ■ ■ · ·  · · ■ ■
                                              2 n.   ■ ■ ■ ■ · ·  · · ■ ■

Engines keep keys and values between calls (`diffpo.rollout.cache`): the same rows of these pictures are computed later,
and where a cache is approximate some of their keys are stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpo.models.device import flash, on_card, to_device

COPIES = 1 << 24
"""Labels of a place where blocks begin: one of clean tokens, and one of each noised copy."""
ALIGNED = 16
"""Kernels that take a mask copy one whose rows do not begin at multiples of so many values."""


def label(position: Tensor, prompt_length: Tensor, length: Tensor, offset: Tensor, context: Tensor) -> Tensor:
    """What `sees` goes by: of clean tokens by their position in a row, with the numbers of its `Blocks`; int64.

    It is where the token's block begins; of the first `context` tokens, which see causally, where the token itself is.
    Behind it stands the number of a noised copy, 1, 2, ...
    """
    block = position - torch.remainder(position - prompt_length + offset, length)
    return COPIES * torch.where(position < context, position, block)


def sees(query: Tensor, key: Tensor) -> Tensor:
    """Whether tokens of these labels see those: of their own copy of a block, and the clean ones of blocks before."""
    return (key == query) | ((key % COPIES == 0) & (key < query - query % COPIES))


class Run(NamedTuple):
    """Neighbouring rows of a packing that are alike."""

    rows: int
    length: int
    """Keys of each row."""
    fresh: int
    """Tokens of each row that go through the blocks; keys and values of the others come from a cache."""
    wanted: int
    """Tokens of each row whose final hidden state is asked for."""
    masked: bool = False
    """Some of those tokens do not see some of the keys."""


@dataclass(frozen=True, eq=False)
class Packing:
    """Where R rows lie in N packed tokens. Rows are stored run by run."""

    positions: Tensor  # [N] position of each token in its row
    starts: Tensor  # [R] first token of each row, in the caller's order of rows
    runs: tuple[Run, ...]
    labels: Tensor | None = None  # [N] of each token (`sees`); None: the tokens of a row see each other
    store: Store | None = None
    """Where keys come from a cache: where in it."""
    longest: int | None = None
    """Tokens of the longest text, where some stand in a row more than once."""

    @cached_property
    def bounds(self) -> dict[str, Tensor]:
        """Where each stored row ends, for kernels that want it: cumulative sums [R + 1], int32, by field of `Run`."""
        bounds = {}
        for name in ("length", "fresh", "wanted"):
            sizes = self._sizes(name)
            if self.store and flash().takes_used:  # a slot without a row has no queries
                sizes = torch.zeros(len(self.store.labels), dtype=torch.int64).scatter(0, self.store.rows, sizes)
            ends = sizes if self.store and flash().takes_used and name == "length" else F.pad(sizes.cumsum(0), (1, 0))
            bounds[name] = to_device(ends.int(), self.positions.device)
        return bounds

    def _sizes(self, name: str) -> Tensor:
        """A field of `Run` by stored row, [R], on the CPU."""
        return torch.tensor([getattr(run, name) for run in self.runs for _ in range(run.rows)])

    @cached_property
    def grid(self) -> Grid:
        """The fresh tokens and the keys that each sees, as wide as the widest row."""
        return self.grid_of("fresh", self.labels)

    def grid_of(self, asking: Asking, labels: Tensor | None) -> Grid:
        """The same of the tokens that are `asking`, which have these `labels`."""
        assert labels is not None and self.labels is not None
        columns = (*_places(self._sizes(asking)), *_places(self._sizes("length")))
        queries, tokens, keys, own = (to_device(column, self.positions.device) for column in columns)
        others = self.labels[keys] if self.store is None else self.store.labels[self.store.slots, : keys.shape[1]]
        own = torch.zeros(keys.numel(), dtype=torch.bool, device=keys.device).index_fill(0, own, True).view(keys.shape)
        seen = sees(labels[queries][:, :, None], others[:, None]) & own[:, None]
        return Grid(queries, tokens, keys, seen[:, None])

    @cached_property
    def stored(self) -> Tensor:
        """Where the rows' keys lie in the store, its slots end to end: row by row, [sum of lengths]."""
        assert self.store
        lengths = self._sizes("length")
        within = torch.arange(int(lengths.sum())) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        starts = self.store.rows * self.store.labels.shape[1]
        return to_device(starts.repeat_interleave(lengths) + within, self.positions.device)

    @cached_property
    def masks(self) -> list[Tensor | None]:
        """By run, which keys each fresh token sees: [rows, 1, fresh, length]; None: all."""
        return self.masks_of("fresh", self.labels)

    def masks_of(self, asking: Asking, labels: Tensor | None) -> list[Tensor | None]:
        """The same of the tokens that are `asking`, which have these `labels`."""
        return [self._mask(*part, labels) if part[0].masked else None for part in self.parts[asking]]

    def _mask(self, run: Run, part: slice, keys: slice, labels: Tensor | None) -> Tensor:
        assert labels is not None and self.labels is not None
        if self.store is None:
            others = self.labels[keys].view(run.rows, -1)
        else:
            others = self.store.labels[self.store.slots[keys], : run.length]
        return sees(labels[part].view(run.rows, 1, -1, 1), others[:, None, None])

    @cached_property
    def parts(self) -> dict[Asking, list[tuple[Run, slice, slice]]]:
        """Each run with its part of the tokens that are asking, and of the keys, or of the rows in the store."""
        return {"fresh": list(self._parts("fresh")), "wanted": list(self._parts("wanted"))}

    def _parts(self, asking: Asking) -> Iterator[tuple[Run, slice, slice]]:
        at = key = 0
        for run in self.runs:
            end, key_end = at + run.rows * getattr(run, asking), key + run.rows * (1 if self.store else run.length)
            yield run, slice(at, end), slice(key, key_end)
            at, key = end, key_end


Asking = Literal["fresh", "wanted"]


@dataclass(frozen=True, eq=False)
class Grid:
    """Rows of any length as rows of one: behind a row's last token stands that token again."""

    queries: Tensor  # [R, Q] which of the tokens
    tokens: Tensor  # [sum of sizes] where each token's query stands in the flattened grid
    keys: Tensor  # [R, K] which of the tokens, where keys are not stored
    seen: Tensor  # [R, 1, Q, K] bool
    biases: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict)

    def bias(self, heads: int, dtype: torch.dtype) -> Tensor:
        """What is added to the scores of the queries of `heads` heads, one behind the other: [R, 1, heads Q, K].

        0 or -inf; the same for all blocks, which would otherwise each make and keep one.
        """
        if (heads, dtype) not in self.biases:
            seen = self.seen.repeat(1, 1, heads, 1)
            room = -(-seen.shape[-1] // ALIGNED) * ALIGNED
            bias = seen.new_zeros((*seen.shape[:-1], room), dtype=dtype)[..., : seen.shape[-1]]
            self.biases[heads, dtype] = bias.masked_fill_(~seen, -torch.inf)
        return self.biases[heads, dtype]


def _places(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of rows of these sizes, end to end, [R, widest]; and where in that each token stands first."""
    place = torch.arange(int(sizes.max()))
    tokens = (sizes.cumsum(0) - sizes)[:, None] + torch.minimum(place, sizes[:, None] - 1)
    return tokens, (place < sizes[:, None]).flatten().nonzero().squeeze(-1)


@dataclass(frozen=True, eq=False)
class Store:
    """Where the stored rows of a packing have their keys, in B slots of S places each; on a GPU in ascending order."""

    rows: Tensor  # [R] slot of each, on the CPU
    slots: Tensor  # [R] the same, on the device
    labels: Tensor  # [B, S] of the tokens whose keys lie there


class LayerCache(Protocol):
    """Keys and values of one block from earlier calls (`diffpo.rollout.cache`)."""

    def update(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of the tokens computed now, [M, H, D], and return those of all slots, [B, S, H, D]."""
        ...


def pack(sequences: Tensor, lengths: Tensor, wanted: Tensor | None = None) -> tuple[Tensor, Packing]:
    """Pack right-padded rows [R, S] of `lengths` [R] into token ids [N] and their packing, by ascending length.

    `wanted` [R] says of how many tokens of each row the final hidden states will be asked for; all unless given.
    """
    wanted = lengths if wanted is None else wanted
    shape = (lengths << 32) + wanted
    order = shape.argsort(stable=True)
    keep = torch.arange(sequences.shape[1], device=sequences.device) < lengths[order][:, None]
    kinds, counts = shape[order].unique_consecutive(return_counts=True)
    ends = lengths[order].cumsum(0)
    numbers = torch.stack([counts, kinds >> 32, kinds >> 32, kinds & 0xFFFFFFFF], dim=1)
    packing = Packing(
        positions=keep.nonzero()[:, 1],
        starts=torch.empty_like(ends).scatter(0, order, ends - lengths[order]),
        runs=tuple(Run(*run) for run in numbers.tolist()),
    )
    return sequences[order][keep], packing


def queries_of(packing: Packing, places: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens at the first `wanted` [R] of `places` [R, W] in each row, as `Transformer` takes them: [Q].

    And where among them those of each row begin, [R]. `wanted` is that of `pack`.
    """
    order = packing.starts.argsort()
    ends = wanted[order].cumsum(0)
    begins = torch.empty_like(ends).scatter(0, order, ends - wanted[order])
    keep = torch.arange(places.shape[1], device=places.device) < wanted[order][:, None]
    return (packing.starts[:, None] + places)[order][keep], begins


def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asking: Asking, labels: Tensor | None = None) -> Tensor:
    """Attention of queries [Q, H, D] to the keys of their own row; [Q, H D]. Queries beyond the runs: 0.

    Keys and values are [N, H', D], or those of a store, [B, S, H', D]. `labels` [Q] are the queries' where they are
    not all fresh tokens.
    """
    if on_card(q) and any(run.masked for run in packing.runs):
        return _padded(q, k, v, packing, asking, packing.labels if labels is None else labels)
    if on_card(q) and q.dtype in (torch.bfloat16, torch.float16):
        return _flash(q, k, v, packing, asking)
    masks = packing.masks if labels is None else packing.masks_of(asking, labels)
    outputs, end = [], 0
    for (run, part, keys), mask in zip(packing.parts[asking], masks, strict=True):
        end = part.stop
        q_run = q[part].unflatten(0, (run.rows, -1)).transpose(1, 2)
        k_run, v_run = (_keys_of(t, run, keys, packing.store) for t in (k, v))
        grouped = q.shape[1] != k.shape[-2]
        if grouped and on_card(q):  # in fp32 a GPU's memory-efficient kernel takes no groups
            k_run, v_run = (t.repeat_interleave(q.shape[1] // k.shape[-2], dim=1) for t in (k_run, v_run))
        out = F.scaled_dot_product_attention(q_run, k_run, v_run, mask, enable_gqa=grouped and not on_card(q))
        outputs.append(out.transpose(1, 2).reshape(part.stop - part.start, -1))
    if end < len(q):
        outputs.append(q.new_zeros(len(q) - end, q.shape[1] * q.shape[2]))
    return torch.cat(outputs)


def _padded(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asking: Asking, labels: Tensor | None) -> Tensor:
    """All queries to the keys that they see, in one kernel of a GPU that takes a mask: rows as wide as the widest.

    Run by run there would be as many kernels as there are lengths, and a small model waits for each to be started.
    """
    grid = packing.grid if asking == "fresh" else packing.grid_of(asking, labels)
    store, width = packing.store, grid.keys.shape[1]
    if store is None:
        k, v = k[grid.keys], v[grid.keys]
    elif len(store.rows) == len(k):  # all slots, in their order: nothing to gather
        k, v = k[:, :width], v[:, :width]
    else:
        k, v = k[store.slots, :width], v[store.slots, :width]
    # kernels that take a mask take no groups: as of one head, the queries of those that share keys leave these uncopied
    shared = q[grid.queries].unflatten(2, (k.shape[-2], -1)).permute(0, 2, 3, 1, 4)  # [R, H', H / H', Q, D]
    bias = grid.bias(shared.shape[2], q.dtype)
    out = F.scaled_dot_product_attention(shared.flatten(2, 3), k.transpose(1, 2), v.transpose(1, 2), bias)
    out = out.unflatten(2, shared.shape[2:4]).permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)[grid.tokens]
    return F.pad(out, (0, 0, 0, len(q) - len(out))) if len(out) < len(q) else out


def _keys_of(t: Tensor, run: Run, part: slice, store: Store | None) -> Tensor:
    """Keys, or values, of a run's rows: [rows, H', length, D]."""
    if store is None:
        rows = t[part].unflatten(0, (run.rows, run.length))
    elif run.rows == 1:  # nothing to gather
        rows = t[slice(slot := int(store.rows[part.start]), slot + 1), : run.length]
    else:
        rows = t[store.slots[part], : run.length]
    return rows.transpose(1, 2)


def _flash(q: Tensor, k: Tensor, v: Tensor, packing: Packing, asking: Asking) -> Tensor:
    """All queries to all keys of their row, in one kernel of a GPU."""
    runs, bounds, grouped, kernel = packing.runs, packing.bounds, q.shape[1] != k.shape[-2], flash()
    total, longest = packing.parts[asking][-1][1].stop, max(run.length for run in runs)
    settings: dict[str, Any] = {"enable_gqa": True} if grouped and kernel.takes_groups else {}
    ends, group = bounds["length"], 1
    if grouped and not kernel.takes_groups:  # as of one head, the queries of those that share keys leave these uncopied
        group = q.shape[1] // k.shape[-2]
        q = q.unflatten(1, (-1, group)).transpose(1, 2).flatten(0, 1)
    if packing.store and not kernel.takes_used:
        k, v = (t.flatten(0, 1)[packing.stored] for t in (k, v))
    elif packing.store:
        settings["seqused_k"] = bounds["length"]
        slots, longest = k.shape[:2]
        ends = torch.arange(slots + 1, dtype=torch.int32, device=q.device) * longest
        k, v = k.flatten(0, 1), v.flatten(0, 1)
    begins, widest = bounds[asking] * group, max(getattr(run, asking) for run in runs) * group
    out: Any = kernel.attend(q[: total * group], k, v, begins, ends, widest, longest, **settings)
    out = out.unflatten(0, (-1, group)).transpose(1, 2).flatten(1)
    missing = len(q) // group - total
    return F.pad(out, (0, 0, 0, missing)) if missing else out  # by nothing it would still copy
