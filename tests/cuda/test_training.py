"""Training on the fake device: the CPU's weights to rounding, and a pinned number of waits."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fakecuda
import pytest
import torch
from helpers import GOLDEN
from small_tokenizers import TOKENIZERS
from torch import Tensor
from training.test_published import CoinTask

from diffpo.config import (
    BernoulliConfig,
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
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.training import loop
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune
from diffpo.training.state import TrainState
from diffpo.training.update import prepare, update

Change = Callable[[TrainConfig], TrainConfig]


def objective(**changes: object) -> Change:
    return lambda config: replace(config, objective=replace(config.objective, **changes))  # type: ignore[arg-type]


LORA = LoraConfig(rank=4, alpha=8)
FIXED = RolloutConfig(sampler="top_k:2", gen_length=4, block_length=2)
SETTINGS: dict[str, Change] = {
    "joint": lambda config: config,
    "model": lambda config: replace(config, train="model", rollout=FIXED, threshold=ThresholdConfig()),
    "sampler": lambda config: replace(config, train="sampler", optim=OptimConfig()),
    "a threshold a call": lambda config: replace(config, threshold=replace(config.threshold, level="state")),
    "a chance a position": lambda config: replace(
        config, sampler_head="bernoulli", bernoulli=BernoulliConfig(width=8), threshold=ThresholdConfig()
    ),
    "KL to the start": objective(beta=0.05),
    "d1": objective(surrogate="mean_field:1,prompt_mask_prob=0.15", importance_clamp=0.0),
    "wd1": lambda config: objective(surrogate="mean_field:1", loss="wd1", importance_clamp=0.0)(
        replace(config, train="model", rollout=FIXED, threshold=ThresholdConfig())
    ),
    "coupled": objective(surrogate="coupled:1", importance_clamp=0.0),
    "ELBO": objective(surrogate="elbo:1", loss="clipped:0.2,ratio_level=sequence", importance_clamp=0.0),
    "exact": objective(surrogate="mean_field:0"),
    "adapters": lambda config: replace(config, lora=LoraConfig(rank=2, alpha=4)),
    "dual cache": lambda config: replace(config, rollout=replace(config.rollout, cache="dual")),
}


@pytest.fixture(autouse=True)
def coin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "load_task", lambda config: CoinTask())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The golden checkpoints, with tokenizers."""
    folder = tmp_path_factory.mktemp("models")
    for kind, write in TOKENIZERS.items():
        write(Path(shutil.copytree(GOLDEN / f"{kind}-tiny", folder / kind)))
    return {kind: folder / kind for kind in TOKENIZERS}


def config_of(model: Path, output: Path) -> TrainConfig:
    return TrainConfig(
        model=str(model),
        task=TaskConfig("own"),
        output=str(output),
        steps=1,
        prompts_per_step=2,
        num_generations=3,
        load=LoadConfig(dtype="float32"),
        rollout=RolloutConfig(gen_length=4, block_length=2),
        objective=ObjectiveConfig(num_iterations=2),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=1, micro_batch_tokens=80),
        threshold=ThresholdConfig(delay_steps=0),
    )


def on(config: TrainConfig, device: str) -> TrainConfig:
    return replace(config, output=f"{config.output}_{device}", load=replace(config.load, device=device))


def learned(policy: Policy) -> dict[str, Tensor]:
    head = dict(policy.sampler_head.named_parameters()) if policy.sampler_head else {}
    return {name: tensor.detach().cpu() for name, tensor in {**policy.denoiser.state_dict(), **head}.items()}


def assert_close(ours: Policy, theirs: Policy) -> None:
    assert ours.device.type == "cuda" and theirs.device.type == "cpu"
    found = learned(ours)
    for name, tensor in learned(theirs).items():
        apart = (found[name] - tensor).abs()
        assert apart.max() <= 2e-3, name  # a first step of AdamW is 1e-3 even where a gradient is rounding alone
        assert (apart > 1e-4 + 1e-4 * tensor.abs()).float().mean() < 1e-3, name


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_after_updates_are_the_cpus(cuda: None, name: str, models: dict[str, Path], tmp_path: Path) -> None:
    config = SETTINGS[name](config_of(models["llada"], tmp_path / "run"))
    ours, theirs = (train(on(config, device), quiet=True) for device in ("cuda", "cpu"))
    assert_close(ours, theirs)
    (step,) = read_metrics(Path(on(config, "cuda").output) / "metrics.jsonl")
    assert 0 < step["memory/peak_gib"] < 1


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("rank", [0, LORA.rank])
def test_half_precision_trains(cuda: None, kind: str, rank: int, models: dict[str, Path], tmp_path: Path) -> None:
    """bf16 with gradient checkpointing, adapters or fp32 masters; resumed where it was stopped."""
    config = on(config_of(models[kind], tmp_path / "run"), "auto")
    config = replace(config, steps=2, save_every=1, load=LoadConfig(), lora=LORA if rank else LoraConfig())
    config = replace(config, optim=replace(config.optim, gradient_checkpointing=True))
    policy = train(config, quiet=True)
    assert policy.device.type == "cuda" and policy.denoiser.compute_dtype == torch.bfloat16
    straight = learned(policy)
    assert all(tensor.isfinite().all() for tensor in straight.values())
    shutil.rmtree(Path(config.output) / "checkpoints" / "step_000002")
    resumed = learned(train(config, resume=True, quiet=True))
    for name, tensor in straight.items():
        assert torch.equal(resumed[name], tensor), name


def test_fine_tuning_gives_the_cpus_weights(cuda: None, tmp_path: Path) -> None:
    shape = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
    config = SftConfig(
        output=str(tmp_path / "sft"),
        task=TaskConfig("tiny_sudoku"),
        steps=2,
        batch_size=8,
        num_examples=16,
        shape=shape,
    )
    policies = [fine_tune(on(config, device), quiet=True) for device in ("cuda", "cpu")]  # type: ignore[arg-type, type-var]
    assert_close(*policies)


# --- waits: a new one fails a test -----------------------------------------------------------------------------------


def waits(config: TrainConfig) -> tuple[int, int]:
    """Waits of the host before the updates of a step, after its rollouts, and in one update."""
    world = World.join("cuda")
    policy = loop.start_policy(config, world)
    state = TrainState.begin(policy, config)
    state.experience = loop.gather(state, CoinTask(), config, world)
    with fakecuda.Watch() as before:
        prepare(state, state.experience.batch, config, world)
    with fakecuda.Watch() as during:
        update(state, config, world)
    return before.waits.total(), during.waits.total()


def test_waits_of_a_step_are_those_we_know(cuda: None, models: dict[str, Path], tmp_path: Path) -> None:
    """A micro-batch of more costs what a micro-batch costs; the rest is once a step."""
    config = on(config_of(models["llada"], tmp_path / "run"), "cuda")
    config = replace(config, objective=replace(config.objective, beta=0.05))  # so that no row is left out
    found = {}
    for parts, tokens in {1: 1000, 2: 80, 8: 1}.items():  # the batch, a group or a latent at once
        found[parts] = waits(replace(config, optim=replace(config.optim, micro_batch_tokens=tokens)))
    print(found)
    micro_batch = (found[8][1] - found[2][1]) / 6
    assert found[2][1] == found[1][1] + micro_batch + 3  # cut, and whether a ratio is torn, once
    assert (micro_batch, found[1][1] - micro_batch, found[1][0]) == (6, 20, 51)  # a pass: to weigh calls by surprisal
