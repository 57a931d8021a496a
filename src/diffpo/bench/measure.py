"""Seconds, bytes and operations: A and B in turn, peaks of memory, the machine's own peak."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffpo.models.transformer import TransformerConfig


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of `work`, on the device to its end."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def in_turn(works: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each of `works`, run in turn `repeats` times after a first that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            spent = seconds(work, device)
            if turn:
                taken[name].append(spent)
    return {name: median(times) for name, times in taken.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that tensors made by `work` hold at once; what was there before does not count."""
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    alive = Alive()
    with alive:
        work()
    return alive.peak


class Alive(TorchDispatchMode):
    """Adds up the storages of all tensors that operators return, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = 0

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage from now on."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            weakref.finalize(storage, self._drop, storage._cdata)
            self.peak = max(self.peak, self.now)

    def _drop(self, storage: int) -> None:
        self.now -= self.sizes.pop(storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result


def matmul_peak(dtype: torch.dtype, device: torch.device, size: int | None = None) -> float:
    """Operations a second of a square matrix product on this machine, the best of ten."""
    size = size or (8192 if device.type == "cuda" else 1024)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: left @ right, device) for _ in range(10))


@dataclass(frozen=True)
class Call:
    """A denoiser call: rows of equal length, of which a window is asked for and some positions go through the head."""

    rows: int
    length: int
    window: int
    candidates: float
    """Positions of a row that logits are made of."""

    def flops(self, shape: TransformerConfig) -> float:
        """Operations, two a multiply-add; the last block makes keys and values of all, and the rest of a window."""
        wide, keys = shape.hidden_size, shape.num_kv_heads * shape.head_size
        in_keys, in_rest = 2 * wide * keys, 2 * wide * wide + 3 * wide * shape.mlp_size
        whole, last = shape.num_layers - 1, self.window
        linears = self.length * (whole * (in_keys + in_rest) + in_keys) + last * in_rest
        attention = 2 * self.length * wide * (whole * self.length + last)
        return 2 * self.rows * (linears + attention + self.candidates * wide * shape.vocab_size)
