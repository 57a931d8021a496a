"""Which calls are made again, and that it depends on nothing but the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import pytest
import torch
from helpers import FirstDigitTask, chi_square_z, tiny_policy

from diffpo.config import TrainConfig
from diffpo.processes.world import World
from diffpo.training.collect import InProcess, begin, land
from diffpo.training.staleness import NUM_CALLS, sample_calls, staleness
from diffpo.training.state import TrainState
from diffpo.types import Batch

T = TypeVar("T")


def test_a_sample_is_uniform_over_calls() -> None:
    nfe = torch.tensor([3, 1, 7, 2, 5])
    counts = {(row, call): 0 for row, calls in enumerate(nfe.tolist()) for call in range(1, calls + 1)}
    for key in range(2000):
        for row, call in zip(*(column.tolist() for column in sample_calls(nfe, key, 4)), strict=True):
            counts[row, call] += 1
    assert chi_square_z(torch.tensor(list(counts.values())), torch.full((18,), 1 / 18)) < 3


def test_of_few_calls_each_is_made_again_once() -> None:
    rows, calls = sample_calls(torch.tensor([3, 1]), 0)
    assert (rows.tolist(), calls.tolist()) == ([0, 0, 0, 1], [1, 2, 3, 1])


@pytest.fixture
def stale() -> tuple[TrainState, Batch, TrainConfig]:
    """A policy, rollouts of another one, and a config of lag 1."""
    config = TrainConfig(prompts_per_step=4, num_generations=3, train="model")
    config = replace(config, rollout=replace(config.rollout, sampler="top_k:1", lag=1))
    task, world = FirstDigitTask(), World()
    state, collector = TrainState.begin(tiny_policy(1), config), InProcess(config, task, world)
    begin(state, task, config, collector)
    land(state, config, collector)
    assert state.ahead[0]
    return TrainState.begin(tiny_policy(2), config), state.ahead[0].batch, config


def test_ranks_and_slots_do_not_show(stale: tuple[TrainState, Batch, TrainConfig]) -> None:
    @dataclass(frozen=True)
    class Alone(World):
        """One of several ranks, which sees what it has found itself."""

        def gather(self, items: Sequence[T]) -> list[T]:
            return list(items)

    state, batch, config = stale
    (share,) = staleness(state, batch, config, World()).values()
    assert 0 < share < 1 and share * NUM_CALLS == round(share * NUM_CALLS)
    assert staleness(state, batch, replace(config, rollout=replace(config.rollout, num_slots=5)), World()) == {
        "replay/changed": share
    }
    of_ranks = [staleness(state, batch, config, Alone(rank, 4))["replay/changed"] for rank in range(4)]
    assert sum(of_ranks) / 4 == pytest.approx(share)


def test_without_a_lag_nothing_is_made_again(
    stale: tuple[TrainState, Batch, TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, batch, config = stale
    monkeypatch.setattr(type(state.policy.denoiser), "forward", None)
    assert staleness(state, batch, replace(config, rollout=replace(config.rollout, lag=0)), World()) == {}
    assert staleness(state, batch.take(torch.arange(0)), config, World()) == {}
