"""What accelerate does for a run: trackers by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffpo.config import suggest

TRACKERS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"log_with: unknown tracker {name!r}{suggest(name, TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"log_with: {name} is not installed: pip install 'diffpo[{name}]'")


class Trackers:
    """accelerate's trackers of one run. Without names nothing is imported."""

    def __init__(self, names: Sequence[str], folder: Path, config: dict[str, Any]) -> None:
        self.accelerator = None
        if names:
            from accelerate import Accelerator  # slow to import: only who asks for a tracker pays

            self.accelerator = Accelerator(cpu=True, log_with=list(names), project_dir=str(folder))
            self.accelerator.init_trackers("trackers", config=_flat(config))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        if self.accelerator:
            self.accelerator.log(metrics, step=step)

    def close(self) -> None:
        if self.accelerator:
            self.accelerator.end_training()


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; what is neither number nor text becomes text, as trackers want it."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, int | float | str) else str(value)
    return flat
