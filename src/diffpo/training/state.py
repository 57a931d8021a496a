"""The nouns of training: a batch in hand, the optimisers, and where a run stands."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffpo.config import SftConfig, TrainConfig
from diffpo.models.policy import Policy
from diffpo.processes.world import World, alike
from diffpo.types import Batch


@dataclass(eq=False)
class Rollouts:
    """The rollouts of a step as training takes them, before they are scored."""

    batch: Batch  # with advantages
    summary: dict[str, float]
    """Their metrics."""
    forwards: int
    """Rows sent through the denoiser for them."""


@dataclass(eq=False)
class Experience:
    """A batch in hand: the rollouts, and what must be known before the first update moves the policy."""

    batch: Batch
    live: Tensor  # [B'] rows that have a gradient
    keys: Tensor  # [mu, B'] of what the surrogate draws, again whenever it is needed
    old_logprobs: Tensor | None = None  # [mu, B' M, L], M lines a row
    ref_logprobs: Tensor | None = None  # [mu, B' M, L]
    summary: dict[str, float] = field(default_factory=dict)
    """Metrics of the rollouts."""
    updates: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the updates made so far."""


@dataclass(eq=False)
class Optimizers:
    """AdamW over the denoiser and over the sampler head; None for what does not learn."""

    denoiser: torch.optim.AdamW | None = None
    sampler: torch.optim.AdamW | None = None

    @classmethod
    def create(cls, policy: Policy, config: TrainConfig | SftConfig) -> Optimizers:
        """Optimisers of what learns in a run of `config`."""
        optim, parameters = config.optim, learning_parameters(policy)
        optimizers = cls()
        if isinstance(config, SftConfig) or config.train != "sampler":
            denoiser = parameters["denoiser"].values()
            optimizers.denoiser = adamw(denoiser, optim.learning_rate, optim.adam_betas, optim.weight_decay)
        if isinstance(config, TrainConfig) and config.train != "model":
            head = parameters["sampler"].values()
            optimizers.sampler = adamw(head, config.head.learning_rate, optim.adam_betas, 0.0)
        return optimizers

    def items(self) -> Iterator[tuple[str, torch.optim.AdamW]]:
        """The optimisers there are, by field name."""
        return ((name, optimizer) for name, optimizer in vars(self).items() if optimizer is not None)


def adamw(
    parameters: Iterable[nn.Parameter], learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over parameters of which some may be shares; on a GPU one kernel, which copies no moments.

    Matrices decay; norms and biases, of one axis, do not.
    """
    groups = [
        {"params": [p for p in kind if (p.ndim > 1) == decays], "weight_decay": decays * weight_decay}
        for kind in alike(parameters)
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"]) or None
    return torch.optim.AdamW(groups, learning_rate, betas=betas, fused=fused)


def learning_rate_factor(config: TrainConfig | SftConfig, step: int) -> float:
    """Share of the peak learning rate at `step` (0, 1, ...): a pure function, so a resumed run needs no scheduler.

    It rises over `warmup_steps`; a cosine then falls from there to 0 at `schedule_steps`, and stays.
    """
    optim, length = config.optim, config.schedule_steps or config.steps
    warmup = min(1.0, (step + 1) / max(1, optim.warmup_steps))
    if optim.lr_schedule == "constant":
        return warmup
    progress = max(0, step - optim.warmup_steps) / max(1, length - optim.warmup_steps)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def learning_parameters(policy: Policy) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters by the optimiser that is for them and by name."""
    head = policy.sampler_head
    return {"denoiser": policy.trainable(), "sampler": dict(head.named_parameters()) if head else {}}


def optimizer_step(
    optimizer: torch.optim.AdamW,
    parameters: Mapping[str, nn.Parameter],
    rate: float,
    max_norm: float,
    name: str,
    world: World,
) -> dict[str, float]:
    """Clip and step; a non-finite gradient norm leaves weights and moments as they are, on every rank."""
    norm = world.clip_gradients(parameters.values(), max_norm)
    finite = math.isfinite(norm)
    if finite:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return {f"{name}/grad_norm": norm if finite else 0.0, f"{name}/skipped": float(not finite), f"{name}/lr": rate}


@dataclass(eq=False)
class TrainState:
    """Where a run stands. `step` counts finished steps, `iteration` finished updates of the step under way."""

    policy: Policy
    optimizers: Optimizers
    start: dict[str, Tensor] | None = None
    """Values of `policy.trainable()` at the start of the run, where a KL term refers to them."""
    step: int = 0
    iteration: int = 0
    experience: Experience | None = None
    skipped: int = 0
    """Updates skipped in a row, up to now."""
    ahead: dict[int, Rollouts | None] = field(default_factory=dict)
    """Rollouts of this step and of later ones, by step, in hand before they are trained on; None: they are begun."""
    forwards: int = 0
    """Rows sent through the denoiser so far, those of the step under way included."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What the step under way had taken when it was saved, by phase (`diffpo.training.clock`)."""

    @classmethod
    def begin(cls, policy: Policy, config: TrainConfig) -> TrainState:
        """The first step of a run, in this process alone: optimisers for what learns, a KL term's reference."""
        kept = policy.trainable() if config.objective.beta else {}
        start = {name: parameter.detach().clone() for name, parameter in kept.items()}
        return cls(policy, Optimizers.create(policy, config), start or None)

    def end_step(self) -> None:
        """Let go of the rollouts that were learned from."""
        self.step, self.iteration, self.experience = self.step + 1, 0, None

    @contextmanager
    def at_start(self) -> Iterator[Policy]:
        """The policy as it was at the start of the run: the same modules, with values exchanged in place."""
        assert self.start is not None
        self._exchange(self.start)
        try:
            yield self.policy
        finally:
            self._exchange(self.start)

    @torch.no_grad()
    def _exchange(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.policy.trainable().items():
            held = parameter.detach().clone()
            parameter.copy_(values[name])
            values[name].copy_(held)
