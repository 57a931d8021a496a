"""Closed-loop load on a served tiny model: throughput, latency, memory, and each answer against the same request alone.

    python benchmarks/serving_load.py [--seconds 10] [--clients 1 8 32] [--requests 10000]

The model is the demo's shape with fresh weights, the server `diffpo serve` in a process of its own. Prompts are of 17
tokens, canvases of 32; rules, temperatures and seeds differ. Each number of clients asks for some seconds, in turn,
twice over. At the end `--requests` requests show whether memory is flat. Exits with status 1 if an answer differs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Any

from diffpo.config import ModelConfig
from diffpo.models.policy import create_policy

RULES = ({"sampler": "top_k:1"}, {"sampler": "top_k:2"}, {"entropy_bound": 0.5}, {"steps": 8}, {"sampler": "random:2"})
KINDS = 64
"""Different requests, which are asked over and over."""


def bodies() -> list[bytes]:
    random, found = Random(0), []
    for seed in range(KINDS):
        said = {"temperature": random.choice([0, 0.7, 1]), "seed": seed, "max_tokens": 32, "block_length": 16}
        prompt = "".join(random.choices("01234", k=16)) + "="
        found.append(json.dumps({"prompt": prompt, **said, **random.choice(RULES)}).encode())
    return found


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, body: bytes) -> list[dict[str, Any]]:
        self.http.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        answer = self.http.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)["choices"]


def load(
    port: int, clients: int, asked: list[bytes], alone: list[Any], seconds: float, most: int = 10**9
) -> list[float]:
    """Seconds of each request that `clients` clients made in about so many seconds, or until `most` were made."""
    ends, numbers = time.perf_counter() + seconds, count()

    def work(_: int) -> list[float]:
        client, took = Client(port), list[float]()
        while (at := next(numbers)) < most and (began := time.perf_counter()) < ends:
            found = client.ask(asked[at % KINDS])
            took.append(time.perf_counter() - began)
            assert found == alone[at % KINDS], f"another answer: {asked[at % KINDS]!r}"
        return took

    with ThreadPoolExecutor(clients) as pool:
        return [each for took in pool.map(work, range(clients)) for each in took]


def calls(port: int) -> tuple[float, float]:
    """Denoiser calls so far, and those of each completion summed: a call that ten share counts ten times."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", "/metrics")
    lines = [line.rpartition(" ") for line in client.getresponse().read().decode().splitlines()]
    found = {name: float(value) for name, _, value in lines if not name.startswith("#")}
    return found["diffpo_denoiser_calls_total"], found["diffpo_nfe_sum"]


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(port: int, pid: int, options: argparse.Namespace) -> None:
    asked, client = bodies(), Client(port)
    alone = [client.ask(body) for body in asked]
    rates: dict[int, list[float]] = {clients: [] for clients in options.clients}
    took: dict[int, list[float]] = {clients: [] for clients in options.clients}
    shared: dict[int, float] = {}
    for _ in range(2):
        for clients in options.clients:
            before = calls(port)
            found = load(port, clients, asked, alone, options.seconds)
            made, summed = (now - then for now, then in zip(calls(port), before, strict=True))
            shared[clients] = summed / made
            rates[clients].append(len(found) / options.seconds)
            took[clients] += found
    print("clients  rows a call  requests/s  against one  p50 ms  p99 ms")
    for clients in options.clients:
        rate, cuts = sum(rates[clients]) / 2, quantiles(took[clients], n=100)
        ratio = rate / (sum(rates[options.clients[0]]) / 2)
        times = f"{1000 * median(took[clients]):6.1f}  {1000 * cuts[98]:6.1f}"
        print(f"{clients:7}  {shared[clients]:11.2f}  {rate:10.1f}  {ratio:11.2f}  {times}")
    size = megabytes(pid)
    load(port, 8, asked, alone, 10**6, options.requests)
    print(f"memory before and after {options.requests} requests: {size:.0f} MB, {megabytes(pid):.0f} MB")
    print("every answer was that of the same request alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        create_policy("01234=", ModelConfig()).save_pretrained(folder)
        command = [sys.executable, "-m", "diffpo", "serve", folder, "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            line = "".join(islice(server.stdout, 1))
            try:
                measure(int(line.split(";")[0].rpartition(":")[2]), server.pid, options)
            finally:
                server.terminate()


if __name__ == "__main__":
    main()
