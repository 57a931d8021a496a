"""What one denoiser call does to the rows, in order: decisions, draws, commits, ends. Pure arithmetic on slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffpo.functional.prediction import Mode, predict
from diffpo.functional.random import fold, uniform
from diffpo.functional.unmasking import Look, Rule, Seen, entropy_bound
from diffpo.models.attention import LayerCache
from diffpo.models.bernoulli import TOKEN, BernoulliHead
from diffpo.models.device import MIN_ROWS, on_card, to_device
from diffpo.models.policy import Policy
from diffpo.models.threshold import ThresholdHead
from diffpo.rollout.layout import Layout
from diffpo.rollout.slots import Slots

# streams of random numbers of one request
_DRAW, _ORDER, _HEAD = range(3)

MAX_LOGITS = {"cpu": 2**20, "cuda": 2**26}
"""Logits held at once, fp32: on a CPU they stay in its cache, on a GPU they are 256 MB, and as much for temporaries."""


class Kind(NamedTuple):
    """What of a request decides which passes over rows and vocabulary a call needs."""

    rule: int
    """The engine's number of it."""
    temperature: float
    entropy_temperature: float
    answered: bool = False
    """Whether it says what is written."""


class Mix(NamedTuple):
    """Which passes the rows of a call need; those left out would change no number."""

    rules: dict[int, Rule]
    mode: Mode
    answered: bool

    @classmethod
    def of(cls, kinds: Iterable[Kind], rules: Mapping[int, Rule]) -> Mix:
        """The passes that rows of these kinds need; `rules` by their numbers."""
        kinds = list(kinds)
        chosen = {kind.rule: rules[kind.rule] for kind in sorted(kinds)}
        greedy = {kind.temperature == 0 for kind in kinds}
        warm = [kind for kind in kinds if kind.temperature]
        mode = Mode(
            greedy="some" if len(greedy) == 2 else "all" if greedy == {True} else "none",
            shared=all(kind.temperature == kind.entropy_temperature for kind in warm),
            plain=all(kind.temperature == 1 for kind in warm) and all(kind.entropy_temperature == 1 for kind in kinds),
            finite=True,
            margin=any("margin" in rule.looks_at for rule in chosen.values()),
        )
        return cls(chosen, mode, any(kind.answered for kind in kinds))

    def looks_at(self, what: Look) -> bool:
        return any(what in rule.looks_at for rule in self.rules.values())


def denoise(policy: Policy, slots: Slots, layout: Layout, layers: Sequence[LayerCache] | None = None) -> Tensor:
    """Hidden states of the positions that predict the rows' windows, [Q, D]; `layers` hold what is cached."""
    denoiser = policy.denoiser
    ids = slots.sequence.flatten()[layout.tokens]
    return denoiser(ids, layout.packing, layout.queries(slots, denoiser.config.shift), layers)


def open_blocks(slots: Slots) -> None:
    """Move each row to the block of its first mask."""
    first = (slots.committed_at == 0).int().argmax(-1)
    start = first - (first + slots.block_offset) % slots.block_length.clamp_min(1)
    slots.block_call = torch.where(start == slots.block_start, slots.block_call + 1, 0)
    slots.block_start = start


def choose_thresholds(policy: Policy, slots: Slots, layout: Layout, hidden: Tensor) -> None:
    """Set gamma of the learned rows that are in their first call, from the hidden states that call has made anyway."""
    head = policy.sampler_head
    if not layout.prompts or not isinstance(head, ThresholdHead):
        return
    pooled = [hidden[start : start + length].float().mean(0) for start, length, _ in layout.prompts]
    shared = torch.tensor([place for place, (*_, rows) in enumerate(layout.prompts) for _ in rows])
    rows = to_device(torch.tensor([row for *_, sharing in layout.prompts for row in sharing]), policy.device)
    features = torch.stack(pooled)[to_device(shared, policy.device)]
    action, logprob = head.choose(features, fold(slots.key[rows], _HEAD), slots.explore[rows])
    slots.features[rows, 0] = features
    slots.actions[rows, 0] = action
    slots.action_logprobs[rows, 0] = logprob
    slots.gamma[rows] = head.gamma(action)


def _choose_thresholds_by_state(head: ThresholdHead, slots: Slots, hidden: Tensor, candidates: Tensor) -> None:
    """Set gamma of the learned rows for this call, from the mean hidden state of their candidates [B, K, D]."""
    # summed in fp64: how many windows stand beside a row's must not show
    total = (hidden.double() * candidates[..., None]).sum(1)
    features = (total / candidates.sum(-1, keepdim=True).clamp_min(1)).float()
    action, logprob = head.choose(features, fold(slots.key, _HEAD, slots.nfe), slots.explore)
    deciding = slots.learned & candidates.any(-1)
    _record(slots, torch.arange(len(slots), device=slots.nfe.device), deciding, features, action, logprob)
    slots.gamma = torch.where(deciding, head.gamma(action), slots.gamma)


def _choose_positions(
    head: BernoulliHead, slots: Slots, layout: Layout, window: Tensor, candidates: Tensor, max_probs: Tensor
) -> Tensor:
    """What a Bernoulli head commits of the candidates [B, K] at canvas positions `window`."""
    rows = layout.slots
    offset = torch.arange(layout.width, device=rows.device)
    in_block = (window >= slots.block_start[:, None]) & (window < slots.block_end[:, None])
    in_block &= offset < slots.block_length[:, None]
    features = torch.where(candidates, max_probs, TOKEN * in_block)[rows]
    uniforms = uniform(fold(slots.key[rows, None], _HEAD, slots.nfe[rows, None], window[rows]))
    committed, logprob = head.choose(features, uniforms, slots.explore[rows])
    missing = (0, slots.features.shape[-1] - layout.width)  # rows without a head may have wider windows
    _record(
        slots,
        rows,
        (slots.learned & candidates.any(-1))[rows],
        torch.nn.functional.pad(features, missing),
        torch.nn.functional.pad(committed, missing),
        logprob,
    )
    return torch.zeros_like(candidates).index_copy_(0, rows, committed)


def _record(slots: Slots, rows: Tensor, deciding: Tensor, features: Tensor, action: Tensor, logprob: Tensor) -> None:
    """Keep the decisions of this call in the slots `rows`, where they are `deciding`."""
    call = slots.nfe[rows].clamp_max(slots.actions.shape[1] - 1)
    for column, made in ((slots.features, features), (slots.actions, action), (slots.action_logprobs, logprob)):
        wanted = deciding.reshape(-1, *[1] * (made.ndim - 1))
        column[rows, call] = torch.where(wanted, made, column[rows, call])


def commit(policy: Policy, slots: Slots, layout: Layout, hidden: Tensor, mix: Mix) -> None:
    """Draw tokens for the masked positions of each active block and commit those that the row's sampler chooses."""
    masked = (slots.committed_at == 0) & ~slots.done[:, None]
    offset = torch.arange(layout.width, device=masked.device)
    window = (slots.window_start[:, None] + offset).clamp_max(masked.shape[1] - 1)  # [B, K] canvas positions
    in_block = (offset < slots.block_length[:, None]) & (window < slots.block_end[:, None])
    candidates = masked.gather(1, window) & in_block
    rows, columns = _cells(candidates, layout)
    canvas = window[rows, columns]
    keys = fold(slots.key[rows], _DRAW, slots.nfe[rows], canvas)
    in_row = (slots.prompt_length[rows] + canvas - policy.denoiser.config.shift).clamp_min(0)
    at = layout.first_query[rows] + torch.where(layout.asks_all[rows], in_row, columns)
    states = hidden[at.clamp_max(len(hidden) - 1)]  # a window may end before the widest does
    drawn = [slots.temperature[rows], slots.entropy_temperature[rows], uniform(keys)]
    drawn += [slots.answer[rows, canvas]] if mix.answered else []
    tokens, *certainty = predict_tokens(policy, states, mix.mode, *drawn)

    def spread(values: Tensor) -> Tensor:
        """Values of candidates, [B, K]."""
        return values.new_zeros(candidates.shape).index_put_((rows, columns), values)

    logprobs, entropies, max_probs, margins = map(spread, certainty)
    lottery = torch.zeros_like(entropies)
    if mix.looks_at("lottery"):
        lottery = uniform(fold(slots.key[:, None], _ORDER, slots.nfe[:, None], window))
    learned = torch.zeros_like(candidates)
    if mix.looks_at("learned"):
        head = policy.sampler_head
        if isinstance(head, BernoulliHead):
            learned = _choose_positions(head, slots, layout, window, candidates, max_probs)
        elif head:
            if head.by_state:
                grid = hidden.new_zeros(*candidates.shape, hidden.shape[-1]).index_put((rows, columns), states)
                _choose_thresholds_by_state(head, slots, grid, candidates)
            learned = entropy_bound(entropies, candidates, slots.gamma)
    given = (slots.committed_at.gather(1, window) < 0) & in_block & (window >= slots.block_start[:, None])
    seen = Seen(
        candidates=candidates,
        entropy=entropies,
        max_prob=max_probs,
        margin=margins,
        lottery=lottery,
        learned=learned,
        call=slots.block_call,
        block_length=slots.block_end - slots.block_start - given.sum(-1),
        num_blocks=(-(-slots.gen_length // slots.block_length.clamp_min(1))).clamp_min(1),
    )
    chosen = torch.zeros_like(candidates)
    for number, rule in mix.rules.items():
        chosen |= rule(seen) & (slots.rule == number)[:, None]

    slots.broken = (candidates & ~entropies.isfinite()).any(-1) | slots.action_logprobs.isnan().any(-1)
    slots.nfe += candidates.any(-1)
    _write(slots, chosen, spread(tokens), logprobs, entropies, max_probs)


def _write(
    slots: Slots, chosen: Tensor, tokens: Tensor, logprobs: Tensor, entropies: Tensor, max_probs: Tensor
) -> None:
    """Put what was chosen in the windows, [B, K] each, onto the canvases."""
    # by looking back from the canvas, so that nothing is written twice
    place = torch.arange(slots.canvas.shape[1], device=chosen.device) - slots.window_start[:, None]
    widest = chosen.shape[1]  # less than a block where all canvases are
    inside = (place >= 0) & (place < slots.block_length[:, None].clamp_max(widest))
    place = place.clamp(0, widest - 1)
    chosen = chosen.gather(1, place) & inside
    slots.canvas.copy_(torch.where(chosen, tokens.gather(1, place), slots.canvas))
    slots.committed_at = torch.where(chosen, slots.nfe[:, None], slots.committed_at)
    slots.logprobs = torch.where(chosen, logprobs.gather(1, place), slots.logprobs)
    slots.entropies = torch.where(chosen, entropies.gather(1, place), slots.entropies)
    slots.max_probs = torch.where(chosen, max_probs.gather(1, place), slots.max_probs)


def _cells(candidates: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Slot and column of each candidate; on a GPU, which would stop the host to count them, of every cell [R, K]."""
    if not on_card(candidates):
        rows, columns = candidates.nonzero(as_tuple=True)
        return rows, columns
    cells = torch.arange(len(layout.slots) * layout.width, device=candidates.device)
    return layout.slots[cells // layout.width], cells % layout.width


def predict_tokens(policy: Policy, hidden: Tensor, mode: Mode, *columns: Tensor) -> tuple[Tensor, ...]:
    """`predict` at N positions, of columns as it takes them, by chunks that hold MAX_LOGITS at most."""
    size = max(MIN_ROWS, MAX_LOGITS["cuda" if on_card(hidden) else "cpu"] // policy.denoiser.config.vocab_size)
    parts = zip(*(column.split(size) for column in (hidden, *columns)), strict=True)
    chunks = [predict(_logits(policy, part), *own, mode=mode) for part, *own in parts]
    return chunks[0] if len(chunks) == 1 else tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))


def _logits(policy: Policy, hidden: Tensor) -> Tensor:
    """Logits of hidden states [N, D], computed alike however few they are; finite, banned ids far below the others."""
    missing = max(0, MIN_ROWS - len(hidden))
    padded = torch.nn.functional.pad(hidden, (0, 0, 0, missing)) if missing else hidden
    return policy.logits(padded, floor=-1e30)[: len(hidden)]


def mark_finished(policy: Policy, slots: Slots) -> None:
    """Mark rows without masks, and those that exit early with an EOS before which everything stands."""
    committed = slots.committed_at != 0
    prefix, place = committed.long().cumprod(-1).bool(), torch.arange(committed.shape[1], device=committed.device)
    is_end = (slots.canvas == policy.eos_id) & (slots.committed_at > 0) & (place >= slots.ends_from[:, None])
    ended = (prefix & is_end).any(-1)
    slots.nfe_until_eos = torch.where(ended & (slots.nfe_until_eos == 0), slots.nfe, slots.nfe_until_eos)
    slots.done = committed.all(-1) | (ended & slots.early_exit)
