"""Intervals and readings against cases worked by hand, and coverage against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from diffpo.lab.study.statistics import (
    NUM_RESAMPLES,
    SEED,
    bootstrap_interval,
    crossed_interval,
    first_reach,
    read_off,
    rounded,
    statistic,
    student_quantile,
)


def test_mean_deviation_and_student_by_hand() -> None:
    found = statistic([1.0, 2.0, 3.0, 4.0, 5.0])
    assert found is not None and (found.n, found.mean) == (5, 3.0)
    assert found.std == pytest.approx(math.sqrt(2.5))
    assert found.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5))


def test_the_bootstrap_of_few_values_is_that_of_all_their_resamples() -> None:
    values = [0.0, 1.0, 5.0]
    means = sorted(sum(chosen) / 3 for chosen in itertools.product(values, repeat=3))  # 27 of equal chance
    low, high = bootstrap_interval(values)
    assert low == means[0] and high == means[-1]  # (0, 0, 0) and (5, 5, 5) have 1 / 27 > 2.5 % each
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)


def test_undefined_seeds_count_in_nothing_else() -> None:
    found, whole = statistic([1.0, None, 3.0, math.nan]), statistic([1.0, 3.0])
    assert found is not None and whole is not None
    assert found.n == 2 and found.by_seed[1] is None
    assert (found.mean, found.std, found.low, found.half_width) == (whole.mean, whole.std, whole.low, whole.half_width)
    assert statistic([1.0]) is None and statistic([None, 2.0]) is None
    assert whole.half_width == pytest.approx(12.7062, abs=1e-4)  # one degree of freedom, standard error 1


@pytest.mark.parametrize(("count", "quantile"), [(2, 12.706), (3, 4.303), (11, 2.228), (31, 2.042), (10**6, 1.96)])
def test_quantiles_are_those_of_the_printed_tables(count: int, quantile: float) -> None:
    assert student_quantile(count) == pytest.approx(quantile, abs=5e-4)


def test_the_bootstrap_is_that_of_drawn_indices() -> None:
    values = np.random.default_rng(1).normal(size=7)
    drawn = np.random.default_rng(SEED).integers(7, size=(NUM_RESAMPLES, 7))
    assert bootstrap_interval(values.tolist()) == pytest.approx(np.quantile(values[drawn].mean(1), [0.025, 0.975]))


def test_students_interval_covers_as_it_says_and_the_bootstrap_falls_short() -> None:
    generator = np.random.default_rng(0)
    student = bootstrap = 0
    for _ in range(300):
        found = statistic(generator.normal(size=5).tolist())
        assert found is not None
        student += abs(found.mean) <= found.half_width
        bootstrap += found.low <= 0 <= found.high
    assert 0.92 < student / 300 < 0.98
    assert 0.75 < bootstrap / 300 < 0.92  # why tables mark by Student's


def test_crossed_draws_have_both_spreads() -> None:
    generator = np.random.default_rng(0)
    by_seed = generator.normal(size=8)
    only_seeds = np.repeat(by_seed[:, None], 50, axis=1)
    low, high = crossed_interval(only_seeds.tolist())
    assert (low, high) == pytest.approx(bootstrap_interval(by_seed.tolist()), abs=0.08)
    only_prompts = np.repeat(generator.normal(size=50)[None], 8, axis=0)
    low, high = crossed_interval(only_prompts.tolist())
    assert (low, high) == pytest.approx(bootstrap_interval(only_prompts[0].tolist()), abs=0.05)
    both = only_seeds + only_prompts
    low, high = crossed_interval(both.tolist())
    variances = [np.var(by_seed) / 8, np.var(only_prompts[0]) / 50]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(sum(variances)), rel=0.15)
    assert crossed_interval([[0.25] * 3] * 2) == (0.25, 0.25)


LINE = [(4.0, 0.8), (2.0, 0.4), (2.0, 0.5), (8.0, 0.9)]


@pytest.mark.parametrize(("x", "y"), [(2, 0.5), (3, 0.65), (4, 0.8), (6, 0.85), (8, 0.9), (1.9, None), (8.1, None)])
def test_reading_off_a_line(x: float, y: float | None) -> None:
    assert read_off(LINE, x) == (y if y is None else pytest.approx(y))
    assert read_off([], x) is None


@pytest.mark.parametrize(("y", "x"), [(0.5, 2), (0.65, 3), (0.8, 4), (0.85, 6), (0.9, 8), (0.49, None), (0.91, None)])
def test_where_a_line_first_reaches(y: float, x: float | None) -> None:
    assert first_reach(LINE, y) == (x if x is None else pytest.approx(x))
    assert first_reach([], y) is None


def test_a_line_that_falls_again_counts_where_it_first_was() -> None:
    assert first_reach([(1.0, 0.2), (2.0, 0.6), (3.0, 0.4), (4.0, 0.8)], 0.5) == pytest.approx(1.75)
    assert first_reach([(1.0, 0.5), (2.0, 0.5)], 0.5) == 1
    assert read_off([(3.0, 0.5)], 3) == 0.5


def test_rounding_keeps_what_json_can_hold() -> None:
    assert rounded((1 / 3, math.inf, 2, "x")) == [0.333333, None, 2, "x"]
