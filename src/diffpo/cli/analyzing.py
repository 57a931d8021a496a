"""The command that explains: analyze."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from diffpo.cli.flags import Model
from diffpo.config import CollectConfig, LoadConfig, ObjectiveConfig, RolloutConfig, TaskConfig, TrainConfig
from diffpo.config.idle import Idle, Knobs
from diffpo.files.places import find_policy, is_path
from diffpo.lab.analysis.settings import AnalysisConfig

if TYPE_CHECKING:
    from diffpo.lab.analysis.sections import Section


@dataclass(frozen=True)
class Analyze(Knobs):
    """Ask a model why it learns as it does: surrogates, weights, gradients, entropies, thresholds, order."""

    model: Model
    task: TaskConfig = field(default_factory=TaskConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    also: tuple[str, ...] = ()
    """More runs of the same recipe, under other seeds: all is measured on each, and means over runs are shown."""
    against: tuple[str, ...] = ()
    """A model to compare entropies and order with, such as the one before training; of several runs one for each."""
    json: str = ""
    """File of what was found. Empty: analysis.json in the model's folder, which `diffpo report` shows."""
    figures: str = ""
    """Folder of a picture of each section, PNG and SVG; none if empty."""
    seed: int = 0
    """Seed of rollouts, cuts and masks."""
    load: LoadConfig = field(default_factory=LoadConfig)

    def idle(self) -> Idle:
        own = "in analyze, which looks at the first update of a batch, without a KL term"
        return {"objective.beta objective.num_iterations": own, "rollout.merge_adapters": "outside of training"}

    def run(self) -> None:
        import json

        from diffpo.files.folder import file_to_write, folder_to_fill, write_text
        from diffpo.lab.analysis.analyze import report
        from diffpo.lab.analysis.sections import means_over
        from diffpo.lab.analysis.show import section_figure, section_table
        from diffpo.view.drawing import save_figure

        path, models = file_to_write(self._path()), (self.model, *self.also)
        figures = folder_to_fill(self.figures) if self.figures else None
        if len(self.against) not in (0, len(models)):
            raise ValueError(f"against names {len(self.against)} models for {len(models)} runs: name one for each")
        names = (self.model, "".join(self.against)) if len(models) == 1 else ("model", "before")
        if len({find_policy(Path(model))[0].resolve() for model in models}) < len(models):
            raise ValueError("--also names a run twice: means and intervals are over runs of different seeds")
        pairs = zip(models, self.against or ("",) * len(models), strict=True)
        found = [self._analyze(model, against, names) for model, against in pairs]
        sections = means_over(found) if self.also else found[0]
        runs = f"{self.model} and {len(self.also)} more" if self.also else self.model
        record = report(f"{runs} on {self.task.name}", " ".join(["diffpo", *sys.argv[1:]]), sections)
        write_text(path, json.dumps(record, indent=1) + "\n")
        for section in sections:
            Console().print(section_table(section))
            if figures:
                for kind in ("png", "svg"):
                    save_figure(section_figure(section), figures / f"{section.name}.{kind}")
        print(f"saved {path}" + (f" and pictures in {figures}" if figures else ""))

    def _analyze(self, model: str, against: str, names: tuple[str, str]) -> list[Section]:
        """The sections of one model."""
        from diffpo.lab.analysis.analyze import analyze
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task
        from diffpo.training.banner import check_named

        config = TrainConfig(
            train="model",
            seed=self.seed,
            task=self.task,
            rollout=CollectConfig.of(self.rollout),
            objective=self.objective,
        )
        check_named(self.task, model)
        task = load_task(self.task)
        policy = load_policy(model, **vars(self.load))
        other = load_policy(against, **vars(self.load)) if against else None
        return analyze(policy, task, config, self.analysis, other, names)

    def _path(self) -> Path:
        from diffpo.models.weights import read_config

        if self.json:
            return Path(self.json)
        if self.also:
            raise ValueError("several runs have no folder that analysis.json could go to: name a file with --json")
        if not Path(self.model).is_dir():
            if is_path(self.model):
                read_config(Path(self.model))  # which says what is missing
            raise ValueError(f"{self.model} is no folder that analysis.json could go to: name a file with --json")
        return Path(self.model, "analysis.json")
