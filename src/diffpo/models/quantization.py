"""Four-bit weights (QLoRA, arXiv 2305.14314) through bitsandbytes: frozen linears of the blocks, as nf4."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.models.transformer import Transformer


def quantize_linears(model: Transformer) -> None:
    """Replace every linear of the blocks, still on meta, by one of four bits. Embedding and head keep their dtype."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("load.four_bit: bitsandbytes is not installed: pip install 'diffpo[bitsandbytes]'")
    from bitsandbytes.nn.modules import Linear4bit

    for block in model.blocks:
        for name, linear in list(block.named_modules()):
            if isinstance(linear, nn.Linear):
                path, _, leaf = name.rpartition(".")
                with torch.device("meta"):
                    four_bit = Linear4bit(
                        linear.in_features,
                        linear.out_features,
                        bias=linear.bias is not None,
                        compute_dtype=torch.bfloat16,
                        quant_type="nf4",
                    )
                setattr(block.get_submodule(path), leaf, four_bit)


def pack(tensor: Tensor) -> nn.Parameter:
    """A weight as nf4 with doubly quantised scales, where `tensor` is."""
    from bitsandbytes.nn.modules import Params4bit

    settings: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}  # the stubs know neither
    packed: Any = Params4bit(tensor.contiguous(), requires_grad=False, **settings)
    return packed.to(tensor.device)
