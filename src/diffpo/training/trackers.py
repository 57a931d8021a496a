"""accelerate's trackers of one run, by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffpo.config import suggest
from diffpo.recipe import flatten

TRACKERS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"log_with: unknown tracker {name!r}{suggest(name, TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"log_with: {name} is not installed: pip install 'diffpo[{name}]'")


class Trackers:
    """Trackers beside metrics.jsonl. Without names nothing is imported."""

    def __init__(self, names: Sequence[str], folder: Path, config: dict[str, Any]) -> None:
        self.trackers = []
        if names:
            from accelerate import PartialState  # slow to import: only who asks for a tracker pays
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            PartialState(cpu=True)  # which they ask for their rank; one that is there already stays as it is
            for name in names:
                kind = LOGGER_TYPE_TO_CLASS[name]
                where = (str(folder),) if kind.requires_logging_directory else ()
                self.trackers.append(kind("trackers", *where))
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in flatten(config).items()}
        for tracker in self.trackers:
            tracker.start()
            tracker.store_init_configuration(plain)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(metrics, step=step)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()
