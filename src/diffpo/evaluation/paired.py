"""Two evaluations on the same prompts: the difference of their accuracies, its interval, and whether it is chance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from diffpo.evaluation.estimators import paired_interval
from diffpo.evaluation.log import ANSWERS, SETTINGS
from diffpo.files.folder import json_rows
from diffpo.files.recipe import read_json

NUM_RESAMPLES = 10_000
Accuracies = Mapping[tuple[str, str], float]
"""Of each (sampler, prompt id) the share of its answers that are right: 0 or 1 where there is one."""


@dataclass(frozen=True)
class Difference:
    """One sampler, after against before, on the prompts that both answered."""

    changes: tuple[float, ...]
    """Accuracy after less accuracy before, of each prompt."""

    @property
    def num_prompts(self) -> int:
        return len(self.changes)

    @property
    def won(self) -> int:
        """Prompts with more right after than before."""
        return sum(change > 0 for change in self.changes)

    @property
    def lost(self) -> int:
        """Prompts with fewer."""
        return sum(change < 0 for change in self.changes)

    @property
    def points(self) -> float:
        """Accuracy after less accuracy before, in percentage points."""
        return 100 * fmean(self.changes)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval over prompts, in points: a prompt counts with all its answers (`paired_interval`)."""
        low, high = paired_interval(self.changes)
        return 100 * low, 100 * high

    @property
    def p_value(self) -> float:
        """Two-sided, of a change in no direction: each prompt's change as likely as its opposite.

        With one answer a prompt that is McNemar's exact test. With several it is the permutation test of the mean, by
        NUM_RESAMPLES draws of signs, so that nothing is below 2 / (NUM_RESAMPLES + 1).
        """
        from scipy import stats  # slow to import

        changed = np.array([change for change in self.changes if change])
        if not len(changed):
            return 1.0
        if (abs(changed) == 1).all():
            return float(stats.binomtest(self.won, len(changed)).pvalue)
        test = stats.permutation_test(
            (changed,),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=NUM_RESAMPLES,
            batch=1000,
            rng=np.random.default_rng(0),
        )
        return float(test.pvalue)


def read_accuracies(folder: Path) -> Accuracies:
    """What an evaluation's completions.jsonl says of each prompt; nothing where there is no such file."""
    verdicts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for row in json_rows(folder / ANSWERS):
        verdicts[row["sampler"], row["id"]].append(row["correct"])
    return {key: fmean(found) for key, found in verdicts.items()}


def read_prompts(folder: Path) -> dict[str, str | None]:
    """The texts, by id, of the prompts in an evaluation's completions.jsonl."""
    return {row["id"]: row.get("prompt") for row in json_rows(folder / ANSWERS)}


def read_judges(folder: Path) -> dict[str, Any]:
    """The settings that an evaluation's verdicts depend on, code by its digest; nothing where it has no settings."""
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    code = settings.get("task.reward (file)", {})
    parts = [(entry.partition(".py:"), entry) for entry in settings.get("task.reward") or ()]
    reward = [f"{code.get(f'{stem}.py', stem)}:{name}" if own else entry for (stem, own, name), entry in parts]
    rules = None if reward else settings.get("task.rules")
    found = {"task.rules": rules, "task.reward": reward, "task.name": [*settings.get("task.name (file)", {}).values()]}
    return found if settings else {}


def read_decoding(folder: Path) -> dict[str, Any]:
    """The settings that an evaluation's answers were decoded by; nothing where it has no settings."""
    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    plain = {name: f"eval.{name}" for name in ("temperature", "full_canvas")}
    return {plain.get(key, key): settings[key] for key in settings if key in plain or key.startswith("rollout.")}


def check_same_prompts(texts: Mapping[str, Mapping[str, str | None]]) -> None:
    """ValueError if prompts (id -> text) of the first evaluation have other texts in others: nothing is paired."""
    (first, before), *others = texts.items()
    for name, after in others:
        other = [id for id, text in after.items() if before.get(id, text) != text]
        if other:
            raise ValueError(
                f"{first} and {name} answer different prompts ({other[0]} is another): measure them on the same data, "
                "with the same task.seed"
            )


def differences(before: Accuracies, after: Accuracies) -> dict[str, Difference]:
    """By sampler, for those that both have answers of."""
    found = {}
    for sampler in dict.fromkeys(sampler for sampler, _ in after):
        shared = [key for key in after if key[0] == sampler and key in before]
        if shared:
            found[sampler] = Difference(tuple(after[key] - before[key] for key in shared))
    return found
