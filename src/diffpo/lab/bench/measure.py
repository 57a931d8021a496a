"""Seconds, bytes and operations: A and B in turn, peaks of memory, the machine's own peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any

import torch
from torch import nn

from diffpo.models.attention import Run
from diffpo.models.policy import Policy
from diffpo.models.transformer import TransformerConfig
from diffpo.planning.storages import Storages

WARM = 5.0
"""Seconds of work beside which what only a first run does is nothing."""
LONG = 60.0
"""Seconds of a work, all runs together, after which it is not run again: what takes long varies little."""

Work = Callable[[], object]
Heard = Callable[[str, float], None]
"""Told of each run of a work: its name, its seconds."""


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Work, device: torch.device) -> float:
    """Wall-clock seconds of `work`, on the device to its end."""
    started = now(device)
    work()
    return now(device) - started


def in_turn(
    works: Mapping[str, Work], repeats: int, device: torch.device, heard: Heard = lambda name, spent: None
) -> dict[str, float]:
    """Median seconds of each of `works`, run in turn `repeats` times, or until its runs have taken LONG seconds.

    What takes less than WARM seconds is run once before, and that does not count.
    """
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            if sum(taken[name]) >= LONG:
                continue
            spent = seconds(work, device)
            if not taken[name] and spent < WARM:
                spent = seconds(work, device)
            taken[name].append(spent)
            heard(name, spent)
    return {name: median(times) for name, times in taken.items()}


def expected_seconds(run: float, repeats: int) -> float:
    """What `in_turn` takes for a work whose run takes `run` seconds."""
    return run * (max(1, min(repeats, ceil(LONG / run))) + (run < WARM))


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most that tensors made by `work` hold at once; what was there before does not count."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with Storages() as storages:
        work()
    return storages.peak


class Tally:
    """Context manager that counts what goes through a policy's denoiser and head: rows, and operations.

    Operations of the forward pass alone, adapters left out, nothing counted twice that is computed twice.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy, self.rows = policy, 0
        self.linears = self.attention = self.head = 0.0

    def __enter__(self) -> Tally:
        denoiser = self.policy.denoiser
        hooks = [(denoiser, self._denoise), (denoiser.head, self._score)]
        self.hooks = [module.register_forward_pre_hook(hook) for module, hook in hooks]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @property
    def flops(self) -> float:
        """Operations, two a multiply-add."""
        return self.linears + self.attention + self.head

    def score(self, positions: int) -> None:
        """Positions went through the head by another way."""
        shape = self.policy.denoiser.config
        self.head += 2.0 * positions * shape.hidden_size * shape.vocab_size

    def _denoise(self, _: nn.Module, arguments: Sequence[Any]) -> None:
        packing, asked = arguments[1], len(arguments) > 2 and arguments[2] is not None
        for run in packing.runs:
            run = run if asked else run._replace(wanted=run.fresh)
            linears, attention = row_flops(self.policy.denoiser.config, run)
            self.rows += run.rows
            self.linears += run.rows * linears
            self.attention += run.rows * attention

    def _score(self, _: nn.Module, arguments: Sequence[Any]) -> None:
        self.score(len(arguments[0]))


def row_flops(shape: TransformerConfig, run: Run) -> tuple[float, float]:
    """Operations of one row of a run in the denoiser: in linears, and in attention.

    The last block makes keys and values of all tokens, and the rest of those that are asked for.
    """
    wide, queries, whole = shape.hidden_size, shape.query_size, shape.num_layers - 1
    in_keys, in_rest = 2 * wide * shape.kv_size, 2 * wide * queries + 3 * wide * shape.mlp_size
    linears = run.fresh * (whole * (in_keys + in_rest) + in_keys) + run.wanted * in_rest
    return 2.0 * linears, 4.0 * run.length * queries * (whole * run.fresh + run.wanted)


def gpu_facts() -> dict[str, str]:
    """What torch calls the GPU, and the CUDA it was built for; nothing without one."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu": torch.cuda.get_device_name(), "cuda": str(torch.version.cuda)}


def matmul_peak(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """Operations a second of a square matrix product on this machine: the best of ten, or of those within a second."""
    size = size or (8192 if device.type == "cuda" else 1024)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    taken: list[float] = []
    while len(taken) < 10 and sum(taken) < 1.0:
        taken.append(seconds(lambda: left @ right, device))
    return 2 * size**3 / min(taken)
