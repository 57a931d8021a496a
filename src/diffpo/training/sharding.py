"""A denoiser shared out over the processes of a run by FSDP2, and gathered where no rank may have to wait for another.

docs/distributed.md says what is split and what is replicated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffpo.models.transformer import Transformer
from diffpo.processes.world import World


def shard(world: World, denoiser: Transformer) -> None:
    """Leave each rank its share of every block and of untied embeddings, if the launch says so and anything learns.

    A denoiser that does not learn stays whole: the rollouts need all of it on every rank anyway.
    """
    if not world.shards or not any(parameter.requires_grad for parameter in denoiser.parameters()):
        return
    if not all(parameter.is_floating_point() for parameter in denoiser.parameters()):
        raise ValueError("load.four_bit: 4-bit weights are not sharded: launch with recipes/accelerate/ddp.yaml")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.num_ranks,))
    # Blocks are gathered in the dtype of their matrix products: half the traffic, and no cast in every call. The
    # stream between them keeps its own, and gradients are summed in fp32.
    compute = MixedPrecisionPolicy(denoiser.compute_dtype, torch.float32, cast_forward_inputs=False)
    for block in denoiser.blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=world.reshard_after_forward, mp_policy=compute)
    # The head stays whole, and embeddings tied to it. It is called on its own, on as many chunks of positions as a
    # rank happens to have, and a collective at each call would find the other ranks elsewhere.
    head: Any = denoiser.head.weight
    fully_shard(denoiser, mesh=mesh, reshard_after_forward=False, ignored_params={head})
    for unit in _units(world, denoiser):
        unit.set_gradient_divide_factor(1.0)  # the sum over ranks: token weights are those of the whole batch
        unit.set_force_sum_reduction_for_comms(True)


@contextmanager
def gathered(world: World, denoiser: Transformer) -> Iterator[None]:
    """Hold all of a sharded denoiser: within, forward passes have no collectives, so ranks need not keep step."""
    units = _units(world, denoiser)
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # the root, whose weights are the first that the backward pass wants, keeps them
            unit.set_reshard_after_forward(world.reshard_after_forward and unit is not denoiser, recurse=False)


def _units(world: World, denoiser: Transformer) -> list[Any]:
    """The modules that FSDP2 gathers and frees as one, the root first."""
    if not world.shards:
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in denoiser.modules() if isinstance(module, FSDPModule)]
