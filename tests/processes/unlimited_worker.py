"""A process for the tests of Worker, whose system refuses the limit that it is to have."""

from __future__ import annotations

from diffpo.processes.worker import serve

if __name__ == "__main__":
    serve(lambda request: request, memory_limit=2**70)
