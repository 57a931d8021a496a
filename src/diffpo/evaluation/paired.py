"""Two evaluations on the same prompts: the difference of their accuracies, its interval, and whether it is chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

NUM_RESAMPLES = 10_000
Verdicts = Mapping[tuple[str, str], bool]
"""Whether the answer of a (sampler, prompt id) is right."""


@dataclass(frozen=True)
class Difference:
    """One sampler, after against before, on the prompts that both answered."""

    num_prompts: int
    won: int
    """Prompts right after and wrong before."""
    lost: int
    """Prompts right before and wrong after."""

    @property
    def points(self) -> float:
        """Accuracy after less accuracy before, in percentage points."""
        return 100 * (self.won - self.lost) / self.num_prompts

    @property
    def interval(self) -> tuple[float, float]:
        """95 % percentile bootstrap over prompts, in points: a prompt is drawn with both its answers."""
        ties = self.num_prompts - self.won - self.lost
        shares = np.array([self.won, self.lost, ties]) / self.num_prompts
        draws = np.random.default_rng(0).multinomial(self.num_prompts, shares, size=NUM_RESAMPLES)
        low, high = np.percentile(100 * (draws[:, 0] - draws[:, 1]) / self.num_prompts, [2.5, 97.5])
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: of prompts that changed, as many would be won as lost by chance."""
        changed, fewer = self.won + self.lost, min(self.won, self.lost)
        return min(1.0, 2 * sum(math.comb(changed, k) for k in range(fewer + 1)) / 2**changed)


def read_verdicts(folder: Path) -> Verdicts:
    """The verdicts in an evaluation's completions.jsonl; none where there is no such file."""
    path = folder / "completions.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.is_file() else []
    return {(row["sampler"], row["id"]): row["correct"] for row in rows}


def differences(before: Verdicts, after: Verdicts) -> dict[str, Difference]:
    """By sampler, for those that both have answers of."""
    shared = before.keys() & after.keys()
    found = {}
    for sampler in dict.fromkeys(sampler for sampler, _ in after):
        pairs = [(before[key], after[key]) for key in shared if key[0] == sampler]
        if pairs:
            won, lost = (sum(pair == kind for pair in pairs) for kind in ((False, True), (True, False)))
            found[sampler] = Difference(len(pairs), won, lost)
    return found
