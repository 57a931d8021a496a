"""Unmasking rules by name: those of `diffpo.functional.unmasking`, and a user's own, found in their file.

Of what an own rule returns, what is not masked any more is left out, and where nothing is left the surest position is
committed, so that every call commits something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffpo.config.own import find_class
from diffpo.functional.unmasking import RULES, Look, Rule, Seen, top_k
from diffpo.types import Sampler


@dataclass(frozen=True)
class OwnRule(Rule):
    """A user's rule, held to what rules promise."""

    rule: Rule
    name: str

    @property
    def looks_at(self) -> frozenset[Look]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.rule.looks_at

    def __call__(self, seen: Seen) -> Tensor:
        chosen: Any = self.rule(seen)
        shape = tuple(seen.candidates.shape)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or tuple(chosen.shape) != shape:
            made = f"{chosen.dtype} {tuple(chosen.shape)}" if isinstance(chosen, Tensor) else repr(chosen)[:60]
            raise ValueError(f"rollout.sampler {self.name}: a rule returns a bool tensor of shape {shape}, got {made}")
        chosen = chosen & seen.candidates
        surest = top_k(seen.max_prob, seen.candidates, seen.rows(1.0, torch.int64))
        return chosen | (surest & ~chosen.any(-1, keepdim=True))


def load_rule(sampler: Sampler) -> Rule:
    """The rule that a sampler names. ValueError says what its file lacks."""
    if sampler.rule in RULES:
        return RULES[sampler.rule](float(sampler.value))
    made = find_class(sampler.rule, Rule, "rollout.sampler", "PATH.py:CLASS:NUMBER")
    try:
        return OwnRule(made(sampler.value), str(sampler))  # pyright: ignore[reportCallIssue]
    except TypeError as error:
        raise ValueError(f"rollout.sampler {sampler}: {made.__name__} takes one number: {error}") from None
