"""What one GPU holds, by part: the model and what goes through it at once, and what stands all the time.

What comes and goes in a phase of a step is found by running it (`diffpo.planning.rehearsal`). Weights that FSDP2
gathers are counted in closed form. docs/plan.md compares the sums with what a step really takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import nn

from diffpo.config import HeadConfig, RolloutConfig
from diffpo.models.transformer import Block, Transformer, TransformerConfig

Parts = Mapping[str, float]
"""Bytes by part."""

PARTS = {
    "weights": "as loaded, or fp32 masters where all of them learn",
    "adapters": "fp32",
    "gradients": "fp32",
    "optimiser": "two fp32 moments, and on a CPU copies of what AdamW works on",
    "reference": "the learning values at the start, for the KL term",
    "gathered": "weights that other GPUs have a share of, while they are needed (FSDP2)",
    "cast weights": "copies in the dtype of matrix products, or with adapters merged",
    "activations": "hidden states, and in the update what the backward pass needs",
    "logits": "and temporaries of their size",
    "context": "CUDA, its libraries and their workspaces (assumed)",
    "slack": "what the allocator cannot use, a share of what comes and goes (assumed)",
}
CONTEXT = 2**30
SLACK = 0.1
PACKED = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight as nf4: half a byte, a byte of scale for 64 of them, and four for 256 scales."""


@dataclass(frozen=True)
class Model:
    """What is loaded, and what of it learns."""

    shape: TransformerConfig
    base: int
    """Bytes of a value of the weights as loaded."""
    learns: Literal["all", "adapters", "nothing"]
    rank: int = 0
    adapted: tuple[str, ...] = ()
    """Linears of a block that have an adapter."""
    four_bit: bool = False

    @property
    def held(self) -> int:
        """Bytes of a value of the weights as they are held: those that learn are in fp32."""
        return 4 if self.learns == "all" else self.base

    @property
    def in_head(self) -> int:
        return self.shape.vocab_size * self.shape.hidden_size

    @cached_property
    def blocks(self) -> list[Block]:
        """All of them, without data."""
        with torch.device("meta"):
            return [Block(self.shape, number) for number in range(self.shape.num_layers)]

    @cached_property
    def in_blocks(self) -> int:
        return sum(map(_size, self.blocks))

    @cached_property
    def in_root(self) -> int:
        """Embeddings, unless they are the head's, and the final norm."""
        with torch.device("meta"):
            return _size(Transformer(replace(self.shape, num_layers=0))) - self.in_head

    @property
    def in_all(self) -> int:
        """All but adapters."""
        return self.in_blocks + self.in_root + self.in_head

    @property
    def in_adapters(self) -> int:
        return round(self.shape.num_layers * self.in_block(adapters=True))

    @cached_property
    def linears(self) -> list[dict[str, tuple[int, int]]]:
        """Of each block its linears by name: inputs and outputs."""
        return [
            {
                name: (module.in_features, module.out_features)
                for name, module in block.named_modules()
                if isinstance(module, nn.Linear)
            }
            for block in self.blocks
        ]

    def in_block(self, *names: str, adapters: bool = False) -> float:
        """Weights of the named linears of a block, or of their adapters; of all unless named. The blocks' mean."""
        sizes = [(name, size) for block in self.linears for name, size in block.items() if not names or name in names]
        if adapters:
            weights = self.rank * sum(sum(size) for name, size in sizes if name in self.adapted)
        else:
            weights = sum(inputs * outputs for _, (inputs, outputs) in sizes)
        return weights / self.shape.num_layers

    @cached_property
    def routed(self) -> float:
        """Weights of a block's router and of the experts that a token goes to. The blocks' mean."""
        config, mixtures = self.shape.experts, [block.experts for block in self.blocks if block.experts]
        if config is None:
            return 0.0
        of_experts = sum(sum(stack[0].numel() for stack in it.stacks) * config.chosen for it in mixtures)
        return (of_experts + sum(it.router.weight.numel() for it in mixtures)) / self.shape.num_layers

    @property
    def learning(self) -> int:
        """Parameters that learn."""
        return {"all": self.in_all, "adapters": self.in_adapters, "nothing": 0}[self.learns]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class Decoding:
    """A call of the engine on full slots."""

    rows: int
    prompt_length: int
    gen_length: int
    settings: RolloutConfig
    head: HeadConfig | None
    """Of the sampler head that decides in every call, if one does."""


@dataclass(frozen=True)
class MicroBatch:
    """Latents that go through the denoiser at once, and how many of their tokens are scored.

    In blocks those of a row share its clean canvas, and rows of a prompt share that.
    """

    latents: int
    rows: int
    prompts: int
    scored: int
    prompt_length: int
    gen_length: int
    temperature: float
    checkpointing: bool
    alone: bool
    """It is the only one of its update: no gradient is there yet."""


@dataclass(frozen=True)
class Load:
    """What one GPU works on at once."""

    micro_batch: MicroBatch
    decoding: Decoding | None = None
    reference: bool = False
    """Whether a KL term refers to the start of the run."""
    shards: int = 1
    """GPUs that what learns is sharded over; 1: each has all of it."""
    host: bool = False


def resident(model: Model, load: Load) -> dict[str, float]:
    """What stands in memory all the time; the head stays whole, and gradients stay until the next update."""
    in_linears = model.shape.num_layers * model.in_block()
    weights = in_linears * (PACKED if model.four_bit else model.held)
    weights += (model.in_blocks - in_linears + model.in_root) * model.held
    whole_head = model.in_head if model.learns == "all" else 0
    learning = 4 * ((model.learning - whole_head) / load.shards + whole_head)
    return {
        "weights": weights / load.shards + model.in_head * model.held,
        "adapters": 4 * model.in_adapters / load.shards,
        "gradients": learning,
        "optimiser": 2 * learning,
        "reference": learning if load.reference else 0,
    }


def all_gathered(model: Model, load: Load) -> float:
    """All of a sharded model but the head, whole."""
    whole = (model.in_blocks + model.in_root) * model.held + 4 * model.in_adapters
    return whole if load.shards > 1 else 0


def few_gathered(model: Model, load: Load) -> float:
    """The embeddings and two blocks, the one at work and the next, with gradients before they are scattered."""
    if load.shards == 1:
        return 0
    in_blocks = model.in_blocks * model.held + 4 * model.in_adapters
    gradients = 4 * (model.in_blocks if model.learns == "all" else model.in_adapters)
    return model.in_root * model.held + 2 * (in_blocks + gradients) / model.shape.num_layers


def total(model: Model, load: Load, found: Parts, stands: Parts) -> Parts:
    """What stands all the time, or as `stands` has it, what comes and goes (`found`), and what the device adds."""
    stands = {**resident(model, load), **stands}
    parts = {part: stands.get(part, 0.0) + found.get(part, 0.0) for part in PARTS}
    if not load.host:
        comes_and_goes = ("gathered", "cast weights", "activations", "logits")
        parts |= {"context": float(CONTEXT), "slack": SLACK * sum(parts[name] for name in comes_and_goes)}
    return parts
