"""Calls made again by another policy: would it commit the positions that were committed?

When each token was committed says what the canvas was before a call, and all random numbers come from the request's
key. So one row through the denoiser tells what a policy would do there: the engine's own call (`diffpo.rollout.call`)
on slots that are put into the state before it. The policy that made the rollouts changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffpo.config import RolloutConfig
from diffpo.models.finite import not_finite
from diffpo.models.policy import Policy
from diffpo.models.threshold import ThresholdHead
from diffpo.rollout.call import Kind, Mix, commit, denoise, open_blocks
from diffpo.rollout.layout import Span, lay_out
from diffpo.rollout.local import request_for
from diffpo.rollout.rules import load_rule
from diffpo.rollout.slots import Room, Roster, Slots
from diffpo.types import Batch, Request, Sampler


def changed_sets(policy: Policy, batch: Batch, calls: Tensor, config: RolloutConfig) -> Tensor:
    """Whether one call of each row, `calls` [N] from 1 on, would now commit another set of positions, [N] bool.

    `batch` was decoded as `config` says. FloatingPointError if logits are not finite.
    """
    if config.cache in ("prefix", "dual"):
        calls = refreshed(batch, calls, config)
    # what an early exit leaves open counts as committed by the last call: there only tokens up to the EOS are compared
    compared = batch.loss_mask | (calls < batch.nfe)[:, None]
    recorded = batch.committed_at == calls[:, None]
    return ((replay(policy, batch, calls, config) != recorded) & compared).any(-1)


def refreshed(batch: Batch, calls: Tensor, config: RolloutConfig) -> Tensor:
    """The latest call up to each of `calls` that computed everything: what an approximate cache held is not known."""
    masked = (batch.committed_at >= calls[:, None]) & (torch.arange(batch.tokens.shape[1]) < batch.gen_lengths[:, None])
    first, length = masked.int().argmax(-1), config.block_length or batch.tokens.shape[1]
    in_block = _calls_in_block(batch.committed_at, calls - 1, first - first % length)
    return calls - (in_block % config.cache_refresh if config.cache_refresh else in_block)


@torch.no_grad()
def replay(policy: Policy, batch: Batch, calls: Tensor, config: RolloutConfig) -> Tensor:
    """The positions that one call of each row would commit, [N, L] bool on the CPU, in one pass of N rows.

    A threshold that a head has decided stays as it was; a Bernoulli head decides anew, with the same random numbers.
    """
    requests = [_request(policy, batch, row, call, config) for row, call in enumerate(calls.tolist())]
    numbers = {sampler: number for number, sampler in enumerate({request.sampler: None for request in requests})}
    kinds = [Kind(numbers[asked.sampler], asked.temperature, asked.entropy_temperature) for asked in requests]
    rules = {number: load_rule(sampler) for sampler, number in numbers.items()}
    slots = _before(policy, batch, calls, requests, [kind.rule for kind in kinds])
    roster = Roster.of(policy, range(len(calls)), range(len(calls)), requests, 0)
    roster.fresh.fill_(False)  # rows of a prompt stand at calls of their own
    layout = lay_out(roster, slots, Span.whole(roster, policy, slots.block_start.cpu()))
    commit(policy, slots, layout, denoise(policy, slots, layout), Mix.of(kinds, rules))
    if slots.broken.any():
        raise not_finite(policy)
    return slots.committed_at.cpu() == calls[:, None]


def _request(policy: Policy, batch: Batch, row: int, call: int, config: RolloutConfig) -> Request:
    """What was asked for, without a cache; a decided threshold is the number of a fixed rule."""
    prompt_ids, length = batch.prompts[row, : int(batch.prompt_lengths[row])].tolist(), int(batch.gen_lengths[row])
    asked = request_for(policy, tuple(prompt_ids), config, length, int(batch.keys[row]))
    given = batch.tokens[row, :length].masked_fill(batch.written[row, :length], policy.mask_id).tolist()
    asked, head = replace(asked, canvas_ids=tuple(given), cache="none"), policy.sampler_head
    if asked.sampler.rule != "learned" or not isinstance(head, ThresholdHead):
        return asked
    assert batch.actions is not None
    gamma = head.gamma(batch.actions[row, call - 1 if head.by_state else 0])
    return replace(asked, sampler=Sampler("entropy_bound", float(gamma)))


def _before(policy: Policy, batch: Batch, calls: Tensor, requests: list[Request], rules: list[int]) -> Slots:
    """Slots in the state in which these calls found their rows."""
    prompt, canvas = max(len(asked.prompt_ids) for asked in requests), batch.tokens.shape[1]
    window = max(min(asked.block_length, asked.gen_length) for asked in requests)
    slots = Slots.empty(policy, len(requests), Room(prompt, canvas, decisions=1, window=window))
    slots.admit(policy, torch.arange(len(requests)), requests, rules)
    calls, committed_at, tokens = (t.to(policy.device) for t in (calls, batch.committed_at, batch.tokens))
    stands = (committed_at < calls[:, None]) & (slots.committed_at == 0)
    slots.committed_at = torch.where(stands, committed_at, slots.committed_at)
    slots.canvas.copy_(torch.where(stands, tokens, slots.canvas))
    slots.nfe = calls - 1
    open_blocks(slots)
    slots.block_call = _calls_in_block(slots.committed_at, slots.nfe, slots.block_start)
    return slots


def _calls_in_block(committed_at: Tensor, nfe: Tensor, block_start: Tensor) -> Tensor:
    """Calls made in the block that starts there, after `nfe` calls: those since the last token before it, [N]."""
    before = torch.arange(committed_at.shape[1], device=nfe.device) < block_start[:, None]
    return nfe - (committed_at * before).amax(-1)
