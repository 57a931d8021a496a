"""Canvases in blocks as trees: scores and gradients against a row for each term, and what goes through counted."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers import keys, pack_in_blocks, request, tiny_policy
from torch import Tensor

from diffpo.functional.latents import Latents
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.surrogates import load_surrogate
from diffpo.types import Batch, Prompt, Rollout, RolloutGroup, Verdict

SHAPES = (
    {"block_length": 4},
    {"block_length": 4, "blocks_from": "row", "shift": 1, "learned_positions": True},
    {"block_length": 4, "causal_context": True},
    {"block_length": 4, "causal_context": True, "blocks_from": "row", "shift": 1},
)
NAMES = ("canvas", "row, shift", "causal", "causal, row, shift")
SURROGATES = (
    "mean_field:2",
    "mean_field:0",
    "mean_field:2,prompt_mask_prob=0.3",
    "agrpo:2",
    "rldf:2",
    "elbo",
    "gdpo:2",
)


def group_batch(policy: Policy) -> Batch:
    """Three groups of three completions that end anywhere, one of them twice the same."""
    groups, cache = [], "none" if policy.denoiser.config.block_length is None else "exact"
    for number, prompt in enumerate(("0123456", "012345", "3")):
        asked = [
            request(prompt, key if key < 2 or number else 1, "entropy_bound:1.2", gen_length=(12, 10)[number % 2],
                    block_length=4, cache=cache)
            for key in range(3)
        ]  # fmt: skip
        rollouts = [Rollout(one, "", Verdict(True, 1.0), 1.0) for one in generate(policy, asked)]
        groups.append(RolloutGroup(Prompt("p", ""), asked[0].prompt_ids, rollouts))
    return Batch.from_groups(groups, torch.ones(9))


def latents_of(policy: Policy, surrogate: str) -> Latents:
    return load_surrogate(surrogate).draw(group_batch(policy), keys(9), policy.mask_id)


def texts(latents: Latents, row: int) -> tuple[list[int], list[int], int]:
    """Clean and noised tokens of a latent, and where its first block begins."""
    assert latents.clean is not None and latents.blocks is not None
    start, size = int(latents.prompt_lengths[row]), int(latents.gen_lengths[row])
    noised = latents.sequences[row, : start + size].tolist()
    return noised[:start] + latents.clean[row, :size].tolist(), noised, start - int(latents.blocks[row, 1])


def block_by_block(policy: Policy, latents: Latents) -> Tensor:
    """`score`, each term from a row of its own: the clean tokens before its block, and that block as it is noised."""
    lines = torch.zeros(latents.shape)
    for source, line, place, token, weight in zip(
        *(latents.source.tolist(), latents.rows.tolist(), latents.positions.tolist(), latents.tokens.tolist()),
        latents.weights,
        strict=True,
    ):
        clean, noised, begin = texts(latents, source)
        at = int(latents.prompt_lengths[source]) + place
        block = begin + (at - begin) // 4 * 4
        ids = torch.tensor([clean[:block] + noised[block : block + 4]])
        numbers = torch.div(torch.arange(ids.shape[1])[None] - begin, 4, rounding_mode="floor")
        if policy.denoiser.config.causal_context:
            numbers = torch.arange(ids.shape[1])[None].clamp_max(block)
        hidden = policy.denoiser(*pack_in_blocks(ids, torch.tensor([ids.shape[1]]), numbers))
        state = hidden[max(at - policy.denoiser.config.shift, 0)]
        logprob = policy.logits(state[None])[0].log_softmax(-1)[token]
        lines = lines.index_put((torch.tensor(line), torch.tensor(place)), weight * logprob, accumulate=True)
    return lines


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("changes", SHAPES, ids=NAMES)
def test_scores_and_gradients_are_those_of_a_row_for_every_block(changes: dict, surrogate: str) -> None:
    policy = tiny_policy(5, **changes)
    latents = latents_of(policy, surrogate)
    tilt = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for way in (lambda: score(policy, latents, 1.0), lambda: block_by_block(policy, latents)):
        policy.denoiser.zero_grad()
        scores = way()
        (tilt * scores).sum().backward()
        found.append([scores.detach(), *(p.grad.clone() for p in policy.denoiser.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) and found[0][0].any()
    for ours, slow in zip(*found, strict=True):
        torch.testing.assert_close(ours, slow, atol=2e-5, rtol=1e-4)


def counted(latents: Latents) -> int:
    """Tokens that must go through: of prompts, of clean blocks that a later one sees, of noised ones, each once."""
    prompts, answers, noised = set[tuple[int, ...]](), dict[tuple[int, ...], int](), 0
    assert latents.blocks is not None
    for row in range(len(latents)):
        clean, text, begin = texts(latents, row)
        places = latents.positions[latents.source == row] + int(latents.prompt_lengths[row])
        asked = {(int(at) - begin) // 4 for at in places}
        prompts.add(tuple(clean[:begin]))
        seen = (int(latents.prompt_lengths[row]), *clean)
        answers[seen] = max(answers.get(seen, 0), 4 * max(asked))
        noised += sum((at - begin) // 4 in asked for at in range(begin, len(text)))
    return sum(map(len, prompts)) + sum(answers.values()) + noised


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("changes", SHAPES, ids=NAMES)
def test_what_latents_share_goes_through_once(changes: dict, surrogate: str) -> None:
    policy, through = tiny_policy(5, **changes), list[int]()
    latents = latents_of(policy, surrogate)
    policy.denoiser.register_forward_pre_hook(lambda _, args: through.append(len(args[0])))
    with torch.no_grad():
        whole = score(policy, latents, 1.0)
        assert through.pop() == counted(latents)
        for max_tokens in (1, 40, 90, 10_000):
            parts = latents.split(max_tokens)
            torch.testing.assert_close(sum(score(policy, part, 1.0) for part in parts), whole, atol=2e-5, rtol=1e-4)
            assert all(taken <= max_tokens or len(part) == 1 for taken, part in zip(through, parts, strict=True))
            through.clear()


def test_of_a_group_of_two_cuts_a_third_of_the_tokens_is_left() -> None:
    """What it is for: eight completions of one prompt, of which a second cut is asked for in a few blocks."""
    policy = tiny_policy(3, block_length=4)
    asked = [request("0123456" * 4, key, "entropy_bound:1.2", 12, block_length=4, cache="exact") for key in range(8)]
    rollouts = [Rollout(one, "", Verdict(True, 1.0), 1.0) for one in generate(policy, asked)]
    batch = Batch.from_groups([RolloutGroup(Prompt("p", ""), asked[0].prompt_ids, rollouts)], torch.ones(8))
    latents = load_surrogate("mean_field:2").draw(batch, keys(8), policy.mask_id)
    alone = int((latents.prompt_lengths + 2 * latents.gen_lengths).sum())
    assert counted(latents) < alone / 3


def test_a_text_without_a_prompt_has_no_trunk() -> None:
    policy = tiny_policy(2, block_length=4)
    answers, masked = (
        torch.tensor([[1, 2, 3, 4, 5, 1, 2]]),
        torch.tensor([[False, True, True, False, True, True, True]]),
    )
    lengths = torch.tensor([0]), torch.tensor([7])
    noised = answers.masked_fill(masked, policy.mask_id)
    latents = Latents.of_rows(noised, lengths[0], answers, lengths[1], masked, torch.tensor([[4, 0]]))
    torch.testing.assert_close(score(policy, latents, 1.0), block_by_block(policy, latents), atol=2e-5, rtol=1e-4)


def test_a_text_that_is_too_long_says_its_own_length() -> None:
    """Not that of its row, in which the canvas stands once more for each latent."""
    policy, masked = tiny_policy(2, block_length=4), torch.ones(1, 30, dtype=torch.bool)
    policy.denoiser.config = dataclasses.replace(policy.denoiser.config, max_length=39)
    ids = torch.zeros(1, 40, dtype=torch.int64)
    lengths = torch.tensor([10]), torch.tensor([30])
    latents = Latents.of_rows(ids, lengths[0], ids[:, 10:], lengths[1], masked, torch.tensor([[4, 0]]))
    with pytest.raises(ValueError, match="a row of 40 tokens exceeds the model's 39"):
        score(policy, latents, 1.0)
