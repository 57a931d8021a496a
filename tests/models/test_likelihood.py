"""Surrogate log-probabilities against a slow twin that runs every row and cut on its own."""

from __future__ import annotations

import pytest
import torch
from helpers import FirstDigitTask, keys, prompt_of, request, tiny_policy
from rollout.slow_engine import run

from diffpo.config import RolloutConfig
from diffpo.functional.bernoulli import positions_logprob
from diffpo.functional.latents import cut_latents
from diffpo.functional.prediction import ban
from diffpo.functional.random import fold, uniform
from diffpo.functional.surrogate import draw_cuts
from diffpo.models.likelihood import score, surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.rollout.local import collect
from diffpo.types import Batch, Prompt, Rollout, RolloutGroup, Verdict

VARIANTS = [{}, {"shift": 1}, {"learned_positions": True}]


def some_batch(policy: Policy, temperature: float = 1.0, sampler: str = "entropy_bound:0.7") -> Batch:
    """Groups of three with prompts and canvases of different lengths; two share a prompt but not a canvas."""
    groups = []
    for index, (prompt, gen_length) in enumerate((("012", 8), ("3", 5), ("45601", 7), ("012", 6))):
        requests = [
            request(prompt, 10 * index + key, sampler, gen_length, temperature=temperature, early_exit=key < 2)
            for key in range(3)
        ]
        rollouts = [Rollout(c, "", Verdict(False, 0.0), 0.0) for c in generate(policy, requests)]
        groups.append(RolloutGroup(Prompt(str(index), prompt), requests[0].prompt_ids, rollouts))
    return Batch.from_groups(groups, torch.arange(12.0))


def slow_logprobs(
    policy: Policy,
    batch: Batch,
    cuts: torch.Tensor,
    temperature: float,
    prompt_mask_prob: float = 0.0,
    mask_keys: torch.Tensor | None = None,
) -> torch.Tensor:
    """One forward pass a token."""
    scores = torch.zeros(batch.tokens.shape)
    for row, position in batch.loss_mask.nonzero().tolist():
        prompt, size = prompt_of(batch, row), int(batch.gen_lengths[row])
        step = int(batch.committed_at[row, position])
        cut = max(tau for tau in cuts[row].tolist() if tau < step)
        if cut == 0 and prompt_mask_prob:
            lottery = [float(uniform(fold(mask_keys[row], place))) for place in range(len(prompt))]
            prompt = [policy.mask_id if u < prompt_mask_prob else t for t, u in zip(prompt, lottery, strict=True)]
        canvas = [
            int(batch.tokens[row, i]) if int(batch.committed_at[row, i]) <= cut else policy.mask_id for i in range(size)
        ]
        hidden = run(policy, [*prompt, *canvas])
        at = max(len(prompt) + position - policy.denoiser.config.shift, 0)
        logits = ban(policy.denoiser.head(hidden[at]).detach(), policy.banned)
        scores[row, position] = (logits / temperature).log_softmax(-1)[batch.tokens[row, position]]
    return scores


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("num_latents", [1, 2, 3, 0])
def test_log_probabilities_are_those_of_the_slow_twin(changes: dict, num_latents: int) -> None:
    policy = tiny_policy(**changes)
    batch = some_batch(policy)
    cuts = draw_cuts(batch.nfe, num_latents, keys(12))
    for temperature in (1.0, 0.6):
        ours = surrogate_logprobs(policy, batch, cuts, temperature).detach()
        torch.testing.assert_close(ours, slow_logprobs(policy, batch, cuts, temperature), atol=1e-5, rtol=1e-5)
        assert not ours[~batch.loss_mask].any()


@pytest.mark.parametrize("num_latents", [1, 2])
def test_prompt_masks_are_keyed_by_row_and_fall_on_z0_only(num_latents: int) -> None:
    policy = tiny_policy()
    batch = some_batch(policy)
    cuts = draw_cuts(batch.nfe, num_latents, keys(12))
    ours = score(policy, cut_latents(batch, cuts, policy.mask_id, 0.4, keys(12, "mask")), 1.0).detach()
    slow = slow_logprobs(policy, batch, cuts, 1.0, 0.4, keys(12, "mask"))
    torch.testing.assert_close(ours, slow, atol=1e-5, rtol=1e-5)
    plain = surrogate_logprobs(policy, batch, cuts, 1.0).detach()
    assert not torch.isclose(ours, plain)[batch.loss_mask].all()


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("sampler", ["top_k:1", "random:3", "entropy_bound:0.7"])
def test_all_latents_give_the_recorded_behaviour(changes: dict, temperature: float, sampler: str) -> None:
    """m = T: the exact trajectory likelihood is what the engine recorded when it drew the tokens."""
    policy = tiny_policy(1, **changes)
    batch = some_batch(policy, temperature, sampler)
    cuts = draw_cuts(batch.nfe, 0, keys(12))
    exact = surrogate_logprobs(policy, batch, cuts, temperature).detach()
    torch.testing.assert_close(exact[batch.loss_mask], batch.behaviour_logprobs[batch.loss_mask], atol=1e-5, rtol=1e-5)


def test_one_call_is_mean_field_and_exact_at_once() -> None:
    policy = tiny_policy()
    batch = some_batch(policy, sampler="entropy_bound:1e9")
    ours = surrogate_logprobs(policy, batch, draw_cuts(batch.nfe, 2, keys(12)), 1.0).detach()
    torch.testing.assert_close(ours[batch.loss_mask], batch.behaviour_logprobs[batch.loss_mask], atol=1e-5, rtol=1e-5)


def test_the_empty_canvas_goes_through_once_a_group() -> None:
    policy = tiny_policy()
    batch = some_batch(policy)
    rows: list[int] = []
    hook = policy.denoiser.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[1].starts)))
    cuts = draw_cuts(batch.nfe, 1, keys(12))
    surrogate_logprobs(policy, batch, cuts, 1.0)
    score(policy, cut_latents(batch, cuts, policy.mask_id, 0.2, keys(12)), 1.0)
    hook.remove()
    # four different (prompt, canvas length); with prompt masks every row has its own
    assert rows == [4, 12]


def test_rows_do_not_depend_on_their_batch() -> None:
    """Values and gradients of micro-batches add up to those of the whole."""
    policy = tiny_policy()
    batch = some_batch(policy)
    cuts = draw_cuts(batch.nfe, 2, keys(12))
    factors = torch.randn(batch.tokens.shape, generator=torch.Generator().manual_seed(0))

    def gradient(chunks: list[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        policy.denoiser.zero_grad()
        values = []
        for rows in chunks:
            values.append(surrogate_logprobs(policy, batch.take(rows), cuts[rows], 1.0))
            (values[-1] * factors[rows]).sum().backward()
        return torch.cat(values).detach(), [p.grad.clone() for p in policy.denoiser.parameters()]

    whole, gradients = gradient([torch.arange(12)])
    for size in (1, 5):
        parts, summed = gradient(list(torch.arange(12).split(size)))
        torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(summed, gradients, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


def test_blocks_of_several_lengths_stand_in_one_batch() -> None:
    """What pads their decisions is no position, and changes no log-probability."""
    policy = tiny_policy(learned="bernoulli")
    batch = some_batch(policy, sampler="learned")  # canvases of 5 to 8 positions, each one block
    decided = batch.decided
    features, actions = batch.features[decided], batch.actions[decided]
    widths = batch.gen_lengths[decided.nonzero()[:, 0]]
    assert batch.features.shape[-1] == 8 and torch.equal((features != 0).sum(-1), widths)
    logprobs = positions_logprob(policy.sampler_head(features), features > 0, actions).float()
    torch.testing.assert_close(logprobs, batch.action_logprobs[decided])


@pytest.mark.parametrize("kind", ["prompt", "state", "bernoulli"])
def test_a_collected_batch_is_scored_as_it_was_drawn(kind: str) -> None:
    """From task to batch: nothing is lost on the way."""
    policy, task = tiny_policy(learned=kind), FirstDigitTask()
    config = RolloutConfig(sampler="learned", temperature=1.2, block_length=4)
    groups = collect(policy, task, task.prompts("train", 4), 3, config, seed=0)
    batch = Batch.from_groups(groups, torch.zeros(12))
    exact = surrogate_logprobs(policy, batch, draw_cuts(batch.nfe, 0, keys(12)), 1.2).detach()
    torch.testing.assert_close(exact[batch.loss_mask], batch.behaviour_logprobs[batch.loss_mask], atol=1e-5, rtol=1e-5)
    head, decided = policy.sampler_head, batch.decided
    features, actions = batch.features[decided], batch.actions[decided]
    if kind == "bernoulli":
        logprobs = positions_logprob(head(features), features > 0, actions).float()
    else:
        logprobs = head.logprob(actions, head(features))
    torch.testing.assert_close(logprobs, batch.action_logprobs[decided])
    assert decided.sum(-1).tolist() == ([1] * 12 if kind == "prompt" else batch.nfe.tolist())
    lengths = [r.completion.length for group in groups for r in group.rollouts]
    assert batch.loss_mask.sum(-1).tolist() == lengths
    assert all(prompt_of(batch, row) == list(groups[row // 3].prompt_ids) for row in range(12))
