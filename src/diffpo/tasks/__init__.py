"""Tasks: prompts, verifiers, data. `load_task` makes one from its config; a task's own imports wait until then."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from diffpo.config import TaskConfig, suggest

if TYPE_CHECKING:
    from diffpo.tasks.base import Task

TASKS = {
    "arithmetic": ("diffpo.tasks.arithmetic", "Arithmetic"),
    "countdown": ("diffpo.tasks.countdown", "Countdown"),
    "sudoku": ("diffpo.tasks.sudoku", "Sudoku"),
}


def load_task(config: TaskConfig | str) -> Task:
    """The task that `config` describes; a bare name stands for that task with its own defaults."""
    if isinstance(config, str):
        config = TaskConfig(name=config)
    if config.name not in TASKS:
        raise ValueError(f"unknown task {config.name!r}{suggest(config.name, TASKS)}")
    module, name = TASKS[config.name]
    return getattr(importlib.import_module(module), name)(config)
