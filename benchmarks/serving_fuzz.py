"""Hostile requests to a live server: none may be answered 5xx, hang, or change the answer of another.

    python benchmarks/serving_fuzz.py [--requests 20000] [--clients 8] [--seed 0]

Fields of the schema with values right, nearly right and absurd, bodies cut off, changed, too deep or too large, wrong
paths and methods, and clients of streams that leave half way (tests/serving/hostile.py). Exits with status 1 on any.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from helpers import tiny_policy
from serving.hostile import complaint, requests
from serving.live import serving

from diffpo.config import RolloutConfig, ServeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = ServeConfig(rollout=RolloutConfig(temperature=0.0, sampler="top_k:2", gen_length=8))
    began, wrong = time.perf_counter(), 0
    with serving(tiny_policy(1, learned=True), config) as live, ThreadPoolExecutor(options.clients) as pool:
        before = live.complete(seed=1, temperature=1)["choices"]
        asked = list(requests(options.requests, Random(options.seed)))
        for said, each in zip(pool.map(lambda each: complaint(live.client, each), asked), asked, strict=True):
            if said:
                wrong += 1
                print(said, each)
        live.wait("diffpo_slots_in_use", 0)
        same = live.complete(seed=1, temperature=1)["choices"] == before
        statuses: dict[str, float] = {}
        for line in live.client.get("/metrics").text.splitlines():
            if line.startswith("diffpo_requests_total{"):
                status = line.split('status="')[1][:3]
                statuses[status] = statuses.get(status, 0) + float(line.rpartition(" ")[2])
    print(f"{len(asked)} requests in {time.perf_counter() - began:.0f} s, {wrong} answered wrongly")
    print("answers by status:", ", ".join(f"{status} {count:.0f}" for status, count in sorted(statuses.items())))
    print("the same request before and after has", "the same tokens" if same else "OTHER tokens")
    sys.exit(bool(wrong) or not same)


if __name__ == "__main__":
    main()
