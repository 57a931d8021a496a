"""The knobs: files round-trip, and every mistake ends in one line that names the key and the mend."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
import re
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffpo import config as module
from diffpo.config import (
    SAMPLER_RULES,
    BernoulliConfig,
    CollectConfig,
    DemoConfig,
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
    parse_sampler,
    suggest,
)
from diffpo.files.recipe import find_recipe, find_training, from_dict, load_config, to_json

CONFIGS = [
    cls
    for cls in vars(module).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls.__module__ == "diffpo.config"
]
TRAIN = TrainConfig(
    steps=7,
    log_with=("tensorboard",),
    task=TaskConfig("tiny_sudoku", easy=(2, 3), hard_share=0.25),
    rollout=RolloutConfig(gen_length=12),
    objective=ObjectiveConfig(importance_clamp=math.inf, loss_type="dr_grpo"),
    optim=OptimConfig(adam_betas=(0.8, 0.95)),
    eval=EvalConfig(samplers=("steps:8",), gammas=(0.1, 1.0)),
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("cls", CONFIGS, ids=lambda cls: cls.__name__)
def test_defaults_round_trip_through_json(cls: type) -> None:
    assert from_dict(cls, json.loads(to_json(cls()))) == cls()


def test_json_round_trip() -> None:
    assert from_dict(TrainConfig, json.loads(to_json(TRAIN))) == TRAIN
    some = TaskConfig("reasoning_gym:gsm_symbolic", kinds=(10, 43))
    assert from_dict(TaskConfig, json.loads(to_json(some))) == some


def test_toml_reads_what_json_writes(tmp_path: Path) -> None:
    text = """
        steps = 7
        log_with = ["tensorboard"]
        task = { name = "tiny_sudoku", easy = [2, 3], hard_share = 0.25 }
        [rollout]
        gen_length = 12
        [objective]
        importance_clamp = inf
        loss_type = "dr_grpo"
        [optim]
        adam_betas = [0.8, 0.95]
        [eval]
        samplers = ["steps:8"]
        gammas = [0.1, 1]
    """
    assert load_config(TrainConfig, write(tmp_path / "run.toml", text)) == TRAIN
    assert load_config(TrainConfig, write(tmp_path / "notepad.toml", f"\ufeff{text}")) == TRAIN  # Windows marks UTF-8


def test_numbers_and_lists_become_what_the_field_holds() -> None:
    optim = from_dict(OptimConfig, {"learning_rate": 1, "adam_betas": [0, 0.5]})
    assert isinstance(optim.learning_rate, float) and optim.adam_betas == (0.0, 0.5)
    assert all(isinstance(beta, float) for beta in optim.adam_betas)
    assert from_dict(TaskConfig, {"hard": [3, 4]}).hard == (3, 4)
    assert from_dict(EvalConfig, {"gammas": [0.5] * 3}).gammas == (0.5, 0.5, 0.5)


def test_lists_of_python_are_those_of_files() -> None:
    """A resumed run compares its settings with what it wrote."""
    config = TrainConfig(log_with=["tensorboard"], task=TaskConfig(hard=[3, 4]))  # type: ignore[arg-type]
    assert from_dict(TrainConfig, json.loads(to_json(config))) == config


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: TrainConfig(task="tiny_sudoku"), "task takes TaskConfig, got 'tiny_sudoku'"),
        (lambda: SftConfig(optim=1e-4), "optim takes OptimConfig, got 0.0001"),
        (lambda: TaskConfig(name="own", reward="rewards.py:score"), "task.reward takes a list: ['rewards.py:score']"),
        (lambda: EvalConfig(gammas=0.1), "eval.gammas takes a list: [0.1]"),
        (lambda: TrainConfig(steps=1e3), "steps must be int, got 1000.0"),
        (lambda: TrainConfig(steps=None), "steps must be int, got None"),  # type: ignore[arg-type]
        (lambda: SftConfig(save_every=True), "save_every must be int, got True"),
        (lambda: SftConfig(shape=ModelConfig(num_layers="2")), "shape.num_layers must be int, got '2'"),
        (lambda: TrainConfig(train="both"), "train must be one of joint, model, sampler, got 'both'"),
        (lambda: TaskConfig(kinds=None), "task.kinds must be one of all, known, new, got None"),
        (lambda: TaskConfig(kinds=()), "task.kinds is empty: leave it out, or name some"),
        (lambda: TaskConfig(name="own", data="a.jsonl", test_data=""), "task.test_data is empty: leave it out"),
        (lambda: LoadConfig(block_length=-1), "load.block_length must be >= 1, got -1"),
        (lambda: OptimConfig(learning_rate="1e-4"), "optim.learning_rate must be float, got '1e-4'"),
        (lambda: OptimConfig(learning_rate=10**400), "optim.learning_rate must be float, got 1000"),
        (lambda: TrainConfig(prompts_per_step=2**63), "prompts_per_step must be <= 1000000000, got 9223"),
        (lambda: TrainConfig(output=""), "output must name a folder"),
        (lambda: SftConfig(output=" "), "output must name a folder"),
    ],
)
def test_slips_of_python_are_named(make: Callable[[], object], error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        make()


def test_numbers_of_numpy_are_numbers() -> None:
    config = TrainConfig(steps=np.int64(3), optim=OptimConfig(learning_rate=np.float32(0.5)))  # type: ignore[arg-type]
    assert (type(config.steps), type(config.optim.learning_rate)) == (int, float)
    with pytest.raises(ValueError, match=r"steps must be int, got 3\.0"):
        TrainConfig(steps=np.float64(3))  # type: ignore[arg-type]


def test_values_of_python_are_those_of_files(tmp_path: Path) -> None:
    config = TrainConfig(output=tmp_path, optim=OptimConfig(learning_rate=1))  # type: ignore[arg-type]
    assert to_json(config) == to_json(from_dict(TrainConfig, {"output": str(tmp_path), "optim": {"learning_rate": 1}}))


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ({"rank": 4}, "TrainConfig has no 'rank'; did you mean 'lora.rank'?"),
        ({"stepz": 3}, "TrainConfig has no 'stepz'; did you mean 'steps'?"),
    ],
)
def test_where_a_name_of_python_belongs(named: dict[str, int], error: str) -> None:
    with pytest.raises(TypeError, match=re.escape(error)):
        TrainConfig(**named)
    with pytest.raises(TypeError, match=re.escape(error)):
        dataclasses.replace(TrainConfig(), **named)


@pytest.mark.parametrize(
    ("cls", "text", "error"),
    [
        (TrainConfig, "stepz = 3", "unknown key 'stepz'; did you mean 'steps'?"),
        (TrainConfig, "[rollout]\nsamplr = 'learned'", "unknown key 'rollout.samplr'; did you mean 'sampler'?"),
        (TrainConfig, "epsilon = 0.5", "unknown key 'epsilon'; did you mean 'objective.loss', such as clipped:0.2?"),
        (TrainConfig, "beta = 0.1", "unknown key 'beta'; did you mean 'objective.beta'?"),
        (
            TrainConfig,
            "learning_rate = 1e-4",
            "unknown key 'learning_rate'; did you mean 'optim.learning_rate' or 'threshold.learning_rate' or "
            "'bernoulli.learning_rate'?",
        ),
        (TrainConfig, "[optim]\ngen_length = 8", "unknown key 'optim.gen_length'; did you mean 'rollout.gen_length'?"),
        (TrainConfig, "[optimizer]\nx = 1", "unknown key 'optimizer'; did you mean 'optim'?"),
        (TrainConfig, "steps = 3.5", "steps must be int, got 3.5"),
        (TrainConfig, "steps = true", "steps must be int, got True"),
        (TrainConfig, "steps = '3'", "steps must be int, got '3'"),
        (TrainConfig, "log_with = 'wandb'", "log_with must be a list, got 'wandb'"),
        (TrainConfig, "log_with = [1]", "log_with must be str, got 1"),
        (TrainConfig, "train = 'both'", "train must be one of joint, model, sampler, got 'both'"),
        (TrainConfig, "rollout = 'learned'", "rollout is a table: write [rollout] with its keys below"),
        (TrainConfig, "[task]\neasy = [1, 2, 3]", "task.easy takes 2 values, got [1, 2, 3]"),
        (TrainConfig, "[task]\neasy = 3", "task.easy must be a list, got 3"),
        (TrainConfig, "[task]\nkinds = ['known']", "task.kinds must be int, got 'known'"),
        (TrainConfig, "[task]\nkinds = 'knwon'", "task.kinds must be one of all, known, new, got 'knwon'"),
        (TrainConfig, "[objective]\nbeta = 'none'", "objective.beta must be float, got 'none'"),
        (TrainConfig, "[objective]\nbeta = -1", "objective.beta must be >= 0, got -1.0"),
        (TrainConfig, "steps = ", "Invalid value"),
        (SftConfig, "[shape]\nnum_heads = 0", "shape.num_heads must be >= 1, got 0"),
    ],
)
def test_a_bad_toml_is_one_line_that_names_file_and_key(tmp_path: Path, cls: type, text: str, error: str) -> None:
    path = write(tmp_path / "bad.toml", text)
    with pytest.raises(ValueError) as caught:
        load_config(cls, path)
    assert str(caught.value).startswith(f"{path}: ") and error in str(caught.value)
    assert "\n" not in str(caught.value)


NAN = math.nan
BAD = [
    (TaskConfig, "task.", {"hard_share": (1.5, -0.1, NAN), "easy": ((0, 3), (4, 2)), "hard": ((5, 4),)}),
    (LoraConfig, "lora.", {"rank": (-1,), "alpha": (0.0, NAN, math.inf)}),
    (
        RolloutConfig,
        "rollout.",
        {
            "sampler": ("nucleus", "top_k", "top_k:0", "top_k:1.5", "confidence:2", "entropy_bound:-1"),
            "temperature": (-1.0, NAN, 1e-40, math.inf),
            "entropy_temperature": (0.0, NAN, 1e-9, math.inf),
            "gen_length": (0,),
            "block_length": (0, -4),
            "num_slots": (0,),
            "cache_refresh": (-1, 2),  # 2: without a cache
        },
    ),
    (
        CollectConfig,
        "rollout.",
        {"lag": (-1,), "workers": (-1,), "gpus_per_worker": (-0.5, NAN, 1.0), "worker_timeout": (0.0, NAN, 60.0)},
    ),
    (
        ObjectiveConfig,
        "objective.",
        {
            "surrogate": ("meanfield", "mean_field:", "mean_field:=1", "coupled:1,", "my.py:", "elbo:num_pairs=1,2"),
            "loss": ("clip", "wd2", "clipped:epsilon=1,epsilon=2"),
            "importance_clamp": (-1.0, NAN),
            "beta": (-0.1, NAN, math.inf),
            "num_iterations": (0,),
            "speed_weight": (-1.0, NAN, math.inf),
            "speed_gate": (1.1, NAN),
        },
    ),
    (
        OptimConfig,
        "optim.",
        {
            "learning_rate": (0.0, NAN, math.inf),
            "warmup_steps": (-1,),
            "adam_betas": ((1.0, 0.9), (0.9, -0.1)),
            "weight_decay": (-0.1, NAN, math.inf),
            "max_grad_norm": (0.0, NAN),
            "micro_batch_tokens": (0,),
        },
    ),
    (
        ThresholdConfig,
        "threshold.",
        {
            "gamma_max": (0.0, NAN, math.inf),
            "gamma_init": (0.0, 3.0, NAN),
            "sigma": (0.0, NAN, math.inf),
            "bound": (0.0, NAN, math.inf),
            "learning_rate": (0.0, NAN, math.inf),
            "delay_steps": (-1,),
            "epsilon": (0.0, NAN),
            "max_log_ratio": (0.0, NAN),
        },
    ),
    (
        BernoulliConfig,
        "bernoulli.",
        {
            "width": (0, 6),
            "chance_init": (0.0, 1.0, NAN),
            "learning_rate": (0.0, NAN, math.inf),
            "delay_steps": (-1,),
            "epsilon": (0.0, NAN),
            "max_log_ratio": (0.0, NAN),
        },
    ),
    (
        EvalConfig,
        "eval.",
        {
            "samplers": (("top_k:1", "greedy"),),
            "gammas": ((0.1, -1.0), (NAN,)),
            "gen_lengths": ((0,),),
            "num_prompts": (0,),
            "num_samples": (0, 2),
            "temperature": (-1.0, NAN, 1e-40, math.inf),
        },
    ),
    (
        TrainConfig,
        "",
        {
            "steps": (0,),
            "prompts_per_step": (0,),
            "num_generations": (1,),
            "save_every": (0,),
            "keep_checkpoints": (0,),
            "eval_every": (-1,),
            "schedule_steps": (0,),
            "log_every": (0.0, NAN),
            "log_rollouts": (-1,),
            "show_rollouts": (-1,),
            "num_threads": (-1,),
            "rollout": (RolloutConfig(sampler="top_k:1"), RolloutConfig(temperature=0)),
        },
    ),
    (
        ModelConfig,
        "shape.",
        {"hidden_size": (0, 97), "num_layers": (0,), "num_heads": (0, -1), "mlp_size": (0,)},
    ),
    (
        SftConfig,
        "",
        {
            "steps": (0,),
            "schedule_steps": (0,),
            "batch_size": (0,),
            "gen_length": (0,),
            "max_length": (0,),
            "save_every": (0,),
            "keep_checkpoints": (0,),
            "eval_every": (0,),
            "log_every": (0.0, NAN),
            "lora": (LoraConfig(rank=4),),
            "data": ("rows.jsonl",),
            "label_noise": (1.0, NAN),
            "min_time": (0.0, 1.0, NAN),
            "prompt_mask_prob": (1.0, NAN),
            "num_examples": (0,),
            "num_threads": (-1,),
        },
    ),
    (DemoConfig, "", {"num_threads": (0,), "num_prompts": (0,)}),
]
# any number, any text, or checked where it is used
FREE = {"seed", "name", "output", "model", "log_with", "full_canvas"}
FREE |= {
    "device",
    "revision",
    "adapter",
    "targets",
    "data",
    "eval_data",
    "test_data",
    "reward",
    *("project", "tags"),
}  # checked against the machine, the hub and the model


@pytest.mark.parametrize(
    ("cls", "section", "field", "value"),
    [(cls, section, field, value) for cls, section, bad in BAD for field, values in bad.items() for value in values],
)
def test_validation_names_the_key(cls: type, section: str, field: str, value: object) -> None:
    with pytest.raises(ValueError) as caught:
        cls(**{field: value})
    assert section + field in str(caught.value) and "\n" not in str(caught.value)


def test_an_evaluation_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"eval\.samplers and eval\.gammas are both empty"):
        EvalConfig(samplers=(), gammas=())


def test_every_field_is_validated() -> None:
    """Numbers have a case above; what comes from a closed set is checked by its type."""
    tried = {(cls, field) for cls, _, bad in BAD for field in bad}
    for cls in CONFIGS:
        hints = typing.get_type_hints(cls)
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            closed = hint is bool or typing.get_origin(hint) is typing.Literal or dataclasses.is_dataclass(hint)
            assert closed or field.name in FREE or (cls, field.name) in tried, f"{cls.__name__}.{field.name}"


def test_samplers_parse() -> None:
    assert parse_sampler("learned") == ("learned", 0.0)
    for rule in SAMPLER_RULES:
        assert parse_sampler(f"{rule}:1") == (rule, 1.0)
    with pytest.raises(ValueError, match=re.escape("sampler 'topk:2': unknown rule; did you mean 'top_k'?")):
        parse_sampler("topk:2")
    with pytest.raises(ValueError, match="write top_k:NUMBER, where NUMBER is positions a call, an integer >= 1"):
        parse_sampler("top_k:inf")
    with pytest.raises(ValueError, match="write entropy_bound:NUMBER, where NUMBER is gamma in nats, >= 0 and finite"):
        parse_sampler("entropy_bound:inf")


def test_suggestions() -> None:
    assert suggest("steqs", ["steps", "seed"]) == "; did you mean 'steps'? (allowed: steps, seed)"
    assert suggest("zzz", ["steps"]) == " (allowed: steps)"
    assert suggest("zzz", [str(number) for number in range(13)]) == ""


def test_recipes_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    found = {find_recipe(name).resolve() for name in ("sudoku_tiny", "sudoku_tiny.toml", "recipes/sudoku_tiny.toml")}
    assert len(found) == 1
    own = write(tmp_path / "own.toml", "steps = 1")
    assert find_recipe(str(own)) == own
    # a path that is not there is a mistake, even where a recipe of that name ships
    for missing, said in ((tmp_path / "sudoku_tiny.toml", "no such recipe"), (tmp_path, "no config.json: no run has")):
        with pytest.raises(ValueError, match=f"{re.escape(str(missing))}: {said}"):
            find_recipe(str(missing))
    with pytest.raises(ValueError, match="no such recipe; did you mean 'sudoku_tiny'"):
        find_recipe("sudoku_tini")


def test_a_run_is_known_by_its_config(tmp_path: Path) -> None:
    (tmp_path / "policy").mkdir()
    assert find_training(tmp_path) == (None, None)
    write(tmp_path / "policy/config.json", '{"model_type": "diffpo"}')
    path = write(tmp_path / "config.json", to_json(TRAIN))
    assert find_training(tmp_path) == find_training(tmp_path / "policy") == (TRAIN, TRAIN.task)
    for damaged in (to_json(TRAIN)[:-9], '{"objective": {"betta": 1}}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
            find_training(tmp_path)


def test_a_pretrained_model_knows_its_task(tmp_path: Path) -> None:
    task = TaskConfig(name="tiny_countdown", seed=3)
    write(tmp_path / "model.json", '{"model_type": "diffpo"}')
    write(tmp_path / "config.json", to_json(SftConfig(task=task)))
    assert find_training(tmp_path) == (None, task)


def test_a_recipe_that_ships_is_read_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(TrainConfig, "sudoku_tiny").num_generations > 1
    with pytest.raises(ValueError, match="sudoku_tini: no such recipe; did you mean 'sudoku_tiny'"):
        load_config(TrainConfig, "sudoku_tini")


def test_config_imports_no_torch() -> None:
    check = "import sys, diffpo.config; sys.exit(any(name in sys.modules for name in ('torch', 'tyro', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_every_knob_has_its_help() -> None:
    folder = Path(__file__).parents[2] / "src/diffpo/config"
    source = "\n".join(path.read_text() for path in sorted(folder.glob("*.py")))
    lines = source.split("\n")
    silent = [
        f"{owner.name}.{ast.unparse(knob.target)}"
        for owner in ast.parse(source).body
        if isinstance(owner, ast.ClassDef)
        for knob, after in zip(owner.body, [*owner.body[1:], None], strict=True)
        if isinstance(knob, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
        and "# " not in lines[knob.lineno - 1]
        and "Config" not in ast.unparse(knob.annotation)  # a section is helped by its class
    ]
    assert silent == []
