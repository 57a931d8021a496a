"""Counter-based random numbers: a number is a pure function of its key, whatever the batch around it.

A key is a 64-bit integer (int64). `fold` derives a new key from a key and a counter, so a completion's number at
(seed, request, position, step) never depends on its batch mates, the world size or a restart.
"""

from __future__ import annotations

import hashlib
import math
from numbers import Integral
from typing import SupportsIndex

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_INCREMENT = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # logical: int64's own shift drags the sign along


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that scatters every input bit."""
    x = (x ^ _shift_right(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _shift_right(x, 27)) * _MULTIPLIERS[1]
    return x ^ _shift_right(x, 31)


def fold(key: Tensor, *counters: Tensor | int) -> Tensor:
    """Derive new keys from `key` and counters, one after the other; shapes broadcast."""
    for counter in counters:
        if isinstance(counter, int):  # filled in on the device: a copy from the host would make it wait
            counter = torch.full((), counter, device=key.device)
        key = _mix(key * 3 + _mix(counter.to(key.device) + _INCREMENT) + _INCREMENT)
    return key


def make_key(seed: SupportsIndex, *names: SupportsIndex | str) -> int:
    """A key for Python code: `seed` folded with integers and strings. numpy's integers are as Python's."""
    plain = tuple(int(name) if isinstance(name, Integral) else name for name in (seed, *names))
    digest = hashlib.blake2b(repr(plain).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)


def uniform(key: Tensor) -> Tensor:
    """One float32 in [0, 1) a key, 24 bits, same shape as `key`."""
    return _shift_right(_mix(key + _INCREMENT), 40).to(torch.float32) * 2.0**-24


def normal(key: Tensor) -> Tensor:
    """One standard normal a key (Box-Muller)."""
    radius = torch.sqrt(-2 * torch.log1p(-uniform(fold(key, 0))))
    return radius * torch.cos(2 * math.pi * uniform(fold(key, 1)))
