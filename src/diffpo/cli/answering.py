"""Commands that let a model answer: eval, sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from diffpo.config import EvalConfig, RolloutConfig, TaskConfig


@dataclass(frozen=True)
class Eval:
    """Measure accuracy against denoiser calls, for samplers and the frontier of fixed thresholds."""

    model: Positional[str]
    """A policy folder or a run folder."""
    task: TaskConfig = field(default_factory=TaskConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    output: str = "runs/eval"
    """Folder for evaluation.json, evaluation.csv and frontier.png."""
    seed: int = 0

    def run(self) -> None:
        from rich.console import Console

        from diffpo.evaluation.evaluate import evaluate
        from diffpo.evaluation.report import evaluation_table, frontier_figure
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task

        evaluation = evaluate(load_policy(self.model), load_task(self.task), self.eval, self.rollout, self.seed)
        evaluation.save(self.output)
        frontier_figure({self.model: evaluation}, Path(self.output) / "frontier.png")
        Console().print(evaluation_table(evaluation))
        print(f"saved {self.output}/evaluation.json, evaluation.csv, frontier.png")


@dataclass(frozen=True)
class Sample:
    """Answer a prompt and show the unmasking in colour, call by call."""

    model: Positional[str]
    """A policy folder or a run folder."""
    prompt: Annotated[Positional[str], tyro.conf.arg(metavar="[PROMPT]")] = ""
    """What to answer; left out: test prompts of the task."""
    num: int = 1
    """Test prompts to answer when none is given."""
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0))
    task: TaskConfig = field(default_factory=TaskConfig)
    seed: int = 0
    delay: float = 0.3
    """Seconds each call stays on screen."""

    def run(self) -> None:
        from diffpo.evaluation.display import show_unmasking
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task
        from diffpo.types import Prompt

        policy, task = load_policy(self.model), load_task(self.task)
        prompts = [Prompt("prompt", self.prompt)] if self.prompt else task.prompts("test", self.num)
        for prompt in prompts:
            show_unmasking(policy, task, prompt, self.rollout, self.seed, self.delay)
