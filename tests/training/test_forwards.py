"""Denoiser rows of a run: hand counts, a count by brute force, and the same sum after a resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import keys

from diffpo.config import ObjectiveConfig, RolloutConfig, TaskConfig, TrainConfig
from diffpo.functional.surrogate import draw_cuts
from diffpo.models.policy import load_policy
from diffpo.tasks import load_task
from diffpo.training.distributed import World
from diffpo.training.forwards import count_latents, count_scored, expected_latents
from diffpo.training.loop import gather, train
from diffpo.training.metrics import read_metrics
from diffpo.training.state import Experience, Optimizers, TrainState
from diffpo.training.update import update
from diffpo.types import Batch


def batch_of(prompts: list[str], committed_at: list[list[int]], lengths: list[int]) -> Batch:
    """Rows with these prompts and commit orders; tokens after the length are in no loss."""
    calls = torch.tensor(committed_at)
    nothing = torch.zeros(calls.shape)
    return Batch(
        prompt_ids=tuple(tuple(map(int, prompt)) for prompt in prompts),
        tokens=torch.ones_like(calls),
        committed_at=calls,
        behaviour_logprobs=nothing,
        loss_mask=torch.arange(calls.shape[1]) < torch.tensor(lengths)[:, None],
        gen_lengths=torch.full((len(prompts),), calls.shape[1]),
        nfe=calls.max(-1).values,
        advantages=torch.ones(len(prompts)),
        features=None,
        gamma_actions=None,
        gamma_logprobs=None,
    )


def test_latents_by_hand() -> None:
    batch = batch_of(["01", "01", "2"], [[1, 2, 3], [1, 1, 2], [3, 2, 1]], [3, 3, 3])
    no_cut = torch.zeros(3, 1, dtype=torch.long)
    assert count_latents(batch, no_cut) == 2  # a z_0 for each prompt
    assert count_latents(batch, no_cut, own_prompts=True) == 3  # for each row
    cuts = torch.tensor([[0, 1], [0, 1], [0, 2]])
    assert count_latents(batch, cuts) == 2 + 3  # and z_tau for each row
    assert count_latents(batch, cuts, own_prompts=True) == 3 + 3


def test_a_latent_at_which_no_token_of_the_loss_is_scored_costs_nothing() -> None:
    batch = batch_of(["01", "2"], [[1, 2, 3], [1, 2, 3]], [1, 3])  # the first row ends before the cut
    assert count_latents(batch, torch.tensor([[0, 1], [0, 1]])) == 2 + 1
    late = batch_of(["01"], [[3, 3, 1]], [2])  # and here nothing in the loss is scored given z_0
    assert count_latents(late, torch.tensor([[0, 2]])) == 1


@pytest.mark.parametrize("num_latents", [1, 2, 3, 0])
@pytest.mark.parametrize("own_prompts", [False, True])
def test_latents_by_brute_force(num_latents: int, own_prompts: bool) -> None:
    generator = torch.Generator().manual_seed(num_latents)
    committed_at = torch.stack([torch.randperm(6, generator=generator) // (1 + row % 3) + 1 for row in range(12)])
    lengths = torch.randint(1, 7, (12,), generator=generator).tolist()
    batch = batch_of([str(row // 4) for row in range(12)], committed_at.tolist(), lengths)
    cuts = draw_cuts(batch.nfe, num_latents, keys(12))
    seen = set()
    for row in range(12):
        for position in range(lengths[row]):
            call = int(batch.committed_at[row, position])
            cut = max(int(cut) for cut in cuts[row] if cut < call)
            seen.add((batch.prompt_ids[row], cut, row if cut or own_prompts else None))
    assert count_latents(batch, cuts, own_prompts) == len(seen)


@pytest.mark.parametrize(
    ("objective", "latents"),
    [
        (ObjectiveConfig(num_latents=1), 1 / 4),
        (ObjectiveConfig(num_latents=1, prompt_mask_prob=0.15), 1),
        (ObjectiveConfig(num_latents=2), 1 + 1 / 4),
        (ObjectiveConfig(num_latents=9), 3 + 1 / 4),
        (ObjectiveConfig(num_latents=0), 3 + 1 / 4),
        (ObjectiveConfig(surrogate="coupled", num_pairs=2), 4 + 1 / 4),
        (ObjectiveConfig(surrogate="elbo", num_pairs=3), 6),
    ],
    ids=["mean field", "d1", "2-MF", "more latents than calls", "exact", "coupled", "espo"],
)
def test_expected_latents_by_hand_and_as_counted(objective: ObjectiveConfig, latents: float) -> None:
    """Of rows of four calls, a canvas long enough that hardly any latent scores nothing."""
    assert expected_latents(objective, nfe=4, rows=32, prompts=8) == 32 * latents
    batch = batch_of([str(row // 4) for row in range(32)], [[1, 2, 3, 4] * 8] * 32, [32] * 32)
    everyone, one = torch.arange(32), keys(32)[None]
    cuts = draw_cuts(batch.nfe, objective.num_latents, one[0])[None] if objective.surrogate == "mean_field" else None
    experience = Experience(batch, everyone, cuts, None, None, one, {})
    assert count_scored(experience, 0, objective) / 32 == pytest.approx(latents, rel=0.03)


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_run_adds_them_up_and_goes_on_adding_after_a_resume(beta: float, start: str, tmp_path: Path) -> None:
    config = TrainConfig(
        model=start,
        output=str(tmp_path / "straight"),
        train="model",
        steps=3,
        prompts_per_step=3,
        num_generations=4,
        rollout=RolloutConfig(sampler="top_k:4"),
        objective=ObjectiveConfig(num_latents=1, num_iterations=2, beta=beta),
        task=TaskConfig(easy=(1, 1), hard=(2, 2)),
    )
    train(config, quiet=True)
    steps = read_metrics(tmp_path / "straight/metrics.jsonl")
    total = 0
    for step in steps:
        groups = 3 if beta else round(3 * (1 - step["frac_reward_zero_std"]))  # those without advantage are left out
        assert step["forwards/rollouts"] == round(step["nfe"] * 3 * 4)
        assert step["forwards/updates"] == (3 if beta else 2) * 2 * groups
        total += step["forwards/rollouts"] + step["forwards/updates"]
        assert step["forwards"] == total
    broken = replace(config, output=str(tmp_path / "broken"), steps=2)
    train(broken, quiet=True)
    (tmp_path / "broken/config.json").unlink()  # as if the run had been stopped after two of three steps
    train(replace(broken, steps=3), resume=True, quiet=True)
    assert read_metrics(tmp_path / "broken/metrics.jsonl")[-1]["forwards"] == total


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (ObjectiveConfig(num_latents=2), 2),
        (ObjectiveConfig(num_latents=1, prompt_mask_prob=0.15), 2),
        (ObjectiveConfig(num_latents=0, beta=0.1), 3),
        (ObjectiveConfig(surrogate="coupled", num_pairs=2), 2),
        (ObjectiveConfig(surrogate="elbo", ratio_level="sequence", importance_level="sequence"), 2),
        (ObjectiveConfig(num_latents=1, loss="wd1", importance_clamp=0), 1),
    ],
    ids=["2-MF", "d1", "exact", "coupled", "espo", "wd1"],
)
def test_an_update_forwards_what_is_counted(objective: ObjectiveConfig, passes: int, start: str) -> None:
    """The slow twin: rows that really pass through the denoiser in the updates of a step."""
    config = TrainConfig(
        train="model",
        prompts_per_step=4,
        num_generations=4,
        rollout=RolloutConfig(sampler="top_k:4"),
        objective=replace(objective, num_iterations=2),
        task=TaskConfig(easy=(1, 1), hard=(2, 2)),
    )
    policy = load_policy(start)
    state = TrainState(policy, Optimizers.create(policy, config))
    if objective.beta:
        state.start = {name: parameter.detach().clone() for name, parameter in policy.trainable().items()}
    state.experience = gather(state, load_task(config.task), config, World())
    seen = 0

    def watch(module: object, arguments: tuple) -> None:  # type: ignore[type-arg]
        nonlocal seen
        seen += len(arguments[1].starts)

    policy.denoiser.register_forward_pre_hook(watch)
    for state.iteration in range(2):
        update(state, config, World())
    assert seen > 0 and state.experience.summary["forwards/updates"] == passes * seen
