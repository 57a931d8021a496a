"""How many answers of MATH-500 are judged a second.

    python benchmarks/grading_speed.py math500_256.jsonl [--threads 2]

Before the clock starts the workers are warm and have read the references, as after the first steps of a training; the
answers are new to them.
"""

from __future__ import annotations

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from diffpo.grading.algebra import POOL
from diffpo.grading.answers import final_answer
from diffpo.grading.equality import Undecided, judge, same_answer
from diffpo.grading.references import read_reference

Triple = tuple[str, str, str]


def needs_algebra(triple: Triple) -> bool:
    """Whether math-verify judges an answer."""

    def undecided(truth: str, given: str) -> bool:
        raise Undecided

    try:
        judge(*triple, undecided)
    except Undecided:
        return True
    return False


def warm_up(triples: list[Triple]) -> None:
    """Let the worker of one thread read every reference."""
    for _, truth, question in triples:
        POOL.ask([f"{truth} + 0", truth, question])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="math500_256.jsonl")
    parser.add_argument("--threads", type=int, default=POOL.size, help="each has a worker (default: one a core)")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.file.read_text().splitlines()]
    found = [(final_answer(row["generation"]), read_reference(row["ground_truth"]), row["question"]) for row in rows]
    triples = [(answer, truth, question) for answer, truth, question in found if answer is not None]
    asked = sum(map(needs_algebra, triples))
    with ThreadPoolExecutor(options.threads) as threads:
        list(threads.map(warm_up, [triples] * options.threads))
        start = time.perf_counter()
        right = sum(threads.map(lambda triple: same_answer(*triple), triples))
        seconds = time.perf_counter() - start
    print(f"{len(triples)} answers, {right} right, {asked} judged by math-verify")
    print(f"{len(triples) / seconds:.0f} a second, threads: {options.threads}")


if __name__ == "__main__":
    main()
