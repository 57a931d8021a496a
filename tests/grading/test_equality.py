r"""Which answers say what the reference says: a table of pairs, properties, and math-verify as the twin."""

from __future__ import annotations

import logging
from fractions import Fraction

import pytest
from grading.llada import needs_llada, rows
from hypothesis import given
from hypothesis import strategies as st

from diffpo.grading import graders
from diffpo.grading.equality import same_answer
from diffpo.grading.latex import Unreadable
from diffpo.grading.math_worker import is_tame
from diffpo.grading.maths import read_answer

SAME = r"""
\frac{1}{2}  ~  0.5
\frac{1}{2}  ~  1/2
\frac{1}{2}  ~  \dfrac12
\frac{1}{2}  ~  .5
\frac{1}{2}  ~  \frac{2}{4}
\frac{1}{2}  ~  50\%
50  ~  50\%
50\%  ~  50
10,\!080  ~  10080
10,\!080  ~  10{,}080
10080  ~  10,080
10080  ~  10\,080
10080  ~  10 080
5  ~  5.0
5  ~  \$5
5  ~  \$5.00
5  ~  $5$
5  ~  \(5\)
5  ~  x = 5
5  ~  5 \text{ cm}
5  ~  5\text{ dollars}
5  ~  5 cm
5  ~  5 apples
5  ~  +5
5  ~  \text{5}
5  ~  \text{5 apples}
5  ~  5^\circ
5  ~  5 degrees
5  ~  f(2) = 5
5  ~  \text{Area} = 5
5  ~  2 + 3 = 5
5  ~  AB = 5
5  ~  5.
5  ~  **5**
5  ~  \boxed{5}
-5  ~  -5
x=5  ~  5
x=5  ~  x=5
\frac{3}{2}  ~  1\frac{1}{2}
\frac{3}{2}  ~  1 \frac{1}{2}
\frac{3}{2}  ~  1 1/2
137 \frac{1}{2}  ~  137.5
2\sqrt{3}  ~  \sqrt{12}
2\sqrt{3}  ~  2√3
\frac{\sqrt{3}}{3}  ~  \frac{1}{\sqrt{3}}
\frac{\sqrt{3}}{3}  ~  \sqrt{3}/3
1 \pm \sqrt{19}  ~  1 - \sqrt{19}, 1 + \sqrt{19}
1 \pm \sqrt{19}  ~  1+\sqrt{19} \text{ and } 1-\sqrt{19}
3, 5, 7  ~  7,5,3
3, 5, 7  ~  x = 3, 5, 7
3, 5, 7  ~  x=3, x=5, x=7
3, 5, 7  ~  \{3, 5, 7\}
3, 5, 7  ~  3, 5, \text{ and } 7
3, 5, 7  ~  3, 5 and 7
(1,-2)  ~  (1, -2)
(1,-2)  ~  \left(1,-2\right)
(1,-2)  ~  \left( 1, -2 \right)
(3,4]  ~  3 < x \le 4
(3,4]  ~  x \in (3, 4]
(3,4]  ~  \left(3, 4\right]
(-\infty,2)\cup(3,\infty)  ~  (3,\infty) \cup (-\infty, 2)
(-\infty,2)\cup(3,\infty)  ~  x<2 \text{ or } x>3
[5,\infty)  ~  x \ge 5
[5,\infty)  ~  5 \leq x
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  \begin{bmatrix} 1\\2 \end{bmatrix}
\begin{pmatrix} 16/49 \\ 48/49 \end{pmatrix}  ~  \frac{1}{49}\begin{pmatrix} 16 \\ 48 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}  ~  \begin{pmatrix}1&2\\3&4\end{pmatrix}
\text{east}  ~  east
\text{east}  ~  \text{East}
\text{(C)}  ~  C
\text{(C)}  ~  (C)
\text{(C)}  ~  \textbf{(C)}
\text{(C)}  ~  (C) Plane
\text{(C)}  ~  Option C
-\frac{3}{2}  ~  -1\frac{1}{2}
-\frac{3}{2}  ~  -1 1/2
x^2+1  ~  x**2 + 1
5  ~  \approx 5
5  ~  x \approx 5
5  ~  = 5
12  ~  12^{\text{th}}
12  ~  12th
12  ~  12^{th} \text{ grade}
50  ~  50 \frac{\text{miles}}{\text{hour}}
50  ~  \$50/hour
50  ~  50 miles/hour
15  ~  15 cm^2
15  ~  15 \text{ cm}^{2}
(1,-2)  ~  (x, y) = (1, -2)
(-\infty,2)\cup(3,\infty)  ~  (-infinity, 2) U (3, infinity)
\sqrt{3}  ~  sqrt(3)
\frac{3\pi}{4}  ~  3pi/4
2\sqrt{3}  ~  2*sqrt(3)
\text{Navin}  ~  Navin
40_9  ~  40_{9}
40_9  ~  40_9
40_9  ~  40
x^3+3x-6  ~  3x + x^3 - 6
x^3+3x-6  ~  -6+3x+x^{3}
(a+5)(b+2)  ~  (b+2)(a+5)
6-5i  ~  -5i+6
y = 2x + 3  ~  y=3+2x
y = 2x + 3  ~  2x+3
5x - 7y + 11z + 4 = 0  ~  5x-7y+11z = -4
5x - 7y + 11z + 4 = 0  ~  -5x+7y-11z-4=0
\frac{20000}{\pi}  ~  20000/\pi
\pi  ~  π
12\pi  ~  12 \pi
12\pi  ~  12\pi \text{ square units}
30^\circ  ~  30
30^\circ  ~  30°
.0000672  ~  6.72 \times 10^{-5}
.0000672  ~  0.0000672
320000  ~  3.2 \times 10^5
2^{10}  ~  1024
2^{100}  ~  2^{100}
\frac{270}7\text{ degrees}  ~  \frac{270}{7}
15\mbox{ cm}^2  ~  15\text{ square cm}
15\mbox{ cm}^2  ~  15 \, \text{cm}^2
864 \mbox{ inches}^2  ~  864
5.4 \text{ cents}  ~  5.4
5.4 \text{ cents}  ~  5.4 \text{ cents}
\$32,\!348  ~  32348
\$32,\!348  ~  32,348
11,\! 111,\! 111,\! 100  ~  11111111100
2000000  ~  2 million
2000000  ~  \$2 \text{ million}
0.1\overline{6}  ~  \frac{1}{6}
\log 2  ~  \log_{10} 2
\cot x  ~  \frac{\cos x}{\sin x}
\frac{1}{x+1}  ~  (x+1)^{-1}
\{1\pm\sqrt{5},-2\}  ~  \{-2, 1+\sqrt5, 1-\sqrt5\}
|x|+1  ~  |x| + 1
3R^2  ~  3R^2
\left( 3, \frac{\pi}{2} \right)  ~  (3, \pi/2)
x \in [-2,7]  ~  -2 \le x \le 7
\emptyset  ~  \varnothing
\frac{9}{2}  ~  4.5
2k  ~  k \cdot 2
\binom{5}{2}  ~  \binom{5}{2}
\ln 2  ~  \ln{2}
e^{2}  ~  e^2
\frac{\sqrt[3]{2}}{2}  ~  \sqrt[3]{2}/2
10\%  ~  10\%
10\%  ~  10
1 + \frac{\sqrt{2}}{2}  ~  \frac{2+\sqrt{2}}{2}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  (1, 2)
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  A \begin{pmatrix} 3 \\ 4 \end{pmatrix} = \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\text{(C)}  ~  (C) Plane
\text{(C)}  ~  C. Plane
\text{(C)}  ~  \textbf{(C)}\ \text{Plane}
"""
DIFFERENT = r"""
5  ~  6
5  ~  -5
5  ~  55
5  ~  2+3
5  ~  5x
5  ~  x = -5
5  ~  5, 6
5  ~  y
5  ~  2x = 5
5  ~  x^2 = 5
5  ~  \frac{1}{5}
5  ~  15/3 - 0
24  ~  4!
4  ~  \sqrt{16}
\frac{1}{2}  ~  \frac{1}{3}
\frac{1}{2}  ~  0.49999
\frac{1}{3}  ~  0.3333
\pi  ~  3.14159265
\pi  ~  22/7
10080  ~  7! \times 2!
(1,-2)  ~  (-2,1)
(1,-2)  ~  [1,-2]
(2,4)  ~  [2,4]
(2,4)  ~  (2,4]
(2,4)  ~  2,4
3, 5, 7  ~  3, 5
3, 5, 7  ~  3, 5, 7, 9
\text{east}  ~  west
\text{east}  ~  seat
\text{(C)}  ~  D
\text{(C)}  ~  (D) Plane C
40_9  ~  40_8
40_9  ~  36
x=5  ~  y=5
y = 2x + 3  ~  y = 2x - 3
y = 2x + 3  ~  x = 2y + 3
(3,4]  ~  3 \le x \le 4
5.4 \text{ cents}  ~  5.4 \text{ dollars}
6-5i  ~  6+5i
2\sqrt{3}  ~  3\sqrt{2}
\frac{\sqrt{3}}{2}  ~  \sin(\pi/3)
1 \pm \sqrt{19}  ~  1 + \sqrt{19}
|x|  ~  x
x  ~  -x
5  ~  nan
5  ~  \infty
5  ~  None
5  ~  
5  ~  ?
5  ~  5 \text{ or } 6
5  ~  5 or 6
5  ~  between 4 and 6
12  ~  12,000
1,000  ~  1
12  ~  1 2
9^{9^{9}}  ~  9^{9^{8}}
0  ~  9^{9^{9}}
0  ~  1/9^{9^{9}}
0  ~  10^{-400}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  \begin{pmatrix} 1 & 2 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  \begin{pmatrix} 12 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  (2, 1)
\text{(C)}  ~  Circle
\text{(C)}  ~  Option D
-\frac{1}{2}  ~  -1\frac{1}{2}
8  ~  2**3
(1,-2)  ~  (x, y) = (-2, 1)
5  ~  \approx 5.1
3  ~  3/x
3  ~  3rd - 1
\text{(C)}  ~  (A), (B), (C)
"""


def table(text: str) -> list[tuple[str, str]]:
    """The pairs of a table: reference, answer."""
    pairs = [line.split("  ~ ") for line in text.strip("\n").splitlines()]
    return [(truth.strip(), answer.strip()) for truth, answer in pairs]


@pytest.mark.parametrize(("truth", "answer"), [*table(SAME), ("-5", "\u22125")])
def test_the_same_answer(truth: str, answer: str) -> None:
    assert same_answer(answer, truth)


@pytest.mark.parametrize(("truth", "answer"), [*table(DIFFERENT), ("5", "\u0665"), ("5", "\uff15"), ("4", "2\u00b2")])
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
        ("What is the greatest common factor of $2x$ and $x^2 + x$?", "x + 0", "x", True),
        ("Expand $(x+1)(x-1)$.", "(x-1)(x+1)", "x^2-1", False),
        ("Expand $(x+1)(x-1)$.", "-1+x^2", "x^2-1", True),
        ("What is $3 + 4$?", "3+4", "7", False),
        ("What is 5?", "5", "5", True),
    ],
)
def test_the_question_is_no_answer(question: str, answer: str, truth: str, same: bool) -> None:
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


@needs_llada
def test_every_reference_is_read_and_is_its_own_answer() -> None:
    for row in rows("math500"):
        truth = row.columns["answer"]
        read_answer(truth, reference=True)
        assert same_answer(truth, truth, row.columns["problem"])


@needs_llada
@pytest.mark.slow
def test_math_verify_agrees_on_real_answers() -> None:
    """The slow twin; it differs once, on 7! * 2! for 10,080, which we do not work out for the model."""
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    differ = []
    for row in rows("math500"):
        graded = graders.math500(row.columns, row.completion)
        truth, answer = (math_verify.parse(rf"\boxed{{{text}}}") for text in (row.columns["answer"], graded.answer))
        differ += [graded.answer] * (bool(graded.answer and math_verify.verify(truth, answer)) != graded.correct)
    assert differ == [r"7! \times 2!"]


# --- what the reader does not know -------------------------------------------------------------------------------


def test_math_verify_judges_what_the_reader_does_not_know() -> None:
    with pytest.raises(Unreadable):
        read_answer(r"\int_0^1 2x\,dx")
    assert same_answer("1", r"\int_0^1 2x\,dx")
    assert not same_answer("2", r"\int_0^1 2x\,dx")
    assert not same_answer(r"9^{9^{9}}", r"\int_0^1 2x\,dx")


@pytest.mark.parametrize(
    ("text", "tame"),
    [
        (r"\int_0^1 2x\,dx", True),
        (r"9^{9^{9}}", False),
        ("9^{99999}", False),
        ("99999!", False),
        ("9!!", False),
        ("9**9", False),
        ("(1", False),
        ("1" * 200, False),
        ("\u0665", False),
        ("", False),
    ],
)
def test_only_tame_expressions_reach_sympy(text: str, tame: bool) -> None:
    assert is_tame(text) is tame
