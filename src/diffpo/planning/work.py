"""Operations and seconds of rows through the denoiser, forwards and backwards, in closed forms."""

from __future__ import annotations

from dataclasses import dataclass

from diffpo.config.checks import bound, check
from diffpo.models.fused import MAX_LOGITS
from diffpo.planning import memory
from diffpo.planning.gpus import Gpu

MFU = 0.35
"""Share of a GPU's peak that a run is assumed to reach (not measured)."""
KEYS = ("attn.k_proj", "attn.v_proj", "attn.qkv_proj")
"""Linears of a block that every token goes through, whatever is wanted of it."""


@dataclass(frozen=True)
class Cluster:
    """What it runs on, and what is assumed of it."""

    gpu: Gpu
    num_gpus: int = 1
    shards: bool = False
    """Whether what learns is sharded over the GPUs (FSDP2) rather than copied to each."""
    mfu: float = MFU
    nfe: float | None = None
    """Denoiser calls a completion; None: what the sampler's rule says, or half the canvas."""
    prompt_length: int | None = None

    def __post_init__(self) -> None:
        bound(self, "", "num_gpus nfe prompt_length", ">=", 1)
        check(0 < self.mfu <= 1, f"mfu must lie in (0, 1], got {self.mfu:g}")


@dataclass(frozen=True)
class Phase:
    """One part of a step, on one GPU but for `forwards`."""

    name: str
    parts: memory.Parts
    """Bytes by part at its peak."""
    forwards: float
    """Rows through the denoiser, all GPUs together; a backward pass is none."""
    tokens: float
    flops: float
    seconds: float

    @property
    def bytes(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Work:
    """Rows of one length through one model, on each GPU of a cluster."""

    model: memory.Model
    cluster: Cluster
    length: float
    """Tokens of a row."""
    keys: float | None = None
    """What each of them sees; None: the row."""

    @property
    def peak(self) -> float:
        """Operations a second that are reached."""
        gpu = self.cluster.gpu
        return (gpu.tflops_fp32 if self.model.base == 4 else gpu.tflops) * 1e12 * self.cluster.mfu

    def forward(self, rows: float, scored: float, wanted: float) -> float:
        """Operations of rows through the denoiser, of which `wanted` tokens each come out of the last block, and of
        positions through the head."""
        products = sum(self._products(rows, wanted, adapters=adapters) for adapters in (False, True))
        return products + self._attention(rows, wanted) + 2 * self.model.in_head * scored

    def update(self, rows: float, scored: float, wanted: float, load: memory.Load) -> tuple[float, float]:
        """Rows forward, those computed again included, and operations of forward and backward passes."""
        model, learns_all = self.model, self.model.learns == "all"
        head = 2 * model.in_head * scored
        # gradients of activations cost as much as the forward pass, those of weights as much again where they learn;
        # attention has two matrix products forward and four backward
        flops = 2 * self.forward(rows, scored, wanted) + self._attention(rows, wanted)
        flops += self._products(rows, wanted, adapters=True)
        if learns_all:
            flops += self._products(rows, wanted) + head
            if MAX_LOGITS["cpu" if load.host else "cuda"] < load.micro_batch.scored * model.shape.vocab_size:
                flops += head  # chunks of logits are made again
        else:  # below the first adapters nothing learns
            flops -= 2 * rows * self.length * model.in_block(*KEYS, "attn.q_proj")
        if not load.micro_batch.checkpointing:
            return rows, flops
        # blocks are computed again, up to the last thing that is wanted of them, which is before down_proj if it learns
        last = self._products(rows, wanted, "down_proj") if learns_all else 0
        return 2 * rows, flops + self.forward(rows, 0, wanted) - last

    def _attention(self, rows: float, wanted: float) -> float:
        shape, keys = self.model.shape, self.length if self.keys is None else self.keys
        return 4 * shape.query_size * keys * rows * ((shape.num_layers - 1) * self.length + wanted)

    def _products(self, rows: float, wanted: float, *names: str, adapters: bool = False) -> float:
        """Those of the named linears, or of their adapters: the last block makes all keys, else only what is wanted."""
        block = self.model.in_block(*names, adapters=adapters) + (0 if names or adapters else self.model.routed)
        keys = self.model.in_block(*KEYS, adapters=adapters) if not names else 0
        whole = (self.model.shape.num_layers - 1) * block + keys
        return 2 * rows * (whole * self.length + (block - keys) * wanted)

    def phase(self, name: str, parts: memory.Parts, rows: float, flops: float, calls: float) -> Phase:
        """A phase on one GPU: its arithmetic takes time, or that each call reads all weights."""
        read = parts["weights"] + parts["gathered"]
        if not rows:
            read = 7 * parts["gradients"]  # AdamW reads four values a parameter and writes three
        seconds = max(flops / self.peak, calls * read / (self.cluster.gpu.bandwidth * 1e9))
        return Phase(name, parts, rows * self.cluster.num_gpus, rows * self.length, flops, seconds)
