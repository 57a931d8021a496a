"""Paired differences against counting and enumeration."""

from __future__ import annotations

from itertools import product

import pytest

from diffpo.evaluation.paired import Difference, differences


def test_differences_are_of_shared_prompts() -> None:
    before = {("a", "1"): False, ("a", "2"): True, ("a", "3"): True, ("b", "1"): True}
    after = {("a", "1"): True, ("a", "2"): True, ("a", "4"): True, ("c", "1"): True}
    assert differences(before, after) == {"a": Difference(num_prompts=2, won=1, lost=0)}


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 0), (3, 4), (7, 2)])
def test_the_p_value_is_that_of_all_coin_tosses(won: int, lost: int) -> None:
    tosses = [sum(coins) for coins in product((0, 1), repeat=won + lost)]
    middle = (won + lost) / 2
    extreme = sum(abs(heads - middle) >= abs(won - middle) for heads in tosses)
    assert Difference(20, won, lost).p_value == pytest.approx(extreme / len(tosses))


def test_the_interval_is_about_the_normal_one() -> None:
    change = Difference(1000, 150, 100)
    low, high = change.interval
    spread = 196 * ((0.25 - 0.05**2) / 1000) ** 0.5
    assert (
        change.points == 5.0
        and low == pytest.approx(5 - spread, abs=0.3)
        and high == pytest.approx(5 + spread, abs=0.3)
    )
    assert Difference(10, 0, 0).interval == (0.0, 0.0)
