"""Commands that train: demo, sft, train."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from shlex import quote
from typing import Annotated

from diffpo.cli.flags import FLAT, Recipe
from diffpo.config import DemoConfig, ObjectiveConfig, SftConfig, TrainConfig
from diffpo.files.recipe import to_json


def is_main() -> bool:
    """Whether this process speaks: the first of those that `accelerate launch` started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def show_inputs(config: TrainConfig | SftConfig) -> None:
    """Say on stderr what is in the data, rewards, rules and adapter that a config names, if it names any."""
    names = [config.task.data, config.task.test_data, *config.task.reward, config.load.adapter]
    if isinstance(config, TrainConfig):
        names += [spec for spec in (config.rollout.sampler, *config.eval.samplers) if ".py:" in spec]
        # the knobs of others are known where they are opened, which takes torch
        known = ("mean_field:2", ObjectiveConfig.surrogate, ObjectiveConfig.loss)
        names += [spec for spec in (config.objective.surrogate, config.objective.loss) if spec not in known]
    if any(names) or config.task.name == "own" or (isinstance(config, SftConfig) and config.data):
        from diffpo.training.banner import open_inputs

        for line in open_inputs(config):
            print(line, file=sys.stderr)


@dataclass(frozen=True)
class Demo:
    """Pre-train a tiny diffusion LM, train it and its sampler with DiFFPO, and show what changed. A few minutes."""

    config: Annotated[DemoConfig, FLAT] = field(default_factory=DemoConfig)

    def run(self) -> None:
        from diffpo.lab.demo import run_demo

        run_demo(self.config)


@dataclass(frozen=True)
class Train:
    """Train a policy and its adaptive sampler with DiFFPO."""

    recipe: Recipe = ""
    config: Annotated[TrainConfig, FLAT] = field(default_factory=TrainConfig)
    dry_run: bool = False
    """Open what the config names, data, rewards and adapter, print the resolved config, and stop."""
    resume: bool = False
    """Go on from the last good checkpoint of a run: diffpo COMMAND FOLDER --resume takes its settings from there."""

    def run(self) -> None:
        if self.dry_run:
            show_inputs(self.config)
            print(to_json(self.config))
        elif (saved := self._train()) and is_main():
            print(saved)

    def _train(self) -> str:
        """Train, and say what to do next."""
        from diffpo.training.loop import train

        train(self.config, resume=self.resume)
        return f"saved {self.config.output}/policy; next: diffpo eval {quote(self.config.output)}"


@dataclass(frozen=True)
class Sft(Train):
    """Fine-tune a masked diffusion LM on prompts and completions, or pre-train a tiny one on a task's examples."""

    config: Annotated[SftConfig, FLAT] = field(default_factory=SftConfig)  # type: ignore[assignment]

    def _train(self) -> str:
        from diffpo.training.sft import fine_tune

        fine_tune(self.config, resume=self.resume)
        return f"saved {self.config.output}; next: diffpo train --model {quote(self.config.output)}"
