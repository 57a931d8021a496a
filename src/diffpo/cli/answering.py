"""Commands that let a model answer: eval, sample, chat."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from diffpo.config import EvalConfig, LoadConfig, RolloutConfig, TaskConfig
from diffpo.recipe import find_training


@dataclass(frozen=True)
class Eval:
    """Measure accuracy against denoiser calls, for samplers and the frontier of fixed thresholds."""

    model: Positional[str]
    """A run, checkpoint or adapter folder, or a model on the Hugging Face hub."""
    task: TaskConfig = field(default_factory=TaskConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    output: str = "runs/eval"
    """Folder for evaluation.json, evaluation.csv and frontier.png."""
    seed: int = 0
    load: LoadConfig = field(default_factory=LoadConfig)

    def run(self) -> None:
        from rich.console import Console

        from diffpo.evaluation.evaluate import evaluate
        from diffpo.evaluation.report import evaluation_table, frontier_figure
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task

        policy = load_policy(self.model, **vars(self.load))
        evaluation = evaluate(policy, load_task(self.task), self.eval, self.rollout, self.seed)
        evaluation.save(self.output)
        frontier_figure({self.model: evaluation}, Path(self.output) / "frontier.png")
        Console().print(evaluation_table(evaluation))
        print(f"saved {self.output}/evaluation.json, evaluation.csv, frontier.png")


@dataclass(frozen=True)
class Sample:
    """Answer a prompt and show the unmasking in colour, call by call."""

    model: Positional[str]
    """A run, checkpoint or adapter folder, or a model on the Hugging Face hub."""
    prompt: Annotated[Positional[str], tyro.conf.arg(metavar="[PROMPT]")] = ""
    """What to answer; left out: test prompts of the task."""
    num: int = 1
    """Test prompts to answer when none is given."""
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0))
    task: TaskConfig = field(default_factory=TaskConfig)
    seed: int = 0
    delay: float = 0.3  # seconds each call stays on screen
    load: LoadConfig = field(default_factory=LoadConfig)

    def run(self) -> None:
        from diffpo.evaluation.display import show_unmasking
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task
        from diffpo.types import Prompt

        policy = load_policy(self.model, **vars(self.load))
        knows_task = find_training(Path(self.model))[1] is not None
        task = load_task(self.task) if knows_task or not self.prompt else None
        prompts = [Prompt("prompt", self.prompt)] if self.prompt or task is None else task.prompts("test", self.num)
        for prompt in prompts:
            show_unmasking(policy, task, prompt, self.rollout, self.seed, self.delay)


@dataclass(frozen=True)
class Chat:
    """Talk with a model and watch it unmask its answers. /reset forgets the conversation, /exit or Ctrl-D leaves."""

    model: Positional[str]
    """A run, checkpoint or adapter folder, or a model on the Hugging Face hub; it needs a chat template."""
    system: str = ""  # system message at the head of the conversation
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0))
    seed: int = 0
    delay: float = 0.0  # seconds each call stays on screen
    load: LoadConfig = field(default_factory=LoadConfig)

    def run(self) -> None:
        from diffpo.evaluation.display import show_turn
        from diffpo.models.policy import load_policy

        policy = load_policy(self.model, **vars(self.load))
        if not policy.tokenizer.chats:
            raise ValueError(f"{self.model} has no chat template: diffpo sample {self.model} PROMPT takes plain text")
        start = [{"role": "system", "content": self.system}] if self.system else []
        messages = list(start)
        while (line := _ask()) != "/exit":
            if line == "/reset":
                messages = list(start)
            elif line:
                messages.append({"role": "user", "content": line})
                answer, _ = show_turn(policy, messages, self.rollout, self.seed, self.delay)
                messages.append({"role": "assistant", "content": answer})


def _ask() -> str:
    """A line from the user; the end of the input is a wish to leave."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return "/exit"
