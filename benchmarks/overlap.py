"""What a lag buys, and what goes over the wire: a run with one worker at lag 0 and at lag 1, and swaps of weights.

    python benchmarks/overlap.py            # seconds a step, in turn, on a machine with two idle cores
    python benchmarks/overlap.py --bytes    # bytes of a version of the weights, and seconds to send and take them

At lag 0 a step takes rollouts + updates, at lag 1 the longer of both: where they are equally long, half. `--updates` is
what makes them so; the first line says how far they are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import ray
import torch
from safetensors.torch import load, save

from diffpo.config import ObjectiveConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.files.recipe import find_recipe, load_config
from diffpo.models.families import FAMILIES
from diffpo.models.published import PUBLISHED
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.training.loop import train
from diffpo.training.ray_workers import RayCollector
from diffpo.training.sft import fine_tune
from diffpo.types import RolloutGroup

TASK = TaskConfig("tiny_sudoku")
WARM = 2
"""Steps that are not counted."""


class Timed(RayCollector):
    """Knows how long the run has waited for rollouts, and what it has sent."""

    waited: list[float]
    sent: list[int]

    def finish(self, step: int) -> list[RolloutGroup]:
        started = time.perf_counter()
        groups = super().finish(step)
        Timed.waited.append(time.perf_counter() - started)
        return groups

    def _publish(self, policy):  # type: ignore[no-untyped-def]
        parts = super()._publish(policy)
        Timed.sent.append(sum(len(ray.get(part)) for part in parts))
        return parts


def configured(start: str, output: str, steps: int, updates: int) -> TrainConfig:
    """A short run on one thread."""
    config = TrainConfig(model=start, task=TASK, output=output, steps=steps, num_threads=1, save_every=steps)
    return replace(config, objective=ObjectiveConfig(num_iterations=updates))


def run(start: str, output: str, lag: int, steps: int, updates: int) -> tuple[float, float]:
    """Median seconds of a step, and of its waiting for rollouts."""
    config = configured(start, output, steps, updates)
    config = replace(config, rollout=replace(config.rollout, lag=lag, workers=1))
    Timed.waited, Timed.sent = [], []
    train(config, quiet=True, collect=Timed)
    lines = [json.loads(line) for line in Path(output, "metrics.jsonl").read_text().splitlines()]
    return median(line["time/step_seconds"] for line in lines[WARM:]), median(Timed.waited[WARM:])


def overlap(steps: int, updates: int, turns: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_config(SftConfig, find_recipe("sudoku_tiny_pretrain"))  # one that is right often enough to learn
        fine_tune(replace(recipe, output=f"{folder}/start", num_threads=1), quiet=True)
        ratios = []
        for turn in range(turns):
            found = {lag: run(f"{folder}/start", f"{folder}/{turn}_{lag}", lag, steps, updates) for lag in (0, 1)}
            (alone, rollouts), (both, _) = found[0], found[1]
            ratios.append(both / alone)
            print(
                f"lag 0: {alone:.2f} s a step, of which {rollouts:.2f} rollouts; lag 1: {both:.2f} s, "
                f"{ratios[-1]:.2f} of it; {Timed.sent[-1]:,} bytes sent a step",
                flush=True,
            )
        print(f"lag 1 against lag 0: {median(ratios):.2f} (median of {turns})")


def adapters(shape: TransformerConfig, rank: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Random adapters on all linears of a model's blocks."""
    with torch.device("meta"):
        one = Transformer(replace(shape, num_layers=1)).blocks[0]
    linears = [module for module in one.modules() if isinstance(module, torch.nn.Linear)]
    sizes = [size for linear in linears for size in ((rank, linear.in_features), (linear.out_features, rank))]
    names = [f"{layer}.{index}" for layer in range(shape.num_layers) for index in range(len(sizes))]
    return {name: torch.randn(size, dtype=dtype) for name, size in zip(names, sizes * shape.num_layers, strict=True)}


def swaps(cases: Sequence[tuple[str, dict[str, torch.Tensor]]]) -> None:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=2 * 10**9)
    ray.get(ray.put(bytes(1000)))  # the first one opens the store
    for name, tensors in cases:
        started = time.perf_counter()
        ref = ray.put(save(tensors))
        put = time.perf_counter()
        for key, value in load(ray.get(ref)).items():
            tensors[key].copy_(value)
        taken = time.perf_counter() - put
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        print(f"{name}: {size:,} bytes; {put - started:.3f} s to send, {taken:.3f} s to take")
    ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--updates", type=int, default=3, help="updates a step: more of them take longer than rollouts")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    if options.bytes:
        llada = PUBLISHED["GSAI-ML/LLaDA-8B-Instruct"]
        tiny = TransformerConfig(vocab_size=8, hidden_size=96, num_layers=3, num_heads=4, num_kv_heads=4, mlp_size=256)
        large = FAMILIES["llada"].shape(llada)
        swaps(
            [
                ("tiny, rank 8, fp32", adapters(tiny, 8, torch.float32)),
                ("LLaDA-8B, rank 128, bf16", adapters(large, 128, torch.bfloat16)),
            ]
        )
    else:
        overlap(options.steps, options.updates, options.turns)


if __name__ == "__main__":
    main()
