"""Our graders: hard cases of each task, and how they differ from d1 on LLaDA's real answers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from grading.llada import needs_llada, rows

from diffpo.grading import countdown, maths, sudoku
from diffpo.grading.grade import formatted
from diffpo.grading.tasks import GRADED


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        (r"\boxed{18}", 18),
        ("<answer>18</answer>", 18),
        ("<answer>\n$18\n</answer>", 18),
        ("<answer>18 dollars</answer>", 18),
        ("<answer>$18.00 per day.</answer>", 18),
        (r"\boxed{1,018}", 1018),
        (r"\boxed{\$1,018.50}", Fraction(2037, 2)),
        (r"\boxed{18\%}", 18),
        (r"\boxed{18 \text{ hours}}", 18),
        (r"\boxed{\text{18 hours}}", 18),
        (r"\boxed{18 hours}", 18),
        (r"\boxed{5 changes/day}", 5),
        (r"\boxed{50 mph}", 50),
        (r"\boxed{\$18/day}", 18),
        ("<answer>18 eggs/day</answer>", 18),
        ("<answer>The answer is **18**.</answer>", 18),
        (r"<answer>\text{The answer is } 18</answer>", 18),
        (r"<answer>\[ 18 \]</answer>", 18),
        (r"\boxed{2:00 pm}", 2),
        (r"\boxed{9 \times 2 = 18}", 18),
        (r"\boxed{x = 18}", 18),
        (r"\boxed{Total: 18}", 18),
        ("<answer>She makes 9 * 2 = $18 every day.</answer>", 18),
        (r"<answer>Juice Box C is 2 dollars more than Juice Box B.</answer>", 2),
        (r"<answer>The answer is \boxed{18}.</answer>", 18),
        (r"\boxed{-10}", -10),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)),
        (r"\boxed{2 million}", 2_000_000),
        ("<answer>It is minus 5 degrees</answer>", -5),
        (r"\boxed{\text{negative }5}", -5),
        (r"\boxed{eighteen}", 18),
        ("<answer>**18**</answer>", 18),
        (r"\boxed{1.8e1}", 18),
        ("<answer>18 dollars more than Bob</answer>", 18),
        (r"\boxed{17} no, \boxed{18}", 18),
        (r"\boxed{18} Let me know if 19 is better!", 18),
    ],
)
def test_gsm8k_answers(completion: str, number: Fraction | int) -> None:
    assert maths.strict({"answer": str(number)}, completion).correct
    assert not maths.strict({"answer": str(number + 1)}, completion).correct


@pytest.mark.parametrize(
    "completion",
    [
        *(
            "18",
            "the answer is 18",
            r"\boxed{18} \boxed{17}",
            r"\boxed{17, 18}",
            r"\boxed{17 or 18}",
            r"\boxed{9 \times 2}",
        ),
        *(r"\boxed{9 + 9}", r"\boxed{\frac{36}{2} + 0}", r"\boxed{half of 18}", r"\boxed{twice 18}", r"\boxed{18!}"),
        *(r"\boxed{18^2}", r"\boxed{\sqrt{18}}", r"\boxed{-18}", r"\boxed{18 hours 20 minutes}", r"\boxed{2:18 pm}"),
        *(
            r"\boxed{18:30}",
            r"\boxed{18,00}",
            r"\boxed{1.8.18}",
            r"\boxed{10-18}",
            r"\boxed{18x}",
            r"\boxed{\frac{18}{2}}",
        ),
        *(
            "<answer>18 of 36 ducks</answer>",
            "<answer>It is not 18.</answer>",
            "<answer>It is minus 18 degrees</answer>",
            "<answer>At least 18</answer>",
            "<answer>more than 18</answer>",
            "<answer>18 or more</answer>",
            r"\boxed{18} or \boxed{17}",
            r"\boxed{\ge 18}",
            r"\boxed{18_9}",
            r"\boxed{1 8}",
            "<answer>17 = 18 - 1</answer>",
        ),
        *(r"\boxed{nan}", r"\boxed{}", r"\boxed{0x12}", r"\boxed{18e1}", r"\boxed{1_8}"),
        *(r"<|eot_id|>\boxed{18}", r"\boxed{17}<|eot_id|>\boxed{18}"),
    ],
)
def test_gsm8k_answers_that_are_not_18(completion: str) -> None:
    assert not maths.strict({"answer": "18"}, completion).correct


def test_gsm8k_references() -> None:
    assert maths.strict({"answer": "1,450"}, r"\boxed{1450}").correct
    assert not maths.strict({"answer": None}, r"\boxed{None}").correct


@pytest.mark.parametrize(
    ("completion", "correct"),
    [
        (r"\boxed{\frac{1}{2}}", True),
        ("<answer>0.5</answer>", True),
        (r"<answer>The probability is $\frac12$.</answer>", True),
        (r"<answer>The probability is \(\frac{1}{2}\).</answer>", True),
        (r"<answer>The probability is \(\frac{1}{2}\) or \(\frac13\).</answer>", False),
        (r"<answer>Not $\frac12$ + 1.</answer>", False),
        (r"\boxed{\frac{1}{2}} \boxed{\frac{1}{3}}", False),
        (r"\boxed{x = \frac{1}{2}}", True),
    ],
)
def test_math_answers(completion: str, correct: bool) -> None:
    assert maths.strict({"problem": "", "answer": r"\frac{1}{2}"}, completion).correct is correct


def test_a_whole_number_in_a_sentence_is_read() -> None:
    columns = {"problem": "", "answer": "6"}
    assert maths.strict(columns, "<answer>The largest value is 6.</answer>").correct
    assert not maths.strict(columns, "<answer>The largest value is 6 or 7.</answer>").correct


@pytest.mark.parametrize(
    ("answer", "correct", "numbers"),
    [
        ("49 + 55 - 53", True, True),
        ("(49+55)-53", True, True),
        ("49 + 55 - 53 = 51", True, True),
        ("The expression 49 + 55 - 53 equals 51", True, True),
        ("49 + 55 - 53 -> 51", True, True),
        ("49 + 55 - 53 \\rightarrow 51", True, True),
        ("49 + 55 -> 104 - 53 -> 51", False, False),
        ("51 = 49 + 55 - 53", True, True),
        ("49 + 55 - 53;", True, True),
        ("x = 49 + 55 - 53", True, True),
        ("x = 49 + 55 - 53 = 51", True, True),
        ("= 49 + 55 - 53", True, True),
        ("The expression is: 49 + 55 - 53", True, True),
        (r"\text{Answer: } 49 + 55 - 53", True, True),
        (r"\mathrm{49 + 55 - 53}", True, True),
        ("```python\n49 + 55 - 53\n```", True, True),
        (r'"\bigl(49 + 55\bigr) - 53"', True, True),
        (r"49 + 55 - 53 \text{ + 1}", False, False),
        (r"\text{1 * }49 + 55 - 53", False, False),
        ("51 = 50 + 1 = 49 + 55 - 53", False, False),
        (r"\(49 + 55 - 53\)", True, True),
        ("$49 + 55 - 53$", True, True),
        ("`49 + 55 - 53`", True, True),
        ("[49 + 55] - 53.", True, True),
        (r"\left(49 + 55\right) - 53", True, True),
        ("49 + 55 \u2212 53", True, True),
        ("Using 49, 55 and 53: 49 + 55 - 53", True, True),
        (r"\frac{49 + 55 - 53}{1}", False, False),
        ("49 \u22c5 1 + 55 \u2212 53", False, False),
        ("49 - 55 + 53", False, True),
        ("49 + 2", False, False),
        ("51", False, False),
        ("49 + 55 - 53 + 0", False, False),
        ("49 + 55 - 53 - 0*1", False, False),
        ("4955 - 53", False, False),
        ("49 + 55 - 53, 51", False, False),
        ("49 + 55 = 104 - 53 = 51", False, False),
        ("49 + 55 - 53 or 53", False, False),
        ("", False, False),
    ],
)
def test_countdown_answers(answer: str, correct: bool, numbers: bool) -> None:
    graded = countdown.strict({"numbers": [49, 55, 53], "target": 51}, rf"<answer>\boxed{{{answer}}}</answer>")
    assert (graded.correct, bool(graded.parts["numbers"])) == (correct, numbers)


@pytest.mark.parametrize("times", ["*", "\u00d7", "\u2716", "\u00b7", "\u22c5", "\u2217", r"\times", r"\cdot", r"\ast"])
def test_countdown_signs_of_times(times: str) -> None:
    assert countdown.strict({"numbers": [6, 7, 2], "target": 40}, rf"\boxed{{6 {times} 7 - 2}}").correct


@pytest.mark.parametrize("answer", ["(2)(3)(4)", "2(3)(4)", "2 x 3 X 4", "(2 + 0)3 * 4", "2(3 4)", "x 2 * 3 * 4"])
def test_countdown_products_without_a_sign(answer: str) -> None:
    right = answer in ("(2)(3)(4)", "2(3)(4)", "2 x 3 X 4")
    assert countdown.strict({"numbers": (2, 3, 4), "target": 24}, rf"\boxed{{{answer}}}").correct is right


@pytest.mark.parametrize("answer", ["8:2 + 3", "(8 : 2) + 3 = 7", "Target 7: 8:2 + 3", "8:(2 + 3)", "7: 8/2 + 3"])
def test_countdown_divides_by_a_colon(answer: str) -> None:
    right = answer not in ("8:(2 + 3)", "7: 8/2 + 3")
    assert countdown.strict({"numbers": [8, 2, 3], "target": 7}, rf"\boxed{{{answer}}}").correct is right


def test_countdown_of_one_number() -> None:
    assert countdown.strict({"numbers": [5], "target": 5}, r"\boxed{5}").correct


def test_countdown_is_exact() -> None:
    columns = {"numbers": [1, 3, 3], "target": 1}
    assert countdown.strict(columns, r"\boxed{\frac{1}{3} \times 3}").correct
    assert countdown.strict({"numbers": [48, 4, 2], "target": 24}, r"\boxed{\frac{48}{\frac{4}{2}}}").correct
    assert countdown.strict({"numbers": [8, 3, 2], "target": 2}, r"\boxed{8 / (3 + 1)}").correct is False
    assert not countdown.strict({"numbers": [2, 3, 4], "target": 8}, r"\boxed{4**(3/2)}").correct


GRID = "3142243142131324"


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        (GRID, 1.0),
        ("3142\n2431\n4213\n1324", 1.0),
        ("3 1 4 2 | 2 4 3 1 | 4 2 1 3 | 1 3 2 4", 1.0),
        ("```\n3142 2431 4213 1324\n```", 1.0),
        (f"The solution is {GRID}.", 1.0),
        ("The solved 4x4 grid is:\n3142\n2431\n4213\n1324", 1.0),
        ("Solution: 3142 2431 4213 1324", 1.0),
        ("Either 3142: 3142 2431 4213 1324", 0.0),
        ("Puzzle: 3102 2000 0210 0320\nSolution: 3142 2431 4213 1324", 0.0),
        ("Row 1: 3142\nRow 2: 2431\nRow 3: 4213\nRow 4: 1324", 1.0),
        ("R1: 3142\nR2: 2431\nR3: 4213\nR4: 1324", 1.0),
        ("Row1=3142, Row2=2431, Row3=4213, Row4=1324", 1.0),
        ("1. 3142\n2. 2431\n3. 4213\n4. 1324", 1.0),
        ("1: 3 1 4 2\n2: 2 4 3 1\n3: 4 2 1 3\n4: 1 3 2 4", 1.0),
        ("1. 3142\n2. 2431\n3. 4213", 0.0),
        ("┌──┬──┐\n│31│42│\n│24│31│\n├──┼──┤\n│42│13│\n│13│24│\n└──┴──┘", 1.0),
        (r"\begin{array}{|cc|cc|}\hline 3&1&4&2\\2&4&3&1\\4&2&1&3\\1&3&2&4\end{array}", 1.0),
        ("3142243142131324".translate({ord(d): 0xFF10 + int(d) for d in "1234"}), 1.0),
        ("3 1 4 2 / 2 4 3 1 / 4 2 1 3 / 1 3 2 4", 1.0),
        ("Row 1: 3142\nRow 2: 2431\nRow 3: 4213", 0.0),
        ("First row: 3142\nSecond row: 2431\nThird row: 4213\nFourth row: 1324", 1.0),
        ("First row: 3142\nSecond row: 2431\nThird row: 4213\nFourth row: 4213", 0.0),
        ("A: 3142\nB: 2431\nC: 4213\nD: 1324", 1.0),
        ("grid = [[3,1,4,2],[2,4,3,1],[4,2,1,3],[1,3,2,4]]", 1.0),
        ("<pre>3142\n2431\n4213\n1324</pre>", 1.0),
        (r"3142\n2431\n4213\n1324", 1.0),
        ("3142243142131321", 0.875),
        ("3102243142131324", 0.875),  # a blank left blank
        ("3142243142131314", 0.0),  # a clue changed
        (GRID[:15], 0.0),
        (GRID + "1", 0.0),
        (GRID + GRID, 0.0),
        (f"{GRID} or {GRID[::-1]}", 0.0),
        ("31422431421313245", 0.0),
        ("", 0.0),
    ],
)
def test_sudoku_answers(answer: str, share: float) -> None:
    columns = {"puzzle": "3102200002100320", "solution": GRID}
    graded = sudoku.strict(columns, f"\n</reasoning>\n<answer>\n{answer}\n</answer>")
    assert graded.parts["blanks"] == pytest.approx(round(share * 9) / 9 if share not in (0, 1) else share, abs=0.02)
    assert graded.correct is (share == 1.0) and graded.reward == graded.parts["blanks"]


def test_any_solution_of_a_puzzle_is_right() -> None:
    puzzle, listed, other = "1200340021004300", "1234341221434321", "1243342121344312"
    assert {listed, other} <= set(sudoku.solutions_of(puzzle))
    columns = {"puzzle": puzzle, "solution": listed}
    for answer, share in ((listed, 1.0), (other, 1.0), (other[:-1] + "1", 7 / 8)):
        graded = sudoku.strict(columns, f"</reasoning><answer>{answer}</answer>")
        assert (graded.reward, graded.correct) == (share, share == 1)


@pytest.mark.parametrize(
    ("completion", "says"),
    [
        ("\nwhy\nnot\n</reasoning>\n<answer>\n1\n</answer>", True),
        ("<reasoning>why</reasoning><answer>1</answer><|eot_id|><|endoftext|>", True),
        ("why</reasoning><answer>1</answer> and more", False),
        ("why<answer>1</answer>", False),
        ("why</reasoning><answer>1", False),
        ("<answer>1</answer></reasoning>", False),
        ("why</reasoning><answer>1</answer><answer>2</answer>", False),
        ("", False),
    ],
)
def test_format(completion: str, says: bool) -> None:
    assert formatted(completion) is says
    assert maths.strict({"answer": "1"}, completion).parts["format"] == float(says)


@needs_llada
@pytest.mark.parametrize(
    ("task", "correct", "gained", "lost"), [("gsm8k", 878, 17, 2), ("math500", 179, 17, 0), ("countdown_cd3", 51, 1, 0)]
)
def test_verdicts_on_real_answers(task: str, correct: int, gained: int, lost: int) -> None:
    """docs/grading.md lists each of the disagreements with d1."""
    pairs = [(GRADED[task].strict(row.columns, row.completion).correct, bool(row.d1)) for row in rows(task)]
    assert sum(ours for ours, _ in pairs) == correct
    assert (pairs.count((True, False)), pairs.count((False, True))) == (gained, lost)


@needs_llada
def test_sudoku_on_real_answers() -> None:
    """Where a puzzle has other solutions, cells of another one may be right."""
    graded = [(sudoku.strict(row.columns, row.completion), row) for row in rows("sudoku_4x4")]
    assert sum(round(ours.parts["blanks"] * 8) for ours, _ in graded) == 16
    for ours, row in graded:
        assert round(ours.parts["blanks"] * 8) in (0, row.d1)
