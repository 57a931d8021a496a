"""Mixtures of experts in the place of a block's SwiGLU: a router sends each token to a few of many small ones.

Weights of a block's experts are stacked, one product a projection over tokens that are sorted by expert. In files each
expert has tensors of its own: `apart` and `together` go between the two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpo.models.device import MIN_ROWS, on_card
from diffpo.models.indexing import take
from diffpo.models.pointwise import EAGER

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ExpertsConfig:
    """The experts of a block, and how its router chooses among them."""

    count: int
    chosen: int
    """Experts that a token goes to."""
    size: int
    """Inner width of each."""
    shared_size: int = 0
    """Inner width of the expert that every token goes to beside them; 0: there is none."""
    dense_blocks: int = 0
    """Blocks, from the first on, that have one SwiGLU instead."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    """What makes a score of the router's logit; scores of the chosen weigh their outputs."""
    normalized: bool = False
    """Weights of a token's experts add up to `scale`, rather than being their scores times it."""
    scale: float = 1.0
    biased: bool = False
    """A bias, which evened the load in pre-training, is added to scores for the choice and not for the weights."""
    groups: int = 1
    chosen_groups: int = 1
    """Groups of experts that a token may choose from: those of the highest sum of two scores (arXiv 2412.19437)."""

    def __post_init__(self) -> None:
        for name in ("count", "chosen", "size", "groups", "chosen_groups"):
            value = getattr(self, name)
            if not isinstance(value, int) or value <= 0:
                raise ValueError(f"experts: {name} must be a whole number > 0, got {value!r}")
        if not 0 < self.chosen <= self.count // self.groups * self.chosen_groups or self.count % self.groups:
            raise ValueError(
                f"a token cannot go to {self.chosen} of {self.count} experts in {self.chosen_groups} of "
                f"{self.groups} groups"
            )


class Router(nn.Module):
    """Which experts each token goes to, and how much each counts; in fp32, as near ties decide."""

    def __init__(self, config: ExpertsConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.count, hidden_size))
        self.expert_bias: Tensor | None
        self.register_buffer("expert_bias", torch.zeros(config.count) if config.biased else None)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights, fp32, and experts of tokens [N, D], both [N, chosen]."""
        config = self.config
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x.float(), self.weight.float())
        if config.score == "sigmoid":  # on a CPU in fp64: of an fp32 one the last digit hangs on the rows beside it
            scores = (logits if on_card(logits) else logits.double()).sigmoid().float()
        else:
            scores = logits.softmax(-1)
        ranked = scores.detach()
        if self.expert_bias is not None:
            ranked = ranked + self.expert_bias.float()
        if config.groups > 1:
            grouped = ranked.unflatten(-1, (config.groups, -1))
            best = grouped.topk(min(2, grouped.shape[-1]), -1).values.sum(-1).topk(config.chosen_groups, -1).indices
            open_groups = torch.zeros_like(grouped[..., 0], dtype=torch.bool).scatter(-1, best, True)
            ranked = grouped.masked_fill(~open_groups[..., None], -torch.inf).flatten(-2)
        experts = ranked.topk(config.chosen, -1).indices
        weights = scores.gather(-1, experts)
        if config.normalized:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return config.scale * weights, experts


class SwiGLU(nn.Module):
    """The expert that every token goes to."""

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, size, bias=False)
        self.up_proj = nn.Linear(hidden_size, size, bias=False)
        self.down_proj = nn.Linear(size, hidden_size, bias=False)
        self.pointwise = EAGER

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.pointwise.swiglu(self.gate_proj(x), self.up_proj(x)))


class Experts(nn.Module):
    """The mixture: for each token the weighted sum of what its experts make of it, and the shared one's beside it."""

    def __init__(self, config: ExpertsConfig, hidden_size: int) -> None:
        super().__init__()
        self.router = Router(config, hidden_size)
        self.gate_proj = nn.Parameter(torch.empty(config.count, config.size, hidden_size))
        self.up_proj = nn.Parameter(torch.empty(config.count, config.size, hidden_size))
        self.down_proj = nn.Parameter(torch.empty(config.count, hidden_size, config.size))
        self.shared = SwiGLU(hidden_size, config.shared_size) if config.shared_size else None
        self.pointwise = EAGER

    @property
    def stacks(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weights of all experts."""
        return self.gate_proj, self.up_proj, self.down_proj

    def forward(self, x: Tensor) -> Tensor:
        weights, experts = self.router(x)
        of_expert, order = experts.flatten().sort(stable=True)
        # where each expert's tokens end; a search, as a count of them would wait for the device
        ends = torch.searchsorted(of_expert, torch.arange(len(self.gate_proj), device=x.device), right=True).int()
        sent = take(x, order // experts.shape[1])
        inner = self.pointwise.swiglu(_products(sent, self.gate_proj, ends), _products(sent, self.up_proj, ends))
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        made = _products(inner, self.down_proj, ends)[back].unflatten(0, experts.shape)
        mixed = (made * weights[..., None]).sum(1).to(made.dtype)
        return mixed if self.shared is None else mixed + self.shared(x)


def _products(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """x W^T of tokens [N, in], those up to `ends` [E] with the weights [E, out, in] of each expert, [N, out]."""
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights.dtype
    return _grouped(x.to(dtype), weights.to(dtype), ends)


# operators of our own: torch's refuses fp32 on tensors without data, which a plan is made of


@torch.library.custom_op("diffpo::grouped", mutates_args=())
def _grouped(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    if x.is_cuda:
        return F.grouped_mm(x, weights.transpose(1, 2), offs=ends)
    made, begin = x.new_empty(len(x), weights.shape[1]), 0
    for weight, end in zip(weights, ends.tolist(), strict=True):
        if end > begin:
            missing = max(0, MIN_ROWS - (end - begin))
            made[begin:end] = F.linear(F.pad(x[begin:end], (0, 0, 0, missing)), weight)[: end - begin]
        begin = end
    return made


@torch.library.custom_op("diffpo::grouped_weights", mutates_args=())
def _grouped_weights(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return F.grouped_mm(grad.T, x, offs=ends)


@_grouped.register_fake
def _(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(x), weights.shape[1])


@_grouped_weights.register_fake
def _(grad: Tensor, x: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(len(ends), grad.shape[1], x.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, weights, ends = ctx.saved_tensors
    grad = grad.contiguous()
    by_x = _grouped(grad, weights.transpose(1, 2), ends) if ctx.needs_input_grad[0] else None
    return by_x, _grouped_weights(grad, x, ends) if ctx.needs_input_grad[1] else None, None


_grouped.register_autograd(_backward, setup_context=_keep)

_STACKED = re.compile(rf"(?P<experts>.+\.experts)\.(?P<projection>{'|'.join(PROJECTIONS)})")
_SINGLE = re.compile(rf"(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<projection>{'|'.join(PROJECTIONS)})\.weight")


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by name, with those of each expert for a stack: `blocks.3.experts.7.gate_proj.weight`.

    They are copies: a file takes no tensors that share their memory.
    """
    parts: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := _STACKED.fullmatch(name):
            for number, one in enumerate(tensor):
                parts[f"{match['experts']}.{number}.{match['projection']}.weight"] = one.clone()
        else:
            parts[name] = tensor
    return parts


def place(name: str) -> tuple[str, int] | None:
    """The stack that an expert's tensor belongs in, and its place there; None of any other tensor."""
    match = _SINGLE.fullmatch(name)
    return (f"{match['experts']}.{match['projection']}", int(match["number"])) if match else None


def together(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `apart`."""
    whole: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if found := place(name):
            stacks.setdefault(found[0], {})[found[1]] = tensor
        else:
            whole[name] = tensor
    return whole | {name: torch.stack([some[number] for number in sorted(some)]) for name, some in stacks.items()}
