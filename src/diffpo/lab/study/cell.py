"""One cell of a study, in a process of its own: python -m diffpo.lab.study.cell FOLDER

    FOLDER/cell.json       what to do (study/plan.py: Cell.settings), written by the runner
    FOLDER/run/            the training run: metrics.jsonl, policy
    FOLDER/points/STEP/    evaluation.json and answers.json of each point of training that is measured
    FOLDER/result.json     written last: the cell is done

Killed at any moment it goes on where it stopped: training from its last checkpoint, on a CPU bit for bit.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffpo.config import RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.evaluation.answers import answer, asked, points_of
from diffpo.evaluation.evaluate import Evaluation
from diffpo.files.folder import write_text
from diffpo.files.recipe import from_dict
from diffpo.lab.study.origin import origin
from diffpo.models.policy import load_policy
from diffpo.rollout.local import canvas_length
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune
from diffpo.types import Prompt

KEEP_ALL = 10**6


def run_cell(folder: Path) -> dict[str, Any]:
    """Do what cell.json says; write and return result.json."""
    torch.set_num_threads(1)
    cell = json.loads((folder / "cell.json").read_text())
    started = time.perf_counter()
    points = _train(cell, folder)
    trained = time.perf_counter()
    for step, policy in points.items():
        _measure(cell, folder, step, policy, last=step == max(points))
    file = folder / "run" / "metrics.jsonl"
    metrics = read_metrics(file) if cell["train"] else []
    if len(metrics) < max(points):  # what training took would be less than it was
        raise ValueError(
            f"{file} has {len(metrics)} of {max(points)} steps: remove {folder}, and the study makes it anew"
        )
    result = {
        "points": [_cost(metrics[:step]) | {"step": step} for step in points],
        "seconds": {"train": round(trained - started, 3), "measure": round(time.perf_counter() - trained, 3)},
        "origin": origin(cell["device"]),
    }
    write_text(folder / "result.json", json.dumps(result, indent=2) + "\n")
    shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    return result


def _train(cell: dict[str, Any], folder: Path) -> dict[int, Path]:
    """Train as the cell says, going on from its last checkpoint; the policy of each point that is measured."""
    run = folder / "run"
    if cell["sft"]:
        config = from_dict(SftConfig, cell["sft"])
        config = replace(config, output=str(run), num_threads=1, load=replace(config.load, device=cell["device"]))
        fine_tune(config, resume=True)
    if not cell["train"]:
        return {0: run if cell["sft"] else Path(cell["model"])}
    config = from_dict(TrainConfig, cell["train"])
    every = config.steps // cell["num_points"]
    config = replace(
        config,
        model=cell["model"],
        output=str(run),
        save_every=every,
        keep_checkpoints=KEEP_ALL,
        num_threads=1,
        load=replace(config.load, device=cell["device"], compile=False),  # compiling takes longer than tiny models do
    )
    train(config, resume=True)
    steps = range(every, config.steps + 1, every)
    return {step: run / "checkpoints" / f"step_{step:06d}" / "policy" for step in steps}


def _measure(cell: dict[str, Any], folder: Path, step: int, model: Path, last: bool) -> None:
    """Measure one policy, unless it is done; the end of training with all samplers, other points with the tracked."""
    place = folder / "points" / f"{step:06d}"
    wanted = [*cell["track"], *(cell["samplers"] if last else ())]
    gammas = sorted(cell["gammas"]) if last else []
    if (place / "answers.json").is_file() or not (wanted or gammas):
        return
    policy = load_policy(model, device=cell["device"], compile=False)
    task = load_task(from_dict(TaskConfig, cell["task"]))
    prompts = distinct_prompts(task, cell["num_prompts"], cell["skip_prompts"])
    rollout = from_dict(RolloutConfig, cell["rollout"] | {"temperature": 0.0})
    samplers = [spec for spec in dict.fromkeys(wanted) if spec != "learned" or policy.sampler_head]
    fixed = [f"entropy_bound:{gamma:g}" for gamma in gammas]
    answers = {
        spec: answer(policy, task, asked(prompts), replace(rollout, sampler=spec), seed=0, early_exit=False)
        for spec in dict.fromkeys((*samplers, *fixed))
    }
    points = {spec: points_of(spec, found) for spec, found in answers.items()}
    Evaluation(
        task.name,
        tuple(point for spec in samplers for point in points[spec]),
        tuple(point for spec in fixed for point in points[spec]),
    ).save(place)
    record = {
        "prompts": [prompt.id for prompt in prompts],
        "gen_length": canvas_length(policy, rollout, task.gen_length),
        "correct": {spec: "".join(str(int(a.correct)) for a in found) for spec, found in answers.items()},
        # as many as a rollout would have taken, which ends with its EOS
        "nfe": {spec: [a.nfe_until_eos for a in found] for spec, found in answers.items()},
    }
    write_text(place / "answers.json", json.dumps(record) + "\n")
    figures = ", ".join(f"{s} {100 * p[0].accuracy:.1f} % in {p[0].nfe:.2f}" for s, p in points.items())
    print(f"step {step}: {figures}", flush=True)


def distinct_prompts(task: Task, num: int, skip: int = 0) -> list[Prompt]:
    """The first `num` test prompts of different text, or as many as the task has, after `skip` of them.

    A generated test set never ends: it counts as exhausted when eight times as many prompts bring no more.
    """
    wanted, found = skip + num, dict[str, Prompt]()
    for start in range(0, 8 * wanted, wanted):
        batch = task.prompts("test", wanted, start=start)
        for prompt in batch:
            found.setdefault(prompt.text, prompt)
        if len(found) >= wanted or len(batch) < wanted:
            break
    prompts = list(found.values())[skip:wanted]
    if not prompts:
        raise ValueError(f"{task.name} has {len(found)} distinct test prompts: lower measure.num_prompts")
    return prompts


def _cost(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    """What training took up to here."""
    total = {name: sum(step[name] for step in metrics) for name in ("forwards/rollouts", "forwards/updates")}
    seconds = sum(step["time/step_seconds"] for step in metrics)
    return {"forwards": sum(total.values())} | total | {"seconds": round(seconds, 3)}


def end_with_runner() -> None:
    """Stop, as SIGTERM asks a run to, when the runner at the other end of stdin is no more: killed, it cannot ask."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_runner()
    run_cell(Path(sys.argv[1]))
