"""Tasks: prompts, verifiers, data. `load_task` makes one from its config; a task's own imports wait until then."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from diffpo.config import TaskConfig, suggest
from diffpo.config.checks import expect
from diffpo.config.own import find_class

if TYPE_CHECKING:
    from diffpo.tasks.base import PretrainingTask, SolvedTask, Task

TINY = {
    "tiny_arithmetic": ("diffpo.tasks.tiny_arithmetic", "TinyArithmetic"),
    "tiny_countdown": ("diffpo.tasks.tiny_countdown", "TinyCountdown"),
    "tiny_steps": ("diffpo.tasks.tiny_steps", "TinySteps"),
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
SOLVED = ("gsm8k", "countdown_cd3", "sudoku_4x4", "reasoning_gym:gsm_symbolic")
"""Those of them that know solutions, written out, to fine-tune on."""
TASKS = TINY | CHAT


def load_task(config: TaskConfig | str) -> Task:
    """The task that `config` describes; a bare name stands for that task with its own defaults."""
    config = TaskConfig(name=config) if isinstance(config, str) else config
    expect(TaskConfig, config, "config", "TaskConfig('tiny_sudoku'), say, or a task's name")
    return _load(config, "Task")


def load_solved_task(config: TaskConfig, where: str = "", otherwise: str = "name rows by data") -> SolvedTask:
    """The task that `config` describes, if it knows solutions; else ValueError, about the setting that wants them."""
    names = f"{', '.join(SOLVED)}; for tiny models {', '.join(TINY)}"
    if not config.name:
        raise ValueError(
            f"nothing to learn from: name rows by data, or a task that knows solutions by task.name ({names})"
        )
    if ".py:" not in config.name and _kind(config.name) not in TINY and config.name not in SOLVED:
        raise ValueError(f"{where}{config.name} knows no solutions: choose one of {names}; or {otherwise}")
    return _load(config, "SolvedTask")


def load_tiny_task(config: TaskConfig) -> PretrainingTask:
    """The task that `config` describes, if a tiny model can be pre-trained on it; else ValueError."""
    if not config.name:
        load_solved_task(config)  # which says that none is named
    if ".py:" not in config.name and _kind(config.name) not in TINY:
        raise ValueError(
            f"{config.name} is no task for fresh weights: choose one of {', '.join(TINY)}, or name a model"
        )
    return _load(config, "PretrainingTask")


def _load(config: TaskConfig, kind: str) -> Any:
    """The task of a config; one of the user's own, PATH.py:CLASS, must be of a kind of `diffpo.tasks.base`."""
    if ".py:" not in config.name:
        module, name = TASKS[_kind(config.name)]
        return getattr(importlib.import_module(module), name)(config)
    kinds = importlib.import_module("diffpo.tasks.base")
    made: Any = find_class(config.name, getattr(kinds, kind), "task.name")
    try:
        return made(config)
    except TypeError as error:
        raise ValueError(f"task.name {config.name!r}: {error}") from None


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
        raise ValueError(f"unknown task {name!r}{_kin(name) or f'{suggest(name, TASKS)}; your own: PATH.py:CLASS'}")
    return kind


def _kin(word: str) -> str:
    """Names that a bare subject, such as "sudoku", leaves open."""
    found = [f"{name} ({'tiny' if name in TINY else 'chat'} models)" for name in TASKS if word in name.split("_")]
    return f"; did you mean {' or '.join(found)}?" if found else ""
