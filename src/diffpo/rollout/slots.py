"""What the engine holds of each row: its state on the device, and the facts of it that the host knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch
from torch import Tensor

from diffpo.models.policy import Policy
from diffpo.models.transformer import to_device
from diffpo.types import Completion, Request

RULES = ("entropy_bound", "learned", "confidence", "top_k", "steps", "random")
ENTROPY_BOUND, LEARNED, CONFIDENCE, TOP_K, STEPS, RANDOM = range(len(RULES))

CACHES = ("none", "prefix", "dual")
NO_CACHE, PREFIX, DUAL = range(len(CACHES))


class _Rows:
    """Columns that are selected and joined together."""

    def select(self, rows: Tensor):
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})  # type: ignore[arg-type]

    def join(self, other):
        parts = {f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**parts)

    def to_host(self):
        """Copies on the CPU, which on a GPU arrive by its next synchronisation."""
        return type(self)(**{f.name: getattr(self, f.name).to("cpu", non_blocking=True) for f in fields(self)})  # type: ignore[arg-type]


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
    broken: Tensor  # [B] bool: logits or threshold of the last call were not finite
    block_start: Tensor  # [B] canvas position at which the active block starts; -1 before the first call
    block_call: Tensor  # [B] calls made within the active block before this one
    features: Tensor  # [B, K, D] what each decision on gamma was made on (learned rows)
    gamma_actions: Tensor  # [B, K]
    gamma_logprobs: Tensor  # [B, K]

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
    learned: Tensor  # bool: the threshold is read off the prompt in the first call
    fresh: Tensor  # bool: the row has made no call
    cache: Tensor  # index into CACHES
    refresh_every: Tensor  # calls between refreshes of the row's cache beside those at the start of a block; 0: none
    age: Tensor  # calls since the last refresh
    home: Tensor  # first token of the row in the cache; -1: none


def open_slots(policy: Policy, requests: Sequence[Request]) -> tuple[Slots, Roster]:
    """Slots of all requests, canvases masked. Features take their room only once rows are selected."""
    rows = len(requests)
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
        shape = request.prompt_ids, request.gen_length, int(window[row]), request.sampler.rule == "learned"
        leads.append(first.setdefault((*shape, request.cache), row))

    on_device = partial(to_device, device=policy.device)

    def column(name: str, dtype: torch.dtype = torch.int64) -> Tensor:
        return on_device(torch.tensor([getattr(request, name) for request in requests], dtype=dtype))

    head = policy.threshold
    by_state = head is not None and head.config.level == "state"
    decisions = 0 if LEARNED not in rule else canvas if by_state else 1
    values = torch.tensor([request.sampler.value for request in requests], dtype=torch.float32)
    beyond = torch.arange(canvas) >= gen_length[:, None]
    zeros = torch.zeros(rows, dtype=torch.int64, device=policy.device)
    blank = torch.zeros(rows, canvas, device=policy.device)
    undecided = torch.zeros(rows, decisions, device=policy.device)
    unseen = torch.zeros(1, decisions, policy.denoiser.config.hidden_size, device=policy.device)
    slots = Slots(
        key=column("key"),
        sequence=on_device(sequence),
        prompt_length=on_device(prompt_length),
        gen_length=on_device(gen_length),
        block_length=on_device(window),
        rule=on_device(rule),
        value=on_device(values),
        temperature=column("temperature", torch.float32),
        entropy_temperature=column("entropy_temperature", torch.float32),
        early_exit=column("early_exit", torch.bool),
        explore=column("explore", torch.bool),
        committed_at=on_device(beyond.long().neg()),
        logprobs=blank,
        entropies=blank,
        nfe=zeros,
        nfe_until_eos=zeros,
        done=zeros.bool(),
        broken=zeros.bool(),
        block_start=zeros - 1,
        block_call=zeros,
        features=unseen.expand(rows, -1, -1),
        gamma_actions=undecided,
        gamma_logprobs=undecided,
    )
    return slots, Roster(
        request=torch.arange(rows),
        lead=torch.tensor(leads),
        prompt_length=prompt_length,
        length=prompt_length + gen_length,
        window=window,
        learned=(rule == LEARNED) & (not by_state),
        fresh=torch.ones(rows, dtype=torch.bool),
        cache=torch.tensor([CACHES.index(request.cache) for request in requests]),
        refresh_every=torch.tensor([request.refresh_every for request in requests]),
        age=torch.zeros(rows, dtype=torch.int64),
        home=torch.full((rows,), -1),
    )


def completions_of(
    policy: Policy, requests: Sequence[Request], parts: Sequence[tuple[Tensor, Slots]]
) -> dict[int, Completion]:
    """Completions of retired rows, whose slots are on the CPU, by the index of their request.

    Positions after an early exit are EOS, committed by the last call.
    """
    slots = Slots(**{f.name: torch.cat([getattr(part, f.name) for _, part in parts]) for f in fields(Slots)})
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
        actions = slots.gamma_actions[row, : nfe[row]].clone()  # one a call, or one
        made, gamma = len(actions), float(slots.value[row])
        if learned and made > 1:
            assert policy.threshold
            gamma = float(policy.threshold.gamma(actions).mean())
        completions[index] = Completion(
            tokens=tokens[row, :size].clone(),
            committed_at=committed_at[row, :size].clone(),
            behaviour_logprobs=slots.logprobs[row, :size].clone(),
            entropies=slots.entropies[row, :size].clone(),
            nfe=nfe[row],
            nfe_until_eos=nfe_until_eos[row] or nfe[row],
            length=length[row],
            gamma=gamma if rule in ("entropy_bound", "learned") else None,
            gamma_actions=actions if learned else None,
            gamma_logprobs=slots.gamma_logprobs[row, :made].clone() if learned else None,
            features=slots.features[row, :made].clone() if learned else None,
        )
    return completions
