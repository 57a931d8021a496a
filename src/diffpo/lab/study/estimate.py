"""The grid of a study and about how long it takes, before any of it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from diffpo.config import canvas_size
from diffpo.lab.study.origin import num_cores
from diffpo.lab.study.plan import BASE, Cell, Study
from diffpo.models.attention import pack
from diffpo.models.policy import create_policy
from diffpo.objective import Objective
from diffpo.planning.steps import expected_nfe
from diffpo.tasks import load_task, load_tiny_task
from diffpo.view.notebook import numeric
from diffpo.view.progress import counted

LIVE = 0.8
"""Share of the rollouts assumed to have an advantage: those that are learned from, where not all are."""
BACKWARD = 3
"""A forward and a backward pass, in forward passes."""
OVERHEAD = 1.3
"""Of all else in a cell, over its denoiser passes."""
START_SECONDS = 5.0
"""Of a process that imports torch."""


def rows_of(cell: Cell, gen_length: int) -> float:
    """Denoiser rows of a cell, a backward pass as BACKWARD - 1 of them. What a threshold commits is a guess.

    `gen_length` is the task's canvas, where a cell has none of its own.
    """

    def calls(sampler: str, rollout: Mapping[str, Any] = cell.rollout) -> float:
        length = rollout.get("gen_length") or gen_length
        return expected_nfe(sampler, length, min(rollout.get("block_length") or length, length))[0]

    rows = 0.0
    if cell.sft:
        rows += cell.sft.steps * cell.sft.batch_size * BACKWARD
    if cell.train:
        config = cell.train
        group = config.prompts_per_step * config.num_generations
        nfe = calls(config.rollout.sampler, vars(config.rollout))
        objective = Objective.of(config.objective)
        passes = (objective.scores_ahead + (config.objective.beta > 0) + BACKWARD) * config.objective.num_iterations
        latents = objective.surrogate.cost(nfe).latents(group, config.prompts_per_step)
        live = 1.0 if objective.learns_from_all else LIVE
        updates = 0.0 if config.train == "sampler" else live * passes * latents
        rows += config.steps * (group * nfe + updates)
    ends = sum(calls(sampler) for sampler in (*cell.samplers, *("learned" for _ in cell.gammas)))
    points = (cell.num_points - 1) * sum(map(calls, cell.track))
    return rows + cell.num_prompts * (ends + points)


def seconds_per_row(study: Study, prompt_length: int, gen_length: int) -> float | None:
    """One thread's time of a row, measured now; None where the study trains no model of its own."""
    if not study.sft:
        return None
    policy = create_policy(load_tiny_task(study.sft.task).alphabet, study.sft.shape, seed=0)
    threads, rows = torch.get_num_threads(), 256
    torch.set_num_threads(1)
    length = prompt_length + gen_length
    ids, packing = pack(torch.zeros(rows, length, dtype=torch.long), torch.full((rows,), length))
    times = []
    with torch.no_grad():
        for _ in range(4):
            started = time.perf_counter()
            policy.denoiser(ids, packing)
            times.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return min(times) / rows


def grid_table(study: Study, folder: Path, jobs: int) -> Table:
    """A row an arm: what it changes, its runs, how many are done, about how many minutes of one thread in all."""
    jobs, task = jobs or num_cores(), load_task(study.train.task)
    rollout = study.train.rollout
    gen_length = canvas_size(rollout.canvas) or rollout.gen_length or task.gen_length
    prompt_length = len(task.prompts("test", 1)[0].text)
    cost = seconds_per_row(study, prompt_length, gen_length)
    heads = ("arm", "settings", *numeric("tuning", "runs", "done", "minutes"))
    table = Table(*heads, title=escape(study.config.title or study.name), title_justify="left", box=box.SIMPLE_HEAD)
    groups = {BASE: ("", [], study.base_cells())}
    for arm in study.arms:
        trials = [cell for _, cells in study.tune_cells(arm) for cell in cells]
        settings = "\n".join(f"{key} = {value}" for key, value in arm.changes.items())
        tuned = "\n".join(f"{key} in {list(values)}" for key, values in arm.tune.items())
        first = {key: values[0] for key, values in arm.tune.items()}
        groups[arm.name] = ("\n".join(filter(None, (settings, tuned))), trials, study.cells(arm, first))
    total, left, count = 0.0, 0.0, 0
    for name, (settings, trials, cells) in groups.items():
        done, seconds, missing = _seconds([*trials, *cells], folder, cost, gen_length)
        total, left, count = total + seconds, left + missing, count + len(trials) + len(cells)
        minutes = f"{seconds / 60:.0f}" if cost else "?"
        table.add_row(Text(name), Text(settings), str(len(trials) or ""), str(len(cells)), str(done), minutes)
    table.caption_justify = "left"
    table.caption = f"{counted(count, 'run')}; {jobs} at a time"
    if cost:
        whole, to_go = total / 60 / jobs, left / 60 / jobs
        table.caption += f"\nabout {whole:.0f} minutes in all, {to_go:.0f} to go, on an idle machine"
    return table


def _seconds(cells: Sequence[Cell], folder: Path, cost: float | None, gen_length: int) -> tuple[int, float, float]:
    """How many cells are done, seconds of all (measured where done, else estimated), seconds of those to come."""
    done, total, left = 0, 0.0, 0.0
    for cell in cells:
        result = folder / cell.name / "result.json"
        if result.is_file():
            done += 1
            total += sum(json.loads(result.read_text())["seconds"].values()) + START_SECONDS
        elif cost:
            seconds = START_SECONDS + OVERHEAD * cost * rows_of(cell, gen_length)
            total, left = total + seconds, left + seconds
    return done, total, left
