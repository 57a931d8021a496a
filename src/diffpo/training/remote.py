"""What a worker elsewhere must have in common with the run: the code, the config, the policy and its dtypes."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from diffpo import __version__
from diffpo.config import TrainConfig
from diffpo.files.places import PACKAGE
from diffpo.files.record import anchored, anchored_path, anchored_rules
from diffpo.models.policy import Policy


@cache
def code_of() -> str:
    """The diffpo that this process runs: its version, and a digest of its source when it was first asked."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return f"diffpo {__version__} (source {digest.hexdigest()[:8]})"


def facts_of(policy: Policy) -> dict[str, str]:
    """What the policy of a worker must have in common with the run's."""
    learns = {name: tuple(parameter.shape) for name, parameter in policy.trainable().items()}
    denoiser = policy.denoiser
    return {
        "base": policy.source.fingerprint()[:16] if policy.source else "",
        "dtype": str(denoiser.compute_dtype or denoiser.head.weight.dtype),
        "what learns": hashlib.sha256(repr(sorted(learns.items())).encode()).hexdigest()[:16],
        "sampler head": policy.sampler_head.spoken if policy.sampler_head else "none",
    }


def dtypes_of(policy: Policy, config: TrainConfig) -> dict[str, torch.dtype]:
    """Weights of linears that learn in fp32 and are cast for every product: cast once, they compute the same."""
    dtype, blocks = policy.denoiser.compute_dtype, policy.denoiser.blocks
    if dtype is None or config.rollout.merge_adapters:  # which sums in fp32
        return {}
    linears = {f"blocks.{name}" for name, module in blocks.named_modules() if isinstance(module, nn.Linear)}
    return {name: dtype for name in policy.trainable() if name.rpartition(".")[0] in linears}


def anywhere(config: TrainConfig, device: str) -> TrainConfig:
    """The config as a worker reads it, from whatever folder it runs in."""
    adapter, base = anchored_path(config.load.adapter), anchored_path(config.load.base)
    return replace(
        config,
        model=str(anchored_path(config.model)),
        task=anchored(config.task),
        load=replace(config.load, device=device, adapter=adapter, base=base),
        rollout=anchored_rules(config.rollout),
    )
