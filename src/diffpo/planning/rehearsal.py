"""The phases of a step, run on tensors without data: what each holds at its peak, by part.

Classes and functions are those of a run: the engine's call, the scoring of a micro-batch and its backward pass,
AdamW's step. torch's fake tensors have shapes alone; what shapes depend on (ids, lengths, positions) is there. They
claim to be on a CPU, as a torch without CUDA has no other place, and take the ways of a card (`models.device`).

All blocks but the first and the last are alike: four are run, and each further one adds what the second did.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from diffpo.config import LoraConfig
from diffpo.functional.latents import Latents
from diffpo.models.device import as_on_card
from diffpo.models.likelihood import score
from diffpo.models.lora import merged_adapters
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import IdTokenizer
from diffpo.models.transformer import Transformer
from diffpo.planning.memory import PARTS, Decoding, Load, MicroBatch, Model, Parts, all_gathered, few_gathered, total
from diffpo.planning.storages import Storages
from diffpo.rollout.engine import Engine
from diffpo.rollout.local import request_for

BLOCKS = 4
"""Blocks that are run: the first, two of those between, the last."""


def rollout(model: Model, load: Load) -> Parts:
    """The engine: the forward pass of one call, and the draws after it."""
    assert load.decoding
    stands = {"gathered": all_gathered(model, load)}
    if load.decoding.settings.merge_adapters:  # beside the copies of the blocks that are run
        further = max(0, model.shape.num_layers - BLOCKS)
        stands["cast weights"] = further * model.base * model.in_block(*model.adapted)
    return total(model, load, _decode(model, load.decoding, load.host), stands)


def scoring(model: Model, load: Load) -> Parts:
    """Old or reference log-probs of a micro-batch, without gradients."""
    return total(model, load, _score(model, load.micro_batch, load.host), {"gathered": all_gathered(model, load)})


def backward(model: Model, load: Load) -> Parts:
    """Forward and backward pass of a micro-batch."""
    stands = {"gathered": few_gathered(model, load)} | ({"gradients": 0.0} if load.micro_batch.alone else {})
    return total(model, load, _learn(model, load.micro_batch, load.host, load.shards), stands)


def optimiser(model: Model, load: Load) -> Parts:
    """The step of AdamW."""
    root = model.in_root * model.held if load.shards > 1 else 0.0  # kept from the backward pass
    return total(model, load, _step(model, load.host), {"gathered": root})


@cache
def _decode(model: Model, load: Decoding, host: bool) -> Parts:
    with _opened(model, host) as (policy, storages), torch.no_grad():
        if load.head:
            policy.add_head(load.head)
        engine, merges, ids = Engine(policy, load.rows), load.settings.merge_adapters, policy.eos_id
        settings = replace(load.settings, canvas="")  # whose text, which there is no tokenizer for, changes no shape
        for row in range(load.rows):  # of different prompts: rows of one share no call but the first
            prompt = tuple(row // ids**place % ids for place in range(load.prompt_length))
            engine.submit(request_for(policy, prompt, settings, load.gen_length, key=row))
        with storages, merged_adapters(policy.denoiser) if merges else nullcontext():
            engine.call()
    return _extended(model, storages)


@cache
def _score(model: Model, load: MicroBatch, host: bool) -> Parts:
    with _opened(model, host) as (policy, storages), torch.no_grad():
        latents = _latents(policy, load)
        with storages:
            score(policy, latents, load.temperature)
    return _extended(model, storages)


@cache
def _learn(model: Model, load: MicroBatch, host: bool, shards: int) -> Parts:
    with _opened(model, host, shards, alone=load.alone) as (policy, storages):
        policy.denoiser.gradient_checkpointing, latents = load.checkpointing, _latents(policy, load)
        with storages:
            score(policy, latents, load.temperature).sum().backward()
    return _extended(model, storages)


@cache
def _step(model: Model, host: bool) -> Parts:
    with _opened(model, host) as (policy, storages):
        optimizer = torch.optim.AdamW(policy.trainable().values(), fused=None if host else True)
        optimizer.step()  # the moments are there
        storages.hold("optimiser", tree_leaves([list(moments.values()) for moments in optimizer.state.values()]), 0)
        before = storages.peak
        with storages:
            optimizer.step()
    return {"activations": before, "optimiser": storages.peak - before}


def _latents(policy: Policy, load: MicroBatch) -> Latents:
    """Of equal lengths; rows are spread evenly over prompts, latents over rows, and what is scored over latents."""
    number, canvas, terms = load.latents, load.gen_length, torch.arange(load.scored)
    shape, latent = policy.denoiser.config, torch.arange(number)
    blocks, zeros = shape.blocks(load.prompt_length, shape.block_length or 0), torch.zeros_like(latent)
    source, positions = terms % number, terms // number * canvas // -(-load.scored // number) % canvas
    prompts, answers = (
        (latent * units // number)[:, None] // policy.mask_id ** torch.arange(length).clamp_max(3) % policy.mask_id
        for units, length in ((load.prompts, load.prompt_length), (load.rows, canvas))
    )
    return Latents(
        sequences=torch.cat([prompts, torch.full_like(answers, policy.mask_id)], dim=1),
        prompt_lengths=zeros + load.prompt_length,
        gen_lengths=zeros + canvas,
        owners=zeros,
        groups=zeros,
        source=source,
        rows=source,
        positions=positions,
        tokens=torch.zeros_like(terms),
        weights=torch.ones(load.scored),
        shape=(number, canvas),
        clean=answers if blocks else None,
        blocks=torch.tensor([blocks] * number) if blocks else None,
    )


@cache
def _policy(model: Model) -> Policy:
    """The policy as a run starts with it, of at most BLOCKS blocks."""
    shape = replace(model.shape, num_layers=min(model.shape.num_layers, BLOCKS))
    with torch.device("meta"):
        denoiser = Transformer(shape).eval().to({2: torch.bfloat16, 4: torch.float32}[model.base])
    policy = Policy(denoiser, IdTokenizer(shape.vocab_size, shape.vocab_size - 2, shape.vocab_size - 1))
    if model.rank:
        policy.add_adapters(LoraConfig(model.rank, targets=model.adapted))
    if model.learns == "all":
        policy.use_master_weights()
    elif model.learns == "nothing":
        denoiser.requires_grad_(False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = (*denoiser.named_parameters(), *denoiser.named_buffers())
        values = {name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors}
        denoiser.load_state_dict(values, strict=False, assign=True)  # `Module.to` takes none off meta
        denoiser.initialize_buffers()
    policy.banned = torch.tensor([policy.mask_id])
    return policy


@contextmanager
def _opened(model: Model, host: bool, shards: int = 1, alone: bool = False) -> Iterator[tuple[Policy, Storages]]:
    """A policy without data, and what follows its storages; with the gradients of the update before unless `alone`.

    Stages: each block forwards, the final norm, what is behind the denoiser, each block backwards.
    """
    policy = _policy(model)
    denoiser, blocks = policy.denoiser, len(policy.denoiser.blocks)
    shapes = {parameter.shape for parameter in denoiser.parameters() if parameter.ndim > 1}

    def named(operator: Any, arguments: Any, made: Tensor) -> str:
        if made.ndim and made.shape[-1] == model.shape.vocab_size:
            return "logits"
        if operator is torch.ops.aten._to_copy.default and storages.is_for("weights", arguments[0]):
            return "cast weights"
        if made.shape in shapes:
            return "gradients" if len(storages.begun) > blocks + 1 else "cast weights"
        return "activations"

    def accumulated(parameter: Tensor) -> None:
        assert parameter.grad is not None
        share = 1 if parameter is denoiser.head.weight else 1 / shards
        storages.hold("gradients", [parameter.grad], share if alone else 0)

    def left(stage: int, out: Tensor) -> None:
        if stage == blocks - 1:
            storages.begin(blocks)
        if out.requires_grad:
            out.register_hook(lambda _: storages.begin(2 * blocks + 1 - stage))

    storages = Storages(named)
    storages.hold("weights", denoiser.parameters(), share=0)  # what stands all the time is counted apart
    storages.hold("activations", denoiser.buffers())
    with ExitStack() as stack:
        if not host:
            stack.enter_context(as_on_card())
        stack.enter_context(denoiser.register_forward_hook(lambda *_: storages.begin(blocks + 1)))
        for stage, block in enumerate(denoiser.blocks):
            stack.enter_context(block.register_forward_pre_hook(lambda *_, stage=stage: storages.begin(stage)))
            stack.enter_context(block.register_forward_hook(lambda *given, stage=stage: left(stage, given[-1])))
        for parameter in policy.trainable().values():
            parameter.grad = None if alone else torch.zeros_like(parameter)
            stack.enter_context(parameter.register_post_accumulate_grad_hook(accumulated))
            if parameter.grad is not None:
                accumulated(parameter)
        yield policy, storages
    policy.sampler_head, denoiser.gradient_checkpointing = None, False


def _extended(model: Model, storages: Storages) -> Parts:
    """The most that a model with all its blocks holds, by part.

    Each further block stands between the first two. It holds what is left of the second when the third has been
    through and, on the way back, when both have, what is left of the third. While a block is at work its weights may
    be unpacked.
    """
    begun, further = storages.begun, max(0, model.shape.num_layers - BLOCKS)
    back = 2 * BLOCKS - 1  # the stage in which the third goes backwards
    unpacked = model.base * max(inputs * outputs for inputs, outputs in model.linears[0].values()) * model.four_bit
    moments = []
    for stage, peak in enumerate(storages.peaks):
        left = begun[stage + 1] if further and stage in (2, back + 1) else peak
        came = {1: further * (stage > 1), back: further * (stage > back)}
        parts = dict.fromkeys(PARTS, 0.0)
        for (part, _), size in peak.items():
            parts[part] += size
        for (part, stage_of_it), size in left.items():
            parts[part] += size * came.get(stage_of_it, 0)
        parts["activations"] += unpacked * (stage not in (BLOCKS, BLOCKS + 1))
        moments.append(parts)
    return max(moments, key=lambda parts: sum(parts.values()))
