"""Which storages are alive, and what for: a dispatch mode that sees every tensor that an operator makes."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Held = Counter[tuple[str, int]]
"""Bytes by part, and by the stage in which they came."""


class Storages(TorchDispatchMode):
    """Adds up the storages of all tensors that operators return, for as long as they live; fake tensors' too.

    `named` says what part a tensor is for: of the operator, its arguments and what it made. What was there before
    counts if it is told of (`hold`).
    """

    def __init__(self, named: Callable[[Any, Any, Tensor], str] = lambda *_: "") -> None:
        super().__init__()
        self.named = named
        self.now = Held()
        self.begun, self.peaks = [Held()], [Held()]
        """What was held when each stage began, and when most was held in it."""
        self._known: dict[int, tuple[tuple[str, int], int]] = {}

    @property
    def peak(self) -> int:
        """The most bytes at once."""
        return max(peak.total() for peak in self.peaks)

    def begin(self, stage: int) -> None:
        """Stages 1, 2, ... begin one after the other; one that has begun does not begin again."""
        if stage == len(self.begun):
            self.begun.append(self.now.copy())
            self.peaks.append(self.now.copy())

    def hold(self, part: str, tensors: Iterable[Tensor], share: float = 1.0) -> None:
        """From now on the storages of these tensors are for `part`, and count a share of their bytes."""
        for tensor in tensors:
            storage, stage = tensor.untyped_storage(), len(self.begun) - 1
            size = round(storage.nbytes() * share)
            if storage._cdata in self._known:
                stage = self._drop(storage._cdata)
            else:
                weakref.finalize(storage, self._drop, storage._cdata)
            self._known[storage._cdata] = (part, stage), size
            self.now[part, stage] += size
        if self.now.total() > self.peaks[-1].total():
            self.peaks[-1] = self.now.copy()

    def is_for(self, part: str, tensor: Tensor) -> bool:
        """Whether a tensor's storage is held for `part`."""
        key = tensor.untyped_storage()._cdata
        return key in self._known and self._known[key][0][0] == part

    def _drop(self, storage: int) -> int:
        key, size = self._known.pop(storage)
        self.now[key] -= size
        return key[1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self._known:
                self.hold(self.named(func, args, leaf), [leaf])
        return result
