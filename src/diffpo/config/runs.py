"""A run and everything it depends on: reinforcement learning, fine-tuning, the demo."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from diffpo.config.checks import bound, check, check_kinds
from diffpo.config.evaluation import EvalConfig
from diffpo.config.idle import Idle, Knobs, refuse_idle
from diffpo.config.model import LoadConfig, LoraConfig, ModelConfig
from diffpo.config.objective import ObjectiveConfig
from diffpo.config.optim import OptimConfig
from diffpo.config.rollout import LEARNING, BernoulliConfig, CollectConfig, HeadConfig, RolloutConfig, ThresholdConfig
from diffpo.config.task import TaskConfig


@dataclass(frozen=True)
class TrackerConfig:
    """How the trackers of log_with file a run."""

    project: str = ""  # project of wandb and trackio. Empty: WANDB_PROJECT, else diffpo
    name: str = ""  # name of the run. Empty: that of its folder
    tags: tuple[str, ...] = ()  # tags of the run in wandb

    def __post_init__(self) -> None:
        check_kinds(self, "tracker.")


OF_THE_DENOISER = """
    lora schedule_steps
    optim.learning_rate optim.warmup_steps optim.lr_schedule optim.weight_decay
    optim.micro_batch_tokens optim.gradient_checkpointing
    objective.surrogate objective.loss objective.loss_type objective.beta
    objective.importance_clamp objective.importance_level objective.self_normalize
"""
"""Knobs of how the denoiser learns."""
OF_THE_LEARNING_HEAD = " ".join(f"{head}.{knob}" for head in ("threshold", "bernoulli") for knob in LEARNING)
"""Knobs of how the sampler head learns."""
OF_WHAT_IS_LOADED = " ".join(f"load.{knob.name}" for knob in fields(LoadConfig) if knob.name != "device")


def _idle_trackers(log_with: tuple[str, ...]) -> dict[str, str | bool]:
    projects = bool({"wandb", "trackio"} & set(log_with))
    return {
        "tracker.project tracker.name": not projects and "without wandb or trackio in log_with",
        "tracker.tags": "wandb" not in log_with and "without wandb in log_with",
    }


@dataclass(frozen=True)
class TrainConfig(Knobs):
    """One reinforcement-learning run."""

    model: str = "runs/sft"  # policy to start from: a folder, or a model on the Hugging Face hub
    output: str = "runs/train"  # folder of the run: config, metrics, checkpoints
    train: Literal["joint", "model", "sampler"] = "joint"
    """What learns: the denoiser and the sampler head, the denoiser alone, or the head alone."""
    sampler_head: Literal["threshold", "bernoulli"] = "threshold"
    """What a learned sampler is: an entropy bound for each prompt or call, or a chance for each masked position."""
    steps: int = 30  # steps of the run, each one batch of rollouts
    schedule_steps: int | None = None
    """Length of the cosine schedule; None: steps. With it a resumed run may take more steps than it was to have."""
    prompts_per_step: int = 48  # prompts of a step; a prompt is one group of completions
    num_generations: int = 8  # G: completions a prompt; their mean reward is the baseline
    seed: int = 0  # seed of rollouts and cuts
    save_every: int = 10  # steps between checkpoints; the last step is always saved
    keep_checkpoints: int = 2  # newest checkpoints kept
    eval_every: int = 0
    """Steps between evaluations on test prompts during the run, whose best policy is kept in best; 0 for none."""
    log_with: tuple[str, ...] = ()
    """Trackers beside metrics.jsonl: tensorboard, wandb, trackio, or your own, PATH.py:CLASS."""
    log_every: float = 60.0  # longest seconds between two lines of progress where the output is no terminal
    log_rollouts: int = 96  # completions of a step kept in rollouts.jsonl.gz; 0 for none
    show_rollouts: int = 0  # steps between showing the best and the worst completion, in trackers too; 0 for never
    num_threads: int = 0  # CPU threads of torch, on which last bits depend; 0 leaves torch's choice
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    load: LoadConfig = field(default_factory=LoadConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    rollout: CollectConfig = field(default_factory=CollectConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    bernoulli: BernoulliConfig = field(default_factory=BernoulliConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        if isinstance(self.rollout, RolloutConfig):  # a plain one is taken too
            object.__setattr__(self, "rollout", CollectConfig.of(self.rollout))
        check_kinds(self)
        check(bool(self.output.strip()), "output must name a folder, got nothing; . is this one")
        bound(self, "", "steps schedule_steps prompts_per_step save_every keep_checkpoints", ">=", 1)
        bound(self, "", "num_generations", ">=", 2)
        bound(self, "", "eval_every log_rollouts show_rollouts num_threads", ">=", 0)
        bound(self, "", "log_every", ">", 0)
        if self.train != "model":
            ok = self.rollout.sampler == "learned"
            check(ok, f"train={self.train!r} learns the sampler: set rollout.sampler to learned, not a fixed rule")
        frozen = self.load.four_bit and not self.lora.rank and not self.load.adapter
        check(not frozen or self.train == "sampler", "load.four_bit: 4-bit weights do not learn: set lora.rank > 0")
        if self.rollout.merge_adapters:
            check(not self.load.four_bit, "rollout.merge_adapters: adapters do not merge into 4-bit weights: drop one")
            why = "rollout.merge_adapters: importance weights mend its rounding: set objective.importance_clamp > 0"
            check(self.objective.importance_clamp > 0, why)
        check(self.rollout.temperature > 0, "rollout.temperature must be > 0 in training: greedy groups do not differ")
        refuse_idle(self)

    @property
    def head(self) -> HeadConfig:
        """Settings of the sampler head, of the kind that `sampler_head` names."""
        return {"threshold": self.threshold, "bernoulli": self.bernoulli}[self.sampler_head]

    def idle(self) -> Idle:
        of_head = self.train == "model" and "with train model, which leaves the sampler head as it is"
        no_head = self.rollout.sampler != "learned" and "with a fixed rollout.sampler, which has no head"
        other = {"threshold": "bernoulli", "bernoulli": "threshold"}[self.sampler_head]
        return {
            "schedule_steps": self.optim.lr_schedule == "constant" and "with optim.lr_schedule constant",
            OF_THE_DENOISER: self.train == "sampler" and "with train sampler, which leaves the denoiser as it is",
            OF_THE_LEARNING_HEAD: of_head,
            other: f"with sampler_head {self.sampler_head}",
            "sampler_head threshold bernoulli": no_head,
        } | _idle_trackers(self.log_with)


@dataclass(frozen=True)
class SftConfig(Knobs):
    """Masked fine-tuning on prompts and completions, or pre-training of a tiny model on a task's solved examples."""

    model: str = ""
    """Policy to start from: a folder, or a model on the Hugging Face hub. Empty: fresh weights of `shape`."""
    data: str = ""
    """Rows to learn from: a file, a pattern of files, or a hub data set; prompt and completion, messages, Alpaca ...
    (docs/tasks.md). Empty: solved examples of the task."""
    eval_data: str = ""  # rows held out, whose loss is logged. Empty: none
    overlong: Literal["error", "drop"] = "error"
    """What becomes of a row whose prompt alone fills what the model can hold."""
    output: str = "runs/sft"  # folder of the run: config, metrics, checkpoints, policy
    steps: int = 300  # optimiser steps
    schedule_steps: int | None = None
    """Length of the cosine schedule; None: steps. Longer than steps stops early, at partial competence."""
    batch_size: int = 128  # examples a step
    gen_length: int | None = None
    """Canvas in tokens, filled with EOS after the completion. None: the completion's, up to the next multiple of 32."""
    max_length: int | None = None
    """Longest prompt and canvas together, in tokens; longer completions are cut. None: what the model can hold."""
    blocks: tuple[int, ...] = ()
    """Attention is block-causal, in blocks of these lengths one after the other, each for an equal share of the steps:
    a converted model's may grow. The last stays the model's. Empty: the model's own all along."""
    min_time: float = 0.05  # smallest share of masked positions; the 1/t weight is bounded by its inverse
    prompt_mask_prob: float = 0.0
    """In a fifth of the rows this share of the prompt is masked too, which d1's objective then does not surprise."""
    chat_template: bool = True  # put prompts into the tokenizer's chat template, where it has one
    label_noise: float = 0.0
    """Share of a solved example's open tokens replaced at random: a model with something left to learn."""
    num_examples: int = 20000  # solved examples to draw batches from
    seed: int = 0  # seed of weights, label noise, batches and masks
    save_every: int = 500  # steps between checkpoints; the last step is always saved
    keep_checkpoints: int = 2  # newest checkpoints kept
    eval_every: int = 100  # steps between losses on eval_data; the policy of the lowest is kept in best
    log_with: tuple[str, ...] = ()
    """Trackers beside metrics.jsonl: tensorboard, wandb, trackio, or your own, PATH.py:CLASS."""
    log_every: float = 60.0  # longest seconds between two lines of progress where the output is no terminal
    num_threads: int = 0  # CPU threads of torch; 0 leaves torch's choice
    shape: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    load: LoadConfig = field(default_factory=LoadConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=2e-3, warmup_steps=20, lr_schedule="cosine", weight_decay=0.01
        )
    )

    def __post_init__(self) -> None:
        check_kinds(self)
        check(bool(self.output.strip()), "output must name a folder, got nothing; . is this one")
        bound(self, "", "steps schedule_steps batch_size num_examples gen_length max_length", ">=", 1)
        bound(self, "", "save_every keep_checkpoints eval_every", ">=", 1)
        bound(self, "", "num_threads", ">=", 0)
        bound(self, "", "log_every", ">", 0)
        check(all(length >= 1 for length in self.blocks), f"blocks must be >= 1, got {self.blocks}")
        check(0 < self.min_time < 1, f"min_time must lie in (0, 1), got {self.min_time}")
        check(0 <= self.label_noise < 1, f"label_noise must lie in [0, 1), got {self.label_noise}")
        check(0 <= self.prompt_mask_prob < 1, f"prompt_mask_prob must lie in [0, 1), got {self.prompt_mask_prob}")
        check(bool(self.model) or not self.lora.rank, "lora: fresh weights are trained whole: name a model")
        check(bool(self.model) or not self.data, "data: fresh weights know a task's characters alone: name a model")
        refuse_idle(self)

    def idle(self) -> Idle:
        tiny = self.task.name.startswith("tiny_") or not self.model
        in_words = bool(self.task.name) and not tiny and not self.data
        unread = tiny and not (self.data or self.eval_data) and "for a tiny task, whose examples have their own length"
        return {
            "shape": self.model and "beside model, which has its own",
            OF_WHAT_IS_LOADED: not self.model and "without model: fresh weights are not loaded",
            "task label_noise num_examples": self.data and "beside data, which is what is learned",
            "label_noise": in_words and f"for {self.task.name}, whose solutions are in words",
            "gen_length max_length overlong": unread,
            "eval_every": not self.eval_data and "without eval_data",
            "schedule_steps": self.optim.lr_schedule == "constant" and "with optim.lr_schedule constant",
        } | _idle_trackers(self.log_with)


@dataclass(frozen=True)
class DemoConfig:
    """The demo: two recipes, an evaluation before and after, a table and pictures."""

    output: str = "runs/demo"  # folder for everything the demo writes; an earlier demo there is replaced
    seed: int = 0  # seed of pre-training and of the reinforcement learning
    train: Literal["joint", "model", "sampler"] = "joint"
    """What learns: the denoiser and the sampler head, the denoiser alone, or the head alone."""
    device: str = "cpu"
    """Where it runs, such as cuda; auto: the GPU if there is one. So small a model gains nothing there."""
    num_threads: int = 2  # CPU threads of torch
    num_prompts: int = 512  # test prompts of the evaluations, of grids not seen in training

    def __post_init__(self) -> None:
        check_kinds(self)
        check(bool(self.output.strip()), "output must name a folder, got nothing; . is this one")
        bound(self, "", "num_threads num_prompts", ">=", 1)
