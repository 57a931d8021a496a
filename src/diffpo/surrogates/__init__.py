"""Surrogates: which states of the canvas, which tokens are scored given each, with which weight; a file each."""

from __future__ import annotations

from diffpo.config.objective import SURROGATES
from diffpo.config.own import build
from diffpo.config.specs import parse_spec
from diffpo.surrogates.base import Cost, Surrogate

__all__ = ["Cost", "Surrogate", "load_surrogate"]


def load_surrogate(spec: str) -> Surrogate:
    """The surrogate that `objective.surrogate` names; ValueError names what it lacks or what its file does."""
    return build(parse_spec(spec, SURROGATES, "objective.surrogate"), SURROGATES, __name__, Surrogate)
