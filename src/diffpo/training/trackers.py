"""Trackers of one run: accelerate's, under its project and name, one run however often it is resumed; or your own."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffpo.config import SftConfig, TrackerConfig, TrainConfig, suggest
from diffpo.config.own import find_class
from diffpo.files.recipe import flatten

TRACKERS = ("tensorboard", "wandb", "trackio")


class Tracker:
    """Where metrics of a run go beside metrics.jsonl; opened on rank 0 alone, anew whenever the run is resumed."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        """`folder` and `config` are the run's; what was logged from `step` on, before a resume, is logged again."""

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        """Take a step's metrics, or what is shown of it, such as a completion's text."""
        raise NotImplementedError

    def close(self) -> None:
        """The run is over, or stopped."""


def check_trackers(names: Sequence[str]) -> None:
    """ValueError for a tracker that is unknown or not installed."""
    for name in names:
        if ".py:" in name:
            find_class(name, Tracker, "log_with")
        elif name not in TRACKERS:
            own = "; your own: PATH.py:CLASS"
            raise ValueError(f"log_with: unknown tracker {name!r}{suggest(name, TRACKERS)}{own}")
        elif importlib.util.find_spec(name) is None:
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


def open_trackers(config: TrainConfig | SftConfig, folder: Path, run_id: str, step: int) -> dict[str, Tracker]:
    """Those of config.log_with, by name. Without names nothing is imported."""
    values = flatten(dataclasses.asdict(config))
    plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in values.items()}
    trackers: dict[str, Tracker] = {}
    for name in config.log_with:
        with named(name):
            if ".py:" in name:
                trackers[name] = find_class(name, Tracker, "log_with")(folder, plain, step)
            else:
                title, more = settings(name, folder, config.tracker, run_id, step)
                trackers[name] = Accelerated(name, folder, plain, title, more)
    return trackers


@contextmanager
def named(name: str) -> Iterator[None]:
    """What a tracker raises is a ValueError that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"log_with {name}: {error!r}; the run goes on without it when it is resumed with another log_with"
        ) from error


class Accelerated(Tracker):
    """One of accelerate's."""

    def __init__(self, name: str, folder: Path, config: Mapping[str, Any], title: str, more: dict[str, Any]) -> None:
        from accelerate import PartialState  # slow to import: only who asks for a tracker pays
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState(cpu=True)  # which it asks for its rank; one that is there already stays as it is
        kind = LOGGER_TYPE_TO_CLASS[name]
        self.tracker = kind(title, *((str(folder),) if kind.requires_logging_directory else ()), **more)
        self.tracker.start()
        self.tracker.store_init_configuration(dict(config))

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        self.tracker.log(dict(values), step=step)

    def close(self) -> None:
        self.tracker.finish()
