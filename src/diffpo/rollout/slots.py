"""What the engine holds of each row: its state on the device, and the facts of it that the host knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffpo.models.policy import Policy
from diffpo.models.transformer import Packing, Run, to_device
from diffpo.types import Completion, Request

RULES = ("entropy_bound", "learned", "confidence", "top_k", "steps", "random")
ENTROPY_BOUND, LEARNED, CONFIDENCE, TOP_K, STEPS, RANDOM = range(len(RULES))

# Below this many rows BLAS sums a matrix product in another order, and a row's logits would depend on its batch.
MIN_ROWS = 32


class _Rows:
    """Columns that are selected and joined together."""

    def select(self, rows: Tensor):
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})  # type: ignore[arg-type]

    def join(self, other):
        parts = {f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**parts)


@dataclass(eq=False)
class Slots(_Rows):
    """Rows being decoded, on the device: B rows, prompts of P tokens and canvases of L."""

    key: Tensor  # [B]
    sequence: Tensor  # [B, P + L] prompt from the left, padding, canvas
    prompt_length: Tensor  # [B]
    gen_length: Tensor  # [B]
    block_length: Tensor  # [B]
    rule: Tensor  # [B] index into RULES
    value: Tensor  # [B] the rule's number: gamma, probability or count
    temperature: Tensor  # [B]
    entropy_temperature: Tensor  # [B]
    early_exit: Tensor  # [B] bool
    explore: Tensor  # [B] bool
    committed_at: Tensor  # [B, L] call that committed the position; 0: still masked; -1: beyond gen_length
    logprobs: Tensor  # [B, L]
    entropies: Tensor  # [B, L]
    nfe: Tensor  # [B] calls made
    nfe_until_eos: Tensor  # [B] 0 until an EOS and everything before it stands
    done: Tensor  # [B] bool
    block_start: Tensor  # [B] canvas position at which the active block starts; -1 before the first call
    block_call: Tensor  # [B] calls made within the active block before this one
    features: Tensor  # [B, D] pooled prompt features (learned rows)
    gamma_action: Tensor  # [B]
    gamma_logprob: Tensor  # [B]

    @property
    def canvas(self) -> Tensor:
        """The rows' canvases with mask ids, [B, L]; a view."""
        return self.sequence[:, self.sequence.shape[1] - self.committed_at.shape[1] :]

    @property
    def window_start(self) -> Tensor:
        """Canvas position [B] at which the row's window of block_length positions starts: the active block is in it."""
        return torch.minimum(self.block_start, self.gen_length - self.block_length)


@dataclass(eq=False)
class Roster(_Rows):
    """The host's facts of the same rows, on the CPU; each [B]."""

    request: Tensor  # index of the request
    lead: Tensor  # first request of the same prompt and canvas, with which the row shares its first call
    prompt_length: Tensor
    length: Tensor  # prompt and canvas
    window: Tensor  # positions of a block
    learned: Tensor  # bool: the threshold is read off the first call
    fresh: Tensor  # bool: the row has made no call


def open_slots(policy: Policy, requests: Sequence[Request]) -> tuple[Slots, Roster]:
    """Slots of all requests, canvases masked."""
    device, rows = policy.device, len(requests)
    canvas = max(request.gen_length for request in requests)
    prompt_length = torch.tensor([len(request.prompt_ids) for request in requests])
    gen_length = torch.tensor([request.gen_length for request in requests])
    window = torch.minimum(torch.tensor([request.block_length for request in requests]), gen_length)
    rule = torch.tensor([RULES.index(request.sampler.rule) for request in requests])
    sequence = torch.full((rows, int(prompt_length.max()) + canvas), policy.mask_id)
    first: dict[tuple[object, ...], int] = {}
    leads = []
    for row, request in enumerate(requests):
        sequence[row, : len(request.prompt_ids)] = torch.tensor(request.prompt_ids, dtype=torch.int64)
        learned = request.sampler.rule == "learned"
        leads.append(first.setdefault((request.prompt_ids, request.gen_length, int(window[row]), learned), row))

    def column(name: str, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor([getattr(request, name) for request in requests], dtype=dtype, device=device)

    beyond = torch.arange(canvas) >= gen_length[:, None]
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    blank = torch.zeros(rows, canvas, device=device)
    slots = Slots(
        key=column("key"),
        sequence=sequence.to(device),
        prompt_length=prompt_length.to(device),
        gen_length=gen_length.to(device),
        block_length=window.to(device),
        rule=rule.to(device),
        value=torch.tensor([request.sampler.value for request in requests], dtype=torch.float32, device=device),
        temperature=column("temperature", torch.float32),
        entropy_temperature=column("entropy_temperature", torch.float32),
        early_exit=column("early_exit", torch.bool),
        explore=column("explore", torch.bool),
        committed_at=beyond.long().neg().to(device),
        logprobs=blank,
        entropies=blank,
        nfe=zeros,
        nfe_until_eos=zeros,
        done=zeros.bool(),
        block_start=zeros - 1,
        block_call=zeros,
        features=torch.zeros(rows, policy.denoiser.config.hidden_size, device=device),
        gamma_action=torch.zeros(rows, device=device),
        gamma_logprob=torch.zeros(rows, device=device),
    )
    return slots, Roster(
        request=torch.arange(rows),
        lead=torch.tensor(leads),
        prompt_length=prompt_length,
        length=prompt_length + gen_length,
        window=window,
        learned=rule == LEARNED,
        fresh=torch.ones(rows, dtype=torch.bool),
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the rows lie in a packed call; the same for every call until rows come or go.

    R rows are denoised: rows of one group that make their first call are one. Each gives the hidden states of its
    window, or of all its tokens where the threshold is read off them: Q queries in all.
    """

    packing: Packing
    tokens: Tensor  # [N] index of each token in the flattened `Slots.sequence`
    query_row: Tensor  # [Q] row of the slots whose window the query belongs to
    query_token: Tensor  # [Q] first token of that row in the packing
    query_offset: Tensor  # [Q] place in the window, or in the row where all of it is asked for
    query_all: Tensor  # [Q] bool: all tokens of the row are asked for
    first_query: Tensor  # [B] first query of each row
    asks_all: Tensor  # [B] bool
    prompts: tuple[tuple[int, int, list[int]], ...]
    """First query and prompt length of each prompt whose threshold is read off, and the rows that share it."""

    def queries(self, slots: Slots, shift: int) -> Tensor:
        """Tokens [Q] whose hidden states predict the window of each row."""
        start = (slots.prompt_length + slots.window_start - shift)[self.query_row]
        return self.query_token + torch.where(
            self.query_all, self.query_offset, (start + self.query_offset).clamp_min(0)
        )


def lay_out(roster: Roster, slots: Slots) -> Layout:
    """The layout of the next call."""
    device, width = slots.key.device, slots.sequence.shape[1]
    prompt_width = width - slots.committed_at.shape[1]
    rows = torch.arange(len(roster.request))
    # below zero: a group's first call must not be taken for the lead's own, when that row is already further on
    identity = torch.where(roster.fresh, -1 - roster.lead, roster.request)
    _, source = identity.unique(return_inverse=True)
    distinct = torch.empty(int(source.max()) + 1, dtype=torch.int64).scatter(0, source, rows)
    copies = -(-MIN_ROWS // int(roster.length[distinct].sum()))
    order, counts = _by_shape(roster, distinct.repeat(copies))
    length, asks_all = roster.length[order], (roster.fresh & roster.learned)[order]
    wanted = torch.where(asks_all, length, roster.window[order])
    first_token, first_query = length.cumsum(0) - length, wanted.cumsum(0) - wanted

    at_row = torch.arange(len(order)).repeat_interleave(length)
    positions = torch.arange(len(at_row)) - first_token[at_row]
    prompt_length = roster.prompt_length[order][at_row]
    column = torch.where(positions < prompt_length, positions, prompt_width + positions - prompt_length)
    at_query = torch.arange(len(order)).repeat_interleave(wanted)
    query_offset = torch.arange(len(at_query)) - first_query[at_query]
    if (missing := MIN_ROWS - len(at_query)) > 0:  # the first query again
        at_query = torch.nn.functional.pad(at_query, (0, missing))
        query_offset = torch.nn.functional.pad(query_offset, (0, missing))

    place = torch.empty(len(rows), dtype=torch.int64).scatter(0, order, torch.arange(len(order)))[distinct][source]
    fresh_learned = (roster.fresh & roster.learned).nonzero().squeeze(-1).tolist()
    prompts: dict[int, tuple[int, int, list[int]]] = {}
    for row in fresh_learned:
        start = int(first_query[place[row]])
        prompts.setdefault(start, (start, int(roster.prompt_length[row]), []))[2].append(row)
    runs = tuple(Run(count, int(length[first]), int(length[first]), int(wanted[first])) for first, count in counts)
    columns = positions, first_token, order[at_row] * width + column, order[at_query], first_token[at_query]
    positions, starts, tokens, query_row, query_token = (to_device(column, device) for column in columns)
    return Layout(
        packing=Packing(positions, starts, runs),
        tokens=tokens,
        query_row=query_row,
        query_token=query_token,
        query_offset=to_device(query_offset, device),
        query_all=to_device(asks_all[at_query], device),
        first_query=to_device(first_query[place], device),
        asks_all=to_device(asks_all[place], device),
        prompts=tuple(prompts.values()),
    )


def _by_shape(roster: Roster, rows: Tensor) -> tuple[Tensor, list[tuple[int, int]]]:
    """`rows` in the order in which they are stored, and the first and the number of each run of like rows."""
    shape = (roster.length << 32) + (roster.window << 1) + (roster.fresh & roster.learned)
    _, kind, counts = shape[rows].unique(return_inverse=True, return_counts=True)
    firsts = counts.cumsum(0) - counts
    return rows[kind.argsort(stable=True)], list(zip(firsts.tolist(), counts.tolist(), strict=True))


def completions_of(
    policy: Policy, requests: Sequence[Request], parts: Sequence[tuple[Tensor, Slots]]
) -> list[Completion]:
    """Completions of retired rows, on the CPU, in the order of the requests.

    Positions after an early exit are EOS, committed by the last call.
    """
    slots = Slots(**{f.name: torch.cat([getattr(part, f.name) for _, part in parts]).cpu() for f in fields(Slots)})
    unfilled = slots.committed_at == 0
    tokens = slots.canvas.masked_fill(unfilled, policy.eos_id)
    committed_at = torch.where(unfilled, slots.nfe[:, None], slots.committed_at)
    is_eos = (tokens == policy.eos_id) & (torch.arange(tokens.shape[1]) < slots.gen_length[:, None])
    length = torch.where(is_eos.any(-1), is_eos.int().argmax(-1) + 1, slots.gen_length).tolist()
    nfe, nfe_until_eos = slots.nfe.tolist(), slots.nfe_until_eos.tolist()
    completions: dict[int, Completion] = {}
    for row, index in enumerate(torch.cat([indices for indices, _ in parts]).tolist()):
        rule, size = requests[index].sampler.rule, requests[index].gen_length
        learned = rule == "learned"
        completions[index] = Completion(
            tokens=tokens[row, :size].clone(),
            committed_at=committed_at[row, :size].clone(),
            behaviour_logprobs=slots.logprobs[row, :size].clone(),
            entropies=slots.entropies[row, :size].clone(),
            nfe=nfe[row],
            nfe_until_eos=nfe_until_eos[row] or nfe[row],
            length=length[row],
            gamma=float(slots.value[row]) if rule in ("entropy_bound", "learned") else None,
            gamma_action=float(slots.gamma_action[row]) if learned else None,
            gamma_logprob=float(slots.gamma_logprob[row]) if learned else None,
            features=slots.features[row].clone() if learned else None,
        )
    return [completions[index] for index in range(len(requests))]
