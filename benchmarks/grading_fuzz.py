"""Random hostile completions through every grader: how many, the longest time, and that none earns a point.

    python benchmarks/grading_fuzz.py [--cases 20000] [--seed 0]

A case is a row of fragments that answers are made of, or a row of one fragment many thousand times, as it stands and in
a box; every case goes through the graders of both rules. Exits with status 1 on a point, an
exception or 50 ms of this thread; a wait for math-verify, which is killed in time, is printed beside it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from grading.hostile import BOUND, HOSTILE, disguises
from grading.test_hostile import COLUMNS, FRAGMENTS, GRADERS

from diffpo.grading.equality import same_answer


def cases(count: int, rng: Random) -> list[str]:
    """The table, then `count` random texts."""
    texts = [text for name in HOSTILE for text in disguises(HOSTILE[name])]
    for _ in range(count):
        if rng.random() < 0.02:
            pieces = rng.choices(FRAGMENTS, k=rng.randint(1, 3)) * rng.randint(1000, 20_000)
        else:
            pieces = rng.choices(FRAGMENTS, k=rng.randint(1, 80))
        text = "".join(pieces)[:100_000]
        texts.append(text if rng.random() < 0.5 else rf"\boxed{{{text}}}")
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts, failed = cases(options.cases, Random(options.seed)), 0
    for name, grader in GRADERS.items():
        columns, longest, slowest, points = COLUMNS[name.rpartition("-")[0]], 0.0, "", 0
        began, waited = time.perf_counter(), 0.0
        for text in texts:
            seconds = math.inf
            for _ in range(3):  # the best of three, so that a busy machine does not decide
                same_answer.cache_clear()
                start = time.thread_time()
                graded = grader(columns, text)
                seconds = min(seconds, time.thread_time() - start)
                if seconds < BOUND / 5:
                    break
            points += graded.correct
            waited, began = max(waited, time.perf_counter() - began), time.perf_counter()
            longest, slowest = max((longest, slowest), (seconds, text))
        failed += points + (longest >= BOUND)
        print(
            f"{name}: {len(texts)} cases, {points} right, longest {longest * 1000:.1f} ms for {slowest[:30]!r}, "
            f"longest wait {waited:.2f} s"
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
