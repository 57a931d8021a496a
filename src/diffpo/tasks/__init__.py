"""Tasks: prompts, verifiers, data. `load_task` makes one from its config; a task's own imports wait until then."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffpo.config import TaskConfig, suggest

if TYPE_CHECKING:
    from diffpo.tasks.base import SolvedTask, Task

TINY = {
    "tiny_arithmetic": ("diffpo.tasks.tiny_arithmetic", "TinyArithmetic"),
    "tiny_countdown": ("diffpo.tasks.tiny_countdown", "TinyCountdown"),
    "tiny_sudoku": ("diffpo.tasks.tiny_sudoku", "TinySudoku"),
}
"""For character-level models: raw prompts, endless splits, solved examples."""
CHAT = {
    "gsm8k": ("diffpo.tasks.published", "Gsm8k"),
    "math500": ("diffpo.tasks.published", "Math500"),
    "countdown_cd3": ("diffpo.tasks.countdown_cd3", "CountdownCd3"),
    "sudoku_4x4": ("diffpo.tasks.sudoku_4x4", "Sudoku4x4"),
    "own": ("diffpo.tasks.own", "Own"),
    "reasoning_gym": ("diffpo.tasks.gym", "Gym"),
}
"""For chat models: one user message a prompt."""
TASKS = TINY | CHAT


def load_task(config: TaskConfig | str) -> Task:
    """The task that `config` describes; a bare name stands for that task with its own defaults."""
    if isinstance(config, str):
        config = TaskConfig(name=config)
    return _load(config, *TASKS[_kind(config.name)])


def load_solved_task(config: TaskConfig) -> SolvedTask:
    """The task that `config` describes, if it is one that a tiny model can be pre-trained on; else ValueError."""
    if not config.name:
        raise ValueError(
            f"nothing to learn from: name rows by data, or a task with solved examples by task.name ({', '.join(TINY)})"
        )
    if _kind(config.name) not in TINY:
        raise ValueError(f"{config.name} has no solved examples for a tiny model: choose one of {', '.join(TINY)}")
    return _load(config, *TINY[config.name])


def _load(config: TaskConfig, module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)(config)


def _kind(name: str) -> str:
    """The entry of TASKS that a task's name stands for; ValueError if there is none."""
    if not name:
        chat = ", ".join(known for known in CHAT if known not in ("own", "reasoning_gym"))
        raise ValueError(
            f"no task: name one by task.name ({chat}, reasoning_gym:NAME; for tiny models {', '.join(TINY)}), or your "
            "own rows and rewards by task.data and task.reward"
        )
    kind = name.partition(":")[0]
    if kind not in TASKS or (":" in name and kind != "reasoning_gym"):
        raise ValueError(f"unknown task {name!r}{_kin(name) or suggest(name, TASKS)}")
    return kind


def _kin(word: str) -> str:
    """Names that a bare subject, such as "sudoku", leaves open."""
    found = [f"{name} ({'tiny' if name in TINY else 'chat'} models)" for name in TASKS if word in name.split("_")]
    return f"; did you mean {' or '.join(found)}?" if found else ""
