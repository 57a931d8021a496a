"""Canvases on which something stands from the start, against the slow twin; and what training makes of them."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
import torch
from helpers import keys, request, tiny_policy
from rollout.slow_engine import decode
from rollout.test_blocks import NAMES, SHAPES, SlowBlocks, block_requests
from rollout.test_cache import SlowCache, batch_of, cached_requests
from rollout.test_engine import assert_same, mixed_requests
from rollout.test_replay import every_call

from diffpo.config import RolloutConfig, parse_canvas
from diffpo.functional.latents import draw_batch_cuts
from diffpo.models.likelihood import score, surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.rollout.judging import text_of
from diffpo.rollout.local import canvas_ids, make_request, sample, stream
from diffpo.rollout.replay import changed_sets
from diffpo.surrogates import load_surrogate
from diffpo.types import Request

SURROGATES = (
    *("mean_field:1", "mean_field:2", "mean_field:0", "mean_field:2,prompt_mask_prob=0.3", "elbo", "gdsd", "gdpo"),
    *("coupled", "spg", "agrpo", "egspo", "rldf"),
)


def with_given(policy: Policy, requests: list[Request], seed: int = 0) -> list[Request]:
    """The same with random tokens on two canvases of three, EOS among them; the rows of a pair share theirs."""
    given = []
    for index, asked in enumerate(requests):
        random = Random(f"{seed}, {index // 2}, {asked.gen_length}")
        share = (0.0, 0.3, 0.8)[index // 2 % 3]
        ids = [
            random.randrange(policy.eos_id + 1) if random.random() < share else policy.mask_id
            for _ in range(asked.gen_length)
        ]
        ids[random.randrange(asked.gen_length)] = policy.mask_id
        given.append(replace(asked, canvas_ids=tuple(ids) if share else ()))
    return given


@pytest.mark.parametrize("head", ["prompt", "state", "bernoulli"])
def test_what_is_given_stands_and_the_rest_is_decoded_as_by_the_slow_twin(head: str) -> None:
    policy = tiny_policy(1, learned=head, shift=1)
    requests = with_given(policy, mixed_requests(120))
    completions = generate(policy, requests, num_slots=9)
    for asked, completion in zip(requests, completions, strict=True):
        assert_same(completion, decode(policy, asked))
        for token, given, call in zip(completion.tokens, asked.canvas_ids, completion.committed_at, strict=False):
            assert (call == 0) == (given != policy.mask_id) and (call > 0 or token == given)
    ended = [c.length < len(c.tokens) for asked, c in zip(requests, completions, strict=True) if asked.canvas_ids]
    assert sum(ended) > 3, "too few rows ended early for this test to mean anything"


def test_a_row_does_not_depend_on_its_batch() -> None:
    policy = tiny_policy(2, learned=True)
    requests = with_given(policy, cached_requests(48))
    expected = [generate(policy, [asked])[0] for asked in requests]
    for slots in (3, 48):
        for completion, alone in zip(generate(policy, requests, slots), expected, strict=True):
            assert_same(completion, alone, exact=True)


def test_caches_know_what_is_given() -> None:
    policy = tiny_policy(4, learned=True)
    requests = with_given(policy, cached_requests(60))
    for asked, completion in zip(requests, generate(policy, requests, num_slots=7), strict=True):
        assert_same(completion, decode(policy, asked, SlowCache(policy, asked)))


@pytest.mark.parametrize("changes", SHAPES, ids=NAMES)
def test_blocks_of_which_all_is_given_are_stored_and_not_decoded(changes: dict) -> None:
    policy = tiny_policy(1, learned=True, **changes)
    requests = with_given(policy, block_requests(36, ("exact", "none")))
    whole = [request("01234", key, "top_k:1", 16, block_length=4, early_exit=False, cache="exact") for key in range(3)]
    ids = [[policy.mask_id] * 16 for _ in whole]
    ids[0][3:12], ids[1][:8], ids[2][4:16] = [1] * 9, [2] * 8, [3] * 12
    requests += [replace(asked, canvas_ids=tuple(row)) for asked, row in zip(whole, ids, strict=True)]
    for asked, completion in zip(requests, generate(policy, requests, num_slots=7), strict=True):
        assert_same(completion, decode(policy, asked, SlowBlocks(policy, asked)))


@pytest.mark.parametrize("changes", ({}, *SHAPES[:5]))
def test_no_surrogate_masks_or_scores_what_is_given(changes: dict) -> None:
    """The exact trajectory has the recorded log-probabilities, and every latent shows what stood there."""
    policy = tiny_policy(3, **changes)
    blocks = {"block_length": 4} if changes else {}
    requests = [request("012"[: 1 + key // 4], key, "top_k:2", 12, early_exit=False, **blocks) for key in range(12)]
    requests = with_given(policy, requests)
    batch = batch_of(requests, generate(policy, requests))
    given = ~batch.written
    assert given.any() and not (batch.loss_mask & given).any() and batch.loss_mask.any(-1).all()
    cuts = draw_batch_cuts(batch, 0, keys(12))
    exact = surrogate_logprobs(policy, batch, cuts, 1.0).detach()
    torch.testing.assert_close(exact[batch.loss_mask], batch.behaviour_logprobs[batch.loss_mask], atol=1e-5, rtol=1e-5)
    for spec in SURROGATES:
        surrogate = load_surrogate(spec)
        latents = surrogate.draw(batch, keys(12), policy.mask_id)
        for sequence, start, row in zip(latents.sequences, latents.prompt_lengths, latents.owners, strict=True):
            canvas = sequence[start : start + batch.gen_lengths[row]]
            assert torch.equal(canvas[given[row]], batch.tokens[row][given[row]]), spec
        assert not given[latents.rows // surrogate.num_lines, latents.positions].any(), spec
        assert torch.isfinite(score(policy, latents, 1.0)).all(), spec
        old = torch.zeros(len(batch) * surrogate.num_lines, 12)
        counts = surrogate.counts(batch, keys(12), old)
        assert counts is None or torch.isfinite(counts).all(), spec


def test_rows_share_an_empty_canvas_only_with_those_that_were_given_the_same() -> None:
    policy = tiny_policy()
    canvases = [(policy.mask_id, token, policy.mask_id, policy.mask_id) for token in (1, 1, 2)]
    requests = [request("01", 5, "top_k:4", 4, canvas_ids=ids, early_exit=False) for ids in canvases]
    batch = batch_of(requests, generate(policy, requests))
    assert len(load_surrogate("mean_field:1").draw(batch, keys(3), policy.mask_id)) == 2


@pytest.mark.parametrize("shape", [{}, {"block_length": 4}])
def test_a_replay_finds_what_was_given(shape: dict) -> None:
    policy = tiny_policy(2, learned=True, **shape)
    config = RolloutConfig(sampler="entropy_bound:0.7", block_length=4)
    requests = [request("0123", key, config.sampler, 12, block_length=4) for key in range(12)]
    requests = with_given(policy, requests)
    rows, calls = every_call(batch_of(requests, generate(policy, requests)))
    assert not changed_sets(policy, rows, calls, config).any()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"canvas_ids": (1, 2)}, "2 ids for a canvas of gen_length = 8: the mask's, 8, where"),
        ({"canvas_ids": (1,) * 8}, "none of them is the mask's, 8: nothing is left to write"),
        ({"canvas_ids": (-1, *(8,) * 7)}, r"canvas_ids: no token \[-1\]"),
    ],
)
def test_canvases_that_are_none_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        generate(tiny_policy(), [request(**changes)])


# --- as text ------------------------------------------------------------------------------------------------------


def test_a_canvas_is_written_as_text() -> None:
    assert parse_canvas("Name: {6}, age: {3}.") == ["Name: ", 6, ", age: ", 3, "."]
    assert parse_canvas(r"\boxed{{4}}{x}") == [r"\boxed{", 4, "}{x}"]
    policy = tiny_policy()
    mask = policy.mask_id
    assert canvas_ids(policy, RolloutConfig(canvas="12{3}0")) == (1, 2, mask, mask, mask, 0)


@pytest.mark.parametrize(
    "canvas, said",
    [
        ("12", r"rollout.canvas '12': write \{N\} where there are N tokens"),
        ("{0}", r"rollout.canvas '\{0\}': write"),
        ("a{3}", "rollout.canvas: the model's alphabet lacks 'a'"),
        ("{999999999}", "rollout.canvas: 999999999 tokens to write exceed the model's 64"),
        ("12{2}", r"rollout.sampler 'steps:3': .* at most the tokens to write = 2"),
    ],
)
def test_a_text_that_is_no_canvas_is_named(canvas: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sample(tiny_policy(), ["0"], RolloutConfig(canvas=canvas, sampler="steps:3"))


def test_gen_length_does_nothing_beside_a_canvas() -> None:
    with pytest.raises(ValueError, match=r"rollout.gen_length does nothing beside rollout.canvas"):
        RolloutConfig(canvas="{4}", gen_length=8)


@pytest.mark.parametrize("blocks, steps", [(None, 1), (None, 4), (None, 9), (6, 4), (6, 8)])
def test_a_number_of_calls_is_that_of_what_is_to_be_written(blocks: int | None, steps: int) -> None:
    """LLaDA's schedule counts the masks of a block, whatever else stands in it."""
    config = RolloutConfig(canvas="1{5}23{4}", sampler=f"steps:{steps}", block_length=blocks)
    asked = make_request(tiny_policy(), "0", config, 12, key=3, early_exit=False)
    (completion,) = generate(tiny_policy(), [asked])
    assert completion.nfe == steps


@pytest.mark.parametrize("blocks", [None, 2])
def test_an_answer_says_what_was_given_whatever_ends_before_it(blocks: int | None) -> None:
    policy = tiny_policy(7)
    config = RolloutConfig(canvas="1{5}23{4}", sampler="top_k:2", temperature=1.0, block_length=blocks)
    completions = sample(policy, list("0123456" * 6), config)
    torn = 0
    for completion in completions:
        tokens = completion.tokens.tolist()
        torn += policy.eos_id in tokens[1:6]
        heard = [token for token in tokens[1:6] if token != policy.eos_id]
        assert completion.text.startswith("1" + "".join(map(str, heard)) + "23")
        assert text_of(policy, completion) == completion.text
        assert completion.length > 7 and int(completion.written.sum()) == completion.length - 3
        assert math.isclose(completion.entropies[[0, 6, 7]].sum(), 0)
    assert torn > 3, "too few rows hold an EOS before what is given"
    *_, last = stream(policy, "0", replace(config, canvas="", gen_length=9), canvas=config.canvas)
    assert last.completion.text == completions[0].text
    (same,) = sample(policy, ["0"], replace(config, canvas="", gen_length=9), canvas=config.canvas)
    assert same.text == completions[0].text
    notes = [text.get_text() for text in completions[0].plot().axes[0].texts]
    assert any("without a colour: given" in note for note in notes)
