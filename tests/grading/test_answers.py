"""Graders: tables of hard cases, and properties."""

from __future__ import annotations

import operator
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffpo.grading.answers import extract_answer, final_answer
from diffpo.grading.expressions import MAX_DIGITS, MAX_NESTING, evaluate_expression
from diffpo.grading.numbers import parse_number


@pytest.mark.parametrize(
    ("text", "value", "literals"),
    [
        ("7", 7, [7]),
        ("12+7-3", 16, [12, 7, 3]),
        ("2+3*4", 14, [2, 3, 4]),
        ("(2+3)*4", 20, [2, 3, 4]),
        ("1/3", Fraction(1, 3), [1, 3]),
        ("6/(1-3/4)", 24, [6, 1, 3, 4]),
        ("8/4/2", 1, [8, 4, 2]),
        ("-3+10", 7, [3, 10]),
        ("5--3", 8, [5, 3]),
        ("+-+5", -5, [5]),
        (" 1 + 1 ", 2, [1, 1]),
        ("0*5", 0, [0, 5]),
        ("(((7)))", 7, [7]),
        ("3 \u00d7 4 \u00f7 2 \u2212 1", 5, [3, 4, 2, 1]),
        (r"(80 \div 40) \times 3 \cdot 2", 12, [80, 40, 3, 2]),
        ("9" * MAX_DIGITS, int("9" * MAX_DIGITS), [int("9" * MAX_DIGITS)]),
        ("(" * MAX_NESTING + "1" + ")" * MAX_NESTING, 1, [1]),
    ],
)
def test_expressions(text: str, value: Fraction | int, literals: list[int]) -> None:
    assert evaluate_expression(text) == (value, literals)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "x", "1+", "*1", "()", "(1", "1)", ")1(", "1 2", "2(3)", "1,2", "1;2", "1\n+1", "\t", "1=1"),
        *("9**9", "9**9**9", "7//2", "7%2", "1<<9", "1^2", "~1", "1.5", "1e9", "0x10", "0b1", "0o7", "1_000", "1j"),
        *("True", "None", "...", "abs(1)", "[1]", "{1}", "'1'", "1 if 1 else 2", "1or 2", "(1)(2)", "(1)[0]"),
        *("1/0", "1/(2-2)", "007", "x\u0663+1", "2\u00b2", "1\x00", "\ud800", "1#", "1\\"),
        *("9" * (MAX_DIGITS + 1), "(" * (MAX_NESTING + 1) + "1" + ")" * (MAX_NESTING + 1), "1+" * 200 + "1"),
    ],
)
def test_no_expressions(text: str) -> None:
    assert evaluate_expression(text) is None


def test_raised_length_is_still_safe() -> None:
    assert evaluate_expression("1+" * 200 + "1", max_length=1000) is not None
    assert evaluate_expression("1+" * 20_000 + "1", max_length=100_000) is None
    assert evaluate_expression("-" * 20_000 + "1", max_length=100_000) is None


OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def combine(children: st.SearchStrategy) -> st.SearchStrategy:
    return st.tuples(children, st.sampled_from([*OPERATORS]), children)


@settings(max_examples=100)
@given(st.recursive(st.integers(0, 99), combine, max_leaves=8))
def test_expressions_match_a_tree_walk(tree: int | tuple) -> None:
    def write(node: int | tuple) -> str:
        return str(node) if isinstance(node, int) else f"({write(node[0])}{node[1]}{write(node[2])})"

    def leaves(node: int | tuple) -> list[int]:
        return [node] if isinstance(node, int) else leaves(node[0]) + leaves(node[2])

    def value(node: int | tuple) -> Fraction:
        return Fraction(node) if isinstance(node, int) else OPERATORS[node[1]](value(node[0]), value(node[2]))

    try:
        expected = (value(tree), leaves(tree))
    except ZeroDivisionError:
        expected = None
    assert evaluate_expression(write(tree)) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("7", 7), ("+7", 7), ("-7", -7), ("\u22127", -7), (" 7\n", 7), ("- 7", -7), ("007", 7)),
        *(("1,000", 1000), ("12,345,678", 12345678), ("5.0", 5), ("5.", 5), (".5", Fraction(1, 2))),
        *(("0.1", Fraction(1, 10)), ("1/2", Fraction(1, 2)), ("-4/2", -2), ("1,234.50", Fraction(2469, 2))),
        *(
            ("\u0667", 7),
            ("\uff17", 7),
            ("\u00bd", Fraction(1, 2)),
            ("1 000", 1000),
            ("1e5", 10**5),
            ("1E-5", Fraction(1, 10**5)),
        ),
        *(("$5", 5), (r"\$5", 5), ("-$5", -5), ("$-5", -5), ("$ 5", 5), ("$1,000.00", 1000)),
    ],
)
def test_numbers(text: str, value: Fraction | int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "-",
            "$",
            "\\7",
            "5$",
            "1,00",
            "1,0000",
            ",100",
            "1,000,00",
            "1.2.3",
            "--7",
            "+-7",
            "1/",
            "1/0",
        ),
        *("1.5/2", "1e9999", "inf", "-inf", "nan", "NaN", "0x10", "1_0", "7 8", "7a", "7\x00", "9" * 500),
    ],
)
def test_no_numbers(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", ""),
        (" \n ", ""),
        ("7", "7"),
        ("so\n\n 7 \n\n", "7"),
        (r"\boxed{7}", "7"),
        (r"\boxed{1}, so \boxed{ 7 }.", "7"),
        (r"\boxed{3}, \boxed{5}", "3, 5"),
        (r"$\boxed{3}$ and $\boxed{5}$.", "3, 5"),
        (r"\boxed{3}, \boxed{5}, and \boxed{7}", "3, 5, 7"),
        (r"\boxed{3}\text{ or }\boxed{5}", "3, 5"),
        (r"\boxed{3} \quad \boxed{5}", "3, 5"),
        (r"$x=\boxed{3}$, $y = \boxed{5}$", "x=3, y = 5"),
        (r"x = \boxed{5}", "5"),
        (r"\frac{1}{2}, \boxed{5}", "5"),
        (r"\boxed{3} no, \boxed{5}", "5"),
        (r"\boxed 5", "5"),
        (r"$\boxed 12$.", "12"),
        (r"\boxed5", "5"),
        (r"so \boxed\frac12.", r"\frac12"),
        (r"\boxed 5 is it", "5"),
        (r"\boxed{7} \boxed{}", "7"),
        (r"\boxed{7} \boxed{ }", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{7} } {", "7"),
        (r"{ \boxed{7}", "7"),
        (r"\boxed{7} \boxed{8", "8"),
        (r"\boxed{8 \boxed{7}", "7"),
        (r"\boxed{\boxed{7}}", "7"),
        ("<answer>7</answer>", "7"),
        ("<answer>1</answer> <answer>\n7\n</answer>\nbye", "7"),
        ("<answer>7</answer> <answer></answer>", "7"),
        ("<answer>1 <answer>7</answer>", "7"),
        ("<answer>7</answer> </answer>", "7"),
        (r"\boxed{1} <answer>7</answer>", "7"),
        (r"<answer>1</answer> \boxed{7}", "7"),
        (r"<answer>it is \boxed{7}</answer>", "7"),
        (r"\boxed{<answer>7</answer>}", "7"),
        ("1\n<answer>7", "7"),
        ("1\n" + r"\boxed{7", "7"),
        ("a\u20287", "7"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@settings(max_examples=100)
@given(before=st.text("{}ab \n\\"), answer=st.text("abc123", min_size=1))
def test_a_closing_box_is_found_behind_anything(before: str, answer: str) -> None:
    assert extract_answer(before + rf" \boxed{{{answer}}}") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("the answer is 7", None),
        ("", None),
        ("7\n", None),
        (r"\boxed{}", None),
        (r"\boxed{...}", None),
        ("<answer>\n...\n</answer>", None),
        ("<answer>", None),
        (r"<answer>\boxed{}</answer>", None),
        (r"\boxed{7}" + "\n<answer>\n...\n</answer>", "7"),
        (r"<answer>\boxed{...}</answer> \boxed{7}", "7"),
        (r"<answer>\boxed{}7</answer>", "7"),
        # closed badly
        (r"<answer>\boxed{7" + "\n</answer>", "7"),
        (r"<answer>\boxed{7" + "\n</answer}", "7"),
        (r"<answer>\boxed{7</answer>", "7"),
        (r"\boxed{7" + "\nand 8", "7"),
        (r"\boxed{7>", "7"),
        (r"\boxed{7\text{ hours} hours." + "\n</answer>", r"7\text{ hours} hours."),
        (r"\boxed{7\text{ minutes>", r"7\text{ minutes}"),
        (r"\boxed{\frac{1}{2", r"\frac{1}{2}"),
        ("<answer>7\n", "7"),
        ("<answer>7<answer>", "7"),
        ("<REASONING>3</REASONING><ANSWER>7</ANSWER> or 8", "7"),
        ("<ANSWER></ANSWER>", None),
        ("<answer>\nboxed{7}\n</answer>", "7"),
        (r"<answer>\.boxed{7}</answer>", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        ("because\n</reasoning>\n7\n</answer>", "7"),
        ("because\n</answer>\n7 calls", "7 calls"),
        ("because\n</reasoning>\n\n7", "7"),
        ("<think>because</think>\n\n**7**", "**7**"),
        ("because 8</think><answer>7</answer>", "7"),
        ("<think>because 7</think>", None),
        ("because 7\n</answer>", None),
        ("because 7\n</reasoning>", None),
        (r"\boxed{7} x</reasoning> as said", "7"),
        (r"x < a and \boxed{x<a}", "x<a"),
        (r"\boxed{\infty}", r"\infty"),
        # a minus that touches the box
        (r"so $x = -\boxed{5}$", "-5"),
        (r"<answer>-\boxed{\frac12}</answer>", r"-\frac12"),
        (r"= -\boxed{2 + \sqrt3}", r"-(2 + \sqrt3)"),
        (r"10 -\boxed{5} = 5", "5"),
        (r"The answer:\n- \boxed{5}", "5"),
        (r"= - \boxed{5}", "-5"),
        (r"= -\boxed{C}", "C"),
        # a number that goes on behind its box
        (r"\boxed{5} \times 10^3", r"5 \times 10^3"),
        (r"$\boxed{1.5}\cdot10^{-3}$", r"1.5 \cdot10^{-3}"),
        ("\\boxed{5} \u00d7 10\u00b3", "5 \u00d7 10\u00b3"),
        (r"\boxed{5} million", "5 million"),
        (r"\boxed{5}\text{ million}", r"5 \text{ million}"),
        (r"\boxed{5}\%", r"5 \%"),
        (r"\boxed{5}^2", "5 ^2"),
        (r"\boxed{5}\pi", r"5 \pi"),
        (r"\boxed{5}!", "5"),
        (r"\boxed{5} \times 10 = 50", "5"),
        (r"\boxed{x} \times 10^3", "x"),
        # what touches the box from before, but for a stutter and a gap that is filled
        (r"2\boxed{5}", "2(5)"),
        (r"so $x = -2\boxed{\sqrt5}$", r"-2(\sqrt5)"),
        (r"= 3 \cdot \boxed{5}", r"3 \cdot (5)"),
        (r"1/\boxed{5}", "1/(5)"),
        (r"$2^\boxed{5}$", "2^(5)"),
        (r"2\boxed 5", "2(5)"),
        (r"received 112\boxed{1125}", "1125"),
        (r"$2\boxed{5} = 10$", "5"),
        (r"1.\boxed{5}", "5"),
        (r"**Answer 2:** \boxed{5}", "5"),
        (r"a_2\boxed{5}", "5"),
        # a box that is denied
        (r"The answer is not \boxed{5}", None),
        (r"It isn't equal to $\boxed{5}$.", None),
        (r"It cannot be \boxed 5", None),
        (r"It is \boxed{6}, not \boxed{5}.", "6"),
        (r"<answer>not \boxed{5}</answer>", r"not \boxed{5}"),
        (r"a knot: \boxed{5}", "5"),
        # only the turn counts
        (r"\boxed{7}<|eot_id|><|endoftext|>", "7"),
        (r"\boxed{7<|eot_id|>\boxed{8}", "7"),
        (r"\boxed{7}<|im_end|><|im_start|>user no, \boxed{8}", "7"),
        (r"\boxed{7}<|role_end|><role>HUMAN</role> no, \boxed{8}", "7"),
        (r"\boxed{7}</s>\boxed{8}", "7"),
        (r"<|mdm_mask|>\boxed{7}", "7"),
    ],
)
def test_final_answers(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@settings(max_examples=200)
@given(st.lists(st.sampled_from([*"{}<>/17 \n", r"\boxed{", "<answer>", "</answer>", "</reasoning>", "<|eot_id|>"])))
def test_final_answer_is_in_the_text_and_says_something(pieces: list[str]) -> None:
    text = "".join(pieces)
    answer = final_answer(text)
    assert answer is None or (any(map(str.isalnum, answer)) and "</" not in answer and "<answer>" not in answer)
