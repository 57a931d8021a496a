"""Other weights for a policy that is in use: adapters beside it on the same base, and newer values of its own."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import Tensor

from diffpo.files.record import Record
from diffpo.models import lora
from diffpo.models.policy import Policy
from diffpo.models.quantization import is_packed
from diffpo.models.source import find_source, warn_of_whole_weights
from diffpo.models.weights import read_tensors


def with_adapter(policy: Policy, folder: Path) -> Policy:
    """A policy with the adapter in `folder`, or of the run there, on the base weights of `policy`, which stay one copy.

    ValueError if it does not fit, or if `policy` carries adapters itself.
    """
    if policy.adapter:
        raise ValueError(f"{folder}: the model carries adapters itself: serve its base, and both as adapters")
    if policy.base is None:
        raise ValueError(f"{folder}: adapters go onto a model that was loaded from a folder or the hub")
    source = find_source(policy.base.folder, adapter=folder)
    assert source.adapter
    if not is_packed(policy.denoiser):
        warn_of_whole_weights(source)
    shared = {id(tensor): tensor for tensor in (*policy.denoiser.parameters(), *policy.denoiser.buffers())}
    denoiser = copy.deepcopy(policy.denoiser, shared)
    variant = Policy(denoiser, policy.tokenizer, source=source)
    variant.take_adapter(lora.load_adapters(denoiser, policy.family, source.adapter))
    variant.load_record(source.folder)
    if learned_in := source.record and source.record.base and source.record.base.block_length:
        variant.use_blocks(learned_in)  # which may not be those that the base is served in
    return variant


def saved_weights(policy: Policy, folder: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a policy's folder, by the names that `Policy.load_weights` takes, and their version.

    ValueError if they are not all that the policy has of its own, for the base's would be left under another's version,
    or if one is not finite.
    """
    record = Record.read(folder)
    if record is None:
        raise ValueError(f"{folder}: no diffpo.json, so no policy of a run")
    tensors, head = policy.read_own(folder), policy.sampler_head
    head_alone = record.base and not (folder / "adapter_config.json").is_file()
    names = set[str]() if head_alone else policy.trainable().keys()
    if tensors.keys() != names or record.head != (head.config if head else None):
        raise ValueError(f"{folder}: holds other adapters, or another sampler head, than the model in use has")
    if head:
        saved = read_tensors(folder / f"{head.kind}.safetensors")
        tensors |= {f"sampler_head.{name}": tensor for name, tensor in saved.items()}
    return tensors, record.version
