"""The command that explains: analyze."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from diffpo.analysis.settings import AnalysisConfig
from diffpo.config import LoadConfig, ObjectiveConfig, RolloutConfig, TaskConfig, TrainConfig


@dataclass(frozen=True)
class Analyze:
    """Ask a model why it learns as it does: surrogates, weights, gradients, entropies, thresholds, order."""

    model: Positional[str]
    """A run, checkpoint or adapter folder, or a model on the Hugging Face hub."""
    task: TaskConfig = field(default_factory=TaskConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    against: str = ""
    """A model to compare entropies and order with, such as the one before training."""
    json: str = ""
    """File of what was found. Empty: analysis.json in the model's folder, which `diffpo report` shows."""
    figures: str = ""
    """Folder of a picture of each section, PNG and SVG; none if empty."""
    seed: int = 0
    """Seed of rollouts, cuts and masks."""
    load: LoadConfig = field(default_factory=LoadConfig)

    def run(self) -> None:
        import json

        from rich.console import Console

        from diffpo.analysis.analyze import analyze, report
        from diffpo.analysis.show import draw_section, section_table
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task

        path = self._path()
        config = TrainConfig(
            train="model", seed=self.seed, task=self.task, rollout=self.rollout, objective=self.objective
        )
        policy = load_policy(self.model, **vars(self.load))
        against = load_policy(self.against, **vars(self.load)) if self.against else None
        names = self.model, self.against
        sections = analyze(policy, load_task(self.task), config, self.analysis, against, names)
        found = report(f"{self.model} on {self.task.name}", " ".join(["diffpo", *sys.argv[1:]]), sections)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        for section in sections:
            Console().print(section_table(section))
            for kind in ("png", "svg") if self.figures else ():
                draw_section(section, Path(self.figures, f"{section.name}.{kind}"))
        print(f"saved {path}" + (f" and pictures in {self.figures}" if self.figures else ""))

    def _path(self) -> Path:
        if self.json:
            return Path(self.json)
        if not Path(self.model).is_dir():
            raise ValueError(f"{self.model} is no folder that analysis.json could go to: name a file with --json")
        return Path(self.model, "analysis.json")
