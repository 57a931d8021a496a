r"""The references of MATH-500, each changed a little: how many of the changed ones pass for the reference.

    python benchmarks/grading_mutants.py FILE [--every 1] [--seed 0]

FILE is math500_256.jsonl, whose ground_truth are the 500 references. A mutant changes a digit, a sign, an exponent, a
base, a letter, a bracket, swaps, drops, doubles or adds a part, or turns a value into a bound. A few mutants say the
same as their reference: those of `NOTATION`, and those of `EQUAL`, which were read. Every other one that passes is a
false accept and printed. Exits with status 1 where more than MAX_FALSE are, or a reference is not its own answer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from diffpo.grading.equality import same_answer, same_answers

MAX_FALSE = 1
NOTATION = (
    (r"\\(?:left|right)(?![A-Za-z])", ""),  # the size of a bracket, with its partner or without
    (r"(?<=[0-9])(?:,\s*(?:\\[! ])?|\\!)\s*(?=[0-9]{3}(?![^()]*\)))", ""),  # what groups thousands
    (r"(?<![0-9.])0+(?=[0-9.])", ""),  # leading zeros
    (r"(\.[0-9]*?[1-9])0+(?![0-9])", r"\1"),  # trailing zeros
    (r"\{matrix\}", r"{pmatrix}"),  # the brackets of a matrix
    (r"^\[(\\begin.*)\]$", r"\1"),
)
"""Substitutions that leave what a text says."""
EQUAL = {
    "0": r"-0; minus 0; negative 0; \pm 0; 0\%; 0 million; \{0, 0\}",  # zero has no sign and no scale
    "1": r"\frac{1}{1}; 1, 1; 1 or 1",
    "-1": r"\frac{1}{-1}",
    "-2,1": "-2,1, 1; -2,1 or 1",  # a solution that is named twice
    "1,-2": "1,-2, 1; 1,-2 or 1",
    "2k+2": "2k+2!",  # 2! is 2, and 1! is 1
    "8n^2 + 4n + 1": "8n^2 + 4n + 1!",
    "x^5 - x^4 + x^3 - x^2 + x - 1": "x^5 - x^4 + x^3 - x^2 + x - 1!",
    "x^8 + x^7 + x^6 + x^5 + x^4 + x^3 + x^2 + x + 1": "x^8 + x^7 + x^6 + x^5 + x^4 + x^3 + x^2 + x + 1!",
    "6r^2-4r-24": "6r^2-24-4r",
    "5x - 7y + 11z + 4 = 0": r"5x - 7y + 11z + 4 = 0x; 5x - 7y + 11z + 4 = 0\pi",
    r"3 \pm 2 \sqrt{2}": r"\frac{1}{3 \pm 2 \sqrt{2}}",  # each is the other's inverse
    "3R^2": "|3R^2|",  # a square
    "x=5": "=5",  # without the name
    "y = -2x": " = -2x; -2x",
    "y = 2x + 3": " = 2x + 3",
    "40_9": "40_",  # the digits without the base that the question names
    "204_5": "204_",
    "4343_6": "4343_",
    "2516_8": "2516_",
    "52_8": "52_",
    r"15\mbox{ cm}^2": r"15\mbox{ cm}^",  # without the unit, a part of it, or with it twice
    r"864 \mbox{ inches}^2": r"864 \mbox{ inches}^",
    r"5.4 \text{ cents}": r"5.4 ; 5.4 \text{ cents}\text{ cents}",
    r"\frac{270}7\text{ degrees}": r"\frac{270}7; \frac{270}7\text{ degrees}\text{ degrees}",
    **{  # the option, its bracket mistyped, or with a value behind it
        rf"\text{{({letter})}}": "; ".join(
            (rf"\text{{[{letter})}}", *(rf"\text{{({letter})}}{value}" for value in ("0", "_7", r"\pi")))
        )
        for letter in "BCE"
    },
}
"""By reference, the mutants that were read and say the same."""
_PART = re.compile(r"[0-9]+|\\(?:text|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]|[-+/^_=,|!%]")
_SWAPS = {
    **{r"\sqrt": r"\sqrt[3]", r"\pi": "e", r"\frac": r"\binom", r"\cup": r"\cap", r"\infty": "0", r"\pm": "+"},
    **{r"\cot": r"\tan", r"\sin": r"\cos", "-": "+", "+": "-", "/": "+", "^": "_", "=": "<", ",": ""},
    **{"(": "[", "[": "(", ")": "]", "]": ")"},
}
_FORMS = (
    *(
        "-{}",
        "{} + 1",
        "{} - 1",
        "2{}",
        "2({})",
        r"\frac{{1}}{{{}}}",
        r"\sqrt{{{}}}",
        "({})^2",
        "{}!",
        "{}x",
        "2x = {}",
    ),
    *(r"\ge {}", r"x \le {}", "x > {}", r"x \neq {}", "not {}", r"\text{{not }}{}", "at least {}", "at most {}"),
    *("more than {}", r"{}\text{{ or more}}", "minus {}", "negative {}", r"-({})", r"\pm {}", "{}, 1", "{} or 1"),
    *("{}_7", "{}_{{12}}", r"{}\%", r"{}\pi", "{}i", "|{}|", r"\overline{{{}}}", "{}'", r"\sin({})", r"e^{{{}}}"),
    *("{}0", "{}.5", "0", "x", "", "{} squared", "{} times 2", "half of {}", "{} million", "[{}]", r"\{{{}, 0\}}"),
    r"{}, \ldots",
)


def mutants(truth: str) -> Iterator[str]:
    """The texts that a small slip makes of a reference, itself and repetitions left out."""
    seen = {truth}
    for mutant in (*_changed_parts(truth), *_whole(truth)):
        if mutant not in seen:
            seen.add(mutant)
            yield mutant


def _changed_parts(truth: str) -> Iterator[str]:
    for part in _PART.finditer(truth):
        before, word, after = truth[: part.start()], part[0], truth[part.end() :]
        if word.isdigit():
            number = int(word)
            for other in (number + 1, number - 1, number * 10, number // 10, number + 10, int(word[::-1]), -number):
                yield f"{before}{other}{after}"
            yield f"{before}{{{word}}}^2{after}" if number > 1 else ""  # 1^2 is 1
            yield f"{before}{word}x{after}"
            yield f"{before}{word}_7{after}"
        elif word.isalpha():
            yield f"{before}{'y' if word == 'x' else 'x'}{after}"
            yield f"{before}{word.swapcase()}{after}"
        yield f"{before}{_SWAPS.get(word, '')}{after}"
        yield f"{before}{after}"
        if word not in ",+_=^":  # a sign that is typed twice says the same
            yield f"{before}{word}{word}{after}"
    for bracket in re.finditer(r"[()\[\]]", truth):
        yield truth[: bracket.start()] + _SWAPS[bracket[0]] + truth[bracket.end() :]


def _whole(truth: str) -> Iterator[str]:
    parts = re.split(r"(,|\\cup|\+|(?<!\^)-|&|\\\\)", truth)
    ordered = re.match(r"[(\[]|\\left|\\begin|.*-", truth)
    for at in range(0, len(parts) - 2, 2):  # neighbours change places
        if ordered and parts[at + 1] != "+":
            yield "".join((*parts[:at], parts[at + 2], parts[at + 1], parts[at], *parts[at + 3 :]))
    for at in range(0, len(parts), 2):  # one is lost
        yield "".join(parts[: max(0, at - 1)] + parts[at + 1 :])
    for form in _FORMS:
        yield form.format(truth)


def plain(text: str) -> str:
    """`text` in one notation."""
    for pattern, replacement in NOTATION:
        text = re.sub(pattern, replacement, text)
    return text.replace(" ", "")


def is_false(truth: str, mutant: str, question: str) -> bool:
    """Whether a mutant does not say what the reference says."""
    percent = mutant == rf"{truth}\%" and re.search(r"what percent|as a percentage", question)
    equal = mutant != "" and (plain(mutant) == plain(truth) or mutant in EQUAL.get(truth, "").split("; "))
    return not (percent or equal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--every", type=int, default=1, help="try one reference in so many")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.file.read_text().splitlines()][:: options.every]
    references = list(dict.fromkeys((row["ground_truth"], row["question"]) for row in rows))
    triples = [(mutant, truth, question) for truth, question in references for mutant in mutants(truth)]
    start = time.perf_counter()
    refused = [truth for truth, question in references if not same_answer(truth, truth, question)]
    verdicts = same_answers(triples)
    passed = list(dict.fromkeys(triple for triple, verdict in zip(triples, verdicts, strict=True) if verdict))
    false = [(truth, mutant) for mutant, truth, question in passed if is_false(truth, mutant, question)]
    for truth, mutant in false:
        print(f"{truth}  ~  {mutant}")
    seconds = time.perf_counter() - start
    print(f"{len(references)} references, {len(refused)} refused as their own answers: {refused}")
    print(f"{len(triples)} mutants, {len(triples) / seconds:.0f} a second")
    print(f"{len(passed)} pass: {len(passed) - len(false)} say the same, {len(false)} are false accepts")
    sys.exit(1 if refused or len(false) > MAX_FALSE else 0)


if __name__ == "__main__":
    main()
