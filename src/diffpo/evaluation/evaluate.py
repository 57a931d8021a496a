"""Accuracy against denoiser calls (NFE), for any list of samplers and the frontier of fixed thresholds."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from diffpo.config import EvalConfig, RolloutConfig
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.progress import Progress
from diffpo.rollout.engine import generate
from diffpo.rollout.local import judge, make_request
from diffpo.tasks.base import Task
from diffpo.types import Completion, Prompt, Verdict


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


@dataclass(frozen=True)
class Evaluation:
    """A policy measured: the samplers asked for, and the frontier of fixed thresholds, by ascending gamma."""

    task: str
    points: tuple[Point, ...]
    frontier: tuple[Point, ...] = field(default=())

    def point(self, sampler: str, level: str = "") -> Point:
        """The measured sampler of that name; KeyError if it was not measured."""
        for point in (*self.points, *self.frontier):
            if (point.sampler, point.level) == (sampler, level):
                return point
        raise KeyError(f"{sampler!r} at level {level!r} was not measured")

    @property
    def pareto(self) -> tuple[Point, ...]:
        """Overall points that no other point beats in both accuracy and NFE, by ascending NFE."""
        points = sorted((p for p in (*self.points, *self.frontier) if not p.level), key=lambda p: (p.nfe, -p.accuracy))
        best, chosen = -1.0, []
        for point in points:
            if point.accuracy > best:
                best = point.accuracy
                chosen.append(point)
        return tuple(chosen)

    def frontier_accuracy(self, nfe: float, level: str = "") -> float:
        """Accuracy of fixed thresholds at `nfe` calls: linear between measured points, flat beyond the ends.

        Of thresholds with the same NFE the best counts. ValueError if none was measured.
        """
        points = list(dict(sorted((p.nfe, p.accuracy) for p in self.frontier if p.level == level)).items())
        if not points:
            raise ValueError(f"no fixed threshold was measured at level {level!r}: name some in eval.gammas")
        if nfe <= points[0][0]:
            return points[0][1]
        for (left, low), (right, high) in pairwise(points):
            if nfe <= right:
                return low + (high - low) * (nfe - left) / (right - left)
        return points[-1][1]

    def save(self, folder: str | Path) -> None:
        """Write evaluation.json and evaluation.csv."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(asdict(self), indent=2) + "\n")
        with (folder / "evaluation.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Point)])
            writer.writeheader()
            writer.writerows(asdict(point) for point in (*self.points, *self.frontier))

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read what `save` wrote."""
        values = json.loads((Path(folder) / "evaluation.json").read_text())
        return cls(
            values["task"],
            tuple(Point(**point) for point in values["points"]),
            tuple(Point(**point) for point in values["frontier"]),
        )


def evaluate(
    policy: Policy,
    task: Task,
    config: EvalConfig | None = None,
    rollout: RolloutConfig | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Evaluation:
    """Measure `policy` on test prompts: each of config.samplers, then config.gammas as fixed entropy bounds.

    `rollout` gives lengths and the entropies' temperature; its sampler and temperature are config's. A learned sampler
    is left out where the policy has no threshold head.
    """
    config, rollout = config or EvalConfig(), rollout or RolloutConfig()
    samplers = [spec for spec in config.samplers if spec != "learned" or policy.threshold]
    fixed = [f"entropy_bound:{gamma:g}" for gamma in sorted(config.gammas)]
    measured: dict[str, list[Point]] = {}
    with Progress("measure", len(samplers) + len(fixed), quiet) as progress:
        for spec in (*samplers, *fixed):
            if spec not in measured:
                measured[spec] = measure(policy, task, spec, config, rollout, seed)
            progress.advance(accuracy=measured[spec][0].accuracy, nfe=measured[spec][0].nfe)

    def points(specs: Sequence[str]) -> tuple[Point, ...]:
        return tuple(point for spec in specs for point in measured[spec])

    return Evaluation(task.name, points(samplers), points(fixed))


def measure(
    policy: Policy, task: Task, sampler: str, config: EvalConfig, rollout: RolloutConfig, seed: int = 0
) -> list[Point]:
    """One sampler on config.num_prompts test prompts: a point for all of them, then one a level."""
    prompts = task.prompts("test", config.num_prompts)
    rollout = replace(rollout, sampler=sampler, temperature=config.temperature)
    answers = answer(policy, task, prompts, rollout, seed, early_exit=not config.full_canvas)
    return points_of(sampler, prompts, answers)


def points_of(sampler: str, prompts: Sequence[Prompt], answers: Sequence[tuple[Completion, Verdict]]) -> list[Point]:
    """A point for all answers to `prompts`, then one a level."""
    levels = sorted({prompt.level for prompt in prompts} - {""})
    return [
        summarize_answers(sampler, level, [a for p, a in zip(prompts, answers, strict=True) if level in ("", p.level)])
        for level in ["", *levels]
    ]


def answer(
    policy: Policy, task: Task, prompts: Sequence[Prompt], rollout: RolloutConfig, seed: int, early_exit: bool
) -> list[tuple[Completion, Verdict]]:
    """Decode and judge one completion a prompt, thresholds without noise; draws are keyed by (seed, prompt id)."""
    requests = [
        make_request(policy, p, rollout, task.gen_length, make_key(seed, p.id), explore=False, early_exit=early_exit)
        for p in prompts
    ]
    completions = generate(policy, requests, rollout.num_slots)
    texts = [policy.tokenizer.decode(completion.tokens.tolist()) for completion in completions]
    verdicts = [judge(task, prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    return list(zip(completions, verdicts, strict=True))


def summarize_answers(sampler: str, level: str, answers: Sequence[tuple[Completion, Verdict]]) -> Point:
    """The point that these answers make."""
    completions = [completion for completion, _ in answers]
    correct = sum(verdict.correct for _, verdict in answers)
    gammas = [completion.gamma for completion in completions if completion.gamma is not None]
    low, high = wilson_interval(correct, len(answers))
    return Point(
        sampler=sampler,
        level=level,
        num_prompts=len(answers),
        accuracy=correct / len(answers),
        low=low,
        high=high,
        nfe=fmean(completion.nfe for completion in completions),
        nfe_until_eos=fmean(completion.nfe_until_eos for completion in completions),
        tokens_per_nfe=sum(c.length for c in completions) / sum(c.nfe_until_eos for c in completions),
        gamma=fmean(gammas) if gammas else None,
    )


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a proportion; z = 1.96 for 95 %."""
    share = successes / trials
    centre = share + z**2 / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
