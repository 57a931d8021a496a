"""Prompts to scored groups of completions, in this process."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from numbers import Integral
from random import Random
from typing import cast

import torch
from torch import Tensor

from diffpo.config import CollectConfig, RolloutConfig, parse_canvas
from diffpo.config.checks import check, expect
from diffpo.functional.objective import speed_reward
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.rewards.calls import TrainerState
from diffpo.rollout.checks import check_request
from diffpo.rollout.engine import Engine, Event, Finished, generate
from diffpo.rollout.hints import hinted_canvas, with_hinted
from diffpo.rollout.judging import decode_and_judge, text_of
from diffpo.rollout.rules import load_rule
from diffpo.tasks.base import SolvedTask, Split, Task
from diffpo.tasks.chat import RowTask, check_fit
from diffpo.tasks.conversations import read_messages
from diffpo.types import Completion, Messages, Prompt, Request, Rollout, RolloutGroup, Sampler
from diffpo.view.progress import counted

GEN_LENGTH, TINY_LENGTH = 128, 16
"""Canvas where no task and no setting says how long it is, of a published model and of a tiny one."""


def default_length(policy: Policy) -> int:
    """The canvas where no task and no setting says how long it is."""
    return TINY_LENGTH if policy.is_tiny else GEN_LENGTH


def canvas_ids(policy: Policy, config: RolloutConfig) -> tuple[int, ...]:
    """What the config puts on a canvas, as `Request` has it. ValueError if the model cannot hold or read it."""
    parts = parse_canvas(config.canvas, "rollout.canvas") if config.canvas else []
    room, size = policy.denoiser.config.max_length, sum(part for part in parts if isinstance(part, int))
    check(size <= room, f"rollout.canvas: {size} tokens to write exceed the model's {room}: leave fewer open")
    try:
        each = [(policy.mask_id,) * part if isinstance(part, int) else policy.tokenizer.encode(part) for part in parts]
    except ValueError as error:
        raise ValueError(f"rollout.canvas: {error}") from None
    return tuple(chain.from_iterable(each))


def canvas_length(policy: Policy, config: RolloutConfig, otherwise: int | None = None) -> int:
    """Tokens of the canvas; where the config leaves it open, `otherwise`, or what nothing says."""
    return len(canvas_ids(policy, config)) or config.gen_length or otherwise or default_length(policy)


def make_request(
    policy: Policy,
    prompt: Prompt | str | Messages,
    config: RolloutConfig,
    gen_length: int,
    key: int,
    explore: bool = True,
    early_exit: bool = True,
) -> Request:
    """The request that decodes `prompt` as `config` says; `gen_length` is used where the config leaves it open.

    ValueError names a prompt that the tokenizer does not take, or if a number of steps does not spread evenly over the
    blocks.
    """
    asked, prefill = (prompt.asked, prompt.prefill) if isinstance(prompt, Prompt) else (prompt, "")
    try:
        prompt_ids = policy.encode(asked, prefill, config.chat_template)
    except ValueError as error:
        named = (prompt.place or prompt.id) if isinstance(prompt, Prompt) else f"{prompt!r:.60}"
        raise ValueError(f"prompt {named}: {error}") from None
    return request_for(policy, prompt_ids, config, gen_length, key, explore, early_exit)


def request_for(
    policy: Policy,
    prompt_ids: tuple[int, ...],
    config: RolloutConfig,
    gen_length: int,
    key: int,
    explore: bool = True,
    early_exit: bool = True,
) -> Request:
    """The same of a prompt that is encoded already."""
    given = canvas_ids(policy, config)
    gen_length = len(given) or config.gen_length or gen_length
    in_blocks = policy.denoiser.config.block_length
    block_length = config.block_length or in_blocks or gen_length
    cache = ("exact" if in_blocks else "none") if config.cache == "auto" else config.cache
    sampler, num_blocks = Sampler.parse(config.sampler), -(-gen_length // max(block_length, 1))  # 0 is refused later
    written = max(num_blocks, given.count(policy.mask_id))  # with fewer than blocks, each has a call of its own
    most, named = (written, "the tokens to write") if given else (gen_length, "gen_length")
    if sampler.rule == "steps" and (sampler.value % num_blocks or sampler.value > most):
        raise ValueError(
            f"rollout.sampler {config.sampler!r}: the number of calls must be a multiple of the {num_blocks} block(s), "
            f"at most {named} = {most}"
        )
    return Request(
        prompt_ids=prompt_ids,
        key=key,
        gen_length=gen_length,
        block_length=block_length,
        sampler=sampler,
        temperature=config.temperature,
        entropy_temperature=config.entropy_temperature,
        explore=explore,
        early_exit=early_exit,
        cache=cache,
        refresh_every=config.cache_refresh,
        canvas_ids=given,
    )


def check_decoding(policy: Policy, config: RolloutConfig, gen_length: int) -> None:
    """ValueError where no prompt whatever could be answered as `config` says; `gen_length` as in `make_request`."""
    load_rule(Sampler.parse(config.sampler))
    check_request(policy, request_for(policy, (policy.eos_id,), config, gen_length, key=0))


def check_prompts(policy: Policy, task: Task, splits: Sequence[Split], config: RolloutConfig) -> list[str]:
    """What to tell of the prompts that come from rows: how many are too long and left out.

    ValueError names the first row that the model cannot hold or its tokenizer cannot take, or which lacks the solution
    that hints are parts of.
    """
    if not isinstance(task, RowTask):
        return []
    length, canvas = policy.denoiser.config.max_length, canvas_length(policy, config, task.gen_length)
    lines = []

    def num_tokens(prompt: Prompt) -> int:
        return len(policy.encode(prompt.asked, prompt.prefill, config.chat_template))

    for split in splits:
        if task.has_rows(split):
            if dropped := task.fit(split, num_tokens, length, canvas):
                room, source = length - canvas, task.source(split)
                said = counted(dropped, f"prompt of {source} is", f"prompts of {source} are")
                lines.append(f"{said} left out: longer than {room} tokens")
            if split == "train" and isinstance(config, CollectConfig) and config.hints:
                for prompt in task.rows(split):
                    _solution_ids(policy, task, prompt)
    return lines


def check_ids(prompts: Sequence[Prompt]) -> None:
    """ValueError where two prompts have one id: their completions would be drawn alike, and counted as one prompt's."""
    if twice := [name for name, count in Counter(prompt.id for prompt in prompts).items() if count > 1]:
        raise ValueError(f"several prompts have the id {twice[0]!r}: give each prompt of a split an id of its own")


def sample(
    policy: Policy,
    prompts: Sequence[Prompt | str | Messages],
    config: RolloutConfig | None = None,
    gen_length: int | None = None,
    seed: int = 0,
    canvas: str = "",
) -> list[Completion]:
    """One completion a prompt, with its text and how it came about. The learned threshold is taken without noise.

    None: as the policy was trained to answer (`Policy.decoding`), on a canvas of `gen_length` if one is given; that of
    a config which has one has precedence. Where nothing says, GEN_LENGTH, or TINY_LENGTH of a tiny model. `canvas` is
    text to stand on it (`RolloutConfig`). ValueError names a prompt that cannot be asked.
    """
    if isinstance(prompts, str | Prompt):
        raise ValueError(f"sample takes a list of prompts: [{prompts!r:.40}]")
    config, prompts = _decoding(policy, config, gen_length, canvas), _read(prompts)
    completions = generate(policy, _asked(policy, prompts, config, gen_length, seed), config.num_slots)
    return [_with_text(policy, *pair) for pair in zip(prompts, completions, strict=True)]


def _with_text(policy: Policy, prompt: Prompt | str | Messages, completion: Completion) -> Completion:
    asked = prompt.asked if isinstance(prompt, Prompt) else prompt
    asked, ids = asked if isinstance(asked, str) else asked[-1]["content"], completion.tokens.tolist()
    pieces = tuple(map(policy.tokenizer.piece, ids))
    return replace(completion, prompt=asked, text=text_of(policy, completion), pieces=pieces)


def stream(
    policy: Policy,
    prompt: Prompt | str | Messages,
    config: RolloutConfig | None = None,
    gen_length: int | None = None,
    seed: int = 0,
    canvas: str = "",
) -> Iterator[Event]:
    """The answer that `sample` gives to one prompt as it comes about: what each call commits, and the completion."""
    config, (prompt,) = _decoding(policy, config, gen_length, canvas), _read([prompt])
    engine, (request,) = Engine(policy, num_slots=1, stream=True), _asked(policy, [prompt], config, gen_length, seed)
    engine.submit(request)

    def told(event: Event) -> Event:
        if not isinstance(event, Finished):
            return event
        return replace(event, completion=_with_text(policy, prompt, event.completion))

    return map(told, engine.run())


def _decoding(policy: Policy, config: RolloutConfig | None, gen_length: int | None, canvas: str) -> RolloutConfig:
    expect(Policy, policy, "policy", "load_policy(...) gives one")
    expect(RolloutConfig, config or policy.decoding, "config", "RolloutConfig(sampler='top_k:1'), say")
    if canvas:
        return replace(config or policy.decoding, canvas=canvas, gen_length=None)
    if config or gen_length is None:
        return config or policy.decoding
    return replace(policy.decoding, gen_length=gen_length, canvas="")


def _read(prompts: Sequence[Prompt | str | Messages]) -> list[Prompt | str | Messages]:
    """The prompts, conversations as data files hold them. ValueError names the first that is none, counted from 1."""
    return [
        prompt if isinstance(prompt, Prompt | str) else read_messages(prompt, f"prompt {number}")
        for number, prompt in enumerate(prompts, 1)
    ]


def _asked(
    policy: Policy, prompts: Sequence[Prompt | str | Messages], config: RolloutConfig, gen_length: int | None, seed: int
) -> list[Request]:
    check(isinstance(seed, Integral), f"seed must be a whole number, got {seed!r:.60}")
    gen_length = default_length(policy) if gen_length is None else gen_length
    keys = [make_key(seed, prompt.id if isinstance(prompt, Prompt) else at) for at, prompt in enumerate(prompts)]
    return [
        make_request(policy, prompt, config, gen_length, key, explore=False)
        for prompt, key in zip(prompts, keys, strict=True)
    ]


def collect(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    num_generations: int,
    config: RolloutConfig,
    seed: int,
    speed_weight: float = 0.0,
    speed_gate: float = 0.0,
    state: TrainerState | None = None,
    hints: float = 0.0,
) -> list[RolloutGroup]:
    """G scored completions of each prompt. Random numbers are keyed by (seed, prompt id, generation).

    `hints`: the largest share of a solution that is given where no completion is right (`diffpo.rollout.hints`).
    """
    check(num_generations >= 1, f"num_generations must be >= 1, got {num_generations}")
    check_fit(task, policy.is_tiny)
    check_ids(prompts)
    if not prompts:
        return []
    asked = [make_request(policy, prompt, config, task.gen_length, key=0) for prompt in prompts]
    requests = [
        replace(request, key=make_key(seed, prompt.id, generation))
        for prompt, request in zip(prompts, asked, strict=True)
        for generation in range(num_generations)
    ]
    groups = _answer(policy, task, prompts, requests, config.num_slots, state)
    stuck = [at for at, group in enumerate(groups) if not any(r.verdict.correct for r in group.rollouts)]
    if hints and stuck:
        requests = [
            _hinted(policy, task, prompts[at], request, hints, make_key(seed, prompts[at].id, generation, "hinted"))
            for at in stuck
            for generation, request in enumerate([asked[at]] * num_generations)
        ]
        again = _answer(policy, task, [prompts[at] for at in stuck], requests, config.num_slots, state)
        for at, hinted in zip(stuck, again, strict=True):
            groups[at] = with_hinted(groups[at], hinted)
    lengths = torch.tensor([request.gen_length for request in asked])[:, None].expand(-1, num_generations)
    return _hurried(groups, lengths, speed_weight, speed_gate)


def _answer(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    requests: Sequence[Request],
    num_slots: int,
    state: TrainerState | None,
) -> list[RolloutGroup]:
    """The group of each prompt, with the task's own rewards."""
    completions, texts, judged = decode_and_judge(policy, task, prompts, requests, num_slots, state)
    verdicts = [verdict for group in judged for verdict in group.verdicts]
    rewards = [math.nan if verdict.reward is None else verdict.reward for verdict in verdicts]
    rollouts, size = list(map(Rollout, completions, texts, verdicts, rewards)), len(requests) // len(prompts)
    return [
        RolloutGroup(prompt, requests[start].prompt_ids, rollouts[start : start + size], found.metrics)
        for prompt, found, start in zip(prompts, judged, range(0, len(rollouts), size), strict=True)
    ]


def _hinted(policy: Policy, task: Task, prompt: Prompt, request: Request, most: float, key: int) -> Request:
    """The request with parts of the prompt's solution on its canvas."""
    solution = _solution_ids(policy, task, prompt)
    given = hinted_canvas(solution, request.gen_length, policy.mask_id, most, Random(key))
    return replace(request, key=key, canvas_ids=given)


def _solution_ids(policy: Policy, task: Task, prompt: Prompt) -> tuple[int, ...]:
    return policy.tokenizer.encode(cast(SolvedTask, task).solution(prompt))


def _hurried(groups: Sequence[RolloutGroup], lengths: Tensor, weight: float, gate: float) -> list[RolloutGroup]:
    """The groups with the speed term in their rewards, of completions without hints; `lengths` of canvases, [P, G]."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    rewards = speed_reward(
        torch.tensor([rollout.reward for rollout in rollouts]).view(lengths.shape),
        torch.tensor([rollout.verdict.correct and not rollout.hinted for rollout in rollouts]).view(lengths.shape),
        torch.tensor([rollout.completion.nfe for rollout in rollouts]).view(lengths.shape),
        lengths,
        weight,
        gate,
    ).tolist()
    return [
        replace(group, rollouts=[replace(r, reward=reward) for r, reward in zip(group.rollouts, row, strict=True)])
        for group, row in zip(groups, rewards, strict=True)
    ]
