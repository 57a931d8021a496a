"""Answers to test prompts: how they are made, and what they are counted to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from statistics import fmean
from typing import Any

from diffpo.config import RolloutConfig
from diffpo.evaluation.estimators import clustered_interval, majority, pass_at_k, sizes, standard_error
from diffpo.functional.random import make_key
from diffpo.grading.answers import extract_answer
from diffpo.grading.spelling import clean
from diffpo.models.policy import Policy
from diffpo.rewards.calls import TrainerState
from diffpo.rollout.judging import decode_and_judge
from diffpo.rollout.local import check_ids, make_request
from diffpo.tasks.base import Task
from diffpo.types import Completion, Judged, Prompt

Asked = tuple[Prompt, int]
"""A prompt, and which of its answers: 0 for the first."""


@dataclass(frozen=True)
class Answer:
    """One completion of one sampler with its verdict: a row of completions.jsonl."""

    sampler: str
    id: str
    """The prompt's."""
    sample: int
    """Which of the prompt's answers, from 0."""
    level: str
    prompt: str
    text: str
    answer: str
    """The final answer, as the task read it; of a task that does not say, as `extract_answer` does. "" for none."""
    correct: bool
    reward: float | None
    parts: Mapping[str, float]
    nfe: int
    nfe_until_eos: int
    num_tokens: int
    """Tokens up to and including the first EOS."""
    gamma: float | None
    extra: Mapping[str, object] = field(default_factory=dict)
    """What reward functions kept of the completion (`log_extra`)."""

    def row(self) -> dict[str, Any]:
        """Flat: parts of the reward as rewards/NAME, what functions kept as extra/NAME."""
        row = asdict(self)
        for name, values in {"rewards": row.pop("parts"), "extra": row.pop("extra")}.items():
            row |= {f"{name}/{key}": value for key, value in values.items()}
        return row


@dataclass(frozen=True)
class Point:
    """One sampler on one set of prompts."""

    sampler: str
    level: str
    """Difficulty class; "" for all prompts."""
    num_prompts: int
    accuracy: float
    """Mean over prompts; of several answers to each, of their mean."""
    low: float
    """95 % interval of the accuracy over prompts (`clustered_interval`): Wilson's."""
    high: float
    nfe: float
    """Mean denoiser calls for the whole canvas."""
    nfe_until_eos: float
    """Mean calls until the answer stood."""
    tokens_per_nfe: float
    """Answer tokens (up to EOS) over calls until the answer stood, summed before dividing."""
    gamma: float | None = None
    """Mean threshold, nats."""
    num_tokens: float = 0.0
    """Mean answer tokens, up to and including EOS."""
    standard_error: float | None = None
    """Of the accuracy, over prompts; None for a single prompt."""
    num_samples: int = 1
    """Answers a prompt; what follows is there for several."""
    pass_at_k: Mapping[int, float] = field(default_factory=dict, hash=False)
    """k to the chance that a right answer is among k."""
    majority: float | None = None
    """maj@N: accuracy of the most frequent of a prompt's answers."""

    def __str__(self) -> str:
        name = f"{self.sampler}, {self.level}" if self.level else self.sampler
        return f"{name}: {100 * self.accuracy:.1f} % in {self.nfe:.1f} calls"

    def row(self) -> dict[str, Any]:
        """Flat, as in evaluation.csv: pass@1, pass@2, ... and maj@N where there are several answers."""
        row = {name: value for name, value in asdict(self).items() if name not in ("pass_at_k", "majority")}
        row |= {f"pass@{k}": chance for k, chance in self.pass_at_k.items()}
        return row if self.majority is None else row | {f"maj@{self.num_samples}": self.majority}


def asked(prompts: Sequence[Prompt], num_samples: int = 1) -> list[Asked]:
    """Every prompt `num_samples` times. ValueError where two have one id."""
    check_ids(prompts)
    return [(prompt, sample) for prompt in prompts for sample in range(num_samples)]


def answer(
    policy: Policy,
    task: Task,
    wanted: Sequence[Asked],
    rollout: RolloutConfig,
    seed: int,
    early_exit: bool,
    state: TrainerState | None = None,
    on_stop: Callable[[list[Answer]], None] | None = None,
) -> list[Answer]:
    """Decode and judge the `wanted` answers, thresholds without noise, each judged by itself.

    Draws are keyed by (seed, prompt id, sample), so an answer depends on no other. The first of a prompt has the key of
    `diffpo sample`. On Ctrl-C the answers that are whole by then go to `on_stop`.
    """
    requests = [
        make_request(
            policy, prompt, rollout, task.gen_length, _key(seed, prompt, sample), explore=False, early_exit=early_exit
        )
        for prompt, sample in wanted
    ]

    def rows(
        places: Sequence[int], completions: Sequence[Completion], texts: Sequence[str], judged: Sequence[Judged]
    ) -> list[Answer]:
        found = zip(places, completions, texts, judged, strict=True)
        return [_row(rollout.sampler, wanted[at], completion, text, group) for at, completion, text, group in found]

    hand_over = on_stop and (lambda *whole: on_stop(rows(*whole)))
    prompts = [prompt for prompt, _ in wanted]
    whole = decode_and_judge(policy, task, prompts, requests, rollout.num_slots, state, hand_over)
    return rows(range(len(wanted)), *whole)


def _key(seed: int, prompt: Prompt, sample: int) -> int:
    return make_key(seed, prompt.id, sample) if sample else make_key(seed, prompt.id)


def _row(sampler: str, asked: Asked, completion: Completion, text: str, judged: Judged) -> Answer:
    (prompt, sample), (verdict,) = asked, judged.verdicts
    return Answer(
        sampler=sampler,
        id=prompt.id,
        sample=sample,
        level=prompt.level,
        prompt=prompt.text,
        text=text,
        answer=extract_answer(text) if verdict.answer is None else verdict.answer,
        correct=verdict.correct,
        reward=verdict.reward,
        parts={name: part for name, part in verdict.parts.items() if not math.isnan(part)},
        nfe=completion.nfe,
        nfe_until_eos=completion.nfe_until_eos,
        num_tokens=int(completion.written.sum()),
        gamma=completion.gamma,
        extra=verdict.extra,
    )


def points_of(sampler: str, answers: Sequence[Answer]) -> list[Point]:
    """A point for all answers, then one a level. Answers to one prompt follow each other, equally many to each."""
    levels = sorted({answer.level for answer in answers} - {""})
    return [point_of(sampler, level, [a for a in answers if level in ("", a.level)]) for level in ["", *levels]]


def point_of(sampler: str, level: str, answers: Sequence[Answer]) -> Point:
    """The point that these answers make."""
    by_prompt = [list(group) for _, group in groupby(answers, key=lambda answer: answer.id)]
    rights = [sum(answer.correct for answer in group) for group in by_prompt]
    num_samples = len(by_prompt[0])
    means = [right / num_samples for right in rights]
    gammas = [answer.gamma for answer in answers if answer.gamma is not None]
    low, high = clustered_interval(means, num_samples)
    chances = {k: fmean(pass_at_k(num_samples, right, k) for right in rights) for k in sizes(num_samples)}
    several = num_samples > 1
    return Point(
        sampler=sampler,
        level=level,
        num_prompts=len(by_prompt),
        accuracy=sum(rights) / len(answers),
        low=low,
        high=high,
        nfe=fmean(answer.nfe for answer in answers),
        nfe_until_eos=fmean(answer.nfe_until_eos for answer in answers),
        tokens_per_nfe=sum(a.num_tokens for a in answers) / sum(a.nfe_until_eos for a in answers),
        gamma=fmean(gammas) if gammas else None,
        num_tokens=fmean(answer.num_tokens for answer in answers),
        standard_error=standard_error(means),
        num_samples=num_samples,
        pass_at_k=chances if several else {},
        majority=fmean(map(_vote, by_prompt)) if several else None,
    )


def _vote(group: Sequence[Answer]) -> float:
    return majority([_spelled_alike(answer.answer) for answer in group], [answer.correct for answer in group])


@functools.lru_cache(maxsize=2**16)
def _spelled_alike(answer: str) -> str:
    """What a vote compares: the answer as the graders clean it, or as it stands where it is too long for them."""
    try:
        return clean(answer)
    except ValueError:
        return answer.strip()
