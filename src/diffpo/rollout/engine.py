"""The decoding engine: requests in, completions out, many rows at a time.

    while there are rows:
        admit waiting requests to free slots
        denoise        one packed forward; rows that start from the same prompt share their first call
        predict        at masked positions of each row's active block: draw, log-prob, entropy, max probability
        commit         the positions that each row's sampler chooses
        retire         rows that are finished

A row's completion is a function of its request alone: rows never see each other or padding, and every random number is
keyed by (request key, call, position). On a GPU the host runs ahead and never waits within a call (but for where rows
with a cache refresh it): it reads a call late which rows are finished, and the call that such a row makes in vain
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffpo.functional import unmasking
from diffpo.functional.prediction import Mode, predict
from diffpo.functional.random import fold, uniform
from diffpo.models.finite import not_finite
from diffpo.models.policy import Policy
from diffpo.models.transformer import to_device
from diffpo.rollout.cache import KeyValues
from diffpo.rollout.layout import MIN_ROWS, Layout, lay_out
from diffpo.rollout.slots import (
    CONFIDENCE,
    ENTROPY_BOUND,
    LEARNED,
    NO_CACHE,
    RANDOM,
    RULES,
    STEPS,
    TOP_K,
    Roster,
    Slots,
    completions_of,
    open_slots,
)
from diffpo.types import Completion, Request

# streams of random numbers of one request
_DRAW, _ORDER, _GAMMA = range(3)

MAX_LOGITS = {"cpu": 2**20, "cuda": 2**26}
"""Logits held at once, fp32: on a CPU they stay in its cache, on a GPU they are 256 MB, and as much for temporaries."""

OnCall = Callable[[int, int, Tensor], None]
"""Called after each denoiser call as (request index, call, canvas tokens with mask ids)."""

OnDone = Callable[[int, Completion], None]
"""Called once for each request as (request index, completion), while others are decoded."""


@torch.no_grad()
def generate(
    policy: Policy,
    requests: Sequence[Request],
    num_slots: int = 512,
    on_call: OnCall | None = None,
    on_done: OnDone | None = None,
) -> list[Completion]:
    """Decode every request, at most `num_slots` at a time; completions come in the order of the requests.

    ValueError if a request asks for a learned threshold, and the policy has no head or the prompt is empty;
    FloatingPointError if logits are not finite.
    """
    if not requests:
        return []
    _check(policy, requests)
    waiting, names = open_slots(policy, requests)
    rules, mode = {RULES.index(request.sampler.rule) for request in requests}, _mode(requests)
    shift, caching = policy.denoiser.config.shift, bool((names.cache != NO_CACHE).any())
    caches = KeyValues(policy.denoiser.config.num_layers) if caching else None
    none, flags = torch.arange(0), _Flags()
    slots, roster, layout = waiting.select(to_device(none, policy.device)), names.select(none), None
    retired: list[tuple[Tensor, Slots]] = []
    completions: dict[int, Completion] = {}
    parts_by_call = [0, 0]
    admitted = finished = handed_over = 0
    while finished < len(requests):
        if admitted < len(requests) and (free := num_slots - len(roster.request)):
            new = torch.arange(admitted, min(admitted + free, len(requests)))
            slots, roster = slots.join(waiting.select(to_device(new, policy.device))), roster.join(names.select(new))
            admitted, layout = admitted + len(new), None
            flags.admit(len(new))
        _open_block(slots)
        if caches:
            layout = _with_caches(roster, slots, shift, caches)
        elif layout is None:
            layout = lay_out(roster, slots, shift)
        ids = slots.sequence.flatten()[layout.tokens]
        layers = caches.take(layout.cached_at) if caches else None
        hidden = policy.denoiser(ids, layout.packing, layout.queries(slots, shift), layers)
        _choose_thresholds(policy, slots, layout, hidden)
        _commit(policy, slots, roster, layout, hidden, rules, mode)
        _mark_finished(policy, slots)
        if roster.fresh.any():
            roster.fresh[:] = False
            layout = None
        if on_call:
            _show(slots, roster, on_call)
        state = torch.stack([slots.done, slots.broken], dim=1)
        done, broken = flags.read(state.cpu() if on_call else state).unbind(1)
        if broken.any():
            raise not_finite(policy)
        if on_done:
            # the host has waited for the call before: what retired two calls ago has arrived
            completions |= _hand_over(policy, requests, retired[handed_over : parts_by_call[-2]], on_done)
            handed_over = parts_by_call[-2]
        if done.any():
            gone, rest = done.nonzero().squeeze(-1), (~done).nonzero().squeeze(-1)
            retired.append((roster.request[gone], slots.select(to_device(gone, policy.device)).to_host()))
            slots, roster, layout = slots.select(to_device(rest, policy.device)), roster.select(rest), None
            finished += len(gone)
            flags.keep(rest)
        parts_by_call.append(len(retired))
    if policy.device.type == "cuda":  # what has retired may still be on its way
        torch.cuda.synchronize(policy.device)
    completions |= _hand_over(policy, requests, retired[handed_over:], on_done)
    return [completions[index] for index in range(len(requests))]


def _hand_over(
    policy: Policy, requests: Sequence[Request], parts: Sequence[tuple[Tensor, Slots]], on_done: OnDone | None
) -> dict[int, Completion]:
    """Completions of the rows that have retired in `parts`, of which `on_done` is told."""
    found = completions_of(policy, requests, parts) if parts else {}
    if on_done:
        for index, completion in found.items():
            on_done(index, completion)
    return found


def _check(policy: Policy, requests: Sequence[Request]) -> None:
    learned = [request for request in requests if request.sampler.rule == "learned"]
    head = policy.threshold
    if learned and head is None:
        raise ValueError(
            "sampler 'learned': this policy has no threshold head; train one (train = joint or sampler) or choose a "
            "fixed rule such as entropy_bound:0.1"
        )
    if head and head.config.level == "prompt" and not all(request.prompt_ids for request in learned):
        raise ValueError(
            "sampler 'learned' reads the threshold off the prompt, but a prompt is empty: use a fixed rule"
        )


def _mode(requests: Sequence[Request]) -> Mode:
    greedy = {request.temperature == 0 for request in requests}
    warm = [request for request in requests if request.temperature]
    return Mode(
        greedy="some" if len(greedy) == 2 else "all" if greedy == {True} else "none",
        shared=all(request.temperature == request.entropy_temperature for request in warm),
        plain=all(request.temperature == 1 for request in warm) and all(r.entropy_temperature == 1 for r in requests),
        finite=True,
    )


class _Flags:
    """Flags of rows, [B, F], as the host sees them: on a GPU those of the call before, for which it need not wait."""

    def __init__(self) -> None:
        self.pending: tuple[Tensor, torch.cuda.Event] | None = None
        self.places = torch.arange(0)
        """Where each row stands in what is pending, [B]; -1: it was not there."""

    def read(self, flags: Tensor) -> Tensor:
        if not flags.is_cuda:
            return flags
        before, places, event = self.pending, self.places, torch.cuda.Event()
        copy = flags.to("cpu", non_blocking=True)  # to pinned memory
        event.record()
        self.pending, self.places = (copy, event), torch.arange(len(flags))
        if before is None:
            return torch.zeros(flags.shape, dtype=torch.bool)
        before[1].synchronize()
        return before[0][places] & (places >= 0)[:, None]

    def admit(self, count: int) -> None:
        """`count` rows come, behind the others."""
        self.places = torch.cat([self.places, torch.full((count,), -1)])

    def keep(self, rows: Tensor) -> None:
        """Only these rows stay."""
        self.places = self.places[rows]


def _open_block(slots: Slots) -> None:
    """Move each row to the block of its first mask."""
    first = (slots.committed_at == 0).int().argmax(-1)
    start = first - first % slots.block_length
    slots.block_call = torch.where(start == slots.block_start, slots.block_call + 1, 0)
    slots.block_start = start


def _with_caches(roster: Roster, slots: Slots, shift: int, caches: KeyValues) -> Layout:
    """The layout of a call in which rows read their caches, with the caches laid out like it.

    Which rows refresh depends on where their blocks begin: the host waits for that, once.
    """
    block_call, window_start = torch.stack([slots.block_call, slots.window_start]).cpu()
    moved = block_call == 0
    due = (roster.refresh_every > 0) & (roster.age + 1 >= roster.refresh_every)
    roster.age = torch.where(moved | due | (roster.home < 0), 0, roster.age + 1)
    layout = lay_out(roster, slots, shift, window_start)
    if not torch.equal(layout.home, roster.home) and layout.cached_at is not None:
        source = torch.zeros(sum(run.rows * run.length for run in layout.packing.runs), dtype=torch.int64)
        for new, old, length in zip(layout.home.tolist(), roster.home.tolist(), roster.length.tolist(), strict=True):
            if old >= 0:
                source[new : new + length] = torch.arange(old, old + length)
        caches.move(to_device(source, slots.key.device))
    roster.home = layout.home
    return layout


def _choose_thresholds(policy: Policy, slots: Slots, layout: Layout, hidden: Tensor) -> None:
    """Set gamma of the learned rows that are in their first call, from the hidden states that call has made anyway."""
    if policy.threshold is None or not layout.prompts:
        return
    pooled = [hidden[start : start + length].float().mean(0) for start, length, _ in layout.prompts]
    shared = torch.tensor([place for place, (*_, rows) in enumerate(layout.prompts) for _ in rows])
    rows = to_device(torch.tensor([row for *_, sharing in layout.prompts for row in sharing]), policy.device)
    features = torch.stack(pooled)[to_device(shared, policy.device)]
    action, logprob = policy.threshold.choose(features, fold(slots.key[rows], _GAMMA), slots.explore[rows])
    slots.features[rows, 0] = features
    slots.gamma_actions[rows, 0] = action
    slots.gamma_logprobs[rows, 0] = logprob
    slots.value[rows] = policy.threshold.gamma(action)


def _choose_thresholds_by_state(policy: Policy, slots: Slots, hidden: Tensor, candidates: Tensor) -> None:
    """Set gamma of the learned rows for this call, from the mean hidden state of their candidates [B, K, D]."""
    head = policy.threshold
    assert head
    # summed in fp64: how many windows stand beside a row's must not show
    total = (hidden.double() * candidates[..., None]).sum(1)
    features = (total / candidates.sum(-1, keepdim=True).clamp_min(1)).float()
    action, logprob = head.choose(features, fold(slots.key, _GAMMA, slots.nfe), slots.explore)
    deciding = (slots.rule == LEARNED) & candidates.any(-1)
    rows = torch.arange(len(slots.nfe), device=slots.nfe.device)
    call = slots.nfe.clamp_max(slots.gamma_actions.shape[1] - 1)
    for column, made in (
        (slots.features, features),
        (slots.gamma_actions, action),
        (slots.gamma_logprobs, logprob),
    ):
        before = column[rows, call]
        column[rows, call] = torch.where(deciding[:, None] if made.ndim == 2 else deciding, made, before)
    slots.value = torch.where(deciding, head.gamma(action), slots.value)


def _commit(
    policy: Policy, slots: Slots, roster: Roster, layout: Layout, hidden: Tensor, rules: set[int], mode: Mode
) -> None:
    """Draw tokens for the masked positions of each active block and commit those that the row's sampler chooses."""
    masked = (slots.committed_at == 0) & ~slots.done[:, None]
    offset = torch.arange(int(roster.window.max()), device=masked.device)
    window = (slots.window_start[:, None] + offset).clamp_max(masked.shape[1] - 1)  # [B, K] canvas positions
    candidates = masked.gather(1, window) & (offset < slots.block_length[:, None])
    rows, columns = _cells(candidates)
    canvas = window[rows, columns]
    keys = fold(slots.key[rows], _DRAW, slots.nfe[rows], canvas)
    in_row = (slots.prompt_length[rows] + canvas - policy.denoiser.config.shift).clamp_min(0)
    at = layout.first_query[rows] + torch.where(layout.asks_all[rows], in_row, columns)
    states = hidden[at.clamp_max(len(hidden) - 1)]  # a window may end before the widest does
    if policy.threshold and policy.threshold.config.level == "state" and LEARNED in rules:
        grid = hidden.new_zeros(*candidates.shape, hidden.shape[-1]).index_put((rows, columns), states)
        _choose_thresholds_by_state(policy, slots, grid, candidates)
    tokens, *certainty = _predict(
        policy, states, slots.temperature[rows], slots.entropy_temperature[rows], uniform(keys), mode
    )

    def spread(values: Tensor) -> Tensor:
        """Values of candidates, [B, K]."""
        return values.new_zeros(candidates.shape).index_put_((rows, columns), values)

    logprobs, entropies, max_probs = map(spread, certainty)
    chosen = _choose_positions(slots, entropies, max_probs, candidates, window, rules)

    # from windows to canvases by looking back, so that nothing is written twice
    place = torch.arange(masked.shape[1], device=masked.device) - slots.window_start[:, None]
    inside = (place >= 0) & (place < slots.block_length[:, None])
    place = place.clamp(0, len(offset) - 1)
    chosen = chosen.gather(1, place) & inside
    slots.broken = (candidates & ~entropies.isfinite()).any(-1) | slots.value.isnan()
    slots.nfe = slots.nfe + candidates.any(-1)
    slots.canvas.copy_(torch.where(chosen, spread(tokens).gather(1, place), slots.canvas))
    slots.committed_at = torch.where(chosen, slots.nfe[:, None], slots.committed_at)
    slots.logprobs = torch.where(chosen, logprobs.gather(1, place), slots.logprobs)
    slots.entropies = torch.where(chosen, entropies.gather(1, place), slots.entropies)


def _cells(candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each candidate; on a GPU, which would stop the host to count them, of every cell [B, K]."""
    if not candidates.is_cuda:
        rows, columns = candidates.nonzero(as_tuple=True)
        return rows, columns
    cells = torch.arange(candidates.numel(), device=candidates.device)
    return cells // candidates.shape[1], cells % candidates.shape[1]


def _predict(
    policy: Policy, hidden: Tensor, temperature: Tensor, entropy_temperature: Tensor, uniforms: Tensor, mode: Mode
) -> tuple[Tensor, ...]:
    """`predict` at N positions, by chunks that hold MAX_LOGITS at most."""
    columns = (hidden, temperature, entropy_temperature, uniforms)
    size = max(MIN_ROWS, MAX_LOGITS[hidden.device.type] // policy.denoiser.config.vocab_size)
    parts = zip(*(column.split(size) for column in columns), strict=True)
    chunks = [predict(_logits(policy, part), warmth, look, lottery, mode) for part, warmth, look, lottery in parts]
    return chunks[0] if len(chunks) == 1 else tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def _logits(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits of hidden states [N, D], computed alike however few they are; finite, banned ids far below the others."""
    missing = max(0, MIN_ROWS - len(hidden))
    padded = torch.nn.functional.pad(hidden, (0, 0, 0, missing)) if missing else hidden
    return policy.logits(padded, floor=-1e30)[: len(hidden)]


def _choose_positions(
    slots: Slots, entropy: Tensor, max_prob: Tensor, candidates: Tensor, window: Tensor, rules: set[int]
) -> Tensor:
    """The candidates [B, K] that each row's own rule commits in this call."""
    value, count = slots.value, slots.value.long()
    span = torch.minimum(slots.block_length, slots.gen_length - slots.block_start)
    num_blocks = -(-slots.gen_length // slots.block_length)
    scheduled = unmasking.steps_count(span, (count // num_blocks).clamp_min(1), slots.block_call)

    def by_lottery() -> Tensor:
        lottery = uniform(fold(slots.key[:, None], _ORDER, slots.nfe[:, None], window))
        return unmasking.random(lottery, candidates, count)

    choose = {
        ENTROPY_BOUND: lambda: unmasking.entropy_bound(entropy, candidates, value),
        LEARNED: lambda: unmasking.entropy_bound(entropy, candidates, value),
        CONFIDENCE: lambda: unmasking.confidence(max_prob, candidates, value),
        TOP_K: lambda: unmasking.top_k(max_prob, candidates, count),
        STEPS: lambda: unmasking.top_k(max_prob, candidates, scheduled),
        RANDOM: by_lottery,
    }
    chosen = torch.zeros_like(candidates)
    for rule in sorted(rules):
        chosen |= choose[rule]() & (slots.rule == rule)[:, None]
    return chosen


def _mark_finished(policy: Policy, slots: Slots) -> None:
    """Mark rows without masks, and those that exit early with an EOS before which everything is committed."""
    committed = slots.committed_at != 0
    prefix = committed.long().cumprod(-1).bool() & (slots.committed_at > 0)
    ended = (prefix & (slots.canvas == policy.eos_id)).any(-1)
    slots.nfe_until_eos = torch.where(ended & (slots.nfe_until_eos == 0), slots.nfe, slots.nfe_until_eos)
    slots.done = committed.all(-1) | (ended & slots.early_exit)


def _show(slots: Slots, roster: Roster, on_call: OnCall) -> None:
    for row, (request, call) in enumerate(zip(roster.request.tolist(), slots.nfe.tolist(), strict=True)):
        on_call(request, call, slots.canvas[row, : int(slots.gen_length[row])])
