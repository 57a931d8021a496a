"""How weights move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffpo.config.checks import bound, check, check_kinds


@dataclass(frozen=True)
class OptimConfig:
    """AdamW over the denoiser."""

    learning_rate: float = 1e-4  # peak learning rate of the denoiser
    warmup_steps: int = 5  # steps over which the learning rate rises linearly from 0
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up: constant, or a cosine from there to 0 at schedule_steps, or the last step."""
    adam_betas: tuple[float, float] = (0.9, 0.99)  # decay of AdamW's first and second moments
    weight_decay: float = 0.0  # AdamW's decoupled weight decay of the denoiser's matrices; norms and biases have none
    max_grad_norm: float = 1.0  # gradients are clipped to this norm, denoiser and sampler head each on its own
    micro_batch_tokens: int = 32768
    """Tokens, of prompts and canvases, that a backward pass holds at once; changes memory, not results."""
    gradient_checkpointing: bool = False
    """Compute each block a second time in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        check_kinds(self, "optim.")
        bound(self, "optim.", "learning_rate", ">", 0, finite=True)
        bound(self, "optim.", "max_grad_norm", ">", 0)
        bound(self, "optim.", "warmup_steps weight_decay", ">=", 0, finite=True)
        bound(self, "optim.", "micro_batch_tokens", ">=", 1)
        check(all(0 <= b < 1 for b in self.adam_betas), f"optim.adam_betas must lie in [0, 1), got {self.adam_betas}")
