"""Makes and scores reasoning-gym's items, in processes that `gym` kills when one takes too long.

Some items depend on the order of a set of strings, and so on Python's hash seed: a worker's is always the same.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from functools import lru_cache
from typing import Any

from diffpo.grading.equality import same_answer
from diffpo.grading.expressions import evaluate_expression
from diffpo.grading.numbers import parse_number
from diffpo.processes.worker import serve

MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space."""


def names() -> list[str]:
    """The data sets that need no further options."""
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})


def item(dataset: str, seed: int) -> dict[str, str | int | None]:
    """Question, answer, solution and kind of the one item of the data set of size 1 with this seed; None for none."""
    items, found = _made(dataset, seed)
    symbolic = dataset == "gsm_symbolic"
    return {
        "question": str(found["question"]),
        "answer": None if found["answer"] is None else str(found["answer"]),
        "solution": found["metadata"]["answer_cot"].rpartition("####")[0].strip() if symbolic else None,
        "kind": items.task_indices[0] if symbolic else None,
    }


def score(dataset: str, seed: int, answer: str, time_limit: float) -> float:
    """The score of an answer to that item, from 0 to 1, if it comes within seconds once the item is made."""
    items, found = _made(dataset, seed)
    signal.setitimer(signal.ITIMER_PROF, time_limit)  # as `serve` does, for the part that depends on the answer
    verdict = OURS[dataset](answer, found) if dataset in OURS else None
    if verdict is not None:
        return float(verdict)
    return max(0.0, min(1.0, float(items.score_answer(answer, deepcopy(found)))))


def _makes_24(answer: str, found: dict[str, Any]) -> bool:
    read = evaluate_expression(answer)
    return read is not None and read.value == 24 and sorted(read.literals) == sorted(found["metadata"]["numbers"])


def _is_near(answer: str, found: dict[str, Any]) -> bool:
    value = parse_number(answer)
    return value is not None and abs(value - Fraction(found["answer"])) <= Fraction(1, 10**4)


OURS: dict[str, Callable[[str, dict[str, Any]], bool | None]] = {
    "coin_flip": _is_near,
    "complex_arithmetic": lambda answer, found: False if "nan" in answer.lower() else None,
    "game_of_life_halting": lambda answer, found: answer.strip().lower() == str(found["answer"]).lower(),
    "gsm_symbolic": lambda answer, found: same_answer(answer, str(found["answer"]), found["question"]),
    "puzzle24": _makes_24,
}
"""Verdicts of ours where reasoning-gym pays for the first digits, NaN, any text, the first number or other numbers.

None where its score counts.
"""


@lru_cache(maxsize=256)
def _made(dataset: str, seed: int) -> tuple[Any, dict[str, Any]]:
    import reasoning_gym

    items = reasoning_gym.create_dataset(dataset, seed=seed, size=1)
    return items, items[0]


REQUESTS = {"names": names, "item": item, "score": score}
"""What may be asked: a name, then arguments."""

if __name__ == "__main__":
    import reasoning_gym  # noqa: F401  # before the first request, whose time is counted

    serve(lambda request: REQUESTS[request[0]](*request[1:]), MEMORY_LIMIT)
