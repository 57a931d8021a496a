"""What a call commits where each position has its own chance, against every draw there is."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from diffpo.functional.bernoulli import draw_positions, positions_logprob

K = 5


def some_calls(count: int = 40) -> tuple[Tensor, Tensor]:
    """Log-odds and candidates of calls; the first has none, the second one."""
    generator = torch.Generator().manual_seed(0)
    f = 2 * torch.randn(count, K, generator=generator, dtype=torch.float64)
    candidates = torch.rand(count, K, generator=generator) < 0.7
    candidates[:2] = False
    candidates[1, 3] = True
    return f, candidates


def law(f: Tensor, candidates: Tensor) -> dict[tuple[bool, ...], float]:
    """The probability of every set that a call may commit: all draws, one by one."""
    found: dict[tuple[bool, ...], float] = {}
    chance = torch.sigmoid(f)
    for draw in itertools.product((False, True), repeat=K):
        drawn = torch.tensor(draw)
        if (drawn & ~candidates).any():
            continue
        odds = torch.where(drawn, chance, 1 - chance)[candidates].prod()
        if candidates.any() and not drawn.any():
            drawn[f.masked_fill(~candidates, -torch.inf).argmax()] = True
        committed = tuple(drawn.tolist())
        found[committed] = found.get(committed, 0.0) + float(odds)
    return found


def test_the_probability_of_a_set_is_that_of_all_draws_that_lead_to_it() -> None:
    f, candidates = some_calls()
    for row in range(len(f)):
        sets = law(f[row], candidates[row])
        assert abs(sum(sets.values()) - 1) < 1e-12
        committed = torch.tensor(list(sets))
        rows = f[row].expand(len(sets), -1), candidates[row].expand(len(sets), -1)
        torch.testing.assert_close(
            positions_logprob(*rows, committed), torch.tensor(list(sets.values()), dtype=torch.float64).log()
        )


def test_draws_have_that_law() -> None:
    f, candidates = (column[5:6] for column in some_calls())
    generator, count = torch.Generator().manual_seed(1), 20_000
    uniforms = torch.rand(count, K, generator=generator)
    drawn = draw_positions(f.expand(count, -1), candidates.expand(count, -1), uniforms)
    for committed, odds in law(f[0], candidates[0]).items():
        share = float((drawn == torch.tensor(committed)).all(-1).float().mean())
        assert abs(share - odds) < 5 * (odds * (1 - odds) / count) ** 0.5 + 1e-4


def test_a_call_commits_something_and_the_leftmost_of_equals() -> None:
    f, candidates = some_calls()
    committed = draw_positions(f, candidates, torch.ones_like(f))  # nothing is drawn
    assert (committed.sum(-1) == candidates.any(-1)).all() and not (committed & ~candidates).any()
    even = draw_positions(torch.zeros(1, K), torch.tensor([[False, True, True, True, False]]), torch.ones(1, K))
    assert even.tolist() == [[False, True, False, False, False]]


def test_at_one_half_what_is_likelier_than_not_is_committed() -> None:
    f, candidates = some_calls()
    committed = draw_positions(f, candidates, torch.full_like(f, 0.5))
    several = (candidates & (f > 0)).any(-1)
    assert torch.equal(committed[several], (candidates & (f > 0))[several]) and (~several).sum() > 2


def test_gradients_are_those_of_finite_differences() -> None:
    f, candidates = (column[2:12] for column in some_calls())
    for uniforms in (torch.ones_like(f), torch.full_like(f, 0.5)):
        committed = draw_positions(f, candidates, uniforms)
        assert torch.autograd.gradcheck(lambda x, c=committed: positions_logprob(x, candidates, c), f.requires_grad_())
