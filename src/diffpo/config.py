"""Every knob of diffpo as frozen dataclasses. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

SAMPLER_RULES = {
    "entropy_bound": "gamma in nats, >= 0",
    "confidence": "probability in [0, 1]",
    "top_k": "positions a call, an integer >= 1",
    "steps": "calls a canvas, an integer >= 1",
    "random": "positions a call, an integer >= 1",
}


def parse_sampler(spec: str, where: str = "sampler") -> tuple[str, float]:
    """Split "rule:number" into (rule, number); "learned" has none. ValueError names `where` and what is allowed."""
    if spec == "learned":
        return spec, 0.0
    rule, _, number = spec.partition(":")
    if rule not in SAMPLER_RULES:
        raise ValueError(f"{where} {spec!r}: unknown rule{suggest(rule, [*SAMPLER_RULES, 'learned'])}")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    whole = rule in ("top_k", "steps", "random")
    if not value >= whole or (whole and value % 1) or (rule == "confidence" and value > 1):
        raise ValueError(f"{where} {spec!r}: write {rule}:NUMBER, where NUMBER is {SAMPLER_RULES[rule]}")
    return rule, value


def suggest(wrong: str, names: Iterable[str]) -> str:
    """The end of an error line: the nearest allowed name, and all of them when they are few."""
    names = list(names)
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return hint + (f" (allowed: {', '.join(names)})" if len(names) <= 12 else "")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _bound(config: Any, section: str, names: str, relation: Literal[">", ">="], low: int) -> None:
    for name in names.split():
        value = getattr(config, name)
        inside = value is None or (value > low if relation == ">" else value >= low)
        _check(inside, f"{section}{name} must be {relation} {low}, got {value}")


TASK_KNOBS = {
    **dict.fromkeys(("sudoku", "countdown", "arithmetic"), "easy hard hard_share"),
    **dict.fromkeys(("gsm8k", "math500", "countdown_cd3", "sudoku_4x4"), "rules data test_data reward"),
    "reasoning_gym": "reward",
    "own": "data test_data reward",
}
"""The knobs that each task reads beside the seed."""


@dataclass(frozen=True)
class TaskConfig:
    """What is asked."""

    name: str = "sudoku"
    """sudoku, countdown, arithmetic (tiny models); gsm8k, math500, countdown_cd3, sudoku_4x4; reasoning_gym:NAME."""
    easy: tuple[int, int] | None = None
    """Difficulty range of easy prompts (sudoku: blanks, countdown: numbers, arithmetic: terms). None: task's own."""
    hard: tuple[int, int] | None = None  # difficulty range of hard prompts, on the same dial. None: the task's own
    hard_share: float = 0.5  # share of hard prompts
    seed: int = 0  # seed of the task's data and of its train / test split
    rules: Literal["strict", "d1"] = "strict"
    """Grader and reward: ours, or d1's as published, quirks included (docs/grading.md)."""
    data: str | None = None
    """Training rows: a .jsonl, .csv or .parquet file, or a data set of the Hugging Face hub. None: the task's own."""
    test_data: str | None = None
    """Test rows, likewise. None: the task's own, or a tenth of the rows of a task of your own."""
    reward: tuple[str, ...] = ()
    """Your own rewards, PATH.py:FUNCTION or PATH.py:FUNCTION=WEIGHT; number, math and code are built in."""

    def __post_init__(self) -> None:
        _check(0 <= self.hard_share <= 1, f"task.hard_share must lie in [0, 1], got {self.hard_share}")
        for name, span in (("easy", self.easy), ("hard", self.hard)):
            _check(span is None or 1 <= span[0] <= span[1], f"task.{name} must be a range LOW HIGH, got {span}")
        if self.name == "sudoku" and self.data and self.reward:  # the default name: rows and rewards make a task
            object.__setattr__(self, "name", "own")
        knobs = TASK_KNOBS.get(self.name.partition(":")[0])
        for name in sorted({*" ".join(TASK_KNOBS.values()).split()} - {*(knobs or "").split()}) if knobs else ():
            unset = getattr(self, name) == getattr(TaskConfig, name)
            _check(unset, f"task.{name} does nothing for {self.name}, which takes {knobs} (your own: data and reward)")
        _check(not self.reward or self.rules == "strict", "task.rules does nothing beside task.reward: drop one")


@dataclass(frozen=True)
class RolloutConfig:
    """How completions are decoded."""

    sampler: str = "learned"  # learned | entropy_bound:GAMMA | confidence:P | top_k:K | steps:S | random:K
    temperature: float = 1.0  # temperature of the draws; 0 is greedy
    entropy_temperature: float = 1.0
    """Temperature of the distribution whose entropy and confidence the sampler looks at."""
    gen_length: int | None = None  # canvas length in tokens. None: the task's own
    block_length: int | None = None  # length of the blocks that are decoded left to right. None: one block
    num_slots: int = 512  # rows decoded at once; finished rows leave and waiting ones take their place
    cache: Literal["none", "prefix", "dual"] = "none"
    """Approximate: keep keys and values of what stands before the active block, or also of what stands after it."""
    cache_refresh: int = 0  # calls between refreshes of the cache within a block; 0: only at the start of each block
    chat_template: bool = True  # put prompts into the tokenizer's chat template, where it has one

    def __post_init__(self) -> None:
        parse_sampler(self.sampler, "rollout.sampler")
        _bound(self, "rollout.", "temperature", ">=", 0)
        _bound(self, "rollout.", "entropy_temperature", ">", 0)
        _bound(self, "rollout.", "gen_length block_length num_slots", ">=", 1)
        _bound(self, "rollout.", "cache_refresh", ">=", 0)
        _check(
            self.cache != "none" or not self.cache_refresh, "rollout.cache_refresh does nothing without rollout.cache"
        )


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised (docs/algorithm.md)."""

    surrogate: Literal["mean_field", "coupled", "elbo"] = "mean_field"
    """What stands for a token's likelihood: m-times mean field, coupled-GRPO's masks, or its share of ESPO's ELBO."""
    num_latents: int = 2
    """m of the m-times mean-field surrogate: 1 mean field (d1), 2 DiFFPO, 0 every call (the exact trajectory)."""
    cut_law: Literal["uniform", "middle", "tokens"] = "uniform"
    """Law of the mean-field cuts tau over the calls: equal, t * (T - t), or tokens committed at t."""
    num_pairs: int = 1  # pairs of complementary masks of the coupled and elbo surrogates
    loss: Literal["clipped", "wd1"] = "clipped"
    """What is made of it: PPO's clipped ratio, or wd1's likelihood weighted by softmax(A) - softmax(-A)."""
    ratio_level: Literal["token", "call", "sequence"] = "token"
    """What has one ratio rho: a token, the tokens of one call, or the completion; several have their geometric mean."""
    importance_clamp: float = 2.0
    """C: upper clamp of the weight from surrogate to behaviour policy; inf for none, 0 leaves the weight out."""
    importance_level: Literal["token", "call", "sequence"] = "token"
    """What has one importance weight, likewise."""
    self_normalize: bool = False  # divide importance weights, once clamped, by their mean over the batch
    epsilon: float = 0.2  # clip range of the probability ratio
    beta: float = 0.0  # weight of the k3 KL to the policy at the start of the run
    num_iterations: int = 4  # mu: passes over each batch of rollouts, each with fresh cuts
    loss_type: Literal["grpo", "bnpo", "dr_grpo"] = "grpo"
    """Length normalisation: mean per completion, mean over all tokens, or sum over the canvas length."""
    scale_rewards: bool = False  # divide advantages by the group's standard deviation
    prompt_mask_prob: float = 0.0  # share of prompt tokens masked at random in the mean-field pass (0.15 in d1)
    speed_weight: float = 0.2
    """lambda: a correct answer earns reward * (1 + lambda * (1 - NFE / L)); 0 for the task's reward alone."""
    speed_gate: float = 0.5  # the speed term counts only in groups of at least this accuracy: right first, then fast

    def __post_init__(self) -> None:
        _bound(self, "objective.", "num_latents importance_clamp beta speed_weight", ">=", 0)
        _bound(self, "objective.", "epsilon", ">", 0)
        _bound(self, "objective.", "num_iterations", ">=", 1)
        share = self.prompt_mask_prob
        _check(0 <= share < 1, f"objective.prompt_mask_prob must lie in [0, 1), got {share}")
        _check(0 <= self.speed_gate <= 1, f"objective.speed_gate must lie in [0, 1], got {self.speed_gate}")
        _bound(self, "objective.", "num_pairs", ">=", 1)
        idle = {
            "num_pairs": self.surrogate == "mean_field" and "with surrogate mean_field",
            "num_latents": self.surrogate != "mean_field" and f"with surrogate {self.surrogate}",
            "prompt_mask_prob": self.surrogate != "mean_field" and f"with surrogate {self.surrogate}",
            "cut_law": (self.surrogate != "mean_field" or self.num_latents < 2) and "without drawn cuts",
            "ratio_level": self.loss == "wd1" and "with loss wd1, which has no ratio",
            "epsilon": self.loss == "wd1" and "with loss wd1, which has no ratio",
            "importance_level": not self.importance_clamp and "with importance_clamp 0",
            "self_normalize": not self.importance_clamp and "with importance_clamp 0",
        }
        for name, why in idle.items():
            unset = getattr(self, name) == getattr(ObjectiveConfig, name)
            _check(unset or not why, f"objective.{name} does nothing {why}: leave it out")


@dataclass(frozen=True)
class LoadConfig:
    """How a checkpoint is loaded."""

    dtype: Literal["auto", "saved", "bfloat16", "float32"] = "auto"
    """Dtype of the weights; auto: bfloat16 for LLaDA and Dream, as saved for diffpo's own models."""
    device: str = "auto"  # device of the weights, such as cpu or cuda:1; auto: the GPU if there is one
    revision: str | None = None  # branch, tag or commit of a model on the Hugging Face hub
    adapter: str | None = None  # LoRA adapter (folder or hub id) to put onto the model
    four_bit: bool = False  # keep the blocks' weights in 4 bits (nf4, bitsandbytes); training then takes lora.rank > 0
    compile: bool = False  # fuse what lies between matrix products with torch.compile, which takes a compiler or Triton


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the denoiser, trained in its stead."""

    rank: int = 0  # rank of fresh adapters; 0: none, train all weights, or go on with adapters that the model carries
    alpha: float = 64.0  # adapters count alpha / rank
    targets: tuple[str, ...] = ()
    """Modules, as the checkpoint names them (q_proj, attn_out, ...). None named: every linear of the blocks."""

    def __post_init__(self) -> None:
        _bound(self, "lora.", "rank", ">=", 0)
        _bound(self, "lora.", "alpha", ">", 0)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW over the denoiser."""

    learning_rate: float = 1e-4  # peak learning rate of the denoiser
    warmup_steps: int = 5  # steps over which the learning rate rises linearly from 0
    lr_schedule: Literal["constant", "cosine"] = "constant"
    """After warm-up: constant, or a cosine to 0 at the last step."""
    adam_betas: tuple[float, float] = (0.9, 0.99)  # decay of AdamW's first and second moments
    weight_decay: float = 0.0  # AdamW's decoupled weight decay of the denoiser
    max_grad_norm: float = 1.0  # gradients are clipped to this norm, denoiser and threshold head each on its own
    micro_batch_size: int = 512  # rows a backward pass holds at once; changes memory, not results
    gradient_checkpointing: bool = False
    """Compute each block a second time in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        _bound(self, "optim.", "learning_rate max_grad_norm", ">", 0)
        _bound(self, "optim.", "warmup_steps weight_decay", ">=", 0)
        _bound(self, "optim.", "micro_batch_size", ">=", 1)
        _check(all(0 <= b < 1 for b in self.adam_betas), f"optim.adam_betas must lie in [0, 1), got {self.adam_betas}")


@dataclass(frozen=True)
class ThresholdConfig:
    """The adaptive sampler: gamma = gamma_max * sigmoid(f(prompt) + sigma * noise)."""

    level: Literal["prompt", "state"] = "prompt"
    """What has a threshold: a prompt has one for all its calls, or every state of the canvas has its own (a call)."""
    gamma_max: float = 3.0  # largest threshold, nats
    gamma_init: float = 0.36
    """Threshold at the start, nats; start low: few tokens a call until the model has earned more."""
    sigma: float = 0.7  # standard deviation of the exploration noise
    bound: float = 4.0  # |f| stays below this, so that gamma cannot saturate
    learning_rate: float = 5e-3  # learning rate of the head
    delay_steps: int = 5  # steps before the head trains; its feature statistics are gathered meanwhile
    epsilon: float = 0.2  # clip range of the head's ratio
    max_log_ratio: float = 1.0  # the head's log-ratio is clamped to +- this

    def __post_init__(self) -> None:
        _bound(self, "threshold.", "gamma_max sigma bound learning_rate epsilon max_log_ratio", ">", 0)
        _bound(self, "threshold.", "delay_steps", ">=", 0)
        inside = 0 < self.gamma_init < self.gamma_max
        _check(inside, f"threshold.gamma_init must lie between 0 and gamma_max, got {self.gamma_init}")


@dataclass(frozen=True)
class EvalConfig:
    """How a policy is measured."""

    samplers: tuple[str, ...] = ("top_k:1", "top_k:2", "top_k:4", "learned")
    """Samplers measured one by one (as rollout.sampler)."""
    gammas: tuple[float, ...] = (0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    """Fixed thresholds of the accuracy-NFE frontier."""
    gen_lengths: tuple[int, ...] = ()  # canvas lengths measured one by one; none named: rollout.gen_length
    num_prompts: int = 512  # test prompts; fewer if the task has fewer
    temperature: float = 0.0  # temperature of the draws; 0 is greedy, as the field measures
    full_canvas: bool = True  # decode the whole canvas, so that NFE is known with and without the early exit at EOS

    def __post_init__(self) -> None:
        for spec in self.samplers:
            parse_sampler(spec, "eval.samplers")
        _bound(self, "eval.", "num_prompts", ">=", 1)
        _bound(self, "eval.", "temperature", ">=", 0)
        _check(all(n >= 1 for n in self.gen_lengths), f"eval.gen_lengths must be >= 1, got {self.gen_lengths}")
        _check(all(g >= 0 for g in self.gammas), f"eval.gammas must be >= 0, got {self.gammas}")


@dataclass(frozen=True)
class TrainConfig:
    """One reinforcement-learning run."""

    model: str = "runs/sft"  # policy to start from: a folder, or a model on the Hugging Face hub
    output: str = "runs/train"  # folder of the run: config, metrics, checkpoints
    train: Literal["joint", "model", "sampler"] = "joint"
    """What learns: the denoiser and the threshold head, the denoiser alone, or the head alone."""
    steps: int = 30  # steps of the run, each one batch of rollouts
    prompts_per_step: int = 48  # prompts of a step; a prompt is one group of completions
    num_generations: int = 8  # G: completions a prompt; their mean reward is the baseline
    seed: int = 0  # seed of rollouts and cuts
    save_every: int = 10  # steps between checkpoints; the last step is always saved
    keep_checkpoints: int = 2  # newest checkpoints kept
    eval_every: int = 0  # steps between evaluations on test prompts during the run; 0 for none
    log_with: tuple[str, ...] = ()  # trackers beside metrics.jsonl: tensorboard, wandb, trackio
    num_threads: int = 0  # CPU threads of torch; 0 leaves torch's choice
    load: LoadConfig = field(default_factory=LoadConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        _bound(self, "", "steps prompts_per_step save_every keep_checkpoints", ">=", 1)
        _bound(self, "", "num_generations", ">=", 2)
        _bound(self, "", "eval_every num_threads", ">=", 0)
        if self.train != "model":
            ok = self.rollout.sampler == "learned"
            _check(ok, f"train={self.train!r} learns the sampler: set rollout.sampler to learned, not a fixed rule")
        frozen = self.load.four_bit and not self.lora.rank and not self.load.adapter
        _check(not frozen or self.train == "sampler", "load.four_bit: 4-bit weights do not learn: set lora.rank > 0")
        wd1 = "objective.loss wd1 weighs the denoiser's likelihood alone: set train to model"
        _check(self.train == "model" or self.objective.loss != "wd1", wd1)
        _check(self.rollout.temperature > 0, "rollout.temperature must be > 0 in training: greedy groups do not differ")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a tiny denoiser trained from scratch."""

    hidden_size: int = 96  # width
    num_layers: int = 4  # transformer blocks
    num_heads: int = 4  # attention heads
    mlp_size: int = 256  # inner width of SwiGLU

    def __post_init__(self) -> None:
        _bound(self, "shape.", "hidden_size num_layers num_heads mlp_size", ">=", 1)
        even = self.hidden_size % (2 * self.num_heads) == 0
        _check(even, f"shape.hidden_size must be a multiple of 2 * num_heads, got {self.hidden_size}, {self.num_heads}")


@dataclass(frozen=True)
class SftConfig:
    """Masked fine-tuning on prompts and completions, or pre-training of a tiny model on a task's solved examples."""

    model: str = ""
    """Policy to start from: a folder, or a model on the Hugging Face hub. Empty: fresh weights of `shape`."""
    data: str = ""  # JSONL with prompt and completion, or messages, in each row. Empty: solved examples of the task
    eval_data: str = ""  # JSONL of rows held out, whose loss is logged. Empty: none
    output: str = "runs/sft"  # folder of the run: config, metrics, checkpoints, policy
    steps: int = 300  # optimiser steps
    schedule_steps: int | None = None
    """Length of the cosine schedule; None: steps. Longer than steps stops early, at partial competence."""
    batch_size: int = 128  # examples a step
    gen_length: int | None = None
    """Canvas in tokens, filled with EOS after the completion. None: the completion's, up to the next multiple of 32."""
    max_length: int | None = None
    """Longest prompt and canvas together, in tokens; longer completions are cut. None: what the model can hold."""
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
    eval_every: int = 100  # steps between losses on eval_data
    log_with: tuple[str, ...] = ()  # trackers beside metrics.jsonl: tensorboard, wandb, trackio
    num_threads: int = 0  # CPU threads of torch; 0 leaves torch's choice
    shape: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    load: LoadConfig = field(default_factory=LoadConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            learning_rate=2e-3, warmup_steps=20, lr_schedule="cosine", weight_decay=0.01
        )
    )

    def __post_init__(self) -> None:
        _bound(self, "", "steps schedule_steps batch_size num_examples gen_length max_length", ">=", 1)
        _bound(self, "", "save_every keep_checkpoints eval_every", ">=", 1)
        _bound(self, "", "num_threads", ">=", 0)
        _check(0 < self.min_time < 1, f"min_time must lie in (0, 1), got {self.min_time}")
        _check(0 <= self.label_noise < 1, f"label_noise must lie in [0, 1), got {self.label_noise}")
        _check(0 <= self.prompt_mask_prob < 1, f"prompt_mask_prob must lie in [0, 1), got {self.prompt_mask_prob}")
        _check(not (self.data and self.label_noise), "label_noise falls on a task's solved examples: leave out data")
        _check(bool(self.model) or not self.lora.rank, "lora: fresh weights are trained whole: name a model")
        _check(bool(self.model) or not self.data, "data: fresh weights know a task's characters alone: name a model")


@dataclass(frozen=True)
class DemoConfig:
    """The demo: two recipes, an evaluation before and after, a table and pictures."""

    output: str = "runs/demo"  # folder for everything the demo writes; an earlier demo there is replaced
    seed: int = 0  # seed of pre-training and of the reinforcement learning
    train: Literal["joint", "model", "sampler"] = "joint"
    """What learns: the denoiser and the threshold head, the denoiser alone, or the head alone."""
    num_threads: int = 2  # CPU threads of torch
    num_prompts: int = 512  # test prompts of the evaluations, of grids not seen in training

    def __post_init__(self) -> None:
        _bound(self, "", "num_threads num_prompts", ">=", 1)
