"""An objective as a value: the surrogate and the loss that a config names, which go together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffpo.config import ObjectiveConfig, TrainConfig
from diffpo.config.checks import check
from diffpo.functional.latents import Latents
from diffpo.losses import Loss, load_loss
from diffpo.surrogates import Surrogate, load_surrogate
from diffpo.types import Batch


@dataclass(frozen=True)
class Objective:
    """A surrogate, what is made of it, and the weights between."""

    surrogate: Surrogate
    loss: Loss
    config: ObjectiveConfig

    @classmethod
    def of(cls, config: ObjectiveConfig) -> Objective:
        """What the config names. ValueError says what is not there, and what does not go together."""
        surrogate, loss = load_surrogate(config.surrogate), load_loss(config.loss)
        lines = loss.num_lines <= surrogate.num_lines
        check(lines, f"objective.loss {config.loss} compares several canvases: set objective.surrogate to spg")
        weighed = loss.takes_importance or not config.importance_clamp
        check(weighed, f"objective.loss {config.loss} has no importance weights: set objective.importance_clamp to 0")
        compared = surrogate.is_likelihood or not config.importance_clamp
        named = f"objective.surrogate {config.surrogate}"
        check(compared, f"{named} is no probability to weigh a token by: set objective.importance_clamp to 0")
        return cls(surrogate, loss, config)

    @property
    def needs_old(self) -> bool:
        """Whether the policy before the first update is in J: in the loss, in what tokens count, in their weights."""
        return self.loss.needs_old or self.surrogate.needs_old or self.config.importance_clamp > 0

    @property
    def scores_ahead(self) -> bool:
        """Whether a batch is scored before its first update. With one update the log-probs that it makes are the old
        ones, unless what a token counts or weighs hangs on those of others.
        """
        config = self.config
        return self.needs_old and (config.num_iterations > 1 or config.self_normalize or self.surrogate.needs_old)

    @property
    def learns_from_all(self) -> bool:
        """Whether rows of advantage 0 have a gradient too: they are held to the start of the run, or in place."""
        return self.config.beta > 0 or self.loss.pulls_back

    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        """The surrogate's latents; ValueError where one of the user's own makes something else."""
        latents = self.surrogate.draw(batch, keys, mask_id)
        shape = (len(batch) * self.surrogate.num_lines, batch.tokens.shape[1])
        if not isinstance(latents, Latents) or latents.shape != shape:
            made = f"of shape {latents.shape}" if isinstance(latents, Latents) else repr(latents)[:60]
            raise ValueError(
                f"objective.surrogate {self.config.surrogate}: draw returns Latents of {shape}, got {made}"
            )
        return latents


def open_objective(config: TrainConfig) -> Objective:
    """The objective of a run, opened before any weight is read. ValueError as `Objective.of`, or for the sampler's."""
    objective = Objective.of(config.objective)
    mine = not objective.loss.has_own_advantages or config.train == "model"
    check(mine, f"objective.loss {config.objective.loss} weighs the denoiser's likelihood alone: set train to model")
    return objective


def lines_of(batch: Batch, surrogate: Surrogate) -> Batch:
    """Each row as many times as it has lines."""
    rows = torch.arange(len(batch), device=batch.tokens.device)
    return batch.take(rows.repeat_interleave(surrogate.num_lines)) if surrogate.num_lines > 1 else batch
