"""One update: exact on policy, independent of micro-batches, its schedule and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
import torch
from helpers import FirstDigitTask, tiny_policy

from diffpo.config import (
    BernoulliConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    RolloutConfig,
    SftConfig,
    TaskConfig,
    ThresholdConfig,
    TrainConfig,
)
from diffpo.functional.bernoulli import positions_logprob
from diffpo.models.bernoulli import BernoulliHead
from diffpo.models.policy import Policy, load_policy
from diffpo.models.threshold import ThresholdHead
from diffpo.processes.world import World
from diffpo.rollout.local import collect
from diffpo.tasks import load_task
from diffpo.training.loop import gather
from diffpo.training.metrics import ALARMS, alarms, mean_of, summarize
from diffpo.training.sampler import sampler_backward
from diffpo.training.state import TrainState, adamw, learning_rate_factor
from diffpo.training.update import policy_backward, update

TASK = TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2))
CONFIG = TrainConfig(
    train="model",
    prompts_per_step=6,
    num_generations=4,
    rollout=RolloutConfig(sampler="entropy_bound:0.5"),
    objective=ObjectiveConfig(num_iterations=2, beta=0.1),
)


@pytest.fixture
def policy(start: str) -> Policy:
    return load_policy(start)


def state_of(policy: Policy, config: TrainConfig) -> TrainState:
    """The policy, its own reference, with a batch in hand."""
    state = TrainState.begin(policy, config)
    state.experience = gather(state, load_task(TASK), config, World())
    return state


def gradients(policy: Policy, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Gradients of the second iteration, weights left as they are."""
    state = state_of(policy, config)
    before = {name: tensor.clone() for name, tensor in policy.denoiser.state_dict().items()}
    state.iteration = 1
    update(state, config, World())
    policy.denoiser.load_state_dict(before)
    return {name: p.grad.clone() for name, p in policy.denoiser.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("num_latents", [1, 2, 0])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo"])
def test_micro_batches_change_memory_not_gradients(policy: Policy, num_latents: int, loss_type: str) -> None:
    objective = replace(CONFIG.objective, surrogate=f"mean_field:{num_latents}", loss_type=loss_type)
    config = replace(CONFIG, objective=objective)
    whole = gradients(policy, config)
    parts = gradients(policy, replace(config, optim=OptimConfig(micro_batch_tokens=200)))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveConfig(surrogate="mean_field:0", loss="clipped:0.2,ratio_level=call", beta=0.1),
        ObjectiveConfig(surrogate="mean_field:0", loss="clipped:0.2,ratio_level=sequence", beta=0.1),
        ObjectiveConfig(surrogate="coupled:2", importance_clamp=0),
        ObjectiveConfig(surrogate="mean_field:0", loss="wd1", importance_clamp=0, beta=0.1),
    ],
    ids=["calls", "sequence", "coupled", "wd1"],
)
def test_a_latent_at_a_time_is_the_whole_batch_at_once(policy: Policy, objective: ObjectiveConfig) -> None:
    """Also where a row's tokens share a ratio: an update holds one latent, however long the trajectory."""
    config = replace(CONFIG, prompts_per_step=2, objective=objective)
    state, found, most = state_of(policy, config), [], []
    hook = policy.denoiser.register_forward_pre_hook(lambda _, inputs: most.append(len(inputs[1].starts)))
    for tokens in (10**6, 1):
        policy.denoiser.zero_grad()
        one = replace(config, optim=OptimConfig(micro_batch_tokens=tokens))
        metrics = policy_backward(policy, state.experience, one, 0, World())
        found.append((metrics, {name: p.grad.clone() for name, p in policy.denoiser.named_parameters()}))
    hook.remove()
    torn = "sequence" in objective.loss or objective.surrogate == "coupled:2"
    passes = 2 if torn else 1  # scored, then learned
    assert most == [most[0], *[1] * passes * most[0]] and most[0] > 8
    (metrics, whole), (others, parts) = found
    assert others == pytest.approx(metrics, rel=1e-5, abs=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("num_latents", [1, 2, 3, 0])
@pytest.mark.parametrize("prompt_mask_prob", [0.0, 0.15])
def test_on_policy_the_ratio_is_exactly_one(policy: Policy, num_latents: int, prompt_mask_prob: float) -> None:
    surrogate = f"mean_field:{num_latents},prompt_mask_prob={prompt_mask_prob}"
    objective = replace(CONFIG.objective, surrogate=surrogate)
    config = replace(CONFIG, objective=objective, optim=OptimConfig(learning_rate=1e-12))
    metrics = update(state_of(policy, config), config, World())
    assert metrics["surrogate_kl"] == 0 and metrics["clip_ratio"] == 0 and metrics["kl"] == 0


def test_the_exact_trajectory_needs_no_importance_weight(policy: Policy) -> None:
    config = replace(CONFIG, objective=replace(CONFIG.objective, surrogate="mean_field:0"))
    metrics = update(state_of(policy, config), config, World())
    assert metrics["importance/mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["importance/ess"] == pytest.approx(1, abs=1e-5)


def test_weights_that_are_off_have_the_full_sample_size(policy: Policy) -> None:
    found = {}
    for clamp in (0.0, 2.0):
        config = replace(CONFIG, objective=replace(CONFIG.objective, surrogate="mean_field:1", importance_clamp=clamp))
        found[clamp] = update(state_of(policy, config), config, World())
    assert found[0]["importance/ess"] == 1 > found[2]["importance/ess"]


@pytest.mark.parametrize("level", ["prompt", "state"])
def test_the_heads_gradient_is_that_of_all_its_decisions(policy: Policy, level: str) -> None:
    """On policy the clipped objective has REINFORCE's gradient: sum of A grad log pi over the decisions, in a loop."""
    settings = ThresholdConfig(level=level, delay_steps=0)
    policy.sampler_head = head = ThresholdHead(policy.denoiser.config.hidden_size, settings)
    config = replace(CONFIG, train="sampler", threshold=settings, rollout=RolloutConfig(), objective=ObjectiveConfig())
    state = state_of(policy, config)
    with torch.no_grad():
        head.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    state.experience = gather(state, load_task(TASK), config, World())
    batch = state.experience.batch
    total = torch.zeros(())
    for row in range(len(batch)):
        for made in range(int(batch.nfe[row]) if level == "state" else 1):
            mean = head(batch.features[row, made])
            total = total - batch.advantages[row] * head.logprob(batch.actions[row, made], mean) / len(batch)
    wanted = torch.autograd.grad(total, [head.weight, head.bias])
    silent = replace(config, optim=OptimConfig(max_grad_norm=1e9))
    metrics = update(state, silent, World())
    assert metrics["sampler/kl"] == 0
    torch.testing.assert_close([head.weight.grad, head.bias.grad], list(wanted), rtol=1e-4, atol=1e-7)


def test_a_heads_metrics_are_those_of_completions_that_have_a_gradient(policy: Policy) -> None:
    settings = ThresholdConfig(delay_steps=0)
    policy.add_head(settings)
    config = replace(CONFIG, train="sampler", threshold=settings, rollout=RolloutConfig(), objective=ObjectiveConfig())
    state = state_of(policy, config)
    batch, found = state.experience.batch, []
    with torch.no_grad():
        policy.sampler_head.bias.add_(0.1)
    advantages = batch.advantages.masked_fill(torch.arange(len(batch)) % 2 == 0, 0.0)
    live = advantages.nonzero().squeeze(-1)
    assert 0 < len(live) < len(batch)
    alone = batch.take(live)
    for some in (replace(batch, advantages=advantages), replace(alone, advantages=advantages[live])):
        rows = some.advantages.nonzero().squeeze(-1)
        found.append(sampler_backward(policy, replace(state.experience, batch=some, live=rows), settings))
    assert found[0] == pytest.approx(found[1]) and found[0]["sampler/kl"] > 0


@pytest.mark.parametrize("positions", [2**14, 20])
def test_a_bernoulli_heads_gradient_is_that_of_its_calls(
    policy: Policy, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On policy: the mean over rows of A times the mean over calls of grad log P(what the call committed), in a loop.

    However many calls are read at once.
    """
    monkeypatch.setattr("diffpo.training.sampler.MAX_POSITIONS", positions)
    settings = BernoulliConfig(width=8, chance_init=0.3)
    policy.add_head(settings)
    head = policy.sampler_head
    assert isinstance(head, BernoulliHead)
    with torch.no_grad():
        head.out.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    config = replace(CONFIG, train="sampler", rollout=RolloutConfig(block_length=6), objective=ObjectiveConfig())
    config = replace(config, sampler_head="bernoulli", threshold=ThresholdConfig(), bernoulli=settings)
    state = state_of(policy, config)
    batch = state.experience.batch
    advantages = torch.randn(len(batch), generator=torch.Generator().manual_seed(1)) * (
        torch.arange(len(batch)) % 3 > 0
    )
    batch = replace(batch, advantages=advantages)
    state.experience = replace(state.experience, batch=batch, live=advantages.nonzero().squeeze(-1))
    total = torch.zeros((), dtype=torch.float64)
    for row in range(len(batch)):
        for call in range(nfe := int(batch.nfe[row])):
            features, action = batch.features[row, call][None], batch.actions[row, call][None]
            logprob = positions_logprob(head(features), features > 0, action)
            total = total - batch.advantages[row] * logprob[0] / nfe / len(batch)
    wanted = torch.autograd.grad(total, list(head.parameters()), allow_unused=True)
    silent = replace(config, optim=OptimConfig(max_grad_norm=1e9))
    metrics = update(state, silent, World())
    assert metrics["sampler/kl"] == pytest.approx(0, abs=1e-12) and metrics["sampler/clip_ratio"] == 0
    for (name, parameter), gradient in zip(head.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-9, msg=lambda text, n=name: n + text)


def test_rows_without_advantage_are_left_out_exactly(policy: Policy) -> None:
    config = replace(CONFIG, num_generations=2, objective=replace(CONFIG.objective, beta=0.0))
    lean = state_of(policy, config).experience
    assert lean is not None and len(lean.live) < len(lean.batch)
    silent = replace(CONFIG.objective, beta=1e-30)  # keeps every row, and weighs the KL with nothing
    full = gradients(policy, replace(config, objective=silent))
    for name, gradient in gradients(policy, config).items():
        torch.testing.assert_close(full[name], gradient, rtol=1e-4, atol=1e-7)


JOINT = replace(CONFIG, train="joint", threshold=ThresholdConfig(delay_steps=0), rollout=RolloutConfig())


def test_without_an_advantage_a_head_stays_where_it_is(policy: Policy) -> None:
    """Also where a KL term moves the denoiser: momentum of earlier steps is no reason to move."""
    policy.add_head(JOINT.threshold)
    state = state_of(policy, JOINT)
    assert "sampler/grad_norm" in update(state, JOINT)
    before, batch = policy.sampler_head.weight.clone(), state.experience.batch
    state.experience.batch = replace(batch, advantages=torch.zeros_like(batch.advantages))
    metrics = update(state, JOINT)
    assert "model/grad_norm" in metrics and "sampler/grad_norm" not in metrics
    assert torch.equal(policy.sampler_head.weight, before)


def test_a_batch_that_is_prepared_again_is_observed_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    policy.add_head(JOINT.threshold)
    state = TrainState.begin(policy, JOINT)
    with monkeypatch.context() as patched, pytest.raises(FloatingPointError):
        patched.setattr("diffpo.training.update.score", lambda policy, part, _: torch.full(part.shape, torch.nan))
        gather(state, load_task(TASK), JOINT, World())
    state.experience = gather(state, load_task(TASK), JOINT, World())
    assert int(policy.sampler_head.count) == int(state.experience.batch.decided.sum())


@pytest.mark.parametrize("config", [TrainConfig(steps=100), SftConfig(steps=100)], ids=["train", "sft"])
def test_learning_rate_schedule(config: TrainConfig | SftConfig) -> None:
    """One meaning in reinforcement learning and fine-tuning."""

    def factors(steps: int | None = None, **optim) -> list[float]:  # type: ignore[no-untyped-def]
        changed = replace(config, schedule_steps=steps, optim=OptimConfig(warmup_steps=4, **optim))
        return [learning_rate_factor(changed, step) for step in range(100)]

    constant = factors()
    assert [constant[step] for step in (0, 1, 3, 50, 99)] == [0.25, 0.5, 1, 1, 1]
    cosine = factors(lr_schedule="cosine")
    assert cosine[:5] == [0.25, 0.5, 0.75, 1, 1] and cosine[52] == pytest.approx(0.5) and 0 < cosine[-1] < 0.001
    assert cosine[4:] == sorted(cosine[4:], reverse=True)
    short = factors(24, lr_schedule="cosine")
    assert short[14] == pytest.approx(0.5) and not any(short[24:])


def test_norms_and_biases_do_not_decay(policy: Policy) -> None:
    """Under gradients of zero AdamW shrinks what decays, and nothing else."""
    policy.add_adapters(LoraConfig(rank=2))
    linear = torch.nn.Linear(3, 2)
    learning = [*policy.denoiser.parameters(), *linear.parameters()]
    before = [parameter.detach().clone() for parameter in learning]
    optimizer = adamw(learning, 0.1, (0.9, 0.99), weight_decay=0.5)
    for parameter in learning:
        parameter.requires_grad_().grad = torch.zeros_like(parameter)
    optimizer.step()
    factors = {1: 1.0, 2: 0.95}
    assert {parameter.ndim for parameter in learning} == factors.keys()
    for parameter, old in zip(learning, before, strict=True):
        torch.testing.assert_close(parameter.detach(), factors[parameter.ndim] * old)


@dataclass(frozen=True)
class Lockstep(World):
    """A rank of two that has run out of rows while the other goes on, without the other."""

    rank: int = 1
    num_ranks: int = 2
    shards: bool = True

    def share(self, count: int) -> range:
        return range(0)

    def passes(self, count: int) -> int:
        return count + 1

    def any(self, flag: bool) -> bool:
        return flag

    def sum(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return dict(values)


def test_a_pass_that_merely_keeps_step_adds_nothing_even_where_the_loss_is_not_finite(policy: Policy) -> None:
    state = state_of(policy, CONFIG)
    assert state.experience is not None and state.experience.old_logprobs is not None
    state.experience.old_logprobs[:, 0] = -torch.inf  # of the row that it goes through the motions with
    metrics = policy_backward(policy, state.experience, CONFIG, 0, Lockstep())
    assert metrics["surrogate_kl"] == metrics["kl"] == 0
    grads = [parameter.grad for parameter in policy.denoiser.parameters() if parameter.grad is not None]
    assert grads and not any(grad.any() for grad in grads)


def test_every_alarm_names_a_knob_and_rings_once() -> None:
    assert alarms({"reward": 0.5, "entropy": 0.3, "importance/ess": 0.9}, TrainConfig()) == {}
    for alarm in ALARMS:
        value = next(v for v in (0.0, 0.999, 1e9) if alarm.rings(v))
        (line,) = alarms({alarm.metric: value}, TrainConfig()).values()
        assert line.startswith(alarm.metric) and ("." in alarm.advice)


@pytest.mark.parametrize("level", ["prompt", "state"])
def test_thresholds_at_the_ends_are_counted_one_by_one(level: str) -> None:
    """Where each call has one: half of them at either end have their mean in the middle."""
    policy, task = tiny_policy(learned=level), FirstDigitTask()
    groups = collect(policy, task, task.prompts("train", 3), 2, RolloutConfig(sampler="learned"), 0)
    completions = [rollout.completion for group in groups for rollout in group.rollouts]
    for completion in completions:
        ends = 9.0 * (-1) ** torch.arange(len(completion.actions))
        object.__setattr__(completion, "actions", ends)
        object.__setattr__(completion, "gamma", float(policy.sampler_head.gamma(ends).mean()))
    assert summarize(groups)["gamma/saturated"] == 1.0
    object.__setattr__(completions[0], "actions", torch.zeros_like(completions[0].actions))
    numbers = [len(completion.actions) for completion in completions]
    assert max(numbers) > 1 or level == "prompt"
    assert summarize(groups)["gamma/saturated"] == pytest.approx(1 - numbers[0] / sum(numbers))


def test_skipped_updates_are_summed_and_the_rest_averaged() -> None:
    assert mean_of([{"kl": 1.0, "model/skipped": 1.0}, {"kl": 3.0, "model/skipped": 1.0}]) == {
        "kl": 2.0,
        "model/skipped": 2.0,
    }
