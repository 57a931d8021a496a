"""The Bernoulli head."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import tiny_policy
from torch import Tensor

from diffpo.config import BernoulliConfig
from diffpo.functional.bernoulli import positions_logprob
from diffpo.models.bernoulli import TOKEN, BernoulliHead

W = 9


def some_features(rows: int = 24) -> Tensor:
    """Calls whose windows hold masks, tokens and, at the left, places outside the block."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(rows, W, generator=generator)
    features = torch.where(torch.rand(rows, W, generator=generator) < 0.3, TOKEN, features)
    outside = torch.arange(W) < torch.randint(0, 4, (rows, 1), generator=generator)
    return features.masked_fill(outside, 0.0)


def trained_head() -> BernoulliHead:
    head = tiny_policy(learned="bernoulli").sampler_head
    assert isinstance(head, BernoulliHead)
    return head


@pytest.mark.parametrize("chance", [0.05, 0.12, 0.9])
def test_every_position_starts_at_the_same_chance(chance: float) -> None:
    head = BernoulliHead(BernoulliConfig(width=16, chance_init=chance), seed=3)
    torch.testing.assert_close(torch.sigmoid(head(some_features())), torch.full((24, W), chance, dtype=torch.float64))


def test_fresh_weights_are_those_of_the_seed() -> None:
    heads = [BernoulliHead(BernoulliConfig(width=16), seed) for seed in (0, 0, 1)]
    weights = [head.qkv_proj.weight for head in heads]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_a_position_sees_its_block_and_nothing_else() -> None:
    """Not what its place in the window is, nor how wide that is."""
    head, features = trained_head(), some_features()
    f, there = head(features), features != 0
    wider = torch.nn.functional.pad(features, (3, 5))
    torch.testing.assert_close(head(wider)[:, 3 : 3 + W][there], f[there], rtol=0, atol=1e-12)
    for row in range(len(features)):  # bits are the same in fp32, which is what is recorded
        assert torch.equal(head(features[row : row + 1]).float()[0], f[row].float())
    changed = features.clone()
    changed[:, -1] = torch.where(features[:, -1] > 0, 1.3 * features[:, -1], features[:, -1])
    moved = (head(changed) != f) & (features[:, -1:] > 0) & there
    assert moved[:, :-1].any(-1).sum() > 10, "positions do not see each other"


def test_it_reads_confidence_tokens_and_the_share_of_masks() -> None:
    head = trained_head()
    low, high = torch.full((1, W), 0.2), torch.full((1, W), 0.9)
    mixed = high.clone()
    mixed[0, 1::2] = TOKEN
    found = {float(head(features)[0, 0].detach()) for features in (low, high, mixed)}
    assert len(found) == 3


def test_choices_are_those_of_the_chances_with_their_probability() -> None:
    head, features = trained_head(), some_features()
    uniforms = torch.rand(len(features), W, generator=torch.Generator().manual_seed(2))
    explore = torch.arange(len(features)) % 2 == 0
    committed, logprob = head.choose(features, uniforms, explore)
    f, masked = head(features), features > 0
    assert not (committed & ~masked).any() and (committed.any(-1) == masked.any(-1)).all()
    drawn = masked & torch.where(explore[:, None], uniforms < torch.sigmoid(f), f > 0)
    several = drawn.any(-1)
    assert torch.equal(committed[several], drawn[several])
    torch.testing.assert_close(logprob, positions_logprob(f, masked, committed).float())


def test_gradients_reach_every_weight_after_the_first_update() -> None:
    head, features = BernoulliHead(BernoulliConfig(width=16)), some_features()
    masked = features > 0
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (-positions_logprob(head(features), masked, masked & (features > 0.6)).mean()).backward()
        optimizer.step()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_it_learns_a_rule_of_its_features() -> None:
    """To commit what has a large probability, and nothing else."""
    head = BernoulliHead(BernoulliConfig(width=16))
    optimizer = torch.optim.Adam(head.parameters(), 0.01)
    features = some_features(200)
    masked, wanted = features > 0, features > 0.6
    for _ in range(150):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(features)[masked], wanted[masked].double())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 < math.log(2)
