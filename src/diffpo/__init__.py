"""diffpo: reinforcement learning of masked diffusion language models that answer better in fewer denoiser calls."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform == "win32":
    raise ImportError("diffpo runs on Linux and macOS; on Windows in WSL: https://learn.microsoft.com/windows/wsl")

# Names are imported when they are first used, so that `import diffpo` and `diffpo --help` load no torch.
_HOMES = {
    "diffpo.config": (
        "BernoulliConfig EvalConfig LoadConfig LoraConfig ModelConfig ObjectiveConfig OptimConfig SftConfig "
        "RolloutConfig TaskConfig ThresholdConfig TrainConfig"
    ),
    "diffpo.lab.analysis.analyze": "analyze",
    "diffpo.lab.analysis.settings": "AnalysisConfig",
    "diffpo.functional.latents": "Latents masked_latents",
    "diffpo.functional.unmasking": "Rule Seen",
    "diffpo.evaluation.answers": "Answer Point",
    "diffpo.evaluation.evaluate": "Evaluation evaluate",
    "diffpo.evaluation.figures": "frontier_figure",
    "diffpo.evaluation.tables": "comparison_table",
    "diffpo.losses": "Lines Loss",
    "diffpo.models.bernoulli": "BernoulliHead",
    "diffpo.models.export": "export",
    "diffpo.models.inspection": "inspect",
    "diffpo.models.policy": "Policy create_policy load_policy",
    "diffpo.models.threshold": "ThresholdHead",
    "diffpo.files.recipe": "load_config",
    "diffpo.lab.report.sources": "read_run read_study",
    "diffpo.rollout.engine": "Committed Engine Finished generate",
    "diffpo.rollout.likelihood": "log_likelihoods",
    "diffpo.rollout.local": "collect sample stream",
    "diffpo.surrogates": "Cost Surrogate",
    "diffpo.tasks": "load_task",
    "diffpo.tasks.base": "PretrainingTask SolvedTask Task",
    "diffpo.processes.world": "World",
    "diffpo.training.loop": "train",
    "diffpo.training.sft": "fine_tune",
    "diffpo.training.state": "TrainState",
    "diffpo.training.trackers": "Tracker",
    "diffpo.training.update": "prepare update",
    "diffpo.types": "Batch Completion Prompt Request Rollout RolloutGroup Sampler Verdict",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from diffpo.config import (
        BernoulliConfig,
        EvalConfig,
        LoadConfig,
        LoraConfig,
        ModelConfig,
        ObjectiveConfig,
        OptimConfig,
        RolloutConfig,
        SftConfig,
        TaskConfig,
        ThresholdConfig,
        TrainConfig,
    )
    from diffpo.evaluation.answers import Answer, Point
    from diffpo.evaluation.evaluate import Evaluation, evaluate
    from diffpo.evaluation.figures import frontier_figure
    from diffpo.evaluation.tables import comparison_table
    from diffpo.files.recipe import load_config
    from diffpo.functional.latents import Latents, masked_latents
    from diffpo.functional.unmasking import Rule, Seen
    from diffpo.lab.analysis.analyze import analyze
    from diffpo.lab.analysis.settings import AnalysisConfig
    from diffpo.lab.report.sources import read_run, read_study
    from diffpo.losses import Lines, Loss
    from diffpo.models.bernoulli import BernoulliHead
    from diffpo.models.export import export
    from diffpo.models.inspection import inspect
    from diffpo.models.policy import Policy, create_policy, load_policy
    from diffpo.models.threshold import ThresholdHead
    from diffpo.processes.world import World
    from diffpo.rollout.engine import Committed, Engine, Finished, generate
    from diffpo.rollout.likelihood import log_likelihoods
    from diffpo.rollout.local import collect, sample, stream
    from diffpo.surrogates import Cost, Surrogate
    from diffpo.tasks import load_task
    from diffpo.tasks.base import PretrainingTask, SolvedTask, Task
    from diffpo.training.loop import train
    from diffpo.training.sft import fine_tune
    from diffpo.training.state import TrainState
    from diffpo.training.trackers import Tracker
    from diffpo.training.update import prepare, update
    from diffpo.types import Batch, Completion, Prompt, Request, Rollout, RolloutGroup, Sampler, Verdict


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'diffpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
