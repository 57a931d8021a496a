r"""Which answers say what the reference says: tables of pairs, the question's part, properties."""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from pathlib import Path

import pytest
from grading.llada import needs_llada, rows
from grading.pairs import DIFFERENT, SAME
from hypothesis import given
from hypothesis import strategies as st

from diffpo.grading.algebra import comparable
from diffpo.grading.equality import same_answer, same_answers
from diffpo.grading.references import read_reference


@pytest.mark.parametrize(("truth", "answer"), SAME)
def test_the_same_answer(truth: str, answer: str) -> None:
    assert same_answer(answer, truth)


@pytest.mark.parametrize(("truth", "answer"), DIFFERENT)
def test_another_answer(truth: str, answer: str) -> None:
    assert not same_answer(answer, truth)


@pytest.mark.parametrize(
    ("question", "answer", "truth", "same"),
    [
        (r"Simplify $\frac{84}{144}$.", r"\frac{84}{144}", r"\frac{7}{12}", False),
        (r"Simplify $\frac{84}{144}$.", r"\frac{21}{36}", r"\frac{7}{12}", True),
        (r"Simplify $\frac{84}{144}$.", r"\frac{7}{12}", r"\frac{7}{12}", True),
        (r"A half is $\frac{1}{2}$. What is a half?", "1/2", r"\frac{1}{2}", True),
        ("Express 0.75 as a common fraction.", "0.75", r"\frac{3}{4}", False),
        ("He walked 0.75 miles. How far did she walk?", "0.75", r"\frac{3}{4}", True),
        (r"Simplify $\sqrt{12}$.", r"\sqrt{12}", r"2\sqrt{3}", False),
        (r"Rationalize $\frac{1}{\sqrt{3}}$.", r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}", False),
        ("Factor $x^2 - 1$.", "(x-1)(x+1)", "(x+1)(x-1)", True),
        ("Factor $x^2 - 1$.", "-1 + x^2", "(x+1)(x-1)", False),
        ("What is the greatest common factor of $2x+2$ and $x^2 + x$?", "1 + x", "x + 1", True),
        ("Expand $(x+1)(x-1)$.", "(x-1)(x+1)", "x^2-1", False),
        ("Expand $(x+1)(x-1)$.", "-1+x^2", "x^2-1", True),
        ("What is $3 + 4$?", "3+4", "7", False),
        ("What is 5?", "5", "5", True),
        ("What is the ratio of red to blue?", "3:4", r"\frac{3}{4}", True),
        ("What is the ratio of red to blue?", "3/4", "3:4", True),
        ("What is the ratio of red to blue?", "4:3", r"\frac{3}{4}", False),
    ],
)
def test_the_question_is_no_answer(question: str, answer: str, truth: str, same: bool) -> None:
    assert same_answer(answer, truth, question) is same


@pytest.mark.parametrize(
    ("question", "truth", "same"),
    [
        ("By what percent does the area decrease?", "10", True),
        ("What is the chance of rain, as a percentage?", "10", True),
        ("It lost 9% an hour. What was the charge of the battery?", "10", True),
        ("", "10", True),
        ("How many dollars more does she pay with a 25% discount?", "10", False),
        ("The table gives percent. In which grade is it highest?", "10", False),
        ("What is 25 percent of 40?", "10", False),
        ("What is the chance? Express it as a common fraction of 100%.", "10", False),
        ("How many miles, to the nearest hundredth?", "10", False),
        ("How many apples?", r"\frac{1}{10}", True),
    ],
)
def test_ten_percent(question: str, truth: str, same: bool) -> None:
    assert same_answer(r"10\%", truth, question) is same


@pytest.mark.parametrize(
    ("question", "answer", "truth", "same"),
    [
        ("How many quarters does he have?", "5 quarters", "5", True),
        ("How many Pennsylvania state quarters does he have?", "5 quarters", "5", True),
        ("How many dollars does he have?", "5 quarters", "5", False),
        ("How many more dozen eggs does she need?", "8 dozen", "8", True),
        ("How many eggs does she need?", "8 dozen", "8", False),
        ("How many people, in millions, live there?", "2 million", "2", True),
        ("How many millions live in this part of the two thirds?", "2 thirds", "2", False),
    ],
)
def test_a_scale_that_the_question_asks_for(question: str, answer: str, truth: str, same: bool) -> None:
    assert same_answer(answer, truth, question) is same


@pytest.mark.parametrize(
    ("question", "answer", "truth", "same"),
    [
        ("It is 3.5 miles. How many hours does it take?", "2 hours a day", "2", True),
        ("It is 3.5 miles. How many hours does it take?", "2 minutes", "2", False),
        ("It is 3.5 miles. How many hours does it take?", "It takes 2 days.", "2", False),
        ("How many hours does it take to walk 3.5 miles?", "2 minutes", "2", False),
        ("How long, in minutes, does it take?", "2 hours", "2", False),
        ("How many hours and minutes does it take?", "2 hours", "2", True),
        ("How many minutes does it take?", "2 h 30 min", "150", True),
        ("How many hours does it take?", "2 hours and 30 minutes", "2.5", True),
        ("How many hours does it take?", "2 h 30 min", "150", False),
        ("How many hours does it take?", "2 h 50 min", "2.5", False),
        ("It takes 5 hours. How long does he wait?", "2 minutes", "2", True),
        ("How many square inches is it?", "2 inches", "2", False),
        ("How many square inches is it?", r"2\text{ in}^2", "2", True),
        ("How many centimeters is it?", r"2\sqrt{2} \text{ m}", r"2\sqrt{2}", False),
        ("How many minutes is it?", "2", r"2\text{ hours}", True),
        ("How many cents does it cost?", r"\$5", "500", True),
        ("How many cents does it cost?", r"\$500", "500", False),
        ("How many dollars does it cost?", "50 cents", "0.5", True),
        ("How many pounds does he spend?", "£5", "5", True),
        ("How many miles does he run each day?", "5 miles per day", r"5\text{ miles}", True),
        ("How many miles does he run?", "5 miles per day", r"5\text{ miles}", False),
        ("How many miles does he run?", "5 miles per day", "5", True),
        ("How many second graders are there?", "12 children", "12", True),
        ("What percent are red?", r"2500\%", "25", False),
        ("What percent are red?", r"25\%", "0.25", True),
        ("What is the prime factorization of 24?", r"3 \cdot 2^3", r"2^3 \cdot 3", True),
        ("What is the prime factorization of 24?", r"2 \times 2 \times 2 \times 3", r"2^3 \cdot 3", True),
        ("What is the prime factorization of 24?", r"8 \cdot 3", r"2^3 \cdot 3", False),
        ("What is the prime factorization of 24?", "24", r"2^3 \cdot 3", False),
        ("Write 30 as a product of primes.", r"5 \times 3 \times 2", r"2 \times 3 \times 5", True),
    ],
)
def test_the_unit_and_the_form_that_the_question_asks_for(question: str, answer: str, truth: str, same: bool) -> None:
    assert same_answer(answer, truth, question) is same


_LETTERED = "Which is it? (A) 1 (B) 2 (C) 3"
_LISTED = "Which is it?\nA. cat\nB. dog\nC. never the first\nD. all of the above"


@pytest.mark.parametrize(
    ("question", "answer", "truth", "same"),
    [
        (_LETTERED, "(B)", "B", True),
        (_LETTERED, r"\mathrm{(B)}", "B", True),
        (_LETTERED, "[B]", "B", True),
        (_LETTERED, "b", "B", True),
        ("Find the point $B$.", "b", "B", False),
        (_LETTERED, "The correct answer is B.", "B", True),
        (_LETTERED, "So the answer is (B).", "B", True),
        (_LETTERED, "Option B is correct", r"\text{(B)}", True),
        (_LETTERED, "I would pick B", "B", True),
        (_LETTERED, "B, because 1 + 1 = 2", "B", True),
        (_LETTERED, "The answer is B because a car moves.", "B", True),
        (_LETTERED, "The answer is B because a car moves.", "A", False),
        (_LETTERED, "B, not A", "B", True),
        (_LETTERED, "B, not A", "A", False),
        (_LETTERED, "B is wrong", "B", False),
        (_LETTERED, "I would not pick B", "B", False),
        (_LETTERED, "B or C", "B", False),
        (_LETTERED, "(A) 1 (B) 2", "A", False),
        (_LETTERED, "B?", "B", False),
        (_LETTERED, "(B]", "B", False),
        (_LETTERED, "(B) squared", r"\text{(B)}", False),
        (_LISTED, "C. never the first", "C", True),
        (_LISTED, "(C) never the first", "C", True),
        (_LISTED, "B. A dog", "B", True),
        (_LISTED, "B - a dog", "B", True),
        (_LISTED, "B. dog C. never the first", "B", False),
        (_LISTED, "B", "B. dog", True),
        (_LISTED, "b)", "B) dog", True),
        (_LISTED, "dog", "(B) dog", True),
        (_LISTED, "cat", "(B) dog", False),
        (_LISTED, "A", "(B) dog", False),
        ("Say yes or no.", "yes", "Yes", True),
        ("Does it go East or West?", "East", r"\text{east}", True),
        ("Does it go East or West?", "West", r"\text{east}", False),
    ],
)
def test_options_and_words_of_the_question(question: str, answer: str, truth: str, same: bool) -> None:
    assert same_answer(answer, truth, question) is same


@given(st.fractions(max_denominator=10**6))
def test_numbers_however_they_are_written(number: Fraction) -> None:
    over, under = number.numerator, number.denominator
    truth = rf"\frac{{{over}}}{{{under}}}"
    for answer in (
        f"{over}/{under}",
        rf"\dfrac{{{over * 6}}}{{{under * 6}}}",
        rf"\({over}/{under}\) \text{{ cm}}",
        f"x={over}/{under}",
    ):
        assert same_answer(answer, truth)
    assert not same_answer(rf"\frac{{{over + 1}}}{{{under}}}", truth)
    assert not same_answer(rf"{over} \div {under} + 0", truth)


@given(st.integers(-(10**9), 10**9))
def test_integers_however_they_are_written(number: int) -> None:
    for answer in (
        f"{number:,}",
        f"{number}.00",
        rf"\${number}",
        f"{number:,} dollars",
        rf"\boxed{{{number}}}",
        f"{number}\\%",
    ):
        assert same_answer(answer, str(number)), answer
    for other in (number + 1, -number - 1, number * 10 + 1):
        assert not same_answer(f"{other:,}", str(number))


@pytest.mark.parametrize(
    ("question", "answer", "truth", "same"),
    [
        ("If $x=2$ and $y=3$, what is $x+y$?", "x+y = 5", "5", True),
        ("If $x=2$ and $y=3$, what is $x-y$?", "x+y = 5", "5", False),
        ("What is $2x$?", "2x = 10", "10", True),
        ("If $2x = 10$, what is $x$?", "2x = 10", "10", False),
        (r"Find $\sin x$.", r"\sin x = \frac{1}{2}", r"\frac{1}{2}", True),
    ],
)
def test_a_left_side_that_the_question_asks_for(question: str, answer: str, truth: str, same: bool) -> None:
    assert same_answer(answer, truth, question) is same


@needs_llada
def test_every_reference_is_its_own_answer() -> None:
    for row in rows("math500"):
        assert same_answer(read_reference(row.columns["answer"]), row.columns["answer"], row.columns["problem"])


def test_what_only_math_verify_knows() -> None:
    assert same_answer(r"\int_0^1 2x\,dx", r"\int_0^1 2 x dx")
    assert not same_answer("2", r"\int_0^1 2x\,dx")


@pytest.mark.parametrize(
    ("truth", "given", "tame"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        (r"2\sqrt{3}", r"9^{9^{9}}", False),
        (r"2\sqrt{3}", "9^{99999}", False),
        (r"n!", "99999!", False),
        (r"n!", "n!!", False),
        (r"2\sqrt{3}", "(1", False),
        (r"2\sqrt{3}", "1+" * 150 + "1", False),
        (r"2\sqrt{3}", r"\sqrt{\sqrt{" * 20 + "1" + "}" * 40, False),
        (r"2\sqrt{3}", r"\sin{3}", False),
        ("x+1", "y+1", False),
        ("", "", False),
    ],
)
def test_only_tame_expressions_of_the_same_letters_reach_sympy(truth: str, given: str, tame: bool) -> None:
    assert comparable(truth, given) is tame


def test_several_threads_ask_several_processes() -> None:
    pairs = [(rf"{n}\sqrt{{8}}", rf"{2 * n}\sqrt{{2}}", "") for n in range(2, 8)]
    assert same_answers(pairs) == [True] * 6 and same_answers([("1", "2", "")]) == [False]


@needs_llada
def test_few_mutants_of_the_references_pass() -> None:
    """A sample of benchmarks/grading_mutants.py: none of these passes."""
    path = Path(__file__).parents[2] / "benchmarks/grading_mutants.py"
    spec = importlib.util.spec_from_file_location("grading_mutants", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [(row.columns["answer"], row.columns["problem"]) for row in rows("math500")[48::100]]
    triples = [(mutant, truth, question) for truth, question in found for mutant in module.mutants(truth)]
    passed = [triple[1::-1] for triple, right in zip(triples, same_answers(triples), strict=True) if right]
    assert len(triples) > 200 and passed == []
