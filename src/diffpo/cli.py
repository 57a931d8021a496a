"""The command line: every knob of the configs is a flag; heavy imports wait until a command runs."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from diffpo.config import (
    DemoConfig,
    EvalConfig,
    PretrainConfig,
    RolloutConfig,
    TaskConfig,
    TrainConfig,
    find_recipe,
    find_training,
    load_config,
    suggest,
    to_json,
)

RECIPE = "A TOML recipe, a file or the name of one that ships with diffpo; flags after it override its values."
FLAT = tyro.conf.arg(name="")  # --steps rather than --config.steps
Recipe = Annotated[Positional[str], tyro.conf.arg(help=RECIPE, metavar="[RECIPE]")]


@dataclass(frozen=True)
class Demo:
    """Pre-train a tiny diffusion LM, train it and its sampler with DiFFPO, and show what changed. A few minutes."""

    config: Annotated[DemoConfig, FLAT] = field(default_factory=DemoConfig)

    def run(self) -> None:
        from diffpo.demo import run_demo

        run_demo(self.config)


@dataclass(frozen=True)
class Pretrain:
    """Train a tiny masked diffusion LM from scratch on a task's solved examples."""

    recipe: Recipe = ""
    config: Annotated[PretrainConfig, FLAT] = field(default_factory=PretrainConfig)
    dry_run: bool = False
    """Print the resolved config and stop."""

    def run(self) -> None:
        if self.dry_run:
            print(to_json(self.config))
            return
        from diffpo.training.pretrain import pretrain

        pretrain(self.config)
        print(f"saved {self.config.output}; next: diffpo train --model {self.config.output}")


@dataclass(frozen=True)
class Train:
    """Train a policy and its adaptive sampler with DiFFPO."""

    recipe: Recipe = ""
    config: Annotated[TrainConfig, FLAT] = field(default_factory=TrainConfig)
    dry_run: bool = False
    """Print the resolved config and stop."""
    resume: bool = False
    """Go on from the last good checkpoint in --output."""

    def run(self) -> None:
        if self.dry_run:
            print(to_json(self.config))
            return
        from diffpo.training.loop import train

        train(self.config, resume=self.resume)
        print(f"saved {self.config.output}/policy; next: diffpo eval {self.config.output}")


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


COMMANDS: dict[str, type] = {"demo": Demo, "pretrain": Pretrain, "train": Train, "eval": Eval, "sample": Sample}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what a user can mend ends it with one line and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from diffpo import __version__

        print(f"diffpo {__version__}")
        return
    try:
        if arguments[0] not in COMMANDS:
            raise ValueError(f"no command {arguments[0]!r}{suggest(arguments[0], COMMANDS)}")
        parse(*arguments).run()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt as stop:
        sys.exit(_fail(str(stop) or "interrupted", 130))


def _fail(message: str, status: int) -> int:
    print(f"diffpo: {message}", file=sys.stderr)
    return status


def usage() -> str:
    """What `diffpo --help` prints."""
    lines = ["usage: diffpo COMMAND [--help] [flags]", ""]
    lines += [f"  {name:<10}{command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(lines)


def parse(command: str, *arguments: str) -> Any:
    """The command object that the arguments describe. The values of a recipe, or of a model's run, are defaults."""
    kind = COMMANDS[command]
    first = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    parsed = tyro.cli(kind, prog=f"diffpo {command}", args=list(arguments), default=_defaults(kind, first))
    named = vars(parsed).get("recipe", vars(parsed).get("model", first))
    if named != first:
        raise ValueError(f"{named}: write it first, before the flags: diffpo {command} {named} ...")
    return parsed


def _defaults(kind: type, first: str) -> Any:
    if kind in (Pretrain, Train):
        config = {Pretrain: PretrainConfig, Train: TrainConfig}[kind]
        return kind(config=load_config(config, find_recipe(first)) if first else config())
    if kind in (Eval, Sample):
        return _from_run(kind(model=first), first) if first else tyro.MISSING_NONPROP
    return Demo()


def _from_run(command: Any, folder: str) -> Any:
    """A model is asked what it was trained on, and decoded as it was trained."""
    config, task = find_training(Path(folder))
    rollout = dataclasses.replace(
        config.rollout if config else command.rollout, temperature=command.rollout.temperature
    )
    if rollout.sampler == "learned" and not _has_threshold(Path(folder)):
        rollout = dataclasses.replace(rollout, sampler="top_k:1")
    changes: dict[str, Any] = {"task": task or command.task, "rollout": rollout}
    if config and isinstance(command, Eval):
        changes["eval"] = config.eval
    return dataclasses.replace(command, **changes)


def _has_threshold(folder: Path) -> bool:
    """Whether a policy folder, or a run's last policy, has a threshold head."""
    return any((place / "threshold.safetensors").is_file() for place in (folder, folder / "policy"))
