"""accelerate's trackers of one run: in a project, under its name, one run however often it is resumed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffpo.config import TrackerConfig, suggest
from diffpo.recipe import flatten

TRACKERS = ("tensorboard", "wandb", "trackio")


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for a tracker that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise ValueError(f"log_with: unknown tracker {name!r}{suggest(name, TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"log_with: {name} is not installed: pip install 'diffpo[{name}]'")


def settings(name: str, folder: Path, config: TrackerConfig, run_id: str, step: int) -> tuple[str, dict[str, Any]]:
    """What accelerate calls the run's name, and what the tracker is started with.

    W&B and trackio take a project there, tensorboard a folder below the run's. A resumed run is found again by its id
    (W&B) or its name (trackio); tensorboard drops what it has from `step` on.
    """
    project = config.project or os.environ.get("WANDB_PROJECT", "") or "diffpo"
    run = config.name or folder.absolute().name
    return {
        "tensorboard": ("trackers", {"purge_step": step}),
        "wandb": (
            project,
            {"name": run, "id": run_id, "resume": "allow", "tags": list(config.tags), "dir": str(folder)},
        ),
        "trackio": (project, {"name": f"{run}-{run_id}", "resume": "allow"}),
    }[name]


class Trackers:
    """Trackers beside metrics.jsonl. Without names nothing is imported."""

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: TrackerConfig,
        values: Mapping[str, Any],
        run_id: str,
        step: int,
    ) -> None:
        self.trackers = []
        if names:
            from accelerate import PartialState  # slow to import: only who asks for a tracker pays
            from accelerate.tracking import LOGGER_TYPE_TO_CLASS

            PartialState(cpu=True)  # which they ask for their rank; one that is there already stays as it is
            for name in names:
                kind = LOGGER_TYPE_TO_CLASS[name]
                where = (str(folder),) if kind.requires_logging_directory else ()
                title, more = settings(name, folder, config, run_id, step)
                self.trackers.append(kind(title, *where, **more))
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in flatten(values).items()}
        for tracker in self.trackers:
            tracker.start()
            tracker.store_init_configuration(plain)

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        for tracker in self.trackers:
            tracker.log(dict(values), step=step)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.finish()
