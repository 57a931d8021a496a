"""Sampler heads by their settings: the two that ship, and the user's own of either kind."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffpo.config import HeadConfig, ThresholdConfig
from diffpo.config.own import find_class
from diffpo.files.record import anchored_code
from diffpo.models.bernoulli import BernoulliHead
from diffpo.models.threshold import ThresholdHead


def open_network(config: HeadConfig) -> type[ThresholdHead] | type[BernoulliHead]:
    """The class of the head: what `network` names, PATH.py:CLASS, or the one that ships. ValueError as `find_class`."""
    kind = ThresholdHead if isinstance(config, ThresholdConfig) else BernoulliHead
    return find_class(config.network, kind, f"{kind.kind}.network") if config.network else kind


def make_head(config: HeadConfig, hidden_size: int, seed: int = 0) -> ThresholdHead | BernoulliHead:
    """A fresh head, which remembers where its class is."""
    kind: Any = open_network(config)
    config = dataclasses.replace(config, network=anchored_code(config.network))
    return kind(hidden_size, config) if isinstance(config, ThresholdConfig) else kind(config, seed)
