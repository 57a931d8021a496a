"""References as data sets have them: read once, or refused by name."""

from __future__ import annotations

from decimal import Decimal

import pytest

from diffpo.grading.references import read_number_reference, read_reference


@pytest.mark.parametrize(
    ("truth", "read"),
    [
        ("72", "72"),
        ("She sold 48/2 = 24 in May.\n#### 72", "72"),
        ("#### 1,450", "1,450"),
        ("#### -3", "-3"),
        (72, "72"),
        (72.0, "72"),
        (6.5, "6.5"),
        (Decimal("6.50"), "6.50"),
        ("$5", "$5"),
        ("5 dollars", "5 dollars"),
        (r"\boxed{72}", "72"),
        (r"\boxed2", "2"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("twelve", "twelve"),
    ],
)
def test_numbers(truth: object, read: str) -> None:
    assert read_number_reference(truth) == read


@pytest.mark.parametrize(
    "truth", ["", " ", "#### ", None, True, [1], "nan", "None", "x", "3, 5", "about 7 or 8", "1" * 500]
)
def test_what_is_no_number_is_an_error_that_names_it(truth: object) -> None:
    with pytest.raises(ValueError, match="a reference"):
        read_number_reference(truth)


@pytest.mark.parametrize(
    ("truth", "read"),
    [
        (r"\text{(C)}", r"\text{(C)}"),
        ("x=5", "x=5"),
        (r"So it is $\boxed{\frac12}$.", r"\frac12"),
        (r"\emptyset", r"\emptyset"),
        (r"<answer> \frac12 </answer>", r"\frac12"),
        ("<think>6 * 7</think>\n42", "42"),
        ("<answer>East</answer>", "East"),
    ],
)
def test_answers_of_any_kind(truth: object, read: str) -> None:
    assert read_reference(truth) == read


@pytest.mark.parametrize(
    ("truth", "read"),
    [
        (r"So the probability is $\frac{1}{3}$.", r"\frac{1}{3}"),
        ("The roots are: $1, 2$", "1, 2"),
        ("only where $n$ is even", "only where $n$ is even"),
        ("The slope is $2$, the height is $3$.", "The slope is $2$, the height is $3$."),
        ("It is not $5$.", "It is not $5$."),
    ],
)
def test_a_sentence_that_ends_in_its_answer(truth: str, read: str) -> None:
    assert read_reference(truth) == read


@pytest.mark.parametrize(
    "truth", ["", "...", None, False, float("inf"), -1e400, {}, r"\boxed{}", "x" * 500, "['5', '6']"]
)
def test_what_says_nothing_is_an_error(truth: object) -> None:
    with pytest.raises(ValueError, match="a reference"):
        read_reference(truth)
