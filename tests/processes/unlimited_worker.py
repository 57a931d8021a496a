"""A process for the tests of Worker, whose system refuses the limit that it is to have."""

from __future__ import annotations

from diffpo.processes import worker


def refused(name: int, bound: int) -> None:
    raise ValueError("current limit exceeds maximum limit")


if __name__ == "__main__":
    worker.limit = refused
    worker.serve(lambda request: request, memory_limit=2**30)
