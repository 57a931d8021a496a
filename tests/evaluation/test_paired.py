"""Paired differences against counting and enumeration."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from diffpo.evaluation.paired import Difference, differences, read_accuracies


def changes(num_prompts: int, won: int, lost: int) -> Difference:
    """One answer a prompt."""
    return Difference((1.0,) * won + (-1.0,) * lost + (0.0,) * (num_prompts - won - lost))


def test_differences_are_of_shared_prompts() -> None:
    before = {("a", "1"): 0.0, ("a", "2"): 1.0, ("a", "3"): 1.0, ("b", "1"): 1.0}
    after = {("a", "1"): 0.5, ("a", "2"): 1.0, ("a", "4"): 1.0, ("c", "1"): 1.0}
    assert differences(before, after) == {"a": Difference((0.5, 0.0))}


def test_several_answers_count_as_their_mean(tmp_path: Path) -> None:
    verdicts = {"1": [True, False, True, True], "2": [False] * 4}
    rows = [{"sampler": "a", "id": id, "correct": right} for id, found in verdicts.items() for right in found]
    (tmp_path / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_accuracies(tmp_path) == {("a", "1"): 0.75, ("a", "2"): 0.0}
    assert read_accuracies(tmp_path / "none") == {}


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (3, 4), (7, 2)])
def test_the_p_value_is_that_of_all_coin_tosses(won: int, lost: int) -> None:
    tosses = [sum(coins) for coins in product((0, 1), repeat=won + lost)]
    middle = (won + lost) / 2
    extreme = sum(abs(heads - middle) >= abs(won - middle) for heads in tosses)
    assert changes(20, won, lost).p_value == pytest.approx(extreme / len(tosses))


@pytest.mark.parametrize("values", [(0.75, -0.25, 0.5, 0.0, 0.25, 0.25), (1.0, 0.5), (0.25,) * 9, (0.5, -0.5, 1.0)])
def test_the_p_value_of_means_is_that_of_all_signs(values: tuple[float, ...]) -> None:
    moved = [value for value in values if value]
    sums = [
        sum(sign * value for sign, value in zip(signs, moved, strict=True))
        for signs in product((1, -1), repeat=len(moved))
    ]
    extreme = sum(abs(found) >= abs(sum(moved)) for found in sums)
    assert Difference(values).p_value == pytest.approx(extreme / len(sums))


def test_the_p_value_of_many_means_is_about_that_of_the_normal_law() -> None:
    values = (0.25, -0.25, 0.5, 0.25, 0.0, -0.5, 0.25, 0.25) * 5
    spread = sum(value**2 for value in values) ** 0.5
    beyond = NormalDist().cdf(-(sum(values) - 0.25) / spread)  # sums are 0.5 apart
    assert Difference(values).p_value == pytest.approx(2 * beyond, rel=0.1)


def test_the_interval_is_about_the_normal_one() -> None:
    change = changes(1000, 150, 100)
    low, high = change.interval
    spread = 196 * ((0.25 - 0.05**2) / 1000) ** 0.5
    assert (
        change.points == 5.0
        and low == pytest.approx(5 - spread, abs=0.3)
        and high == pytest.approx(5 + spread, abs=0.3)
    )
    low, high = changes(10, 0, 0).interval
    assert low == -high < -10 and changes(1, 1, 0).interval[1] == 100


@pytest.mark.parametrize(("better", "num_answers"), [(0.02, 1), (0.2, 1), (0.05, 4)])
def test_the_interval_covers_where_hardly_a_prompt_changes(better: float, num_answers: int) -> None:
    """Right answers become likelier by that, of 40 prompts; one a prompt is at worst wrong before."""
    generator, hits = np.random.default_rng(0), 0
    for _ in range(600):
        won = generator.binomial(num_answers, better, size=40) / num_answers
        low, high = Difference(tuple(won)).interval
        hits += low <= 100 * better <= high
    assert hits / 600 > 0.93
