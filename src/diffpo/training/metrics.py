"""What a run measures each step, where it is written, and the alarms that read it. docs/metrics.md explains each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

import torch

from diffpo.config import TASK_KNOBS, SftConfig, TrainConfig
from diffpo.config.idle import idle_knobs
from diffpo.files.folder import append, json_rows, write_text
from diffpo.types import Rollout, RolloutGroup

Metrics = dict[str, float]


def summarize(groups: Sequence[RolloutGroup]) -> Metrics:
    """Metrics of a step's rollouts; those without a reward count in none of them but what reward functions logged."""
    names = dict.fromkeys(name for group in groups for name in group.metrics)
    logged = {f"logged/{name}": fmean(g.metrics[name] for g in groups if name in g.metrics) for name in names}
    num_completions = sum(len(group.rollouts) for group in groups)
    groups = [replace(group, rollouts=[r for r in group.rollouts if r.rewarded]) for group in groups]
    groups = [group for group in groups if group.rollouts]
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if not rollouts:
        return {"frac_reward_none": 1.0} | logged
    completions = [rollout.completion for rollout in _unhinted(rollouts)]
    deviations = [pstdev(rollout.reward for rollout in group.rollouts) for group in groups]
    metrics = {
        "reward": fmean(rollout.reward for rollout in rollouts),
        "reward_std": fmean(deviations),
        "frac_reward_none": 1 - len(rollouts) / num_completions,
        "frac_reward_zero_std": fmean(deviation == 0 for deviation in deviations),
        "frac_hinted": fmean(rollout.hinted for rollout in rollouts),
        "accuracy": fmean(map(_alone, rollouts)),
        "nfe": fmean(completion.nfe for completion in completions),
        "tokens_per_nfe": fmean(int(completion.written.sum()) / completion.nfe for completion in completions),
        "completions/mean_length": fmean(completion.length for completion in completions),
        "completions/full": fmean(completion.length == len(completion.tokens) for completion in completions),
        "entropy": fmean(entropy for c in completions for entropy in c.entropies[c.written].tolist()),
    }
    for name in dict.fromkeys(name for rollout in rollouts for name in rollout.verdict.parts):
        parts = [rollout.verdict.parts.get(name, math.nan) for rollout in rollouts]
        known = [part for part in parts if not math.isnan(part)]
        metrics[f"rewards/{name}/mean"] = fmean(known) if known else math.nan
    metrics |= logged
    levels = sorted({group.prompt.level for group in groups} - {""})
    for level in levels:
        chosen = [rollout for group in groups if group.prompt.level == level for rollout in group.rollouts]
        metrics[f"accuracy/{level}"] = fmean(map(_alone, chosen))
        metrics[f"nfe/{level}"] = fmean(rollout.completion.nfe for rollout in _unhinted(chosen))
    gammas = _learned_gammas(groups)
    if gammas:
        metrics["gamma"] = fmean(gammas)
        metrics["gamma_std"] = pstdev(gammas)
        # of every threshold: the mean of a completion's, where each call has one, may lie far from either end
        shares = torch.cat([c.actions for c in completions if c.gamma is not None and c.actions is not None]).sigmoid()
        metrics["gamma/saturated"] = float(((shares <= 0.02) | (shares >= 0.98)).float().mean())
        for level in levels:
            metrics[f"gamma/{level}"] = fmean(_learned_gammas([g for g in groups if g.prompt.level == level]))
    return metrics


def _unhinted(rollouts: Sequence[Rollout]) -> Sequence[Rollout]:
    """Those that the policy wrote alone; all where there are none."""
    return [rollout for rollout in rollouts if not rollout.hinted] or rollouts


def _alone(rollout: Rollout) -> bool:
    """Whether it is right without a hint."""
    return rollout.verdict.correct and not rollout.hinted


def _learned_gammas(groups: Sequence[RolloutGroup]) -> list[float]:
    completions = [r.completion for r in _unhinted([rollout for group in groups for rollout in group.rollouts])]
    return [c.gamma for c in completions if c.gamma is not None and c.actions is not None]


def doubts(groups: Sequence[RolloutGroup]) -> list[str]:
    """What a first step's rewards give to think about: nothing is learned from what is the same for all completions,
    but for the speed of right ones."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    if len(rollouts) < 2:
        return []
    prompt, first = groups[0].prompt, rollouts[0]
    same, parts = f"for all {len(rollouts)} completions", first.verdict.parts
    if len({rollout.verdict.reward for rollout in rollouts}) == 1:
        answer = f", answer {str(prompt.columns['answer'])[-60:]!r}" if "answer" in prompt.columns else ""
        example = f"; {prompt.place or prompt.id}{answer}, completion {first.text[-80:]!r}"
        reward = "None" if first.verdict.reward is None else f"{first.verdict.reward:g}"
        teaches = "speed alone" if len({repr(rollout.reward) for rollout in rollouts}) > 1 else "nothing"
        return [f"the first step's reward is {reward} {same}, which teaches {teaches}{example}"]
    return [
        f"the first step's rewards/{name} is {'None' if math.isnan(part) else f'{part:g}'} {same}"
        for name, part in parts.items()
        if len(parts) > 1 and len({repr(rollout.verdict.parts.get(name)) for rollout in rollouts}) == 1
    ]


def mean_of(updates: Sequence[Metrics]) -> Metrics:
    """Mean over the updates of a step; skipped updates are summed."""
    names = {name: None for update in updates for name in update}
    means = {name: fmean(update[name] for update in updates if name in update) for name in names}
    return means | {name: value * len(updates) for name, value in means.items() if name.endswith("/skipped")}


@dataclass(frozen=True)
class Alarm:
    """A condition on a step's metrics, and what a person can do about it."""

    metric: str
    rings: Callable[[float], bool]
    cause: str
    mends: tuple[str, ...]
    """What to turn, each with its knobs."""

    @property
    def advice(self) -> str:
        return f"{self.cause}: {', or '.join(self.mends)}" if self.mends else self.cause


ABSENT: dict[str, Callable[[TrainConfig], bool]] = {
    "task.easy": lambda config: "easy" not in TASK_KNOBS.get(config.task.name.partition(":")[0], ""),
    "objective.speed_weight": lambda config: not config.objective.speed_weight,
    "rollout.lag": lambda config: not config.rollout.lag,
}
"""Knobs that may be set in any run, and that there is no use in moving in some: no alarm of theirs names them."""

SLOWER = ("lower optim.learning_rate", "lower objective.num_iterations")

ALARMS = (
    Alarm(
        "frac_reward_zero_std",
        lambda share: share >= 0.95,
        "hardly any group has an advantage: all of it is right, or wrong, or the reward reads something that does not "
        "change, or the rollouts are alike",
        ("move task.easy, task.hard", "raise rollout.temperature", "raise threshold.sigma"),
    ),
    Alarm(
        "frac_reward_none",
        lambda share: share >= 1,
        "no completion has a reward",
        ("see why the functions of task.reward return None for all of them",),
    ),
    Alarm(
        "eval/below_best",
        lambda gap: gap > 0.1,
        "it evaluated better before, and the run's folder best has that policy",
        (*SLOWER, "raise objective.beta"),
    ),
    Alarm("surrogate_kl", lambda kl: kl > 0.3, "the policy moves too far within a batch", SLOWER),
    Alarm("clip_ratio", lambda share: share > 0.4, "many tokens are at the clip", SLOWER),
    Alarm(
        "importance/clamped",
        lambda share: share > 0.2,
        "the surrogate is far from the behaviour policy",
        ("give objective.surrogate more latents", "raise objective.importance_clamp", "lower rollout.lag"),
    ),
    Alarm(
        "importance/ess",
        lambda share: share < 0.5,
        "few tokens carry the gradient",
        ("lower objective.importance_clamp", "lower rollout.lag"),
    ),
    Alarm(
        "replay/changed",
        lambda share: share > 0.75,
        "hardly a call would commit the same positions by now",
        ("lower rollout.lag", "lower optim.learning_rate"),
    ),
    Alarm(
        "gamma/saturated",
        lambda share: share > 0.5,
        "thresholds sit at an end of their range",
        ("move threshold.gamma_max", "lower threshold.learning_rate", "lower objective.speed_weight"),
    ),
    Alarm(
        "entropy",
        lambda nats: nats < 0.005,
        "the policy has almost no entropy left to explore with",
        ("stop here", "raise objective.beta"),
    ),
    Alarm(
        "model/skipped",
        lambda count: count > 0,
        "a gradient was not finite and its update was skipped",
        ("lower optim.learning_rate",),
    ),
    Alarm(
        "sampler/skipped",
        lambda count: count > 0,
        "the head's gradient was not finite and its update was skipped",
        ("lower threshold.learning_rate", "lower bernoulli.learning_rate"),
    ),
)


def alarms(metrics: Metrics, config: TrainConfig | SftConfig) -> dict[str, str]:
    """A line for each metric whose alarm rings, with the knobs that a run of `config` has."""
    lacks = [*idle_knobs(config)]
    if isinstance(config, TrainConfig):
        lacks += [name for name, absent in ABSENT.items() if absent(config)]
    else:
        lacks.append("objective.")
    lines = {}
    for alarm in ALARMS:
        if alarm.metric in metrics and alarm.rings(metrics[alarm.metric]):
            mends = tuple(mend for mend in alarm.mends if not any(name in mend for name in lacks))
            advice = replace(alarm, mends=mends).advice
            lines[alarm.metric] = f"{alarm.metric} = {metrics[alarm.metric]:.3g}: {advice}"
    return lines


class MetricsLog:
    """metrics.jsonl of a run: one object a step. Opening it at a step drops the lines from that step on.

    `lost` counts the steps before it that have none: the file was removed, or cut.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] < step]
        self.lost = step - len(kept)
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, step: int, metrics: Metrics) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        append(self.path, (json.dumps({"step": step, **finite}) + "\n").encode())


def read_metrics(path: Path) -> list[Metrics]:
    """The steps of a metrics.jsonl. ValueError names a line that is none."""
    rows = json_rows(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("step"), int):
            raise ValueError(f"{path}, line {number}: not a row of metrics, which has a step: remove that line")
    return rows
