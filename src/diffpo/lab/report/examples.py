"""Example rollouts: the same test prompts answered by each policy, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from diffpo.config import TrainConfig
from diffpo.evaluation.display import GRID_COLUMNS, clues
from diffpo.models.policy import Policy, load_policy
from diffpo.rollout.judging import judge_one
from diffpo.rollout.local import sample
from diffpo.tasks import load_task
from diffpo.types import Completion, Prompt

POOL = 16
"""Test prompts that are looked through for each that is shown."""


@dataclass(frozen=True, eq=False)
class Example:
    """One completion and how it came about."""

    prompt: Prompt
    completion: Completion
    correct: bool
    sampler: str
    given: tuple[bool, ...]
    """Positions that the prompt gives away, where it is a grid with clues."""
    columns: int | None
    """Cells in a row, where the canvas is a grid."""


def read_examples(config: TrainConfig, num: int, run: Path | None = None) -> list[Example]:
    """`num` test prompts of a run's task, its levels in turn, as it answers them at temperature 0.

    `run` is its folder; None: what it started from, its adapter included, answers, decoded as the run is.
    """
    load = replace(config.load, adapter=None, revision=None) if run else config.load
    policy, task = load_policy(run or config.model, **vars(load)), load_task(config.task)
    rollout = replace(config.rollout, temperature=0.0, sampler=sampler_of(policy, config))
    prompts = choose_prompts(task.prompts("test", POOL * num), num)
    return [
        Example(
            prompt,
            completion,
            judge_one(task, prompt, completion.text, completion).correct,
            rollout.sampler,
            given=clues(prompt, len(completion.pieces)),
            columns=GRID_COLUMNS.get(task.name),
        )
        for prompt, completion in zip(prompts, sample(policy, prompts, rollout, task.gen_length), strict=True)
    ]


def sampler_of(policy: Policy, config: TrainConfig) -> str:
    """The run's sampler; without a head for it, the threshold that a head starts at, for all prompts."""
    sampler = config.rollout.sampler
    return sampler if sampler != "learned" or policy.sampler_head else f"entropy_bound:{config.threshold.gamma_init:g}"


def choose_prompts(prompts: Sequence[Prompt], num: int) -> list[Prompt]:
    """The first `num` prompts, taking the levels of difficulty in turn."""
    levels = sorted({prompt.level for prompt in prompts})
    queues = ([prompt for prompt in prompts if prompt.level == level] for level in levels)
    in_turn = [prompt for turn in zip_longest(*queues) for prompt in turn if prompt]
    return sorted(in_turn[:num], key=lambda prompt: prompt.level)
