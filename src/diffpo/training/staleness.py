"""What a lag has changed: calls of a step's rollouts, made again by the policy that is to learn from them."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor

from diffpo.config import TrainConfig
from diffpo.functional.random import fold, make_key, uniform
from diffpo.processes.world import World
from diffpo.rollout.replay import changed_sets
from diffpo.training.collect import as_decoded
from diffpo.training.metrics import Metrics
from diffpo.training.sharding import gathered
from diffpo.training.state import TrainState
from diffpo.types import Batch

NUM_CALLS = 32
"""Calls of a step that are made again, each a row through the denoiser; rollouts are thousands."""


def staleness(state: TrainState, batch: Batch, config: TrainConfig, world: World) -> Metrics:
    """The share of sampled calls that would commit another set of positions; nothing where no lag is asked for.

    Which calls is a function of seed and step, and ranks share them.
    """
    if not config.rollout.lag or not len(batch):
        return {}
    rows, calls = sample_calls(batch.nfe, make_key(config.seed, "replay", state.step))
    changed, share = list[bool](), world.share(len(rows))
    with gathered(world, state.policy.denoiser), as_decoded(state.policy, config):
        for start in range(share.start, share.stop, config.rollout.num_slots):
            some = slice(start, min(start + config.rollout.num_slots, share.stop))
            changed += changed_sets(state.policy, batch.take(rows[some]), calls[some], config.rollout).tolist()
    return {"replay/changed": fmean(world.gather(changed))}


def sample_calls(nfe: Tensor, key: int, count: int = NUM_CALLS) -> tuple[Tensor, Tensor]:
    """Rows of `count` calls, and which calls they are, from 1 on: one of each equal part of all, or all there are."""
    total = int(nfe.sum())
    count = min(count, total)
    within = uniform(fold(torch.tensor(key), torch.arange(count))).double()
    place = ((torch.arange(count) + within) * (total / count)).long().clamp_max(total - 1)
    ends = nfe.cumsum(0)
    rows = torch.searchsorted(ends, place, right=True)
    return rows, place - (ends - nfe)[rows] + 1
