"""Losses: what is made of log-probabilities and advantages; a file each."""

from __future__ import annotations

from diffpo.config.objective import LOSSES
from diffpo.config.own import build
from diffpo.config.specs import parse_spec
from diffpo.losses.base import Lines, Loss

__all__ = ["Lines", "Loss", "load_loss"]


def load_loss(spec: str) -> Loss:
    """The loss that `objective.loss` names; ValueError names what it lacks or what its file does."""
    return build(parse_spec(spec, LOSSES, "objective.loss"), LOSSES, __name__, Loss)
