"""Countdown: an expression of all the given numbers that has the target's value."""

from __future__ import annotations

import re
from typing import Any

from diffpo.grading import d1_rewards
from diffpo.grading.answers import final_answer
from diffpo.grading.expressions import evaluate_expression
from diffpo.grading.grade import Columns, Graded, GradedTask, graded

_EQUALS = re.compile(r"=+>?|\bequals?\b|->|\u2192|\\(?:to|rightarrow|implies)(?![A-Za-z])")


def strict(columns: Columns, completion: str) -> Graded:
    """Right if the answer is an expression of all `numbers`, each once, with the value `target`, exactly."""
    answer = final_answer(completion)
    sides = expression_sides(answer or "")
    numbers, target = sorted(columns["numbers"]), columns["target"]
    readings = [found for side in sides if (found := evaluate_expression(side))]
    uses = any(sorted(found.literals) == numbers for found in readings)
    correct = any(sorted(found.literals) == numbers and found.value == target for found in readings)
    grade = graded(completion, answer, correct)
    return grade._replace(parts={**grade.parts, "numbers": float(uses)})


def expression_sides(answer: str) -> list[str]:
    """The expression that an answer gives: its first side, or the second where the first is a lone number or a name."""
    text = re.sub(
        r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])|\\[()\[\],;!$]|```[a-z]*|[$`\"']|\*\*",
        " ",
        answer[-1000:],
    )
    while text != (text := re.sub(r"\\[cdt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", text)):
        pass  # fractions of fractions
    text = re.sub(r"\\(?:text|math)[a-z]*\s*\{([^{}]*)\}", r" \1 ", text).translate(str.maketrans("[]{}", "()()"))
    text = re.sub(r"^[A-Za-z\s]*(?::|\b(?:is|expression)\b)|^[A-Za-z][\w\s,]*:|[.;\s\\]+$", "", text)  # Answer: ...
    text = re.sub(r"(?<=[0-9)])\s*[xX]\s*(?=[0-9(])|(?<=[0-9)])\s*(?=\()|(?<=\))\s*(?=[0-9])", "*", text)  # 2 x 3, 2(3)
    text = re.sub(r"(?<=[0-9)])\s*:\s*(?=[0-9(])", "/", text)  # 6 : 2
    sides = [side.strip() for side in _EQUALS.split(text)]
    lone = re.fullmatch(r"-?[0-9]+|[A-Za-z ]*", sides[0])
    return (lone and sides[1:2]) or sides[:1]


def columns(question: str, truth: Any) -> dict[str, Any]:
    """[[numbers ...], target]."""
    match truth:
        case [[*numbers], target] if numbers and all(type(number) is int for number in (*numbers, target)):
            return {"numbers": numbers, "target": target}
    raise ValueError(f"ground_truth must be [[numbers ...], target], got {truth!r}")


TASK = GradedTask(strict, d1_rewards.countdown, columns)
