"""Answers to test prompts: how they are made, kept on disk row by row, and counted."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from diffpo.config import RolloutConfig
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.rewards.calls import TrainerState
from diffpo.rollout.judging import decode_and_judge
from diffpo.rollout.local import make_request
from diffpo.tasks.base import Task
from diffpo.types import Prompt


@dataclass(frozen=True)
class Answer:
    """One completion of one sampler with its verdict: a row of completions.jsonl."""

    sampler: str
    id: str
    """The prompt's."""
    level: str
    prompt: str
    text: str
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


@dataclass(frozen=True)
class Point:
    """One sampler on one set of prompts."""

    sampler: str
    level: str
    """Difficulty class; "" for all prompts."""
    num_prompts: int
    accuracy: float
    low: float
    """95 % Wilson interval of the accuracy."""
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


def answer(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    rollout: RolloutConfig,
    seed: int,
    early_exit: bool,
    state: TrainerState | None = None,
) -> list[Answer]:
    """Decode and judge one completion a prompt, thresholds without noise; draws are keyed by (seed, prompt id)."""
    requests = [
        make_request(policy, p, rollout, task.gen_length, make_key(seed, p.id), explore=False, early_exit=early_exit)
        for p in prompts
    ]
    completions, texts, judged = decode_and_judge(policy, task, prompts, requests, rollout.num_slots, state)
    answers = []
    for prompt, text, completion, found in zip(prompts, texts, completions, judged, strict=True):
        (verdict,) = found.verdicts
        answers.append(
            Answer(
                sampler=rollout.sampler,
                id=prompt.id,
                level=prompt.level,
                prompt=prompt.text,
                text=text,
                correct=verdict.correct,
                reward=verdict.reward,
                parts={name: part for name, part in verdict.parts.items() if not math.isnan(part)},
                nfe=completion.nfe,
                nfe_until_eos=completion.nfe_until_eos,
                num_tokens=completion.length,
                gamma=completion.gamma,
                extra=verdict.extra,
            )
        )
    return answers


def points_of(sampler: str, answers: Sequence[Answer]) -> list[Point]:
    """A point for all answers, then one a level."""
    levels = sorted({answer.level for answer in answers} - {""})
    return [count(sampler, level, [a for a in answers if level in ("", a.level)]) for level in ["", *levels]]


def count(sampler: str, level: str, answers: Sequence[Answer]) -> Point:
    """The point that these answers make."""
    correct = sum(answer.correct for answer in answers)
    gammas = [answer.gamma for answer in answers if answer.gamma is not None]
    low, high = wilson_interval(correct, len(answers))
    return Point(
        sampler=sampler,
        level=level,
        num_prompts=len(answers),
        accuracy=correct / len(answers),
        low=low,
        high=high,
        nfe=fmean(answer.nfe for answer in answers),
        nfe_until_eos=fmean(answer.nfe_until_eos for answer in answers),
        tokens_per_nfe=sum(a.num_tokens for a in answers) / sum(a.nfe_until_eos for a in answers),
        gamma=fmean(gammas) if gammas else None,
        num_tokens=fmean(answer.num_tokens for answer in answers),
    )


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion; z = 1.96 for 95 %."""
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


class AnswerLog:
    """completions.jsonl of an evaluation: a row an answer, written as they come, so that a killed one can go on.

    `settings` are all that answers depend on, digests of weights and files among them; ValueError if the folder holds
    answers made under others.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / "completions.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        header, wanted = folder / "settings.json", json.loads(json.dumps(settings))
        lines = self.path.read_text().split("\n")[:-1] if self.path.is_file() else []  # a kill may cut the last short
        if lines and header.is_file() and (before := json.loads(header.read_text())) != wanted:
            changed = [name for name in {**before, **wanted} if before.get(name) != wanted.get(name)]
            raise ValueError(
                f"{folder} holds an evaluation with other settings ({', '.join(changed)}): choose another --output, or "
                "remove that"
            )
        self.date = datetime.fromtimestamp(self.path.stat().st_mtime) if lines else None
        header.write_text(json.dumps(wanted, indent=2) + "\n")
        self.answers: dict[tuple[str, str], Answer] = {}
        for number, line in enumerate(lines, start=1):
            try:
                answer = Answer(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{self.path}:{number}: not a row of this evaluation: {error}") from None
            self.answers[answer.sampler, answer.id] = answer
        self.num_found = len(self.answers)
        if self.path.is_file() and self.path.stat().st_size and not self.path.read_bytes().endswith(b"\n"):
            draft = self.path.with_suffix(".draft")
            draft.write_text("".join(line + "\n" for line in lines))
            draft.replace(self.path)

    def add(self, answers: Sequence[Answer]) -> None:
        with self.path.open("a") as file:
            file.writelines(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        self.answers |= {(answer.sampler, answer.id): answer for answer in answers}

    def said_of_reuse(self, cost: object) -> str:
        """A line on the answers that were here already, and their date; "" if there were none."""
        if self.date is None:
            return ""
        return f"{self.num_found} of {len(self.answers)} answers reused from {self.date:%Y-%m-%d %H:%M}; {cost}"
