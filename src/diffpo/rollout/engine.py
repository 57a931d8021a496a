"""The decoding engine: requests in, completions out, many rows at a time.

    while there are rows:
        admit waiting requests to free slots
        denoise        one packed forward; rows that start from the same prompt share their first call
        predict        at masked positions of each row's active block: draw, log-prob, entropy, max probability
        commit         the positions that each row's sampler chooses
        retire         rows that are finished

A row's completion is a function of its request alone: rows never see each other or padding, and every random number is
keyed by (request key, call, position).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from diffpo.functional import prediction, unmasking
from diffpo.functional.random import fold, uniform
from diffpo.models.likelihood import MAX_LOGITS
from diffpo.models.policy import Policy
from diffpo.models.transformer import pack
from diffpo.types import Completion, Request

RULES = ("entropy_bound", "learned", "confidence", "top_k", "steps", "random")
ENTROPY_BOUND, LEARNED, CONFIDENCE, TOP_K, STEPS, RANDOM = range(len(RULES))

# streams of random numbers of one request
_DRAW, _ORDER, _GAMMA = range(3)

# Below this many rows BLAS sums a matrix product in another order, and a row's logits would depend on its batch.
_MIN_ROWS = 32

OnCall = Callable[[int, int, Tensor], None]
"""Called after each denoiser call as (request index, call, canvas tokens with mask ids)."""


@dataclass(eq=False)
class Slots:
    """Rows being decoded: B rows, sequences of S tokens (prompt, then canvas, then padding), canvases of L."""

    request: Tensor  # [B] index of the request
    lead: Tensor  # [B] request whose first call this row shares
    key: Tensor  # [B]
    sequence: Tensor  # [B, S]
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
    block_start: Tensor  # [B] canvas position at which the active block starts; -1 before the first call
    block_call: Tensor  # [B] calls made within the active block before this one
    features: Tensor  # [B, D] pooled prompt features (learned rows)
    gamma_action: Tensor  # [B]
    gamma_logprob: Tensor  # [B]

    def select(self, rows: Tensor) -> Slots:
        return Slots(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def cpu(self) -> Slots:
        return Slots(**{f.name: getattr(self, f.name).cpu() for f in fields(self)})

    def join(self, other: Slots) -> Slots:
        return Slots(**{f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)})

    @property
    def canvas_index(self) -> Tensor:
        """Where canvas position i stands in `sequence`, [B, L]."""
        canvas = torch.arange(self.committed_at.shape[1], device=self.key.device)
        return (self.prompt_length[:, None] + canvas).clamp_max(self.sequence.shape[1] - 1)


@torch.no_grad()
def generate(
    policy: Policy, requests: Sequence[Request], num_slots: int = 512, on_call: OnCall | None = None
) -> list[Completion]:
    """Decode every request, at most `num_slots` at a time; completions come in the order of the requests.

    ValueError if a request asks for a learned threshold, and the policy has no head or the prompt is empty.
    """
    if not requests:
        return []
    learned = [request for request in requests if request.sampler.rule == "learned"]
    if learned and policy.threshold is None:
        raise ValueError(
            "sampler 'learned': this policy has no threshold head; train one (train = joint or sampler) or choose a "
            "fixed rule such as entropy_bound:0.1"
        )
    if not all(request.prompt_ids for request in learned):
        raise ValueError(
            "sampler 'learned' reads the threshold off the prompt, but a prompt is empty: use a fixed rule"
        )
    waiting = _open_slots(policy, requests)
    active = waiting.select(torch.arange(0))
    completions: dict[int, Completion] = {}
    admitted = 0
    while len(completions) < len(requests):
        free = num_slots - len(active.request)
        if free and admitted < len(requests):
            active = active.join(waiting.select(torch.arange(admitted, min(admitted + free, len(requests)))))
            admitted += free
        hidden, index = _denoise(policy, active)
        _choose_thresholds(policy, active, hidden, index)
        _commit(policy, active, hidden, index)
        if on_call:
            for row, request in enumerate(active.request.tolist()):
                canvas = active.sequence[row, active.canvas_index[row]][: int(active.gen_length[row])]
                on_call(request, int(active.nfe[row]), canvas)
        finished = _finished(policy, active)
        if finished.any():
            for completion_of, completion in _retire(policy, active.select(finished), requests):
                completions[completion_of] = completion
            active = active.select(~finished)
    return [completions[index] for index in range(len(requests))]


def _open_slots(policy: Policy, requests: Sequence[Request]) -> Slots:
    """Slots of all requests, canvases masked."""
    device, rows = policy.device, len(requests)
    canvas = max(request.gen_length for request in requests)
    width = max(len(request.prompt_ids) + request.gen_length for request in requests)
    first: dict[tuple[tuple[int, ...], int], int] = {}

    def column(name: str, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor([getattr(request, name) for request in requests], dtype=dtype, device=device)

    sequence = torch.full((rows, width), policy.mask_id, dtype=torch.int64)
    for row, request in enumerate(requests):
        sequence[row, : len(request.prompt_ids)] = torch.tensor(request.prompt_ids, dtype=torch.int64)
    leads = [first.setdefault((r.prompt_ids, r.gen_length), row) for row, r in enumerate(requests)]
    gen_length = column("gen_length")
    beyond = torch.arange(canvas, device=device) >= gen_length[:, None]
    zeros = torch.zeros(rows, dtype=torch.int64, device=device)
    blank = torch.zeros(rows, canvas, device=device)
    return Slots(
        request=torch.arange(rows, device=device),
        lead=torch.tensor(leads, device=device),
        key=column("key"),
        sequence=sequence.to(device),
        prompt_length=torch.tensor([len(request.prompt_ids) for request in requests], device=device),
        gen_length=gen_length,
        block_length=torch.minimum(column("block_length"), gen_length),
        rule=torch.tensor([RULES.index(request.sampler.rule) for request in requests], device=device),
        value=torch.tensor([request.sampler.value for request in requests], dtype=torch.float32, device=device),
        temperature=column("temperature", torch.float32),
        entropy_temperature=column("entropy_temperature", torch.float32),
        early_exit=column("early_exit", torch.bool),
        explore=column("explore", torch.bool),
        committed_at=beyond.long().neg(),
        logprobs=blank,
        entropies=blank,
        nfe=zeros,
        nfe_until_eos=zeros,
        block_start=zeros - 1,
        block_call=zeros,
        features=torch.zeros(rows, policy.denoiser.config.hidden_size, device=device),
        gamma_action=torch.zeros(rows, device=device),
        gamma_logprob=torch.zeros(rows, device=device),
    )


def _denoise(policy: Policy, slots: Slots) -> tuple[Tensor, Tensor]:
    """Final hidden states [N, D] of the rows' sequences, and where in them each row's first token stands, [B]."""
    # below zero: a group's first call must not be taken for the lead's own, when that row is already further on
    identity = torch.where(slots.nfe == 0, -1 - slots.lead, slots.request)
    _, source = identity.unique(return_inverse=True)
    distinct = torch.empty(int(source.max()) + 1, dtype=torch.int64, device=source.device)
    distinct[source] = torch.arange(len(source), device=source.device)
    lengths = (slots.prompt_length + slots.gen_length)[distinct]
    copies = -(-_MIN_ROWS // int(lengths.sum()))
    distinct, lengths = distinct.repeat(copies), lengths.repeat(copies)
    ids, packing = pack(slots.sequence[distinct], lengths)
    return policy.denoiser(ids, packing), packing.starts[source]


def _choose_thresholds(policy: Policy, slots: Slots, hidden: Tensor, index: Tensor) -> None:
    """Set gamma of the learned rows that are in their first call, from the hidden states that call has made anyway."""
    rows = ((slots.nfe == 0) & (slots.rule == LEARNED)).nonzero().squeeze(-1)
    if policy.threshold is None or not len(rows):
        return
    starts, source = index[rows].unique(return_inverse=True)
    lengths = torch.empty_like(starts).scatter(0, source, slots.prompt_length[rows])
    pooled = [
        hidden[start : start + length].float().mean(0)
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    features = torch.stack(pooled)[source]
    action, logprob = policy.threshold.choose(features, fold(slots.key[rows], _GAMMA), slots.explore[rows])
    slots.features[rows] = features
    slots.gamma_action[rows] = action
    slots.gamma_logprob[rows] = logprob
    slots.value[rows] = policy.threshold.gamma(action)


def _commit(policy: Policy, slots: Slots, hidden: Tensor, index: Tensor) -> None:
    """Draw tokens for the masked positions of each active block and commit those that the row's sampler chooses."""
    masked = slots.committed_at == 0
    first = masked.int().argmax(-1)
    start = first - first % slots.block_length
    slots.block_call = torch.where(start == slots.block_start, slots.block_call + 1, 0)
    slots.block_start = start

    offset = torch.arange(int(slots.block_length.max()), device=start.device)
    window = (start[:, None] + offset).clamp_max(masked.shape[1] - 1)  # [B, K] canvas positions
    inside = (offset < slots.block_length[:, None]) & (start[:, None] + offset < slots.gen_length[:, None])
    candidates = inside & masked.gather(1, window)
    rows, columns = candidates.nonzero(as_tuple=True)
    canvas = window[rows, columns]
    keys = fold(slots.key[rows], _DRAW, slots.nfe[rows], canvas)

    at = index[rows] + (slots.prompt_length[rows] + canvas - policy.denoiser.config.shift).clamp_min(0)
    tokens, logprobs, entropies, max_probs = _predict(
        policy, hidden[at], slots.temperature[rows], slots.entropy_temperature[rows], uniform(keys)
    )

    entropy = torch.zeros(candidates.shape, device=hidden.device).index_put((rows, columns), entropies)
    max_prob = torch.zeros(candidates.shape, device=hidden.device).index_put((rows, columns), max_probs)
    commit = _choose_positions(slots, entropy, max_prob, candidates, window)[rows, columns]
    rows, canvas = rows[commit], canvas[commit]

    slots.nfe += 1
    slots.sequence[rows, slots.prompt_length[rows] + canvas] = tokens[commit]
    slots.committed_at[rows, canvas] = slots.nfe[rows]
    slots.logprobs[rows, canvas] = logprobs[commit]
    slots.entropies[rows, canvas] = entropies[commit]


def _predict(
    policy: Policy, hidden: Tensor, temperature: Tensor, entropy_temperature: Tensor, uniforms: Tensor
) -> tuple[Tensor, ...]:
    """Tokens, log-probs, entropies and max probabilities of N positions, by chunks that hold MAX_LOGITS at most."""
    columns = (hidden, temperature, entropy_temperature, uniforms)
    size = max(_MIN_ROWS, MAX_LOGITS // policy.denoiser.config.vocab_size)
    chunks = []
    for chunk, draw_at, look_at, lottery in zip(*(column.split(size) for column in columns), strict=True):
        logits = _logits(policy, chunk)
        chunks.append((*prediction.draw(logits, draw_at, lottery), *prediction.certainty(logits, look_at)))
    return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def _logits(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits of hidden states [N, D], computed alike however few they are."""
    missing = max(0, _MIN_ROWS - len(hidden))
    return policy.logits(torch.nn.functional.pad(hidden, (0, 0, 0, missing)))[: len(hidden)]


def _choose_positions(slots: Slots, entropy: Tensor, max_prob: Tensor, candidates: Tensor, window: Tensor) -> Tensor:
    """The candidates [B, K] that each row's own rule commits in this call."""
    value, count = slots.value, slots.value.long()
    span = torch.minimum(slots.block_length, slots.gen_length - slots.block_start)
    num_blocks = -(-slots.gen_length // slots.block_length)
    scheduled = unmasking.steps_count(span, (count // num_blocks).clamp_min(1), slots.block_call)

    def by_lottery() -> Tensor:
        lottery = uniform(fold(slots.key[:, None], _ORDER, slots.nfe[:, None], window))
        return unmasking.random(lottery, candidates, count)

    rules = {
        ENTROPY_BOUND: lambda: unmasking.entropy_bound(entropy, candidates, value),
        LEARNED: lambda: unmasking.entropy_bound(entropy, candidates, value),
        CONFIDENCE: lambda: unmasking.confidence(max_prob, candidates, value),
        TOP_K: lambda: unmasking.top_k(max_prob, candidates, count),
        STEPS: lambda: unmasking.top_k(max_prob, candidates, scheduled),
        RANDOM: by_lottery,
    }
    chosen = torch.zeros_like(candidates)
    for rule in slots.rule.unique().tolist():
        chosen |= rules[rule]() & (slots.rule == rule)[:, None]
    return chosen


def _finished(policy: Policy, slots: Slots) -> Tensor:
    """Rows [B] without masks, or, where they exit early, with an EOS before which everything is committed."""
    committed = slots.committed_at != 0
    tokens = slots.sequence.gather(1, slots.canvas_index)
    prefix = committed.long().cumprod(-1).bool() & (slots.committed_at > 0)
    ended = (prefix & (tokens == policy.eos_id)).any(-1)
    slots.nfe_until_eos = torch.where(ended & (slots.nfe_until_eos == 0), slots.nfe, slots.nfe_until_eos)
    return committed.all(-1) | (ended & slots.early_exit)


def _retire(policy: Policy, slots: Slots, requests: Sequence[Request]) -> list[tuple[int, Completion]]:
    """Completions of finished rows, on the CPU; positions after an early exit are EOS, committed by the last call."""
    tokens = slots.sequence.gather(1, slots.canvas_index)
    unfilled = slots.committed_at == 0
    tokens = tokens.masked_fill(unfilled, policy.eos_id)
    committed_at = torch.where(unfilled, slots.nfe[:, None], slots.committed_at)
    canvas = torch.arange(tokens.shape[1], device=tokens.device)
    is_eos = (tokens == policy.eos_id) & (canvas < slots.gen_length[:, None])
    length = torch.where(is_eos.any(-1), is_eos.int().argmax(-1) + 1, slots.gen_length)
    tokens, committed_at, length = tokens.cpu(), committed_at.cpu(), length.tolist()
    slots = slots.cpu()
    pairs = []
    for row, request in enumerate(slots.request.tolist()):
        size = requests[request].gen_length
        learned = requests[request].sampler.rule == "learned"
        bounded = learned or requests[request].sampler.rule == "entropy_bound"
        nfe = int(slots.nfe[row])
        completion = Completion(
            tokens=tokens[row, :size].clone(),
            committed_at=committed_at[row, :size].clone(),
            behaviour_logprobs=slots.logprobs[row, :size].clone(),
            entropies=slots.entropies[row, :size].clone(),
            nfe=nfe,
            nfe_until_eos=int(slots.nfe_until_eos[row]) or nfe,
            length=length[row],
            gamma=float(slots.value[row]) if bounded else None,
            gamma_action=float(slots.gamma_action[row]) if learned else None,
            gamma_logprob=float(slots.gamma_logprob[row]) if learned else None,
            features=slots.features[row].clone() if learned else None,
        )
        pairs.append((request, completion))
    return pairs
