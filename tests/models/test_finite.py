"""Weights and activations that are not finite end rollouts, evaluation and training in one line that says so."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import FirstDigitTask, request, tiny_policy
from models.test_variants import saved_adapter, saved_base
from safetensors.torch import load_file, save_file

from diffpo.cli import main
from diffpo.config import EvalConfig, ModelConfig, RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.evaluation.evaluate import evaluate
from diffpo.models import weights
from diffpo.models.policy import Policy, load_policy
from diffpo.models.variants import with_adapter
from diffpo.rollout.engine import generate
from diffpo.training.loop import train
from diffpo.training.sft import fine_tune

SHAPE = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
SAMPLERS = ("top_k:2", "entropy_bound:0.1", "confidence:0.5", "steps:4", "random:2", "learned")


def spoiled(weight: str, value: float = math.nan, learned: bool | str = True) -> Policy:
    policy = tiny_policy(learned=learned)
    with torch.no_grad():
        policy.denoiser.get_parameter(weight).view(-1)[3] = value
    return policy


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rollouts_name_the_weight(value: float, sampler: str, temperature: float) -> None:
    policy = spoiled("blocks.1.attn.k_proj.weight", value)
    # torch's attention on CPUs gives 0 for rows of NaN that are shorter than a vector, 16 floats
    requests = [request("012", key, sampler, gen_length=13, temperature=temperature) for key in range(3)]
    with pytest.raises(
        FloatingPointError, match=r"^this policy: the weight blocks\.1\.attn\.k_proj\.weight is not fin"
    ):
        generate(policy, requests)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_rollouts_with_caches_too(cache: str) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        generate(spoiled("norm.weight"), [request(block_length=4, cache=cache)])


@pytest.mark.parametrize(("head", "name"), [("prompt", "weight"), ("state", "weight"), ("bernoulli", "embed.weight")])
def test_a_decision_that_is_no_number_ends_rollouts(head: str, name: str) -> None:
    """A threshold that is none would commit nothing, for ever."""
    policy = tiny_policy(learned=head)
    assert policy.sampler_head
    with torch.no_grad():
        policy.sampler_head.get_parameter(name).view(-1)[0] = math.nan
    with pytest.raises(FloatingPointError, match=rf"the weight sampler_head\.{re.escape(name)} is not finite"):
        generate(policy, [request(sampler="learned")])


def test_activations_that_overflow_are_told_from_weights() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.denoiser.head.weight.fill_(3e38)
    with pytest.raises(FloatingPointError, match=r"logits are not finite, though all weights are: .* overflow float32"):
        generate(policy, [request()])


def test_evaluation_measures_nothing() -> None:
    config = EvalConfig(samplers=("top_k:2",), gammas=(), num_prompts=4)
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(spoiled("norm.weight"), FirstDigitTask(), config, RolloutConfig(), quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with NaN in a weight."""
    output = tmp_path_factory.mktemp("models") / "tiny"
    task = TaskConfig("tiny_sudoku")
    fine_tune(SftConfig(output=str(output), task=task, steps=1, batch_size=8, num_examples=16, shape=SHAPE), quiet=True)
    (file,) = (output / "policy").glob("model*.safetensors")
    tensors = load_file(file)
    name = next(name for name in tensors if "k_proj" in name)
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, file, {"format": "pt"})
    return output / "policy"


@pytest.mark.parametrize("command", [["eval", "--eval.num-prompts", "2"], ["sample"], ["train", "--model"]])
def test_commands_end_in_one_line(
    command: list[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    verb, *flags = command
    with pytest.raises(SystemExit) as ended:
        main([verb, *flags, str(model)] if verb == "train" else [verb, str(model), *flags])
    assert ended.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    file = model / "model.safetensors"
    assert last == f"diffpo: {file}: the weight blocks.0.attn.k_proj.weight is not finite: load weights that are"


def test_adapters_are_looked_at_before_they_answer(tmp_path: Path) -> None:
    """Rows shorter than a vector would be answered without a word."""
    policy = load_policy(saved_base(tmp_path / "base"))
    file = saved_adapter(str(tmp_path / "base"), tmp_path / "adapter", 0) / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "k_proj" in name)
    save_file(tensors | {name: tensors[name] * math.nan}, file)
    for load in (load_policy, partial(with_adapter, policy)):
        with pytest.raises(ValueError, match=rf"adapter_model\.safetensors: the weight {name} is not finite: load"):
            load(file.parent)


def training(learns: str, model: Path, folder: Path) -> TrainConfig:
    sampler = "learned" if learns == "joint" else "top_k:1"
    rollout = RolloutConfig(sampler=sampler)
    return TrainConfig(model=str(model), output=str(folder / "run"), train=learns, rollout=rollout)  # type: ignore[arg-type]


def tuning(model: Path, folder: Path) -> SftConfig:
    return SftConfig(model=str(model), output=str(folder / "sft"), steps=9, batch_size=4, num_examples=8)


@pytest.mark.parametrize("learns", ["joint", "model"])
def test_training_does_not_start(learns: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the weight .*k_proj"):
        train(training(learns, model, tmp_path), quiet=True)


def test_fine_tuning_does_not_either(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the weight .*k_proj"):
        fine_tune(tuning(model, tmp_path), quiet=True)


@pytest.fixture
def became_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a weight were finite when it was read, and were not any more."""
    monkeypatch.setattr(weights, "_finite", lambda file, name, tensor: tensor)


@pytest.mark.usefixtures("became_so")
@pytest.mark.parametrize("learns", ["joint", "model"])
def test_training_names_a_weight_that_became_so(learns: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the weight .*k_proj"):
        train(training(learns, model, tmp_path), quiet=True)


@pytest.mark.usefixtures("became_so")
def test_fine_tuning_names_it_too(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the weight .*k_proj"):
        fine_tune(tuning(model, tmp_path), quiet=True)
