"""Means over seeds with their intervals, paired differences, and readings off a line between measured points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import numpy as np

NUM_RESAMPLES = 10_000
SEED = 0
"""Of the resamples: an interval is a function of the values."""
DIGITS = 6


@dataclass(frozen=True)
class Statistic:
    """A figure over seeds. `None` stands for a seed at which it is not defined; they count in nothing else."""

    by_seed: tuple[float | None, ...]
    n: int
    """Seeds at which it is defined."""
    mean: float
    std: float
    """Sample standard deviation (n - 1)."""
    low: float
    """95 % percentile bootstrap of the mean over seeds."""
    high: float
    half_width: float
    """Student's t: the mean's 95 % interval is mean +- half_width. Wider than the bootstrap's, which for few seeds is
    too narrow."""

    def plain(self) -> dict[str, Any]:
        """For JSON, rounded."""
        return rounded(asdict(self))


def statistic(by_seed: Sequence[float | None]) -> Statistic | None:
    """Mean, deviation and 95 % intervals over seeds; None where fewer than two are defined."""
    values = [value for value in by_seed if value is not None and math.isfinite(value)]
    if len(values) < 2:
        return None
    low, high = bootstrap_interval(values)
    deviation = stdev(values)
    width = student_quantile(len(values)) * deviation / math.sqrt(len(values))
    return Statistic(tuple(by_seed), len(values), fmean(values), deviation, low, high, width)


def student_quantile(count: int) -> float:
    """Quantile 0.975 of Student's t with `count` - 1 degrees of freedom, `count` at least 2."""
    from scipy.special import stdtrit  # slow to import

    return float(stdtrit(count - 1, 0.975))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % percentile interval of the mean of resamples of `values`, two or more, with replacement."""
    from scipy.stats import bootstrap  # slow to import

    rng = np.random.default_rng(SEED)
    found = bootstrap((values,), np.mean, n_resamples=NUM_RESAMPLES, method="percentile", rng=rng)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def crossed_interval(differences: Sequence[Sequence[float]]) -> tuple[float, float]:
    """95 % percentile interval of the mean of `differences` [seeds, prompts], both drawn again with replacement.

    The prompts are the same at every seed, so that one draw of prompts serves all seeds of a resample: the bootstrap
    of crossed factors (Owen 2007), which allows for other seeds and other prompts alike, and errs on the wide side.
    """
    table = np.asarray(differences, dtype=float)
    seeds, prompts = table.shape
    generator = np.random.default_rng(SEED)
    seed_counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=NUM_RESAMPLES // 5)
    prompt_counts = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=NUM_RESAMPLES // 5)
    means = ((seed_counts @ table) * prompt_counts).sum(1) / (seeds * prompts)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def read_off(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """y at `x`, linear between the points (x, y); None beyond their ends. Of points with one x the highest counts."""
    line = dict(sorted(points))
    if not line or not min(line) <= x <= max(line):
        return None
    return float(np.interp(x, list(line), list(line.values())))


def first_reach(points: Sequence[tuple[float, float]], y: float) -> float | None:
    """The smallest x at which the line between the points (x, y) reaches `y`; None if it never does, or starts above.

    Where it starts above `y`, what it would take to be that low was not measured.
    """
    line = sorted(dict(sorted(points)).items())
    if not line or line[0][1] > y:
        return None
    for (left, low), (right, high) in pairwise(line):
        if low <= y <= high:
            return left + (right - left) * (y - low) / (high - low) if high > low else left
    return line[-1][0] if line[-1][1] == y else None


def rounded(value: Any) -> Any:
    """Floats to DIGITS decimals, those in lists and dicts too; what is not finite is None."""
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
