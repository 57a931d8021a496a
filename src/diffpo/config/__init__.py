"""Every knob of diffpo as frozen dataclasses, a file a subject. Imports no torch."""

from diffpo.config.checks import suggest
from diffpo.config.evaluation import EvalConfig
from diffpo.config.idle import IdleKnobs
from diffpo.config.model import LoadConfig, LoraConfig, ModelConfig
from diffpo.config.objective import ObjectiveConfig
from diffpo.config.optim import OptimConfig
from diffpo.config.rollout import (
    SAMPLER_RULES,
    BernoulliConfig,
    CollectConfig,
    HeadConfig,
    RolloutConfig,
    ThresholdConfig,
    canvas_size,
    parse_canvas,
    parse_sampler,
)
from diffpo.config.runs import DemoConfig, SftConfig, TrackerConfig, TrainConfig
from diffpo.config.serving import ServeConfig
from diffpo.config.task import TASK_KNOBS, TaskConfig

__all__ = [
    "SAMPLER_RULES",
    "TASK_KNOBS",
    "BernoulliConfig",
    "CollectConfig",
    "DemoConfig",
    "EvalConfig",
    "HeadConfig",
    "IdleKnobs",
    "LoadConfig",
    "LoraConfig",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "RolloutConfig",
    "ServeConfig",
    "SftConfig",
    "TaskConfig",
    "ThresholdConfig",
    "TrackerConfig",
    "TrainConfig",
    "canvas_size",
    "parse_canvas",
    "parse_sampler",
    "suggest",
]
