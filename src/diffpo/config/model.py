"""Which weights there are and which of them learn: loading, adapters, the shape of a tiny model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import bound, check, check_kinds
from diffpo.config.idle import Idle, Knobs, refuse_idle


@dataclass(frozen=True)
class LoadConfig:
    """How a checkpoint is loaded."""

    dtype: Literal["auto", "saved", "bfloat16", "float32"] = "auto"
    """Dtype of the weights; auto: bfloat16 for published models, as saved for diffpo's own models."""
    device: str = "auto"  # device of the weights, cpu or cuda, or cuda:1; auto: the GPU if there is one
    revision: str | None = None  # branch, tag or commit of a model on the Hugging Face hub
    adapter: str | None = None  # LoRA adapter (folder or hub id) to put onto the model
    base: str | None = None  # base model of an adapter's folder, in place of the one that it names
    four_bit: bool = False  # keep the blocks' weights in 4 bits (nf4, bitsandbytes); training then takes lora.rank > 0
    compile: bool | None = None
    """Fuse what lies between matrix products with torch.compile. None: on a GPU, where Triton and a C compiler are."""
    block_length: int | None = None
    """Attention is block-causal, in blocks of so many tokens: for copies of bd3lm weights, whose config.json does not
    say it. None: as config.json says."""

    def __post_init__(self) -> None:
        check_kinds(self, "load.")
        bound(self, "load.", "block_length", ">=", 1)


@dataclass(frozen=True)
class LoraConfig(Knobs):
    """Low-rank adapters on the denoiser, trained in its stead."""

    rank: int = 0  # rank of fresh adapters; 0: none, train all weights, or go on with adapters that the model carries
    alpha: float = 64.0  # adapters count alpha / rank
    targets: tuple[str, ...] = ()
    """Modules, as the checkpoint names them (q_proj, attn_out, ...). None named: every linear of the blocks."""

    def __post_init__(self) -> None:
        check_kinds(self, "lora.")
        bound(self, "lora.", "rank", ">=", 0)
        bound(self, "lora.", "alpha", ">", 0, finite=True)
        refuse_idle(self, "lora.")

    def idle(self) -> Idle:
        return {"alpha targets": not self.rank and "with lora.rank 0, which adds no adapters (set rank to have some)"}


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a tiny denoiser trained from scratch."""

    hidden_size: int = 96  # width
    num_layers: int = 4  # transformer blocks
    num_heads: int = 4  # attention heads
    mlp_size: int = 256  # inner width of SwiGLU
    block_length: int | None = None  # attention is block-causal, in blocks of so many tokens; None: to the whole row

    def __post_init__(self) -> None:
        check_kinds(self, "shape.")
        bound(self, "shape.", "hidden_size num_layers num_heads mlp_size block_length", ">=", 1)
        even = self.hidden_size % (2 * self.num_heads) == 0
        check(even, f"shape.hidden_size must be a multiple of 2 * num_heads, got {self.hidden_size}, {self.num_heads}")
