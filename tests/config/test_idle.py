"""Knobs that would do nothing are refused by name; those of a recipe give way to what is said over it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_policy

from diffpo.cli import parse
from diffpo.config import (
    BernoulliConfig,
    EvalConfig,
    IdleKnobs,
    LoadConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RolloutConfig,
    SftConfig,
    TaskConfig,
    ThresholdConfig,
    TrackerConfig,
    TrainConfig,
)
from diffpo.config.idle import default_of, idle_knobs
from diffpo.evaluation.evaluate import evaluate
from diffpo.files.recipe import from_dict, to_json
from diffpo.lab.analysis.settings import AnalysisConfig
from diffpo.processes.world import World
from diffpo.tasks import load_task
from diffpo.training.loop import start_policy

FIXED = RolloutConfig(sampler="top_k:2")
MODEL: dict[str, Any] = {"train": "model", "rollout": FIXED}
SAMPLER: dict[str, Any] = {"train": "sampler"}
BERNOULLI: dict[str, Any] = {"sampler_head": "bernoulli"}
ROWS: dict[str, Any] = {"model": "m", "data": "rows.jsonl"}

IDLE: list[tuple[type, dict[str, Any], str]] = [
    (LoraConfig, {"targets": ("q_proj",)}, "lora.targets"),
    (LoraConfig, {"alpha": 128.0}, "lora.alpha"),
    (RolloutConfig, {"cache_refresh": 4}, "rollout.cache_refresh"),
    (ObjectiveConfig, {"importance_clamp": 0.0, "importance_level": "sequence"}, "objective.importance_level"),
    (ObjectiveConfig, {"importance_clamp": 0.0, "self_normalize": True}, "objective.self_normalize"),
    (ObjectiveConfig, {"speed_weight": 0.0, "speed_gate": 0.9}, "objective.speed_gate"),
    (TaskConfig, {"name": "gsm8k", "easy": (1, 2)}, "task.easy"),
    (TaskConfig, {"name": "tiny_sudoku", "overlong": "drop"}, "task.overlong"),
    (TaskConfig, {"name": "countdown_cd3", "overlong": "drop"}, "task.overlong"),
    (TaskConfig, {"name": "gsm8k", "rules": "d1", "reward": ("number",)}, "task.rules"),
    (TrainConfig, {"schedule_steps": 100}, "schedule_steps"),
    (TrainConfig, {"tracker": TrackerConfig(project="p"), "log_with": ("tensorboard",)}, "tracker.project"),
    (TrainConfig, {"tracker": TrackerConfig(name="n")}, "tracker.name"),
    (TrainConfig, {"tracker": TrackerConfig(tags=("a",)), "log_with": ("trackio",)}, "tracker.tags"),
    *[
        (TrainConfig, MODEL | {"threshold": ThresholdConfig(**{name: value})}, f"threshold.{name}")  # type: ignore[arg-type]
        for name, value in {"level": "state", "gamma_max": 2.0, "sigma": 1.0, "learning_rate": 1e-3}.items()
    ],
    (TrainConfig, {"train": "model", "threshold": ThresholdConfig(learning_rate=0.02)}, "threshold.learning_rate"),
    (TrainConfig, {"train": "model", "threshold": ThresholdConfig(delay_steps=1)}, "threshold.delay_steps"),
    (TrainConfig, {"bernoulli": BernoulliConfig(width=32)}, "bernoulli.width"),
    (TrainConfig, BERNOULLI | {"threshold": ThresholdConfig(level="state")}, "threshold.level"),
    (TrainConfig, BERNOULLI | {"train": "model", "bernoulli": BernoulliConfig(epsilon=0.1)}, "bernoulli.epsilon"),
    (TrainConfig, MODEL | BERNOULLI, "sampler_head"),
    (TrainConfig, SAMPLER | {"lora": LoraConfig(rank=4)}, "lora.rank"),
    (TrainConfig, SAMPLER | {"objective": ObjectiveConfig(surrogate="mean_field:3")}, "objective.surrogate"),
    (TrainConfig, SAMPLER | {"objective": ObjectiveConfig(importance_clamp=math.inf)}, "objective.importance_clamp"),
    (TrainConfig, SAMPLER | {"objective": ObjectiveConfig(beta=0.1)}, "objective.beta"),
    (TrainConfig, SAMPLER | {"objective": ObjectiveConfig(loss="clipped:0.1")}, "objective.loss"),
    (TrainConfig, SAMPLER | {"objective": ObjectiveConfig(loss_type="bnpo")}, "objective.loss_type"),
    (TrainConfig, SAMPLER | {"optim": OptimConfig(learning_rate=1e-5)}, "optim.learning_rate"),
    (TrainConfig, SAMPLER | {"optim": OptimConfig(lr_schedule="cosine")}, "optim.lr_schedule"),
    (TrainConfig, SAMPLER | {"optim": OptimConfig(micro_batch_tokens=9)}, "optim.micro_batch_tokens"),
    (SftConfig, {"model": "m", "shape": ModelConfig(num_layers=2)}, "shape.num_layers"),
    (SftConfig, {"load": LoadConfig(dtype="float32")}, "load.dtype"),
    (SftConfig, {"load": LoadConfig(block_length=4)}, "load.block_length"),
    (SftConfig, ROWS | {"task": TaskConfig("tiny_sudoku")}, "task.name"),
    (SftConfig, ROWS | {"label_noise": 0.1}, "label_noise"),
    (SftConfig, ROWS | {"num_examples": 10}, "num_examples"),
    (SftConfig, {"gen_length": 32}, "gen_length"),
    (SftConfig, {"max_length": 32}, "max_length"),
    (SftConfig, {"overlong": "drop"}, "overlong"),
    (SftConfig, ROWS | {"eval_every": 5}, "eval_every"),
    (SftConfig, {"schedule_steps": 9, "optim": OptimConfig()}, "schedule_steps"),
    (SftConfig, {"tracker": TrackerConfig(name="n")}, "tracker.name"),
    (AnalysisConfig, {"parts": ("kl",), "gradient_batches": 4}, "analysis.gradient_batches"),
    (AnalysisConfig, {"parts": ("kl", "weights"), "surrogates": ("agrpo:2",)}, "analysis.surrogates"),
    (AnalysisConfig, {"parts": ("order",), "gammas": (0.1,)}, "analysis.gammas"),
]


@pytest.mark.parametrize(("cls", "settings", "name"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_an_idle_knob_is_refused_by_name(cls: type, settings: dict[str, Any], name: str) -> None:
    with pytest.raises(IdleKnobs, match=rf"^{re.escape(name)} does nothing .*: leave it out$") as caught:
        cls(**settings)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    knob = name.partition(".")[0] if cls in (TrainConfig, SftConfig) else name.split(".")[-1]
    cls(**{key: value for key, value in settings.items() if key != knob})  # left out, all is well


def test_idle_knobs_have_names_that_exist() -> None:
    for config in (
        TrainConfig(),
        TrainConfig(**SAMPLER),
        TrainConfig(**MODEL),
        TrainConfig(**BERNOULLI),
        SftConfig(),
        SftConfig(**ROWS),
        AnalysisConfig(parts=("thresholds",)),
    ):
        for name in idle_knobs(config):
            default_of(type(config), name)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("train", "sudoku_tiny", "--train", "model", "--threshold.epsilon", "0.5"), "threshold.epsilon"),
        (("train", "--lora.alpha", "64"), "lora.alpha"),  # whatever its value
        (("train", "--train", "sampler", "--objective.beta=0.1"), "objective.beta"),
        (("train", "--schedule_steps", "9"), "schedule_steps"),
        (("train", "--task.name", "tiny_sudoku", "--task.rules", "d1"), "task.rules"),
        (("sft", "--model", "m", "--data", "d", "--shape.num-layers", "1"), "shape.num_layers"),
        (("eval", "m", "--rollout.sampler", "top_k:2"), "rollout.sampler"),
        (("eval", "m", "--rollout.temperature", "1"), "rollout.temperature"),
        (("eval", "m", "--rollout.gen-length", "8", "--eval.gen-lengths", "8", "16"), "rollout.gen_length"),
        (("sample", "m", "hi", "--num", "2"), "num"),
        (("chat", "m", "--rollout.merge-adapters"), "rollout.merge_adapters"),
        (("chat", "m", "--rollout.no-chat-template"), "rollout.chat_template"),
        (("serve", "m", "--rollout.no-chat-template"), "rollout.chat_template"),
        (("analyze", "m", "--objective.num-iterations", "2"), "objective.num_iterations"),
        (("plan", "sudoku_tiny", "--fsdp"), "fsdp"),
        (("export", "m", "--public"), "public"),
    ],
)
def test_an_idle_flag_is_refused_by_name(arguments: tuple[str, ...], name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IdleKnobs, match=rf"^{re.escape(name)} does nothing "):
        parse(*arguments)


@pytest.mark.parametrize(
    ("arguments", "at_default"),
    [
        (("train", "llada8b_own", "--train", "model", "--rollout.sampler", "top_k:2"), ("threshold",)),
        (("train", "sudoku_tiny", "--train", "model"), ("threshold.learning_rate",)),
        (("train", "llada8b_own", "--train", "sampler"), ("lora", "optim.learning_rate", "objective.beta")),
        (("train", "llada8b_countdown_d1", "--task.reward", "number"), ("task.rules",)),
        (("train", "sudoku_tiny", "--objective.speed-weight", "0"), ("objective.speed_gate",)),
        (("sft", "sudoku_tiny_pretrain", "--model", "m", "--data", "rows.jsonl"), ("shape", "task", "label_noise")),
        (("sft", "llada8b_sft", "--data", "d", "--optim.lr-schedule", "constant"), ("schedule_steps",)),
    ],
)
def test_a_recipes_values_give_way_to_flags(arguments: tuple[str, ...], at_default: tuple[str, ...]) -> None:
    config = parse(*arguments).config
    for name in at_default:
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        assert value == default_of(type(config), name), name


def test_what_gives_way_is_what_is_idle_alone() -> None:
    before = parse("train", "llada8b_own", "--steps", "7").config
    after = parse("train", "llada8b_own", "--steps", "7", "--train", "model", "--rollout.sampler", "top_k:2").config
    assert after == dataclasses.replace(
        before,
        train="model",
        rollout=dataclasses.replace(before.rollout, sampler="top_k:2"),
        threshold=ThresholdConfig(),
    )
    assert before.threshold != ThresholdConfig()


def test_values_over_a_base_do_likewise() -> None:
    base = TrainConfig(threshold=ThresholdConfig(gamma_max=0.2, gamma_init=0.1))  # neither is right beside a default
    changes: dict[str, Any] = {"train": "model", "rollout": {"sampler": "steps:4"}}
    assert from_dict(TrainConfig, changes, base=base).threshold == ThresholdConfig()
    with pytest.raises(IdleKnobs, match=r"^threshold\.sigma does nothing"):
        from_dict(TrainConfig, changes | {"threshold": {"sigma": 0.5}}, base=base)
    with pytest.raises(IdleKnobs, match=r"^threshold\.sigma does nothing"):  # a recipe that contradicts itself
        from_dict(TrainConfig, changes | {"threshold": {"sigma": 0.5}})


def test_a_run_goes_on_with_its_settings_less_what_is_idle_now(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(output="run", schedule_steps=9, optim=OptimConfig(lr_schedule="cosine"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(to_json(config))
    assert parse("train", "run", "--resume").config == config
    constant = parse("train", "run", "--resume", "--optim.lr-schedule", "constant").config
    assert constant.schedule_steps is None and json.loads(to_json(constant))["schedule_steps"] is None


# --- what only the model says ------------------------------------------------------------------------------------


def test_a_learned_sampler_that_is_asked_for_takes_a_head() -> None:
    policy, task = tiny_policy(), load_task("tiny_sudoku")
    with pytest.raises(ValueError, match=r"^eval\.samplers: learned does nothing without a sampler head"):
        evaluate(policy, task, EvalConfig(samplers=("learned", "top_k:1"), gammas=()))


def test_settings_beside_a_head_of_the_models_own(tmp_path: Path) -> None:
    tiny_policy(learned=True).save_pretrained(tmp_path)
    config = TrainConfig(model=str(tmp_path), load=LoadConfig(device="cpu"))
    assert start_policy(config, World()).sampler_head
    for settings in ({"gamma_max": 1.5}, {"level": "state"}):
        other = dataclasses.replace(config, threshold=ThresholdConfig(**settings))
        with pytest.raises(ValueError, match=rf"^threshold\.{next(iter(settings))} = .* does nothing: .*own threshold"):
            start_policy(other, World())
    with pytest.raises(ValueError, match=r"^sampler_head = bernoulli: .* its own threshold head: say threshold$"):
        start_policy(dataclasses.replace(config, sampler_head="bernoulli"), World())
    tiny_policy(learned="bernoulli").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^sampler_head = threshold: .* its own bernoulli head: say bernoulli$"):
        start_policy(config, World())
    config = dataclasses.replace(config, sampler_head="bernoulli")
    assert start_policy(config, World()).sampler_head
    with pytest.raises(ValueError, match=r"^bernoulli\.width = 64 does nothing: .*own bernoulli head, with 8"):
        start_policy(dataclasses.replace(config, bernoulli=BernoulliConfig(width=64)), World())
