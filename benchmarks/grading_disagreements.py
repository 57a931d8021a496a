"""Where our graders and d1's verdicts differ on saved completions: the tables of docs/grading.md.

    python benchmarks/grading_disagreements.py FOLDER [--write docs/grading.md]

FOLDER holds gsm8k_256.jsonl, math500_256.jsonl, countdown_256.jsonl and sudoku_256.jsonl: LLaDA-8B-Instruct's answers
as d1's repository publishes them, with the verdict of its parser. The reasons were written by reading each answer.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffpo.grading import d1
from diffpo.grading.saved import grade_row

FILES = {"gsm8k": "gsm8k", "math500": "math500", "countdown": "countdown_cd3", "sudoku": "sudoku_4x4"}
THOUSANDS = "the comma groups thousands; d1 reads up to it"
OPEN_BOX = "the box is never closed, its content is plain; d1 finds no answer"
LAST = "the last answer counts; d1 takes the first box"
BARE_BOX = "`boxed{...}` without its backslash is a box; d1 reads the whole text"
NO_TAG = "the answer follows `</answer>`, put for `</reasoning>`; d1 finds none"
VALUE = "the same value, written differently; d1 compares strings"
ORDER = "the same terms or members in another order; d1 compares strings"
UNIT = "only the unit differs; d1 compares strings"
WORDS = "the same word or letter, with and without `\\text` and brackets; d1 compares strings"
NAME = "a name before or after the value changes nothing; d1 compares strings"
REASONS = {
    "gsm8k": {
        **dict.fromkeys((35, 128, 130, 597, 823, 830, 958, 967, 973), THOUSANDS),
        **dict.fromkeys((203, 413, 560, 1077), OPEN_BOX),
        259: "the last box that says something, over two lines; d1's boxes have one line",
        **dict.fromkeys((338, 605), NO_TAG),
        674: "240,000 and then 240000, both right; d1 reads 240",
        912: "162000 in the reasoning, but the answer given is 16200; d1 takes the first box",
        1117: "two thirds are not 2; d1 reads the numerator",
    },
    "math500": {
        **dict.fromkeys((12, 25, 236, 281), VALUE),
        **dict.fromkeys((38, 307), ORDER),
        **dict.fromkeys((126, 318), OPEN_BOX),
        **dict.fromkeys((138, 432), BARE_BOX),
        **dict.fromkeys((202, 482), UNIT),
        221: "braces around one digit change nothing; d1 compares strings",
        **dict.fromkeys((296, 438), WORDS),
        **dict.fromkeys((299, 472), NAME),
    },
    "countdown": {7: "the box ends in `>` for `}`; d1 finds no answer in it"},
}


def disagreements(task: str, path: Path) -> Iterator[dict[str, Any]]:
    """A row for each completion that we judge otherwise than d1 did."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        row = json.loads(line)
        ours = grade_row(FILES[task], "strict", row)
        found = {"line": number, "question": row["question"], "answer": ours.answer, "truth": row["ground_truth"]}
        if task == "sudoku":
            cells = round(ours.parts["blanks"] * row["d1_empty_cells"])
            if cells != row["d1_correct_cells"]:
                why = sudoku_reason(row["question"], ours.answer, row["generation"])
                yield found | {"d1": row["d1_correct_cells"], "ours": cells, "why": why}
        elif ours.correct != row["d1_correct"]:
            verdicts = {"d1": row["d1_correct"], "ours": ours.correct}
            yield found | verdicts | {"why": REASONS[task].get(number, "")}


def sudoku_reason(question: str, answer: str, generation: str) -> str:
    """Why an answer is no grid of this puzzle: its length, or the clue that it changes."""
    digits = re.sub(r"\D", "", answer)
    if len(digits) != 16:
        return (
            f"{len(digits)} digits are no grid" if answer else f"no grid: d1 compares `{d1.sudoku_answer(generation)}`"
        )
    puzzle = re.findall(r"\d{16}", question)[0]
    changed = [cell for cell in range(16) if puzzle[cell] not in ("0", digits[cell])]
    (row, column), clue = divmod(changed[0], 4), puzzle[changed[0]]
    clues = f"{len(changed)} clue{'s' * (len(changed) > 1)}"
    return f"changes {clues}: row {row + 1}, column {column + 1} is {clue}, not {digits[changed[0]]}"


def cell(value: object) -> str:
    """A value in a table's cell."""
    text = " ".join(str(value).split())
    text = text if len(text) <= 64 else text[:61] + "..."
    return f"`{text}`".replace("|", "\\|") if text else "none"


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    words = {True: "right", False: "wrong"}
    lines = [
        "| line | question | answer | reference | d1 | ours | why |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        verdicts = (
            str(words.get(row[who], row[who]) if isinstance(row[who], bool) else row[who]) for who in ("d1", "ours")
        )
        cells = (
            str(row["line"]),
            *(cell(row[name]) for name in ("question", "answer", "truth")),
            *verdicts,
            row["why"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", type=Path, help="replace what follows the marker of this page")
    options = parser.parse_args()
    text = ""
    for task in FILES:
        rows = list(disagreements(task, options.folder / f"{task}_256.jsonl"))
        kinds = Counter(re.sub(r"\d+", "N", row["why"].split(":")[0]) for row in rows)
        text += f"\n### {task}\n\n{table(rows)}\n"
        print(task, len(rows), dict(kinds))
    if options.write:
        page = options.write.read_text()
        marker = "<!-- benchmarks/grading_disagreements.py writes what follows -->\n"
        options.write.write_text(page.partition(marker)[0] + marker + text)


if __name__ == "__main__":
    main()
