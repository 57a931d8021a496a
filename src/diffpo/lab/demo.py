"""The demo: pre-train a tiny diffusion LM, train it with DiFFPO, and show how much better and faster it became."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from rich.console import Console

from diffpo.config import DemoConfig, SftConfig, TrainConfig
from diffpo.evaluation.answers import Point
from diffpo.evaluation.display import clues
from diffpo.evaluation.evaluate import Evaluation, evaluate
from diffpo.evaluation.figures import frontier_figure, training_figure
from diffpo.evaluation.tables import comparison_table
from diffpo.files.folder import LOCK, owned
from diffpo.files.recipe import find_recipe, from_dict, load_config
from diffpo.models.policy import Policy
from diffpo.rollout.local import sample
from diffpo.tasks import load_task
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune
from diffpo.view.drawing import save_figure


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Run the two recipes between two evaluations; write and return the summary (summary.json)."""
    output = Path(config.output)
    if output.exists() and not (output / "demo.json").is_file():
        raise ValueError(f"{output} exists and holds no demo: choose another output")
    with owned(output):
        for path in output.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        return _run_demo(config, output)


def _run_demo(config: DemoConfig, output: Path) -> dict[str, Any]:
    torch.set_num_threads(config.num_threads)
    console = Console()
    (output / "demo.json").write_text(json.dumps(asdict(config)) + "\n")
    pretraining, training = recipes(config)
    measurement = replace(
        training.eval,
        num_prompts=config.num_prompts,
        samplers=("top_k:1", "top_k:2", "top_k:4", training.rollout.sampler),
    )
    task = load_task(training.task)

    console.print("[bold]1/4[/bold] pre-train a tiny diffusion LM on Sudoku with noisy labels")
    started = time.perf_counter()
    policy = fine_tune(pretraining)
    pretrain_seconds = time.perf_counter() - started

    console.print("[bold]2/4[/bold] measure it on puzzles whose grids it has not seen")
    policy.add_head(training.head, training.seed)
    before = evaluate(policy, task, measurement, training.rollout)
    before.save(output / "before")

    console.print(f"[bold]3/4[/bold] DiFFPO: train {WHAT_LEARNS[config.train]}")
    started = time.perf_counter()
    policy = train(training)
    rl_seconds = time.perf_counter() - started

    console.print("[bold]4/4[/bold] measure it again")
    after = evaluate(policy, task, measurement, training.rollout)
    after.save(output / "after")

    summary = {
        "seed": config.seed,
        "train": config.train,
        "num_prompts": config.num_prompts,
        "pretrain_seconds": round(pretrain_seconds, 1),
        "rl_seconds": round(rl_seconds, 1),
        "before": summarize(before, training.rollout.sampler),
        "after": summarize(after, training.rollout.sampler),
        "gain_at_equal_nfe": gain_at_equal_nfe(before, after, training.rollout.sampler),
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    draw(policy, training, before, after, output)
    console.print(comparison_table(before, after))
    console.print(
        f"pre-training {pretrain_seconds:.0f} s, reinforcement learning {rl_seconds:.0f} s; in {output}: summary.json, "
        f"frontier.png, training.png, unmasking.png\nnext: diffpo sample {quote(f'{output}/train')}"
    )
    return summary


WHAT_LEARNS = {
    "joint": "the denoiser and its sampler together",
    "model": "the denoiser alone, under a fixed threshold",
    "sampler": "the sampler alone, the denoiser frozen",
}


def recipes(config: DemoConfig) -> tuple[SftConfig, TrainConfig]:
    """The demo's two recipes with its folders and seed. Without a head to learn, rollouts take its first threshold."""
    both: dict[str, Any] = {"seed": config.seed, "load": {"device": config.device}}
    start = both | {"output": f"{config.output}/pretrain"}
    pretraining = from_dict(SftConfig, start, base=load_config(SftConfig, find_recipe("sudoku_tiny_pretrain")))
    training = load_config(TrainConfig, find_recipe("sudoku_tiny"))
    chosen = both | {"model": pretraining.output, "output": f"{config.output}/train", "train": config.train}
    if config.train == "model":
        chosen["rollout"] = {"sampler": f"entropy_bound:{training.threshold.gamma_init:g}"}
    return pretraining, from_dict(TrainConfig, chosen, base=training)  # settings of what does not learn give way


def summarize(evaluation: Evaluation, sampler: str) -> dict[str, Any]:
    """What summary.json says of one evaluation; `learned` is the run's own sampler, split by level."""

    def figures(point: Point) -> dict[str, float | None]:
        return {name: getattr(point, name) for name in ("accuracy", "low", "high", "nfe", "gamma")}

    by_level = {point.level: figures(point) for point in evaluation.points if point.sampler == sampler and point.level}
    return {
        "top_k": {k: figures(evaluation.point(f"top_k:{k}")) for k in ("1", "2", "4")},
        "frontier": [figures(point) for point in evaluation.frontier if not point.level],
        "learned": figures(evaluation.point(sampler)) | by_level,
        "num_prompts": evaluation.point(sampler).num_prompts,
    }


def gain_at_equal_nfe(before: Evaluation, after: Evaluation, sampler: str) -> float:
    """Accuracy of the trained sampler over the base model's fixed thresholds at the same number of calls."""
    point = after.point(sampler)
    return point.accuracy - before.frontier_accuracy(point.nfe)


def draw(policy: Policy, training: TrainConfig, before: Evaluation, after: Evaluation, output: Path) -> None:
    """The three pictures: training curves, frontiers before and after, and one hard puzzle being solved."""
    save_figure(training_figure(read_metrics(Path(training.output) / "metrics.jsonl")), output / "training.png")
    save_figure(frontier_figure({"before": before, "after": after}), output / "frontier.png")
    task = load_task(training.task)
    prompt = next(prompt for prompt in task.prompts("test", 64) if prompt.level == "hard")
    (completion,) = sample(policy, [prompt], replace(training.rollout, temperature=0.0), task.gen_length)
    given = clues(prompt, len(completion.pieces))
    save_figure(completion.plot(columns=4, given=given), output / "unmasking.png")
