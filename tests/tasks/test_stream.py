"""What the streams count on."""

from __future__ import annotations

from typing import Any

import pytest
import reasoning_gym

from diffpo.tasks.stream import stable_key

DATASETS: dict[str, dict[str, Any]] = {
    "countdown": {"min_numbers": 3, "max_numbers": 3, "max_value": 19, "min_target": 1, "max_target": 99},
    "chain_sum": {"min_terms": 2, "max_terms": 6, "max_digits": 1},
}


@pytest.mark.parametrize("name", DATASETS)
def test_items_do_not_depend_on_the_size(name: str) -> None:
    small, large = (reasoning_gym.create_dataset(name, seed=0, size=n, **DATASETS[name]) for n in (30, 2**62))
    assert [small[i] for i in range(30)] == [large[i] for i in range(30)]
    assert large[2**61 + 5] == large[2**61 + 5]


def test_stable_key_is_pinned() -> None:
    """A change here changes every prompt of every run."""
    assert stable_key("sudoku", 0, "train", 17) == 2169143616204637697
    assert stable_key("a", "bc") != stable_key("ab", "c")
