"""Scores answers by reasoning-gym, in a process that `gym` kills when one takes too long."""

from __future__ import annotations

from diffpo.processes.worker import serve

MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space."""


def score(request: tuple[str, int, str]) -> float:
    """From 0 to 1: the answer to the one item of the data set of size 1 with this seed."""
    import reasoning_gym

    dataset, seed, answer = request
    items = reasoning_gym.create_dataset(dataset, seed=seed, size=1)
    return max(0.0, min(1.0, float(items.score_answer(answer, items[0]))))


if __name__ == "__main__":
    import reasoning_gym  # noqa: F401  # before the first request, whose time is counted

    serve(score, MEMORY_LIMIT)
