"""Four-bit weights (QLoRA, arXiv 2305.14314) through bitsandbytes: frozen linears of the blocks, as nf4."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.models.transformer import Transformer, TransformerConfig

SCALED = 64
"""Weights that share a scale."""


def quantize_linears(model: Transformer) -> None:
    """Replace every linear of the blocks, still on meta, by one of four bits. Embedding and head keep their dtype."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("load.four_bit: bitsandbytes is not installed: pip install 'diffpo[bitsandbytes]'")
    check_quantizable(model.config)
    from bitsandbytes.nn.modules import Linear4bit

    for block in model.blocks:
        for name, linear in list(block.named_modules()):
            if isinstance(linear, nn.Linear):
                shape = linear.in_features, linear.out_features, linear.bias is not None
                with torch.device("meta"):
                    four_bit = Linear4bit(*shape, compute_dtype=torch.bfloat16, quant_type="nf4")
                # else the first call in eval mode repacks the weights of a CPU for a kernel that has no gradient
                four_bit.support_avx512bf16_for_cpu = False
                block.set_submodule(name, four_bit)


def check_quantizable(shape: TransformerConfig) -> None:
    """ValueError for a model that has no 4-bit weights."""
    if shape.experts:
        raise ValueError("load.four_bit: the experts of this model have no 4-bit products: leave load.four_bit out")


def dequantize_linears(model: nn.Module) -> None:
    """Replace every linear of four bits by a whole one, of the values that it computes with."""
    if not is_packed(model):
        return
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Linear4bit

    for name, linear in list(model.named_modules()):
        if isinstance(linear, Linear4bit):
            with torch.device("meta"):
                whole = nn.Linear(linear.in_features, linear.out_features, bias=False)
            packed: Any = linear.weight  # the stubs know no state
            whole.weight = nn.Parameter(dequantize_4bit(packed.data, packed.quant_state))
            whole.bias = linear.bias
            model.set_submodule(name, whole)


def is_packed(model: nn.Module) -> bool:
    """Whether a model has four-bit weights."""
    return any(parameter.dtype == torch.uint8 for parameter in model.parameters())


def unpack(model: nn.Module) -> dict[str, Tensor]:
    """Every weight by name, those of four bits with the values that they compute with."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Params4bit

    return {
        name: dequantize_4bit(weight.data, weight.quant_state) if isinstance(weight, Params4bit) else weight.detach()
        for name, weight in model.named_parameters()
    }


def pack(tensor: Tensor) -> nn.Parameter:
    """A weight as nf4 with doubly quantised scales, where `tensor` is."""
    from bitsandbytes.nn.modules import Params4bit

    if tensor.device.type == "cpu" and tensor.shape[1] % SCALED:
        raise ValueError(
            f"load.four_bit: on a CPU bitsandbytes misreads rows of {tensor.shape[1]}, no multiple of {SCALED}: "
            "use a GPU, or whole weights"
        )
    settings: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}  # the stubs know neither
    packed: Any = Params4bit(tensor.contiguous(), requires_grad=False, **settings)
    return packed.to(tensor.device)
