"""d1's rules: its verdicts on real generations, slow twins of the linear scans, and each quirk."""

from __future__ import annotations

import re

import pytest
from grading.llada import needs_llada, rows
from hypothesis import example, given
from hypothesis import strategies as st

from diffpo.grading import d1, d1_math, d1_rewards
from diffpo.grading.tasks import GRADED

NUM_CELLS = 8


@needs_llada
@pytest.mark.parametrize(
    ("task", "correct", "total"), [("gsm8k", 863, 1130), ("math500", 162, 500), ("countdown_cd3", 50, 256)]
)
def test_verdicts_of_d1(task: str, correct: int, total: int) -> None:
    ours = [(GRADED[task].d1(row.columns, row.completion).correct, bool(row.d1)) for row in rows(task)]
    assert [mine for mine, _ in ours] == [theirs for _, theirs in ours]
    assert (sum(mine for mine, _ in ours), len(ours)) == (correct, total)


@needs_llada
def test_sudoku_cells_of_d1() -> None:
    graded = [d1_rewards.sudoku(row.columns, row.completion).parts["cells"] for row in rows("sudoku_4x4")]
    assert [round(share * NUM_CELLS) for share in graded] == [row.d1 for row in rows("sudoku_4x4")]
    assert f"{sum(graded) / len(graded):.2%}" == "6.69%"


# --- twins -------------------------------------------------------------------------------------------------------

TAGS = ("<reasoning>", "</reasoning>", "<answer>", "</answer>", "\n</answer>\n", "<|eot_id|>", "<|endoftext|>")
MARKS = ("1234", "1234123412341234", "```", r"\boxed{", r"\boxed ", r"\fbox{", "}", "{", "...", r"\frac")
PIECES = st.lists(st.sampled_from([*" \n\t.-$=(+*/0123456789a", *TAGS, *MARKS]), max_size=40).map("".join)


@given(PIECES)
def test_boxes_of_a_line(text: str) -> None:
    assert d1.one_line_boxes(text) == re.findall(r"\\boxed\{(.*?)\}", text)


@given(PIECES)
def test_between_tags(text: str) -> None:
    found = re.search(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert d1.between(text, "<answer>", "</answer>") == (found and found[1])
    tags = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    assert d1_rewards.last_tagged(text) == (tags[-1].strip() if tags else None)


@given(PIECES)
def test_left_side_of_an_equation(text: str) -> None:
    box = d1.last_box(text)
    tag = d1.between(text, "<answer>", "</answer>")
    equation = box if box is not None else text if tag is None else tag.strip()
    side = re.search(r"([0-9+\-*/() ]+)=[0-9. ]+", equation)
    assert d1.countdown_answer(text) == (side[1].strip() if side else equation)


@given(PIECES)
def test_places_of_a_grid(text: str) -> None:
    patterns = (
        r"<answer>.*?```\s*([\d\s]+)```",
        r"<answer>(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|</answer>)",
        r"</answer>\s*(.*?)(?:<\|eot_id\|>|<\|endoftext\|>|$)",
        r".*?(\d{16})\s*</answer>",
        r"\b(\d{16})\b",
    )
    found = [
        match[1].strip() for pattern in patterns if (match := re.search(pattern, text, re.DOTALL)) and match[1].strip()
    ]
    grid = re.sub(r"\s", "", found[0]) if found else ""
    assert d1.sudoku_answer(text) == (grid.ljust(16, "0")[:16] if grid else "")


@given(PIECES)
@example("<reasoning></reasoning><answer></reasoning>\n<answer></answer>")
def test_soft_format(text: str) -> None:
    pattern = r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>"
    for start in ("", "<reasoning>"):
        assert d1_rewards.softly_formatted(start + text) == bool(re.match(pattern, start + text))


@given(st.lists(st.sampled_from([*"+-*/(). 12345", "**", "//"]), max_size=9).map("".join))
def test_equations_as_python_evaluates_them(equation: str) -> None:
    if re.search(r"\d{3}|\*\*.*(\*\*|\d\d)", equation):
        return  # powers beyond the bound
    try:
        expected = eval(equation, {"__builtins__": None}) if re.match(r"^[\d+\-*/().\s]+$", equation) else None
    except Exception:
        expected = None
    assert d1.value_of(equation) == expected


# --- quirks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        (r"\boxed{18}", 18),
        (r"\boxed{18} \boxed{19}", 18),  # the first
        (r"\boxed{1,000}", 1),
        (r"\boxed{\frac{2}{3}}", 2),
        (r"\boxed{} \boxed{...} \boxed{7 cats, 8 dogs}", 7),
        (r"\boxed{x}<answer>7 cats, 8 dogs</answer>", 8),  # the last
        ("\\boxed{5\n}", None),  # no box reaches over lines
        ("<answer>5", None),
        ("5", None),
    ],
)
def test_gsm8k_answers(completion: str, number: float | None) -> None:
    assert d1.gsm8k_answer(completion) == number


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        (r"\dfrac12", r"\frac{1}{2}", True),
        ("0.5", r"\frac{1}{2}", True),
        ("3/4", r"\frac{3}{4}", True),
        ("x=5", "5", True),
        ("xyz=5", "5", False),
        (r"5\text{ cm}", "5", True),
        (r"10\%", "10", True),
        (r"\sqrt3", r"\sqrt{3}", True),
        ("0.25", r"\frac{1}{4}", False),
        ("1,000", "1000", False),
        ("5.0", "5", False),
        (r"\text{east}", "east", False),
        ("3,5", "5,3", False),
        ("x/2", "x/2", True),  # the clean-up fails, the strings are equal
        ("x/2", "x /2", False),
        (r"1\text{ a}\text{ b}", r"1\text{ a}\text{ b}", True),
        (r"\frac", r"\frac", True),
        (r"\sqrt", "1", False),
    ],
)
def test_math_answers_that_are_equal(answer: str, truth: str, same: bool) -> None:
    assert d1_math.equivalent(answer, truth) is same


REASONED = "\nOne line.\n</reasoning>\n<answer>\n18\n</answer>\n"


def test_gsm8k_reward() -> None:
    """The best that the format allows without DOTALL."""
    parts = d1_rewards.gsm8k({"answer": "18"}, REASONED).parts
    assert parts == {"xmlcount": 0.5, "soft_format": 0.0, "strict_format": 0.5, "int": 0.5, "correctness": 2.0}
    lines = d1_rewards.gsm8k({"answer": "18"}, REASONED.replace("line", "line\nor two"))
    assert lines.parts["strict_format"] == 0.0 and lines.reward == 3.0 and lines.correct
    flat = d1_rewards.gsm8k({"answer": "18"}, "One line.</reasoning> <answer>18</answer>")
    assert flat.parts["soft_format"] == 0.5
    assert d1_rewards.gsm8k({"answer": "18"}, REASONED + "." * 100).parts["xmlcount"] == pytest.approx(0.5 - 0.2)
    assert d1_rewards.gsm8k({"answer": "18"}, REASONED.replace("18", r"\boxed{18}")).reward == 3.5
    for answer in ("18.0", "$18", "18 eggs", r"\boxed{18} eggs"):
        assert d1_rewards.gsm8k({"answer": "18"}, REASONED.replace("18", answer)).parts["correctness"] == 0.0


def test_a_negative_reference_is_never_right() -> None:
    assert not d1_rewards.gsm8k({"answer": "-10"}, r"\boxed{-10}").correct


def test_math_reward() -> None:
    right = "\n</reasoning>\n<answer>\n\\boxed{\\frac12}\n</answer>"
    graded = d1_rewards.math500({"answer": r"\frac{1}{2}"}, right)
    assert graded.correct and graded.parts == {"correctness": 2.0, "format": 0.75}
    assert d1_rewards.math500({"answer": "1"}, "no").parts == {"correctness": 0.0, "format": 0.25}
    assert d1_rewards.math500({"answer": "1"}, "<answer>\boxed</answer>").parts["format"] == 1.0


def test_countdown_reward() -> None:
    columns = {"numbers": [2, 3, 4], "target": 8}
    for answer, reward in (("4*(3-2)*2", 0.1), ("2**3*4/4", 0.1), ("4**(3/2)", 1.0), ("2*4*3", 0.1), ("", 0.1)):
        assert d1_rewards.countdown(columns, f"<answer>{answer}</answer>").reward == reward, answer
    assert d1_rewards.countdown(columns, "4**(3/2)").reward == 0.0
    assert d1_rewards.countdown({"numbers": [1, 3, 3], "target": 1}, "<answer>1/3*3</answer>").reward == 1.0


def test_sudoku_reward_pads_and_cuts() -> None:
    columns = {"puzzle": "0234341221434321", "solution": "1234341221434321"}
    for answer in ("1", "1999999999999999999999", "1 2 3"):
        graded = d1_rewards.sudoku(columns, f"<answer>{answer}</answer>")
        assert graded.reward == 1.0 and graded.correct
    assert d1_rewards.sudoku(columns, "<answer>none</answer>").reward == 0.0
