"""Reinforcement learning of the published architectures: adapters, a KL to the start, resume, and the way home."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, FirstDigitTask
from safetensors.torch import load_file, save_file
from small_tokenizers import TOKENIZERS

from diffpo.config import (
    LoadConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    RolloutConfig,
    TaskConfig,
    ThresholdConfig,
    TrainConfig,
)
from diffpo.models.export import export
from diffpo.models.policy import load_policy
from diffpo.planning.plan import find_start, make_model
from diffpo.rollout.local import sample
from diffpo.training import loop
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.types import Prompt, Verdict


class CoinTask(FirstDigitTask):
    """Half of all answers are right, so that untrained models have advantages."""

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        correct = sum(map(ord, completion)) % 2 == 0
        return Verdict(correct, float(correct))


@pytest.fixture(autouse=True)
def coin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "load_task", lambda config: CoinTask())


@pytest.fixture(params=["llada", "dream", "a2d-qwen3"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> TrainConfig:
    """Three joint steps on a golden checkpoint."""
    model = Path(shutil.copytree(GOLDEN / f"{request.param}-tiny", tmp_path / request.param))
    TOKENIZERS[request.param](model)
    return TrainConfig(
        model=str(model),
        task=TaskConfig("own"),
        output=str(tmp_path / "run"),
        steps=3,
        prompts_per_step=3,
        num_generations=4,
        save_every=1,
        keep_checkpoints=9,
        load=LoadConfig(dtype="float32"),
        lora=LoraConfig(rank=4, alpha=8),
        rollout=RolloutConfig(gen_length=8, block_length=4),
        objective=ObjectiveConfig("mean_field:2", beta=0.05, num_iterations=2, scale_rewards=True),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=1, gradient_checkpointing=True),
        threshold=ThresholdConfig(delay_steps=1),
    )


def test_a_joint_run_with_adapters_goes_home(config: TrainConfig, tmp_path: Path) -> None:
    """Run, resume bit for bit, export merged: the policy that trained, in the base's own layout."""
    policy = train(config, quiet=True)
    metrics = read_metrics(Path(config.output) / "metrics.jsonl")
    assert 0 < metrics[0]["kl"] < metrics[-1]["kl"] and metrics[-1]["model/grad_norm"] > 0
    assert all(line["model/skipped"] == 0 for line in metrics)
    base = load_policy(config.model, dtype="float32")
    for name, tensor in base.denoiser.state_dict().items():  # what is frozen stays
        module, _, leaf = name.rpartition(".")
        ours = policy.denoiser.state_dict()
        assert torch.equal(ours.get(name, ours.get(f"{module}.base_layer.{leaf}")), tensor)

    shutil.rmtree(Path(config.output) / "checkpoints" / "step_000003")
    resumed = train(config, resume=True, quiet=True)
    again = load_policy(config.output, dtype="float32")
    assert again.sampler_head is not None and again.version == policy.version
    for other in (resumed, again):
        assert all(torch.equal(value, other.trainable()[name]) for name, value in policy.trainable().items())

    export(config.output, tmp_path / "merged", merge=True)
    home = load_policy(tmp_path / "merged", dtype="saved")
    assert home.adapter is None and sorted(home.trainable()) == sorted(base.trainable())
    greedy = RolloutConfig(sampler="learned", temperature=0.0, block_length=4)
    ours, theirs = (sample(p, ["12+3=", "what?"], greedy, gen_length=8) for p in (policy, home))
    assert [c.text for c in ours] == [c.text for c in theirs]
    assert [c.nfe for c in ours] == [c.nfe for c in theirs]


def test_full_fine_tuning_keeps_master_weights(config: TrainConfig) -> None:
    """bf16 weights would round small steps away: they are trained in fp32, computed with in bf16."""
    config = replace(config, lora=LoraConfig(), load=LoadConfig(), steps=1)
    config = replace(config, optim=replace(config.optim, learning_rate=1e-6), objective=ObjectiveConfig())
    policy = train(config, quiet=True)
    assert policy.denoiser.compute_dtype == torch.bfloat16
    start = load_policy(config.model, dtype="bfloat16").denoiser.state_dict()
    steps = {name: value.detach() - start[name].float() for name, value in policy.denoiser.named_parameters()}
    moved = torch.cat([step.flatten() for step in steps.values()])
    assert policy.denoiser.head.weight.dtype == torch.float32 and 0 < moved.abs().max() < 1e-4


@pytest.mark.parametrize("rank", [0, 4])
def test_float16_is_for_answers_alone(config: TrainConfig, rank: int) -> None:
    """A gradient below 6e-8 is 0 in it: at a millionth of a token's weight half of them were, in silence."""
    place = Path(config.model) / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(place).items()}, place)
    lora = LoraConfig(rank=rank, alpha=8) if rank else LoraConfig()
    config = replace(config, load=LoadConfig(dtype="saved"), lora=lora, steps=1)
    for refuses in (partial(train, quiet=True), lambda config: make_model(config, find_start(config))):
        with pytest.raises(ValueError, match=r"load\.dtype.*float16.*bfloat16"):
            refuses(config)
    frozen = {"lora": LoraConfig(), "objective": ObjectiveConfig(), "optim": OptimConfig()}
    policy = train(replace(config, train="sampler", **frozen), quiet=True)
    assert policy.denoiser.head.weight.dtype == torch.float16


def test_the_reference_is_the_start_not_the_base(config: TrainConfig, tmp_path: Path) -> None:
    """Training goes on from adapters: the KL is to the policy with them, as it stood."""
    train(replace(config, steps=2), quiet=True)
    further = replace(config, model=config.output, lora=LoraConfig(), output=str(tmp_path / "further"), steps=1)
    train(replace(further, objective=ObjectiveConfig(beta=0.05, num_iterations=1)), quiet=True)
    (line,) = read_metrics(tmp_path / "further" / "metrics.jsonl")
    assert abs(line["kl"]) < 1e-6 and line["model/grad_norm"] > 0


def test_fresh_adapters_on_adapters_are_an_error(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=1), quiet=True)
    with pytest.raises(ValueError, match=r"lora\.rank.*carries adapters already"):
        train(replace(config, model=config.output, output=str(tmp_path / "further")), quiet=True)
