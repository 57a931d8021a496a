"""What the engine holds of each row: its state in a slot on the device, and the facts of it that the host knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from diffpo.models.device import ship, to_device
from diffpo.models.policy import Policy
from diffpo.models.threshold import ThresholdHead
from diffpo.types import Blocks, Completion, Request

CACHES = ("none", "exact", "prefix", "dual")
NO_CACHE, EXACT, _, DUAL = range(len(CACHES))

FLAGS = ("learned", "early_exit", "explore", "done", "broken")
REALS = (
    *("temperature", "entropy_temperature", "gamma"),
    *("logprobs", "entropies", "max_probs", "features", "action_logprobs"),
)
"""Columns of `Slots` that hold no whole numbers."""

BEFORE = -(2**40)
"""Where no block is active yet."""


def blocks_of(policy: Policy, request: Request) -> Blocks:
    """The blocks in which a request is decoded, left to right; where attention is block-causal, those it has."""
    blocks = policy.denoiser.config.blocks(len(request.prompt_ids), request.block_length)
    return blocks or Blocks(min(request.block_length, request.gen_length))


def ends_from(request: Request, mask_id: int) -> int:
    """Canvas position behind the last that is given."""
    return 1 + max((place for place, token in enumerate(request.canvas_ids) if token != mask_id), default=-1)


class Room(NamedTuple):
    """What a row takes, or slots hold at most."""

    prompt: int = 0
    canvas: int = 0
    decisions: int = 0
    """Of a sampler head."""
    window: int = 0
    """Positions of a block that it decides on."""

    @classmethod
    def of(cls, policy: Policy, request: Request) -> Room:
        """What a request takes."""
        prompt, canvas = len(request.prompt_ids), request.gen_length + len(request.suffix_ids)
        head = policy.sampler_head
        if head is None or request.sampler.rule != "learned":
            return cls(prompt, canvas)
        decisions = request.gen_length if head.by_state else 1
        return cls(prompt, canvas, decisions, min(request.block_length, request.gen_length))


@dataclass(eq=False)
class Slots:
    """Rows being decoded, on the device: B slots for prompts of up to P tokens and canvases of up to L.

    A row is written into a slot in place and stays there; one that is done, or was never filled, makes no difference.
    """

    key: Tensor  # [B]
    sequence: Tensor  # [B, P + L] prompt from the left, padding, canvas
    prompt_length: Tensor  # [B]
    gen_length: Tensor  # [B]
    block_length: Tensor  # [B]
    block_offset: Tensor  # [B] tokens of the prompt in the block in which the canvas begins
    ends_from: Tensor  # [B] canvas position from which on an EOS ends the row: behind the last that was given
    rule: Tensor  # [B] the engine's number of the rule
    learned: Tensor  # [B] bool: the policy's sampler head decides
    gamma: Tensor  # [B] its threshold, where it has one
    temperature: Tensor  # [B]
    entropy_temperature: Tensor  # [B]
    early_exit: Tensor  # [B] bool
    explore: Tensor  # [B] bool
    answer: Tensor  # [B, L] ids that are written in the place of what is drawn; -1: none
    committed_at: Tensor  # [B, L] call that committed the position; 0: still masked; -1: given, or beyond gen_length
    logprobs: Tensor  # [B, L]
    entropies: Tensor  # [B, L]
    max_probs: Tensor  # [B, L]
    nfe: Tensor  # [B] calls made
    nfe_until_eos: Tensor  # [B] 0 until an EOS and everything before it stands
    done: Tensor  # [B] bool
    broken: Tensor  # [B] bool: logits or decisions of the last call were not finite
    block_start: Tensor  # [B] canvas position where the active block starts, < 0 in the prompt; at first BEFORE
    block_call: Tensor  # [B] calls made within the active block before this one
    features: Tensor  # [B, K, ...] what each decision of the head was made on (learned rows)
    actions: Tensor  # [B, K, ...] what it decided
    action_logprobs: Tensor  # [B, K]

    @classmethod
    def empty(cls, policy: Policy, rows: int, room: Room) -> Slots:
        """Slots without rows."""
        head = policy.sampler_head
        features, action = head.shapes(room.window) if head else ((), ())
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("answer", "committed_at", "logprobs", "entropies", "max_probs"), (room.canvas,)),
            "sequence": (room.prompt + room.canvas,),
            "features": (room.decisions, *features),
            "actions": (room.decisions, *action),
            "action_logprobs": (room.decisions,),
        }
        dtypes: dict[str, torch.dtype] = {
            **dict.fromkeys(FLAGS, torch.bool),
            **dict.fromkeys(REALS, torch.float32),
            "actions": head.action_dtype if head else torch.float32,
        }
        columns = {
            name: torch.zeros(rows, *shapes.get(name, ()), dtype=dtypes.get(name, torch.int64), device=policy.device)
            for name in (field.name for field in fields(cls))
        }
        return cls(**columns | {"committed_at": columns["committed_at"] - 1, "done": ~columns["done"]})

    def __len__(self) -> int:
        return len(self.key)

    @property
    def prompt_width(self) -> int:
        """P."""
        return self.sequence.shape[1] - self.committed_at.shape[1]

    @property
    def canvas(self) -> Tensor:
        """The rows' canvases with mask ids, [B, L]; a view."""
        return self.sequence[:, self.prompt_width :]

    @property
    def window_start(self) -> Tensor:
        """Canvas position [B] at which the row's window of block_length positions starts: the active block is in it."""
        return torch.minimum(self.block_start, self.gen_length - self.block_length).clamp_min(0)

    @property
    def block_end(self) -> Tensor:
        """Canvas position [B] at which the active block ends."""
        return torch.minimum(self.block_start + self.block_length, self.gen_length)

    def widened(self, policy: Policy, rows: int, room: Room) -> Slots:
        """A copy of more rows or room, and no less of either."""
        new = Slots.empty(policy, rows, room)
        for field in fields(Slots):
            old, target = getattr(self, field.name), getattr(new, field.name)
            if field.name != "sequence":
                target[tuple(map(slice, old.shape))] = old
        new.sequence[: len(self), : self.prompt_width] = self.sequence[:, : self.prompt_width]
        new.canvas[: len(self), : self.committed_at.shape[1]] = self.canvas
        return new

    def admit(self, policy: Policy, places: Tensor, requests: Sequence[Request], rules: Sequence[int]) -> None:
        """Write requests into the slots at `places`, on the CPU; on a GPU the host does not wait for it."""
        blocks = [blocks_of(policy, request) for request in requests]
        values = {
            "key": [request.key for request in requests],
            "prompt_length": [len(request.prompt_ids) for request in requests],
            "gen_length": [request.gen_length for request in requests],
            "block_length": [own.length for own in blocks],
            "block_offset": [own.offset for own in blocks],
            "ends_from": [ends_from(request, policy.mask_id) for request in requests],
            "rule": rules,
            "learned": [request.sampler.rule == "learned" for request in requests],
            "early_exit": [request.early_exit for request in requests],
            "explore": [request.explore for request in requests],
        }
        columns = ship(policy.device, at=places, **{name: torch.tensor(column) for name, column in values.items()})
        at = columns.pop("at")
        for name, column in columns.items():
            getattr(self, name)[at] = column
        warmth = torch.tensor([(request.temperature, request.entropy_temperature) for request in requests])
        self.temperature[at], self.entropy_temperature[at] = to_device(warmth, policy.device).unbind(1)
        sequences = torch.full((len(requests), self.sequence.shape[1]), policy.mask_id)
        answers = torch.full((len(requests), self.answer.shape[1]), -1)
        for row, request in enumerate(requests):
            behind = self.prompt_width + request.gen_length
            parts = {0: request.prompt_ids, self.prompt_width: request.canvas_ids, behind: request.suffix_ids}
            for start, ids in parts.items():
                sequences[row, start : start + len(ids)] = torch.tensor(ids, dtype=torch.int64)
            answers[row, : len(request.answer_ids)] = torch.tensor(request.answer_ids, dtype=torch.int64)
        self.sequence[at] = to_device(sequences, policy.device)
        self.answer[at] = to_device(answers, policy.device)
        beyond = torch.arange(self.committed_at.shape[1], device=policy.device) >= self.gen_length[at][:, None]
        self.committed_at[at] = (beyond | (self.canvas[at] != policy.mask_id)).long().neg()
        for column in (self.logprobs, self.entropies, self.nfe, self.nfe_until_eos, self.done, self.gamma):
            column.index_fill_(0, at, 0)
        self.block_start.index_fill_(0, at, BEFORE)

    def vacate(self, place: int) -> None:
        """Let go of the row in a slot, done or not."""
        self.committed_at[place] = -1
        self.done[place] = True

    def read(self, at: Tensor) -> Slots:
        """Copies of the slots `at` on the CPU, which from a GPU arrive by its next synchronisation."""
        return Slots(**{f.name: getattr(self, f.name)[at].to("cpu", non_blocking=True) for f in fields(Slots)})


@dataclass(eq=False)
class Roster:
    """The host's facts of the R rows that are in slots, on the CPU; each [R]."""

    ticket: Tensor
    slot: Tensor
    since: Tensor  # the engine's step that made the row's first call
    lead: Tensor  # slot of the first row of the same prompt and canvas that came with it: they share their first call
    prompt_length: Tensor
    length: Tensor  # prompt, canvas and suffix
    block_length: Tensor
    block_offset: Tensor
    window: Tensor  # positions of the canvas that a call may commit, no more than a block
    learned: Tensor  # bool: the threshold is read off the prompt in the first call
    fresh: Tensor  # bool: the row has made no call
    cache: Tensor  # index into CACHES
    refresh_every: Tensor  # calls between refreshes of the row's cache beside those at the start of a block; 0: none
    age: Tensor  # calls since the last refresh
    reached: Tensor  # where in the row the active block of its last call with a cache began
    kept: Tensor  # bool: the row's keys of earlier calls are there, and come from the weights of now

    @classmethod
    def of(
        cls, policy: Policy, tickets: Sequence[int], places: Sequence[int], requests: Sequence[Request], step: int
    ) -> Roster:
        """Rows that come together."""
        by_state = policy.sampler_head is not None and policy.sampler_head.by_state
        first: dict[tuple[object, ...], int] = {}
        rows = list[dict[str, int]]()
        for ticket, place, request in zip(tickets, places, requests, strict=True):
            blocks, learned = blocks_of(policy, request), request.sampler.rule == "learned"
            seen = (request.prompt_ids, request.canvas_ids, request.suffix_ids, request.gen_length)
            lead = first.setdefault((*seen, blocks, learned, request.cache), place)
            rows.append(
                {
                    "ticket": ticket,
                    "slot": place,
                    "since": step,
                    "lead": lead,
                    "prompt_length": len(request.prompt_ids),
                    "length": request.length,
                    "block_length": blocks.length,
                    "block_offset": blocks.offset,
                    "window": min(blocks.length, request.gen_length),
                    "learned": learned and not by_state,
                    "fresh": True,
                    "cache": CACHES.index(request.cache),
                    "refresh_every": request.refresh_every,
                    "age": 0,
                    "reached": 0,
                    "kept": False,
                }
            )
        columns = {f.name: torch.tensor([row[f.name] for row in rows], dtype=torch.int64) for f in fields(cls)}
        return cls(**columns | {name: columns[name].bool() for name in ("learned", "fresh", "kept")})

    def __len__(self) -> int:
        return len(self.ticket)

    def select(self, rows: Tensor) -> Roster:
        """The rows at these indices, or where a mask is set."""
        return Roster(**{field.name: getattr(self, field.name)[rows] for field in fields(Roster)})

    def join(self, other: Roster) -> Roster:
        """These rows and those behind them."""
        pairs = ((f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(Roster))
        return Roster(**{name: torch.cat([ours, theirs]) for name, ours, theirs in pairs})


def completions_of(
    policy: Policy, requests: Sequence[Request], slots: Slots, versions: Sequence[tuple[tuple[int, int], ...]]
) -> list[Completion]:
    """Completions of rows that are done, whose slots are on the CPU.

    Positions after an early exit are EOS, committed by the last call.
    """
    unfilled, place = slots.committed_at == 0, torch.arange(slots.canvas.shape[1])
    tokens = slots.canvas.masked_fill(unfilled, policy.eos_id)
    committed_at = torch.where(unfilled, slots.nfe[:, None], slots.committed_at.clamp_min(0))
    is_eos = (tokens == policy.eos_id) & (place >= slots.ends_from[:, None]) & (place < slots.gen_length[:, None])
    length = torch.where(is_eos.any(-1), is_eos.int().argmax(-1) + 1, slots.gen_length).tolist()
    nfe, nfe_until_eos = slots.nfe.tolist(), slots.nfe_until_eos.tolist()
    completions = []
    for row, request in enumerate(requests):
        rule, size = request.sampler.rule, request.gen_length
        learned = rule == "learned"
        gamma = request.sampler.value if rule == "entropy_bound" else None
        features = actions = logprobs = None
        if learned:
            head = policy.sampler_head
            assert head
            made = slice(nfe[row] if head.by_state else 1)
            own = [tuple(map(slice, shape)) for shape in head.shapes(min(request.block_length, size))]
            features, actions = slots.features[row, made, *own[0]].clone(), slots.actions[row, made, *own[1]].clone()
            logprobs = slots.action_logprobs[row, made].clone()
            if isinstance(head, ThresholdHead):
                gamma = float(head.gamma(actions).mean()) if head.by_state else float(slots.gamma[row])
        completions.append(
            Completion(
                tokens=tokens[row, :size].clone(),
                committed_at=committed_at[row, :size].clone(),
                behaviour_logprobs=slots.logprobs[row, :size].clone(),
                entropies=slots.entropies[row, :size].clone(),
                key=request.key,
                nfe=nfe[row],
                nfe_until_eos=nfe_until_eos[row] or nfe[row],
                length=length[row],
                gamma=gamma,
                actions=actions,
                action_logprobs=logprobs,
                features=features,
                blocks=policy.denoiser.config.blocks(len(request.prompt_ids), request.block_length),
                versions=versions[row],
            )
        )
    return completions
