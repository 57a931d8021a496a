"""What the streams count on, and what they do where a split is empty."""

from __future__ import annotations

from typing import Any

import pytest
import reasoning_gym

from diffpo.tasks.stream import TEST_SHARE, Dial, GymStream, Problem, stable_key

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


def stream(answers: list[int]) -> GymStream:
    """Terms of one digit, of which only sums among `answers` are kept."""

    def read(item: Any) -> Problem | None:
        answer = int(item["answer"])
        return Problem(str(answer), answer, {}) if answer in answers else None

    dial = Dial(easy=(2, 2), hard=(2, 2), hard_share=0.0)
    return GymStream("toy", "chain_sum", 0, dial, lambda n: {"min_terms": n, "max_terms": n, "max_digits": 1}, read)


def test_an_empty_split_is_an_error() -> None:
    answer = next(n for n in range(10) if stable_key(0, n) >= TEST_SHARE * 2**62)
    assert stream([answer]).prompts("train", 3)[2].text == str(answer)
    with pytest.raises(ValueError, match=r"toy at difficulty 2 has no test problems: widen task\.easy"):
        stream([answer]).prompts("test", 1)
