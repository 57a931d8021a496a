"""A CUDA device that is not there: tensors of host memory that say cuda:0, and a count of the host's waits for them.

    with fakecuda.device():                # torch.cuda.is_available() says yes
        policy = load_policy(folder)       # on cuda:0
        with fakecuda.Watch() as watch:
            generate(policy, requests)
        print(watch.waits)                 # what waited, and the line of diffpo that made it wait

Autograd, autocast and pinned memory are torch's own; a mix of devices raises where it happens. What cannot be shown:
speed, rounding of CUDA's kernels, several cards, 4-bit weights, a read of memory before its copy has arrived.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fakecuda import attention

SOURCE = Path(__file__).with_name("device.cpp")
TOTAL_MEMORY = 8 * 2**30


class Unavailable(Exception):
    """Why there can be no fake device here, in one line."""


@cache
def _library() -> ctypes.CDLL:
    """The device, compiled once for this source and this torch."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if torch.version.cuda or torch.version.hip:
        raise Unavailable("this torch has CUDA of its own: the fake device needs a CPU build")
    if not compiler:
        raise Unavailable("the fake CUDA device needs a C++ compiler (c++, g++ or $CXX)")
    torch_folder = Path(torch.__file__).parent
    version = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    built = SOURCE.parent / "__pycache__" / f"device_{version}.so"
    if not built.exists():
        built.parent.mkdir(exist_ok=True)
        draft = built.with_suffix(f".{os.getpid()}")
        include, lib = torch_folder / "include", torch_folder / "lib"
        command = [compiler, "-shared", "-fPIC", "-O1", "-std=c++20", "-w", f"-I{include}"]
        command += [
            f"-I{include}/torch/csrc/api/include",
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
        ]
        command += [str(SOURCE), f"-L{lib}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}", "-o", str(draft)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{SOURCE} does not compile against torch {torch.__version__}:\n{done.stderr[-4000:]}")
        draft.replace(built)  # other processes may be at it too
    library = ctypes.CDLL(str(built))
    for name in ("num_operators", "num_bytes", "peak_bytes"):
        getattr(library, name).restype = ctypes.c_int64
    attention.register()
    # imported while the device is there, it would look for what only a CUDA build has
    importlib.import_module("peft")
    return library


@contextmanager
def device() -> Iterator[None]:
    """The device is there. `Unavailable` where it cannot be."""
    library = _library()
    # one thread: a device thread of autograd would have to be there since the first backward pass of the process
    with pytest.MonkeyPatch.context() as patch, torch.autograd.set_multithreading_enabled(False):
        for name, value in _answers(library).items():
            patch.setattr(torch.cuda, name, value)
        generator = torch.Generator  # the device's are the CPU's
        patch.setattr(torch, "Generator", lambda device="cpu": generator())
        library.activate(True)
        try:
            yield
        finally:
            library.activate(False)


def num_operators() -> int:
    """Operators that the device has run so far."""
    return _library().num_operators()


class _Event:
    """An event of a device that has always finished. To wait for one is a choice, and no wait that is counted."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> None: ...
    def record(self, stream: object = None) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True

    def elapsed_time(self, end: _Event) -> float:
        return 0.001


def _answers(library: ctypes.CDLL) -> dict[str, Any]:
    """What `torch.cuda` says while the device is there."""
    properties = SimpleNamespace(name="fake", total_memory=TOTAL_MEMORY, major=9, minor=0, multi_processor_count=1)
    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "fake",
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (TOTAL_MEMORY - library.num_bytes(), TOTAL_MEMORY),
        "memory_allocated": lambda device=None: library.num_bytes(),
        "max_memory_allocated": lambda device=None: library.peak_bytes(),
        "reset_peak_memory_stats": lambda device=None: library.reset_peak(),
        "empty_cache": lambda: None,
        "set_sync_debug_mode": lambda mode: None,  # what it would warn of, `Watch` counts
        "synchronize": lambda device=None: _note("synchronize"),
        "Event": _Event,
    }


# --- waits -----------------------------------------------------------------------------------------------------------


class Wait(NamedTuple):
    """A wait of the host for the device: the line of diffpo, the function around it, and what waited."""

    line: str
    function: str
    kind: str


_watching: list[Watch] = []


class Watch(TorchDispatchMode):
    """Counts within it the waits of the host, and the operators that run on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[Wait] = Counter()
        self.operators = 0

    def by_function(self) -> dict[tuple[str, str], int]:
        """Waits by (function, kind), so that a test that pins them outlives a moved line."""
        found: Counter[tuple[str, str]] = Counter()
        for wait, count in self.waits.items():
            found[wait.function, wait.kind] += count
        return dict(found)

    def __enter__(self) -> Watch:
        # else `torch.tensor(..., device=...)` copies where no mode sees it
        self._only_lift = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        _watching.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._C._set_only_lift_cpu_tensors(self._only_lift)
        _watching.remove(self)
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kind := _wait_of(func, args, kwargs):
            _note(kind)
        result = func(*args, **kwargs)
        first = result[0] if isinstance(result, (tuple, list)) and result else result
        self.operators += not func.is_view and isinstance(first, Tensor) and first.is_cuda
        return result


def _note(kind: str) -> None:
    for watch in _watching:
        watch.waits[Wait(*_place(), kind)] += 1


def _place() -> tuple[str, str]:
    """The line of diffpo that runs, and its function."""
    frame: Any = sys._getframe(1)
    while frame and "/src/diffpo/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if not frame:
        return "", ""
    file = frame.f_code.co_filename.rpartition("/src/diffpo/")[2]
    return f"{file}:{frame.f_lineno}", f"{file.removesuffix('.py').replace('/', '.')}.{frame.f_code.co_name}"


COUNTED = {
    "aten::_local_scalar_dense": "item",
    "aten::_unique2": "unique",
    "aten::bincount": "bincount",
    "aten::equal": "equal",
    "aten::masked_select": "boolean index",
    "aten::nonzero": "nonzero",
    "aten::unique_consecutive": "unique",
    "aten::unique_dim": "unique",
}
"""Operators whose result, or its size, the host must have."""


def _wait_of(func: Any, args: Any, kwargs: dict[str, Any]) -> str:
    """What makes the host wait in this call; "" if nothing does."""
    name = func._schema.name
    if name in COUNTED:
        return COUNTED[name] if args[0].is_cuda else ""
    if name == "aten::repeat_interleave" and args[0].is_cuda and kwargs.get("output_size") is None:
        return "repeat_interleave"
    if name in ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_") and args[0].is_cuda:
        indices = [index for index in args[1] if index is not None]
        # one boolean index and one number is a fill
        fills = name != "aten::index" and len(indices) == 1 and args[2].numel() == 1 and not args[2].is_cuda
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
            return "boolean index"
        return "" if all(index.is_cuda for index in indices) else "copy to the device"
    if name == "aten::_to_copy":
        to = torch.device(kwargs["device"]) if kwargs.get("device") is not None else args[0].device
        pinned_target = kwargs.get("non_blocking", False)  # torch pins what it makes for such a copy
        return _copy_waits(args[0], to.type == "cuda", pinned_target, kwargs.get("non_blocking", False))
    if name == "aten::copy_":
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        return _copy_waits(args[1], args[0].is_cuda, args[0].is_cuda or args[0].is_pinned(), non_blocking)
    return ""


def _copy_waits(source: Tensor, to_device: bool, pinned_target: bool, non_blocking: bool) -> str:
    if source.is_cuda == to_device:
        return ""
    pinned = source.is_pinned() if to_device else pinned_target
    return "" if pinned and non_blocking else "copy to the device" if to_device else "copy to the host"
