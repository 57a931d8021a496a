"""A text's probability under a sampler, by enumeration of all texts and by what was drawn."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import request, tiny_policy

from diffpo.config import RolloutConfig
from diffpo.rollout.engine import generate
from diffpo.rollout.likelihood import log_likelihoods

SAMPLERS = ("top_k:1", "top_k:2", "entropy_bound:0.5", "confidence:0.3", "random:1")


@pytest.mark.parametrize("sampler", [*SAMPLERS, "learned"])
@pytest.mark.parametrize("changes", [{}, {"shift": 1}, {"block_length": 2}, {"padding": 0}], ids=str)
def test_the_probabilities_of_all_texts_add_up_to_one(sampler: str, changes: dict[str, Any]) -> None:
    """Whatever decides which position comes first, it must not see what will stand there."""
    policy = tiny_policy(1, learned="state" if sampler == "learned" else False, **changes)
    written = [token for token in range(policy.denoiser.config.vocab_size) if token not in policy.banned]
    config = RolloutConfig(sampler=sampler, entropy_temperature=0.7)
    for length in (1, 3):
        texts = list(itertools.product(written, repeat=length))
        found = log_likelihoods(policy, [((0, 1, 2), text) for text in texts], config)
        same = len({math.exp(value) for value in found}) > len(texts) // 2  # it tells texts apart
        assert same and math.isclose(sum(map(math.exp, found)), 1, rel_tol=1e-5)


@pytest.mark.parametrize("learned", ["prompt", "state", "bernoulli"])
def test_what_was_drawn_has_the_probability_it_was_drawn_with(learned: str) -> None:
    policy = tiny_policy(2, learned=learned)
    for sampler in ("top_k:2", "entropy_bound:0.5", "learned"):
        settings: dict[str, Any] = {"sampler": sampler, "gen_length": 6, "explore": False, "early_exit": False}
        drawn = generate(policy, [request(key=key, **settings) for key in range(8)])
        texts = [tuple(completion.tokens.tolist()) for completion in drawn]
        assert len(set(texts)) > 4
        config = RolloutConfig(sampler=sampler, temperature=0.0)  # another temperature is that of drawing
        found = log_likelihoods(policy, [((0, 1, 2), text) for text in texts], config)
        assert found == [float(completion.behaviour_logprobs.double().sum()) for completion in drawn]
        assert found[:1] == log_likelihoods(policy, [((0, 1, 2), texts[0])], config)  # alone
        again = generate(policy, [replace(request(key=99, **settings), answer_ids=text) for text in texts])
        assert [one.committed_at.tolist() for one in again] == [one.committed_at.tolist() for one in drawn]


def test_rows_that_are_told_stand_beside_rows_that_draw() -> None:
    policy = tiny_policy(1)
    free, greedy = request(key=3), request(key=4, temperature=0.0)
    told = replace(request(key=5), answer_ids=(1,) * 8)
    found = generate(policy, [free, told, greedy])
    for asked, completion in zip([free, told, greedy], found, strict=True):
        (alone,) = generate(policy, [asked])
        assert alone.tokens.equal(completion.tokens)
        assert alone.behaviour_logprobs.equal(completion.behaviour_logprobs)
    assert found[1].tokens.tolist() == [1] * 8 and not found[2].behaviour_logprobs.any()


def test_what_has_no_likelihood() -> None:
    policy = tiny_policy(1)
    assert log_likelihoods(policy, []) == [] and log_likelihoods(policy, [((0,), ())]) == [0.0]
    with pytest.raises(ValueError, match=rf"answer_ids: \[{policy.mask_id}\] are never written"):
        log_likelihoods(policy, [((0,), (1, policy.mask_id))])
    with pytest.raises(ValueError, match="a row of 65 tokens exceeds the model's 64"):
        log_likelihoods(policy, [((0,) * 5, (1,) * 60)])
    with pytest.raises(ValueError, match="3 ids for a canvas of gen_length = 8"):
        generate(policy, [replace(request(), answer_ids=(1, 2, 3))])
    with pytest.raises(ValueError, match="at temperature 0 one text alone has a probability"):
        generate(policy, [replace(request(temperature=0.0), answer_ids=(1,) * 8)])


def test_ids_are_what_holds_whole_numbers() -> None:
    policy, config, prompt, text = tiny_policy(1), RolloutConfig(sampler="top_k:1"), [0, 1], [1, 2, 3]
    expected = log_likelihoods(policy, [((0, 1), (1, 2, 3))], config)
    for kind in (list, np.array, torch.tensor, iter, lambda ids: [*map(np.int64, ids)]):
        assert log_likelihoods(policy, ((kind(ids) for ids in pair) for pair in [(prompt, text)]), config) == expected
    with pytest.raises(ValueError, match=rf"pair 2: answer_ids: \[{policy.mask_id}\] are never written"):
        log_likelihoods(policy, [(prompt, text), (prompt, torch.tensor([1, policy.mask_id]))], config)
    wrong: list[Any] = [("01", "123"), (prompt, [1.0, 2.5]), (prompt,), 7]
    for pair in wrong:
        with pytest.raises(ValueError, match=r"pair 1 must be ids of a prompt and of a text, got .*: policy\.encode"):
            log_likelihoods(policy, [pair], config)
    for changes, named in (({"config": "top_k:1"}, "config must be"), ({"seed": "a"}, "seed must be a whole number")):
        arguments: Any = {"policy": policy, "pairs": [(prompt, text)], "config": config} | changes
        with pytest.raises(ValueError, match=named):
            log_likelihoods(**arguments)
    with pytest.raises(ValueError, match=r"answer_ids: no token \[tensor\(8\)\]"):
        generate(policy, [replace(request(gen_length=2), answer_ids=tuple(torch.tensor([8, 8])))])
