"""The processes of a run: which share each has, and how they agree.

Data parallel: every rank decodes its share of the prompts and all ranks hold all rollouts; in the update every rank has
its share of the rows and gradients are summed. docs/distributed.md says what is split and what is replicated.
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffpo.config.checks import check
from diffpo.files.folder import owned
from diffpo.processes.errors import in_transit, on_all

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

K = TypeVar("K")
T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""Longest wait for the other ranks: while rank 0 writes a checkpoint, or the longest rollouts are decoded."""
BUCKET_BYTES = 2**27
"""What travels together: one collective, or object, for many small tensors, and no second copy of all large ones."""
LEAVING_SECONDS = 0.25
"""Pause before a rank exits: a thread of Gloo lets go of its last collective after the rank has gone on. Were the
interpreter then being finalised, CPython < 3.13 would end that thread as it asks for the GIL, and so the process."""

MENDS = {
    "ACCELERATE_USE_DEEPSPEED": ("false", "launch with recipes/accelerate/fsdp2.yaml"),
    "ACCELERATE_USE_MEGATRON_LM": ("false", "launch with recipes/accelerate/fsdp2.yaml"),
    "ACCELERATE_MIXED_PRECISION": ("no", "launch with --mixed_precision no, and set load.dtype in the recipe"),
    "FSDP_VERSION": ("2", "launch with fsdp_version: 2, as recipes/accelerate/fsdp2.yaml does"),
    "FSDP_OFFLOAD_PARAMS": ("false", "launch with fsdp_offload_params: false"),
    "FSDP_ACTIVATION_CHECKPOINTING": ("false", "set optim.gradient_checkpointing in the recipe"),
}
"""Settings of `accelerate launch` that diffpo would ignore: the value that changes nothing, and what to do instead."""
LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets beside WORLD_SIZE: by these processes find one another."""


@dataclass(frozen=True)
class World:
    """The processes that train together: this one alone, unless `accelerate launch` started several."""

    rank: int = 0
    num_ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Device of this rank."""
    shards: bool = False
    """Whether each rank holds a share of a denoiser that learns (FSDP2) rather than all of it."""
    reshard_after_forward: bool = True
    """Whether a sharded block's weights are freed after the forward pass and gathered again for the backward pass."""

    @classmethod
    def join(cls, device: str = "auto") -> World:
        """The world that this process was launched into; `device` "auto" is the GPU if there is one.

        ValueError names a setting of `accelerate launch` that diffpo does not have, a launch that is half one, or a
        device that is not there.
        """
        _check_launch()
        cpu = device == "cpu" or not torch.cuda.is_available() or _flag("ACCELERATE_USE_CPU")
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return cls(device=torch.device("cpu") if cpu and device == "auto" else find_device(device))
        from accelerate import PartialState  # slow to import: only who launches several processes pays

        state = PartialState(cpu=cpu, timeout=TIMEOUT)
        atexit.unregister(_leave)  # who joins twice pauses once
        atexit.register(_leave)
        shards = _flag("ACCELERATE_USE_FSDP")
        reshard = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
        own = torch.device("cpu") if cpu else state.device  # accelerate numbers CPUs, which nothing else knows
        assert own is not None
        return cls(state.process_index, state.num_processes, own, shards, reshard)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes files and talks."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's contiguous share of `count` things, possibly none."""
        return range(self.rank * count // self.num_ranks, (self.rank + 1) * count // self.num_ranks)

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all ranks, in the order of the ranks."""
        if self.num_ranks == 1:
            return list(items)
        from accelerate.utils import gather_object

        return gather_object(list(items))

    def check_alike(self, settings: Mapping[str, Any]) -> None:
        """ValueError on every rank names the settings that are not the same on all of them."""
        first, *others = self.gather([dict(settings)])
        differ = [name for name in first if any(other.get(name) != first[name] for other in others)]
        differ += sorted({name for other in others for name in other.keys() - first.keys()})
        if differ:
            raise ValueError(f"the processes differ in {', '.join(differ)}: give each the same command and files")

    def on_all(self, function: Callable[[], Sequence[T]]) -> list[T]:
        """The items that `function` returns on each rank, as `gather` has them.

        An error that it raises on any rank, the first of several, is raised on every one: the main rank alone talks.
        """
        if self.num_ranks == 1:
            return list(function())
        own, failure = [], None
        try:
            own = list(function())
        except Exception as error:
            failure = error
        made = self.gather([(self.rank, own, failure and in_transit(failure))])
        for rank, _, error in made:
            if error is not None:
                raise on_all(failure if failure and rank == self.rank else error)
        return [item for _, items, _ in made for item in items]

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank."""
        return bool(self._most(flag))

    def passes(self, count: int) -> int:
        """Passes that a rank with `count` of its own has to make.

        Where the denoiser is sharded its weights are gathered in every pass, so all ranks make equally many.
        """
        return self._most(count) if self.shards else count

    def _most(self, count: int) -> int:
        if self.num_ranks == 1:
            return count
        counts = torch.tensor(count, dtype=torch.int64, device=self.device)
        dist.all_reduce(counts, dist.ReduceOp.MAX)
        return int(counts)

    def on_main(self, function: Callable[[], T]) -> T:
        """What `function` returns on the main rank; an error that it raises there is raised on every rank."""
        return self.on_all(lambda: [function()] if self.is_main else [])[0]

    @contextmanager
    def owned(self, folder: str | Path) -> Iterator[None]:
        """Hold `folder` against other processes, for all ranks."""
        with ExitStack() as stack:
            self.on_main(lambda: stack.enter_context(owned(folder)))
            yield

    def sum(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum over ranks of each of a few scalars, named alike on all ranks."""
        if self.num_ranks == 1 or not values:
            return dict(values)
        total = torch.stack(list(values.values()))
        dist.all_reduce(total)
        return dict(zip(values, total, strict=True))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over ranks; those of sharded parameters are summed by the backward pass already."""
        if self.num_ranks == 1:
            return
        gradients = {}
        for number, parameter in enumerate(parameters):
            if not self._is_share(parameter):
                if parameter.grad is None:  # a rank without rows
                    parameter.grad = torch.zeros_like(parameter)
                gradients[number] = parameter.grad
        for bucket in buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket.values()])
            dist.all_reduce(flat)
            totals = flat.split([gradient.numel() for gradient in bucket.values()])
            for gradient, total in zip(bucket.values(), totals, strict=True):
                gradient.copy_(total.view_as(gradient))

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Scale gradients down to a norm of at most `max_norm` over all parameters; returns the norm before."""
        kinds = alike(parameters)
        norms = [
            self._whole(nn.utils.get_total_norm([p.grad for p in kind if p.grad is not None])).to(self.device)
            for kind in kinds
        ]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).square().sum().sqrt()
        for kind in kinds:
            nn.utils.clip_grads_with_norm_(kind, max_norm, norm)
        return float(norm)

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole values of tensors that may be shares; on the main rank, for it to write, none elsewhere."""
        values = {}
        for name, tensor in tensors.items():  # one by one, so that no device holds more than one of them whole
            value = self._whole(tensor.detach())
            if self.is_main:
                # a copy even from the CPU: shares that are not alike are gathered in a larger tensor, cut to size
                values[name] = value.to("cpu", copy=True) if self._is_share(tensor) else value
        return values

    def share_of(self, value: Tensor, like: Tensor) -> Tensor:
        """The part of a whole `value` that this rank has of `like`, on the same device."""
        value = value.to(like.device)
        if not self._is_share(like):
            return value
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)

    def _whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if self._is_share(tensor) else tensor

    def _is_share(self, tensor: Tensor) -> TypeGuard[DTensor]:
        if not self.shards:
            return False
        from torch.distributed.tensor import DTensor

        return isinstance(tensor, DTensor)


def find_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one. ValueError if it is not there, or of another kind."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        known = torch.device(device).type in ("cpu", "cuda")
        check(known, "take cpu or cuda: results were compared on no others")
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"load.device {device!r}: {str(error).splitlines()[0]}") from None


def _leave() -> None:
    time.sleep(LEAVING_SECONDS)


def alike(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters by their type: shares and whole ones do not mix in one call to an optimiser or a norm."""
    kinds: dict[type, list[nn.Parameter]] = {}
    for parameter in parameters:
        kinds.setdefault(type(parameter), []).append(parameter)
    return list(kinds.values())


def buckets(tensors: Mapping[K, Tensor]) -> Iterator[dict[K, Tensor]]:
    """The tensors, some BUCKET_BYTES at a time."""
    bucket: dict[K, Tensor] = {}
    for name, tensor in tensors.items():
        bucket[name] = tensor
        if sum(entry.nbytes for entry in bucket.values()) >= BUCKET_BYTES:
            yield bucket
            bucket = {}
    if bucket:
        yield bucket


def _flag(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def _check_launch() -> None:
    for variable, (neutral, mend) in MENDS.items():
        value = os.environ.get(variable, neutral).lower()
        if value != neutral and (_flag("ACCELERATE_USE_FSDP") or not variable.startswith("FSDP_")):
            raise ValueError(f"{variable} = {value}: {mend}")
    several = os.environ.get("WORLD_SIZE", "1")
    if several != "1" and (lacks := [name for name in LAUNCHED if name not in os.environ]):
        raise ValueError(
            f"WORLD_SIZE = {several} without {', '.join(lacks)}: each process would run alone; start them by "
            "accelerate launch or torchrun, or unset WORLD_SIZE"
        )
    if several != "1" and os.environ["MASTER_PORT"] == "0":
        raise ValueError(
            "MASTER_PORT = 0: the processes would never meet: launch with torchrun --standalone, or name a port"
        )
