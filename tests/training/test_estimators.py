"""Estimators of the field against twins written from their equations: one forward a canvas, one token after another.

Each twin computes J of the live rows; the gradient of an update off policy must be that of the twin's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from functional.test_latents import batch_of
from helpers import keys, prompt_of
from torch import Tensor, nn
from training.test_update import CONFIG, state_of

from diffpo.config import ObjectiveConfig, OptimConfig, RolloutConfig, TrainConfig
from diffpo.files.recipe import load_config
from diffpo.functional.prediction import ban
from diffpo.functional.random import fold
from diffpo.losses import load_loss
from diffpo.models.attention import pack
from diffpo.models.policy import Policy, load_policy
from diffpo.objective import Objective
from diffpo.processes.world import World
from diffpo.surrogates import load_surrogate
from diffpo.surrogates.elbo import elbo_masks
from diffpo.surrogates.gdpo import quadrature_masks
from diffpo.surrogates.spg import block_masks
from diffpo.training.checkpoint import _flatten_experience, _restore_experience
from diffpo.training.update import policy_backward, prepare, score_batch
from diffpo.types import Batch

ROLLOUT = RolloutConfig(sampler="top_k:3")


@dataclass
class Row:
    """One live row as an equation has it, and log-probabilities of its tokens now and before the update."""

    policy: Policy
    before: nn.Module
    batch: Batch
    row: int
    keys: Tensor
    """Of this row, [1]."""

    @property
    def one(self) -> Batch:
        return self.batch.take(torch.tensor([self.row]))

    @property
    def advantage(self) -> float:
        return float(self.batch.advantages[self.row])

    @property
    def calls(self) -> list[int]:
        """s_i of the tokens of the loss."""
        return self.batch.committed_at[self.row, : int(self.batch.loss_mask[self.row].sum())].tolist()

    def now(self, hide: list[bool], prompt: list[int] | None = None, centred: bool = False) -> Tensor:
        return self._logprobs(self.policy.denoiser, hide, prompt, centred)

    @torch.no_grad()
    def old(self, hide: list[bool], centred: bool = False) -> Tensor:
        return self._logprobs(self.before, hide, None, centred)

    def _logprobs(self, denoiser: nn.Module, hide: list[bool], prompt: list[int] | None, centred: bool) -> Tensor:
        prompt, tokens = prompt or prompt_of(self.batch, self.row), self.batch.tokens[self.row].tolist()
        canvas = [self.policy.mask_id if masked else token for masked, token in zip(hide, tokens, strict=True)]
        sequence = torch.tensor([[*prompt, *canvas]])
        hidden = denoiser(*pack(sequence, torch.tensor([sequence.shape[1]])))[len(prompt) :]
        logits = ban(denoiser.head(hidden), self.policy.banned)
        logprobs = logits.log_softmax(-1)
        mean = logprobs.masked_fill(logprobs.isinf(), torch.nan).nanmean(-1) if centred else 0.0
        return logprobs[range(len(tokens)), tokens] - mean

    def seen_by(self, call: int) -> list[bool]:
        """What was masked when the call was made."""
        return (self.batch.committed_at[self.row] >= call).tolist()


def clipped(ratio: Tensor, advantage: float, epsilon: float) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


def ranked(row: Row, values: Tensor, count: int) -> list[int]:
    """The calls of highest mean value."""
    means = {call: [] for call in row.calls}
    for place, call in enumerate(row.calls):
        means[call].append(float(values[row.row, place]))
    return sorted(means, key=lambda call: -sum(means[call]) / len(means[call]))[:count]


def agrpo(row: Row) -> Tensor:
    total, nfe = torch.zeros(()), len(set(row.calls))
    drawn = load_surrogate("agrpo:3").calls(row.one, row.keys)[0].tolist()
    assert nfe > 3 and len(set(drawn)) == 3 and set(drawn) <= set(row.calls)
    for call in drawn:
        hide = row.seen_by(call)
        ratio = (row.now(hide) - row.old(hide)).exp()
        for place, own in enumerate(row.calls):
            if own == call:
                total = total + nfe / 3 * clipped(ratio[place], row.advantage, 0.1) / len(row.calls)
    return total


def egspo(row: Row) -> Tensor:
    total, chosen = torch.zeros(()), ranked(row, row.batch.entropies, 3)
    for call in chosen:
        hide = row.seen_by(call)
        places = [place for place, own in enumerate(row.calls) if own == call]
        ratio = (row.now(hide) - row.old(hide))[places].mean().exp()
        total = total + clipped(ratio, row.advantage, 0.05) / len(chosen)
    return total


def rldf(row: Row) -> Tensor:
    total, chosen = torch.zeros(()), ranked(row, -row.batch.behaviour_logprobs, 3)
    for call in chosen:
        hide = row.seen_by(call)
        now, old = row.now(hide), row.old(hide)
        ahead = [place for place, own in enumerate(row.calls) if own > call and old[place] >= math.log(0.6)]
        scored = [place for place, own in enumerate(row.calls) if own == call] + ahead
        gains = [clipped((now[place] - old[place]).exp(), row.advantage, 0.1) for place in scored]
        total = total + sum(gains) / len(gains) / len(chosen)
    return total


def gdpo(row: Row) -> Tensor:
    """The nodes and weights of three points, as tables have them."""
    times, shares = (0.5 - math.sqrt(0.15), 0.5, 0.5 + math.sqrt(0.15)), (5 / 18, 4 / 9, 5 / 18)
    masks, _ = quadrature_masks(fold(row.keys, 1), 3, row.batch.tokens.shape[1])
    change = torch.zeros(())
    for time, share, hide in zip(times, shares, masks[0].tolist(), strict=True):
        places = [place for place in range(len(row.calls)) if hide[place]]
        change = change + share / time * (row.now(hide) - row.old(hide))[places].sum()
    return clipped((change / len(row.calls)).exp(), row.advantage, 0.01)


def gdsd(row: Row) -> Tensor:
    length = row.batch.tokens.shape[1]
    masks, _ = elbo_masks(fold(row.keys, 1), 1, torch.ones(1, length, dtype=torch.bool))
    now = old = 0.0
    for hide in masks[0].tolist():
        places = [place for place in range(len(row.calls)) if hide[place]]
        now, old = now + row.now(hide)[places].sum() / 2, old + row.old(hide)[places].sum() / 2
    change = (now - old).clamp(math.log(0.5), math.log(1.5))
    return -((change / length - 2.0 * row.advantage) ** 2)


def gdsd_centred(row: Row) -> Tensor:
    length = row.batch.tokens.shape[1]
    masks, _ = elbo_masks(fold(row.keys, 1), 1, torch.ones(1, length, dtype=torch.bool))
    now = old = torch.zeros(())
    for hide in masks[0].tolist():
        places, share = [place for place in range(len(row.calls)) if hide[place]], sum(hide) / (length + 1)
        now = now + row.now(hide, centred=True)[places].sum() / share / 2
        old = old + row.old(hide, centred=True)[places].sum() / share / 2
    change = (now - old).clamp(math.log(0.5), math.log(1.5))
    return -((change / length - 2.0 * row.advantage) ** 2)


def spg(row: Row) -> Tensor:
    """Probabilities as they are, in float64; each completion weighs its length."""
    surrogate, size = load_surrogate("spg:3,block_length=5,clean_mask_prob=0.3"), len(row.calls)
    drawn = surrogate.draw(row.one, row.keys, row.policy.mask_id).sequences.tolist()
    masks = surrogate.masks(row.one, row.keys)[0].tolist()
    lower, powers = 0.0, [[] for _ in range(size)]
    for sequence, hide in zip(drawn, masks, strict=True):
        logprobs = row.now(hide, sequence[: int(row.batch.prompt_lengths[row.row])]).double()
        places = [place for place in range(size) if hide[place]]
        lower = lower + logprobs[places].mean() / 3
        for place in places:
            powers[place].append(logprobs[place].exp() ** 1.5 / (len(places) / size))
    seen = [sum(of_token) / 3 for of_token in powers if of_token]
    upper = sum(power.log() for power in seen) / (1.5 * len(seen))
    value = lower if row.advantage > 0 else 0.4 * upper + 0.6 * lower
    return row.advantage * value * size


def wd1(row: Row) -> Tensor:
    """The published loss: the sum of the completion's log-probabilities, here over L."""
    length = row.batch.tokens.shape[1]
    return row.advantage * row.now([True] * length)[: len(row.calls)].sum() / length


SPECS: dict[str, tuple[ObjectiveConfig, Callable[[Row], Tensor]]] = {
    "agrpo": (ObjectiveConfig("agrpo:3", "clipped:0.1", importance_clamp=0.0), agrpo),
    "egspo": (ObjectiveConfig("egspo:3", "clipped:0.05,ratio_level=call", importance_clamp=0.0), egspo),
    "rldf": (ObjectiveConfig("rldf:3,temperature=0", "clipped:0.1", importance_clamp=0.0), rldf),
    "gdpo": (ObjectiveConfig("gdpo:3", "clipped:0.01,ratio_level=sequence", importance_clamp=0.0), gdpo),
    "gdsd": (ObjectiveConfig("gdsd", "gdsd:2,epsilon=0.5", importance_clamp=0.0), gdsd),
    "gdsd_centred": (
        ObjectiveConfig("gdsd:centred=true", "gdsd:2,epsilon=0.5", importance_clamp=0.0),
        gdsd_centred,
    ),
    "spg": (
        ObjectiveConfig(
            "spg:3,block_length=5,clean_mask_prob=0.3", "spg:1.5,omega=0.4", importance_clamp=0.0, loss_type="bnpo"
        ),
        spg,
    ),
    "wd1": (ObjectiveConfig("mean_field:1", "wd1:2", importance_clamp=0.0, loss_type="dr_grpo"), wd1),
}


@pytest.fixture
def policy(start: str) -> Policy:
    return load_policy(start)


def gradient_of(policy: Policy) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in policy.denoiser.named_parameters() if p.grad is not None}


def moved(policy: Policy, config: TrainConfig):  # type: ignore[no-untyped-def]
    """A batch in hand, the denoiser that scored it, and the policy some way off; completions differ in length."""
    state = state_of(policy, config)
    assert state.experience is not None
    batch = state.experience.batch
    lengths = torch.randint(10, batch.tokens.shape[1] + 1, (len(batch), 1), generator=torch.Generator().manual_seed(3))
    shorter = replace(batch, loss_mask=torch.arange(batch.tokens.shape[1]) < lengths)
    state.experience = prepare(state, shorter, config)
    before = copy.deepcopy(policy.denoiser)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.denoiser.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=generator)
    assert len(state.experience.live) > 5
    return state.experience, before


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("micro_batch_tokens", [32768, 100])
def test_the_gradient_is_that_of_the_equation(policy: Policy, name: str, micro_batch_tokens: int) -> None:
    objective, twin = SPECS[name]
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=objective)
    experience, before = moved(policy, config)
    batch = experience.batch.take(experience.live)
    policy.denoiser.zero_grad()
    small = replace(config, optim=OptimConfig(micro_batch_tokens=micro_batch_tokens))
    metrics = policy_backward(policy, experience, small, 1, World())
    ours = gradient_of(policy)
    policy.denoiser.zero_grad()
    whole = experience.batch.loss_mask.sum() if objective.loss_type == "bnpo" else len(experience.batch)
    for row in range(len(batch)):
        (-twin(Row(policy, before, batch, row, experience.keys[1, row : row + 1])) / whole).backward()
    largest = max(float(gradient.abs().max()) for gradient in ours.values())
    assert largest > 1e-4
    for parameter, gradient in gradient_of(policy).items():
        torch.testing.assert_close(ours[parameter], gradient, rtol=1e-3, atol=1e-4 * largest, msg=parameter)
    if "clip_ratio" in metrics:
        assert 0 < metrics["clip_ratio"] < 1


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", [name for name in SPECS if name != "rldf"])
@pytest.mark.parametrize("micro_batch_tokens", [32768, 100])
def test_one_update_scores_a_batch_once(policy: Policy, name: str, micro_batch_tokens: int, level: str) -> None:
    """Its own log-probs are the old ones: gradient and metrics are those of a batch that was scored before."""
    objective = replace(SPECS[name][0], num_iterations=1)
    if level == "sequence" and not objective.importance_clamp:
        return
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=replace(objective, importance_level=level))
    experience, _ = moved(policy, config)
    assert experience.old_logprobs is None
    small = replace(config, optim=OptimConfig(micro_batch_tokens=micro_batch_tokens))
    scored = replace(experience, old_logprobs=score_batch(policy, experience, small, World()))
    found = []
    for batch_in_hand in (experience, scored):
        policy.denoiser.zero_grad()
        metrics = policy_backward(policy, batch_in_hand, small, 0, World())
        found.append((metrics, gradient_of(policy)))
    (metrics, ours), (expected, gradient) = found
    if Objective.of(config.objective).needs_old:
        assert metrics == pytest.approx(expected, rel=1e-5, abs=1e-7)
    for parameter in gradient:
        torch.testing.assert_close(ours[parameter], gradient[parameter], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("objective", [SPECS["rldf"][0], replace(CONFIG.objective, self_normalize=True)])
def test_what_hangs_on_all_old_scores_waits_for_them(policy: Policy, objective: ObjectiveConfig) -> None:
    """Which tokens count, and weights over their mean: these need the whole batch before the first gradient."""
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=replace(objective, num_iterations=1))
    assert state_of(policy, config).experience.old_logprobs is not None


@dataclass(frozen=True)
class Half(World):
    """The rows of one of two ranks, without the other."""

    which: int = 0

    def share(self, count: int) -> range:
        return range(count // 2) if self.which == 0 else range(count // 2, count)


@pytest.mark.parametrize("name", SPECS)
def test_two_ranks_make_one_gradient(policy: Policy, name: str) -> None:
    """Each has the lines of its rows, and weights of the whole batch."""
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=replace(SPECS[name][0], beta=0.1))
    experience, _ = moved(policy, config)
    found = []
    for world in (World(), Half(which=0), Half(which=1)):
        policy.denoiser.zero_grad()
        found.append((policy_backward(policy, experience, config, 1, world), gradient_of(policy)))
    (metrics, whole), *halves = found
    for parameter, gradient in whole.items():
        torch.testing.assert_close(sum(half[parameter] for _, half in halves), gradient, rtol=1e-3, atol=1e-6)
    for measure in ("kl", "clip_ratio"):
        if measure in metrics:
            assert sum(half[measure] for half, _ in halves) == pytest.approx(metrics[measure], rel=1e-4)


@dataclass(frozen=True)
class Idle(World):
    """A rank that no row fell to, beside one whose rows are torn apart."""

    def share(self, count: int) -> range:
        return range(0)

    def any(self, flag: bool) -> bool:
        return True


@pytest.mark.parametrize("name", SPECS)
def test_a_rank_without_rows_adds_nothing(policy: Policy, name: str) -> None:
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=replace(SPECS[name][0], beta=0.1))
    experience, _ = moved(policy, config)
    metrics = policy_backward(policy, experience, config, 1, Idle())
    assert metrics["kl"] == 0 and not gradient_of(policy)


def test_gdsd_holds_completions_of_no_advantage(policy: Policy) -> None:
    """Delta / L is regressed onto 0, which has a gradient once other rows have moved the policy."""
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=SPECS["gdsd"][0])
    experience, _ = moved(policy, config)
    assert (experience.batch.advantages == 0).any() and len(experience.live) == len(experience.batch)
    experience.batch.advantages.zero_()
    policy_backward(policy, experience, config, 1, World())
    assert any(gradient.any() for gradient in gradient_of(policy).values())


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_in_hand_survives_a_checkpoint(policy: Policy, name: str) -> None:
    """Nothing that was drawn is in it but keys: it is drawn again."""
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=SPECS[name][0])
    experience, _ = moved(policy, config)
    found = []
    for batch_in_hand in (experience, _restore_experience(*_flatten_experience(experience))):
        policy.denoiser.zero_grad()
        metrics = policy_backward(policy, batch_in_hand, config, 1, World())
        found.append((metrics, gradient_of(policy)))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[1][1][parameter], gradient) for parameter, gradient in found[0][1].items())


@pytest.mark.parametrize("name", SPECS)
def test_rows_draw_for_themselves_and_iterations_anew(policy: Policy, name: str) -> None:
    config = replace(CONFIG, prompts_per_step=4, rollout=ROLLOUT, objective=SPECS[name][0])
    experience = state_of(policy, config).experience
    surrogate, batch = Objective.of(config.objective).surrogate, experience.batch.take(experience.live)
    old = None if experience.old_logprobs is None else experience.old_logprobs[0]
    together = surrogate.counts(batch, experience.keys[0], old)
    if together is not None:
        for row in range(len(batch)):
            one, lines = torch.tensor([row]), slice(row * surrogate.num_lines, (row + 1) * surrogate.num_lines)
            alone = surrogate.counts(batch.take(one), experience.keys[0, one], None if old is None else old[lines])
            assert torch.equal(alone, together[lines])
    drawn = [surrogate.draw(batch, of_rows, policy.mask_id).sequences.tolist() for of_rows in experience.keys]
    fixed = name in ("egspo", "rldf", "wd1")  # the calls of highest score, the empty canvas
    assert all(found == drawn[0] for found in drawn) == fixed


def test_drawn_calls_are_unbiased(policy: Policy) -> None:
    """Every token counts once on average, and all calls are the exact trajectory."""
    batch = state_of(policy, replace(CONFIG, rollout=ROLLOUT)).experience.batch
    one, many = batch.take(torch.zeros(4000, dtype=torch.int64)), keys(4000)
    counts = load_surrogate("agrpo:2").counts(one, many, None)
    torch.testing.assert_close(counts.mean(0), torch.ones(batch.tokens.shape[1]), atol=0.1, rtol=0)
    every = load_surrogate("agrpo:99").counts(batch, keys(len(batch)), None)
    assert bool((every[batch.loss_mask] == 1).all())
    short = batch_of(["0"] * 500, [[3, 1, 4, 2, 3]] * 500, [3] * 500)  # calls 3, 1 and 4 matter, call 2 is behind EOS
    counts = load_surrogate("agrpo:1").counts(short, keys(500), None)
    assert bool(((counts[:, :3] == 3).sum(-1) == 1).all()) and not counts[:, 3].any()
    torch.testing.assert_close(counts[:, :3].mean(0), torch.ones(3), atol=0.2, rtol=0)


def test_means_over_calls_and_draws_weigh_a_row_once(policy: Policy) -> None:
    state = state_of(policy, replace(CONFIG, rollout=ROLLOUT))
    batch = state.experience.batch
    lengths, of_rows = batch.loss_mask.sum(-1).float(), keys(len(batch))
    for spec in (
        "egspo:3",
        "egspo:2,temperature=0.5",
        "egspo:99,temperature=inf",
        "rldf:2,floor=0",
        "spg:2,block_length=4",
    ):
        surrogate = load_surrogate(spec)
        counts = surrogate.counts(batch, of_rows, None) * batch.loss_mask.repeat_interleave(surrogate.num_lines, 0)
        torch.testing.assert_close(counts.unflatten(0, (len(batch), -1)).sum((1, 2)), lengths, msg=spec)


def test_block_masks_are_those_of_a_rollout_in_blocks() -> None:
    lengths, width, length = torch.tensor([1, 4, 5, 10, 11, 16] * 50), 16, 5
    written = torch.arange(width) < lengths[:, None]
    masks = block_masks(keys(300), 3, length, 0.0, written)
    starts: list[set[int]] = []
    for row, size in enumerate(lengths.tolist()):
        found = []
        for mask in masks[row].tolist():
            begins = [b for b in range(0, size, length) if not any(mask[:b]) and any(mask[b : min(b + length, size)])]
            (start,) = begins  # the one block that is partly masked; all before is clean
            assert all(mask[min(start + length, size) :])
            found.append(start)
        assert len(set(found)) == min(3, -(-size // length))  # different ones, while there are any
        starts.append(set(found))
    sizes = torch.stack([masks[row, :, :5].sum(-1) for row in range(2, 300, 6)]).flatten()
    assert sizes.unique().tolist() == [1, 2, 3, 4, 5]
    hidden = block_masks(keys(300), 3, length, 0.3, written)
    assert bool((hidden | ~masks).all()) and 0.2 < float(hidden[~masks].float().mean()) < 0.4


def test_block_masks_draw_what_was_written() -> None:
    """Tokens 5 to 9 were given, and every other one of the rest: each draw masks 1 to 3 of another block."""
    written = ((torch.arange(16) % 2 == 0) & (torch.arange(16) // 5 != 1)).expand(300, 16)
    masks = block_masks(keys(300), 3, 5, 0.0, written) & written[:, None]
    first = (masks.long() @ (torch.arange(16) < 5).long(), masks.long() @ (torch.arange(16) >= 10).long())
    assert first[0].unique().tolist() == [0, 1, 2, 3] and first[1].unique().tolist() == [1, 2, 3]
    assert bool((masks.sum(-1) > 0).all())


def test_justgrpo_is_its_published_loop(policy: Policy) -> None:
    """For t = 0, 1, ...: log pi(o_t | prompt, o_<t, masks), a ratio that is 1, -rho A / (L share of valid rows)."""
    recipe = load_config(TrainConfig, "llada8b_gsm8k_justgrpo")
    rollout = replace(
        CONFIG.rollout, **{name: getattr(recipe.rollout, name) for name in ("sampler", "temperature", "block_length")}
    )
    objective = replace(recipe.objective, num_iterations=1, speed_weight=0.0, speed_gate=ObjectiveConfig.speed_gate)
    assert objective == recipe.objective
    published = replace(OptimConfig(), learning_rate=5e-6, adam_betas=(0.9, 0.999), warmup_steps=1)
    memory = {name: getattr(recipe.optim, name) for name in ("micro_batch_tokens", "gradient_checkpointing")}
    assert recipe.optim == replace(published, **memory)
    config = replace(CONFIG, rollout=rollout, objective=objective, num_generations=8)
    state = state_of(policy, config)
    assert state.experience is not None
    length = state.experience.batch.tokens.shape[1]
    # this policy is never right from left to right: rewards are drawn, and one group's are alike
    rewards = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    rewards[3] = 0.5
    advantages = load_loss(objective.loss).advantages(rewards, objective.scale_rewards).flatten()
    by_hand = (rewards - rewards.mean(-1, keepdim=True)) / (rewards.std(-1, keepdim=True) + 1e-4)
    torch.testing.assert_close(advantages, by_hand.flatten())
    batch = replace(state.experience.batch, advantages=advantages)
    order = (torch.arange(length) + 1).expand_as(batch.tokens)
    assert torch.equal(batch.committed_at[batch.loss_mask], order[batch.loss_mask])
    experience = prepare(state, batch, config)
    policy.denoiser.zero_grad()
    policy_backward(policy, experience, config, 0, World())
    ours = gradient_of(policy)
    policy.denoiser.zero_grad()
    valid = float((batch.advantages != 0).float().mean())
    for row in range(len(batch)):
        prompt, completion = prompt_of(batch, row), batch.tokens[row].tolist()
        for t in range(int(batch.loss_mask[row].sum())):
            x = torch.tensor([[*prompt, *completion[:t], *[policy.mask_id] * (length - t)]])
            hidden = policy.denoiser(*pack(x, torch.tensor([x.shape[1]])))
            logits = ban(policy.denoiser.head(hidden[len(prompt) + t]), policy.banned)
            logprob = logits.log_softmax(-1)[completion[t]]
            ratio = (logprob - logprob.detach()).exp()
            (-clipped(ratio, float(by_hand.flatten()[row]), 0.2) / (length * valid) / len(batch)).backward()
    for parameter, gradient in gradient_of(policy).items():
        torch.testing.assert_close(ours[parameter] / valid, gradient, rtol=1e-3, atol=1e-6)


def test_what_means_nothing_is_refused_in_one_line() -> None:
    for changes, error in (
        ({"loss": "spg", "importance_clamp": 0.0}, "objective.loss spg compares several canvases: set objective.surr"),
        ({"loss": "gdsd"}, "objective.loss gdsd has no importance weights: set objective.importance_clamp to 0"),
        ({"surrogate": "spg", "loss": "spg"}, "objective.loss spg has no importance weights"),
        ({"surrogate": "elbo"}, "objective.surrogate elbo is no probability to weigh a token by: set objective.import"),
        ({"surrogate": "coupled:2", "importance_level": "sequence"}, "objective.surrogate coupled:2 is no probability"),
    ):
        with pytest.raises(ValueError, match=error.replace(".", r"\.")):
            Objective.of(ObjectiveConfig(**changes))
