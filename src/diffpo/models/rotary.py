"""Rotary positions: the angles that a head's dimensions are turned by, and how models stretch them to longer rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

SCALED = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
"""Kinds of scaling that are the same at every length, and what each needs to say."""


def rotation_table(
    length: int, size: int, theta: float, scaling: Mapping[str, Any] | None = None
) -> tuple[Tensor, float]:
    """Angles of RoPE (arXiv 2104.09864) for `size` dimensions of a head, [length, size / 2], fp32.

    And what their cosines and sines are multiplied by. `scaling` is a config.json's: its `rope_type`, one of `SCALED`,
    and that kind's numbers.
    """
    frequencies, gain = theta ** (-torch.arange(0, size, 2, dtype=torch.float32) / size), 1.0
    if scaling:
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # seconds to import, for few models

        config: Any = SimpleNamespace(  # what is read of a config, without a real one's opinions on published numbers
            head_dim=size,
            hidden_size=size,
            num_attention_heads=1,
            rope_parameters={**scaling, "rope_theta": theta},
            standardize_rope_params=lambda: None,
        )
        frequencies, gain = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, device=torch.device("cpu"))
    return torch.outer(torch.arange(length, dtype=torch.float32), frequencies), gain
