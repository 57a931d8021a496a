"""Sampler heads by their settings: the two that ship, and the user's own of either kind."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from diffpo.config import HeadConfig, ThresholdConfig
from diffpo.config.checks import check
from diffpo.config.own import find_class
from diffpo.files.record import anchored_code
from diffpo.functional.random import make_key
from diffpo.models.bernoulli import BernoulliHead
from diffpo.models.threshold import ThresholdHead


def open_network(config: HeadConfig) -> type[ThresholdHead] | type[BernoulliHead]:
    """The class of the head: what `network` names, PATH.py:CLASS, or the one that ships. ValueError as `find_class`."""
    kind = ThresholdHead if isinstance(config, ThresholdConfig) else BernoulliHead
    return find_class(config.network, kind, f"{kind.kind}.network") if config.network else kind


def make_head(config: HeadConfig, hidden_size: int, seed: int = 0) -> ThresholdHead | BernoulliHead:
    """A fresh head, which remembers where its class is. What layers of one's own draw follows from `seed` alone.

    Nothing in it is random afterwards: a decision is made again, and must be the same one.
    """
    kind: Any = open_network(config)
    config = dataclasses.replace(config, network=anchored_code(config.network))
    with torch.random.fork_rng(devices=[]):  # layers begin with numbers of torch's own generator, which stays as it was
        torch.set_rng_state(torch.Generator().manual_seed(make_key(seed, "head") % 2**63).get_state())
        try:
            made = kind(hidden_size, config) if isinstance(config, ThresholdConfig) else kind(config, seed)
        except TypeError as error:
            raise ValueError(f"{kind.kind}.network {config.network!r}: {error}") from None
    return made.eval()


def check_head(head: ThresholdHead | BernoulliHead) -> None:
    """ValueError if a fresh head of the user's own answers with another shape, or not yet the same for every prompt."""
    where = f"{head.kind}.network {head.config.network!r}"
    if isinstance(head, BernoulliHead):
        seen = torch.full((2, 5), 0.5, dtype=torch.float64, device=next(head.parameters()).device)
        made = tuple(head(seen).shape)
        return check(made == (2, 5), f"{where}: forward maps features of shape (2, 5) to (2, 5), got {made}")
    made, wanted = tuple(head.score(head.probe).shape), tuple(head.probe.shape[:-1])
    check(made == wanted, f"{where}: score maps {tuple(head.probe.shape)} to {wanted}, got {made}")
    check(
        head.untrained,
        f"{where}: score is not 0 at first, so that features would not be standardised: begin its last weights at zero",
    )
