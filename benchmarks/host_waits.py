"""How often the host waits for a GPU, by path: counted on the tests' fake CUDA device, so no card is needed.

    python benchmarks/host_waits.py            # the table of docs/rollouts.md
    python benchmarks/host_waits.py --lines    # and each line that waits

A wait is what torch.cuda.set_sync_debug_mode("warn") would name: the host stops until all that it has asked of the GPU
is done.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import fakecuda
from helpers import request, tiny_policy

from diffpo.rollout import engine
from diffpo.rollout.engine import generate

PATHS: dict[str, tuple[bool | str, str, dict[str, object]]] = {
    "entropy bound": (False, "entropy_bound:0", {}),
    "confidence": (False, "confidence:1", {}),
    "top-k": (False, "top_k:1", {}),
    "steps": (False, "steps:8", {}),
    "random": (False, "random:1", {}),
    "learned, a prompt": (True, "learned", {}),
    "learned, a call": ("state", "learned", {}),
    "learned, a position": ("bernoulli", "learned", {}),
    "prefix cache": (False, "top_k:1", {"block_length": 4, "cache": "prefix"}),
    "dual cache": (False, "top_k:1", {"block_length": 4, "cache": "dual"}),
}
"""Kind of head, sampler and settings of each path."""


def calls_of(generation: Callable[[], object]) -> tuple[list[Counter[fakecuda.Wait]], Counter[fakecuda.Wait]]:
    """Waits by call, from one `mark_finished` to the next, and all of them."""
    marks: list[Counter[fakecuda.Wait]] = []
    original = engine.mark_finished
    with fakecuda.Watch() as watch:

        def marking(*given: object) -> None:
            marks.append(Counter(watch.waits))
            original(*given)  # type: ignore[arg-type]

        engine.mark_finished = marking  # type: ignore[assignment]
        try:
            generation()
        finally:
            engine.mark_finished = original
    return [after - before for before, after in itertools.pairwise(marks)], watch.waits


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--lines", action="store_true", help="print each line that waits, too")
    arguments = parser.parse_args()
    print("| path | waits a steady call | once a `generate` |\n| --- | --- | --- |")
    for name, (head, sampler, settings) in PATHS.items():
        with fakecuda.device():
            policy = tiny_policy(learned=head).to("cuda")
            rows = [request("012", key, sampler, 8, early_exit=False, **settings) for key in range(4)]
            calls, total = calls_of(lambda policy=policy, rows=rows: generate(policy, rows))
        steady = calls[1].total()  # no row comes or goes
        print(f"| {name} | {steady} | {total.total() - steady * (len(calls) + 1)} |")
        if arguments.lines:
            for wait, count in total.most_common():
                print(f"    {count:3} {wait.kind}: {wait.line}")


if __name__ == "__main__":
    main()
