"""Where the time of rollouts goes: the published loops and ours, by kind of operator, milliseconds a denoiser call.

python benchmarks/where_time_goes.py              two minutes on 2 idle CPU cores

The shape of `diffpo bench --suite published`: 8 prompts of 20 to 200 tokens, a canvas of 64, a vocabulary of 16,384.
Times are those that torch's profiler sees inside operators; Python and the dispatcher are what is left of the clock.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from diffpo.lab.bench import plain
from diffpo.lab.bench.workloads import PROMPT_LENGTHS, SMALL, random_policy, random_requests
from diffpo.rollout.engine import generate

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "linear"),
    "attention": ("attention",),
    "noise: uniforms, logarithms, powers": ("rand", "uniform", "log", "neg", "pow", "div", "reciprocal"),
    "softmax, exponentials, entropies": ("softmax", "exp", "linalg_vecdot", "sum", "cumsum"),
    "argmax, top-k, sort": ("argmax", "topk", "sort", "max", "amax", "min", "searchsorted"),
    "copies, casts, fills": ("copy", "to", "fill", "cat", "index", "gather", "scatter", "where", "masked", "clone"),
}
"""Beginnings of operators' names, in the order in which they are tried."""
CALLS = 8


def kind_of(name: str) -> str:
    bare = name.removeprefix("aten::").lstrip("_")
    if "attention" in bare:
        return "attention"
    return next((kind for kind, starts in KINDS.items() if bare.startswith(starts)), "all else in operators")


def breakdown(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds a call by kind, and outside operators."""
    work()
    started = time.perf_counter()
    work()
    wall = time.perf_counter() - started
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    found: dict[str, float] = dict.fromkeys([*KINDS, "all else in operators"], 0.0)
    for event in profiler.key_averages():
        if event.key.startswith("aten::"):
            found[kind_of(event.key)] += event.self_cpu_time_total / 1000 / CALLS
    inside = sum(found.values())
    return found | {"outside operators": max(0.0, 1000 * wall / CALLS - inside), "all": 1000 * wall / CALLS}


def main() -> None:
    policy = random_policy(SMALL)
    requests = random_requests(policy, PROMPT_LENGTHS, f"steps:{CALLS}")
    greedy = [replace(request, temperature=0.0) for request in requests]
    works = {
        "LLaDA's loop": lambda: plain.decode(policy, requests),
        "d1's loop": lambda: plain.decode(policy, requests, noise=None),
        "ours": lambda: generate(policy, requests),
        "ours, temperature 0": lambda: generate(policy, greedy),
    }
    found = {name: breakdown(work) for name, work in works.items()}
    print(f"| ms a call | {' | '.join(works)} |\n| --- |{' ---: |' * len(works)}")
    for kind in next(iter(found.values())):
        print(f"| {kind} | {' | '.join(f'{times[kind]:.1f}' for times in found.values())} |")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
