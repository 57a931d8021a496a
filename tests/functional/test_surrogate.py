"""Cuts and latents against slow loops, and the law that cuts are drawn by."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from helpers import chi_square_z, keys
from hypothesis import given
from hypothesis import strategies as st

from diffpo.functional.surrogate import (
    assign_cuts,
    best_calls,
    block_places,
    count_by_call,
    cut_masks,
    cut_weights,
    draw_block_cuts,
    draw_cuts,
    even_cuts,
    latents,
    mean_by_call,
)

MASK = 9


def cuts_below(cuts: torch.Tensor, nfe: int) -> list[int]:
    """The cuts of one row that are in use."""
    return [tau for tau in cuts.tolist() if tau < nfe]


@pytest.mark.parametrize("num_latents", [0, 1, 2, 3, 5, 20])
def test_cuts_are_zero_and_distinct_later_steps_in_order(num_latents: int) -> None:
    nfe = torch.tensor([1, 2, 3, 4, 7, 7, 12])
    cuts = draw_cuts(nfe, num_latents, keys(7))
    assert not cuts[:, 0].any() and (cuts.diff() >= 0).all() and (cuts <= nfe[:, None]).all()
    for row, calls in enumerate(nfe.tolist()):
        used = cuts_below(cuts[row], calls)
        assert len(used) == len(set(used)) == min(num_latents or calls, calls)
        if num_latents in (0, 20):
            assert used == list(range(calls))


def test_one_latent_is_the_prompt_alone() -> None:
    assert draw_cuts(torch.tensor([1, 5, 3]), 1, keys(3)).tolist() == [[0], [0], [0]]
    assert draw_cuts(torch.tensor([1, 1]), 3, keys(2)).tolist() == [[0], [0]]


@pytest.mark.parametrize(("calls", "num_latents"), [(9, 2), (6, 3), (5, 4)])
def test_every_set_of_steps_is_as_likely(calls: int, num_latents: int) -> None:
    count = 20_000
    longer = torch.full((count,), calls + 4)
    # the law must not depend on the batch: every other row stands beside a longer one
    nfe = torch.stack([torch.full((count,), calls), longer]).T.flatten()
    cuts = draw_cuts(nfe, num_latents, keys(2 * count))[::2]
    subsets = {inner: i for i, inner in enumerate(itertools.combinations(range(1, calls), num_latents - 1))}
    seen = torch.tensor([subsets[tuple(row)] for row in cuts[:, 1:].tolist()]).bincount(minlength=len(subsets))
    assert abs(chi_square_z(seen, torch.full((len(subsets),), 1 / len(subsets)))) < 4


LAWS = ("middle", "entropy", "surprisal")  # "tokens" is as "entropy" but for what a token is worth


def slow_law(law: str, committed_at: list[int], worth: list[float], calls: int) -> list[float]:
    """Weight of each step 1 .. T - 1, by hand."""
    of_call = {t: sum(h for s, h in zip(committed_at, worth, strict=True) if s == t) for t in range(1, calls + 1)}
    return {
        "middle": [float(t * (calls - t)) for t in range(1, calls)],
        "entropy": [of_call[t] for t in range(1, calls)],
        "surprisal": [of_call[t + 1] for t in range(1, calls)],
    }[law]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("num_latents", [2, 3])
def test_cuts_follow_their_law(law: str, num_latents: int) -> None:
    """Steps are drawn one after the other by their weights, whatever the longer row beside."""
    calls, count = 5, 20_000
    committed_at = [1, 1, 1, 2, 3, 3, 4, 5]
    nfe = torch.tensor([calls, calls + 3]).repeat(count)
    commits = torch.tensor([committed_at, [1, 2, 3, 4, 5, 6, 7, 8]]).repeat(count, 1)
    worth = [0.2, 0.1, 0.0, 1.3, 0.4, 0.5, 0.1, 2.0]
    weights = cut_weights(nfe, commits, torch.tensor([worth, [0.3] * 8]).repeat(count, 1), law)
    by_hand = slow_law(law, committed_at, worth, calls)
    torch.testing.assert_close(weights[0, : calls - 1], torch.tensor(by_hand))
    cuts = draw_cuts(nfe, num_latents, keys(2 * count), weights)[::2, 1:]
    assert (cuts.diff() > 0).all() and (cuts < calls).all()
    probabilities: dict[tuple[int, ...], float] = {}
    for drawn in itertools.permutations(range(1, calls), num_latents - 1):
        probability, left = 1.0, sum(by_hand)
        for step in drawn:
            probability, left = probability * by_hand[step - 1] / left, left - by_hand[step - 1]
        subset = tuple(sorted(drawn))
        probabilities[subset] = probabilities.get(subset, 0.0) + probability
    order = {subset: index for index, subset in enumerate(probabilities)}
    seen = torch.tensor([order[tuple(row)] for row in cuts.tolist()]).bincount(minlength=len(order))
    assert abs(chi_square_z(seen, torch.tensor(list(probabilities.values())))) < 4


def test_a_law_changes_no_number_of_cuts() -> None:
    """A step at which nothing counted is a step still: early EOS, or a rule that waits."""
    nfe, commits = torch.tensor([4, 1]), torch.tensor([[1, 1, 4, 4], [1, 1, 1, 1]])
    worth = torch.tensor([[0.5, 0.1, 0.0, 0.0], [0.0] * 4])
    assert cut_weights(nfe, commits, None, "uniform") is None
    for law in LAWS:
        for num_latents in (3, 4, 0):
            cuts = draw_cuts(nfe, num_latents, keys(2), cut_weights(nfe, commits, worth, law))
            assert len(set(cuts_below(cuts[0], 4))) == (num_latents or 4) and cuts_below(cuts[1], 1) == [0]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 6))
def test_cuts_do_not_depend_on_batch_mates(nfe: list[int], num_latents: int) -> None:
    together = draw_cuts(torch.tensor(nfe), num_latents, keys(len(nfe)))
    for row, calls in enumerate(nfe):
        alone = draw_cuts(torch.tensor([calls]), num_latents, keys(len(nfe))[row : row + 1])
        assert cuts_below(together[row], calls) == cuts_below(alone[0], calls)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 6), st.integers(0, 99))
def test_assignment_and_latents_are_those_of_slow_loops(nfe: list[int], num_latents: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cuts = draw_cuts(torch.tensor(nfe), num_latents, keys(len(nfe)))
    committed_at = torch.stack([torch.randint(1, calls + 1, (6,), generator=generator) for calls in nfe])
    tokens = torch.randint(0, 5, committed_at.shape, generator=generator)
    assigned = assign_cuts(committed_at, cuts)
    for row in range(len(nfe)):
        for position in range(6):
            step = int(committed_at[row, position])
            below = [tau for tau in cuts[row].tolist() if tau < step]
            assert cuts[row, assigned[row, position]] == max(below)
    for j in range(cuts.shape[1]):
        states = latents(tokens, committed_at, cuts[:, j], MASK)
        for row in range(len(nfe)):
            for position in range(6):
                known = committed_at[row, position] <= cuts[row, j]
                assert states[row, position] == (tokens[row, position] if known else MASK)


def test_all_latents_score_each_token_just_before_its_own_call() -> None:
    committed_at = torch.tensor([[3, 1, 2, 3], [1, 1, 1, 1]])
    cuts = draw_cuts(torch.tensor([3, 1]), 0, keys(2))
    assert torch.equal(cuts.gather(1, assign_cuts(committed_at, cuts)), committed_at - 1)


def test_the_worked_example_of_the_docs() -> None:
    """Each row of its table: the cuts, then sigma of the four tokens."""
    page = (Path(__file__).parents[2] / "docs/algorithm.md").read_text()
    table = page.split("### Four tokens, worked")[1].split("With `prompt_mask_prob`")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    rows = rows[2:]
    assert len(rows) == 4
    for _, cuts, *scored, _ in rows:
        taus = torch.tensor([[int(cut) for cut in cuts.split(",")]])
        assigned = assign_cuts(torch.tensor([[2, 1, 3, 2]]), taus)
        assert taus[0][assigned[0]].tolist() == [int(sigma) for sigma in scored]


@pytest.mark.parametrize("num_latents", [1, 2, 3, 7, 0])
def test_even_cuts_are_those_of_a_slow_loop(num_latents: int) -> None:
    nfe = torch.tensor([1, 2, 5, 8, 8])
    for row, cuts in zip(nfe.tolist(), even_cuts(nfe, num_latents).tolist(), strict=True):
        m = min(num_latents or 8, row)
        by_hand = [j * row // m for j in range(m)]
        assert cuts == by_hand + [row] * (len(cuts) - m) and len(set(by_hand)) == m


def test_what_a_call_committed_is_counted_as_a_slow_loop_does() -> None:
    calls = torch.tensor([[1, 1, 3, 2, 1], [2, 1, 2, 3, 2]])
    mask = torch.tensor([[True, True, True, False, False], [True, False, True, True, True]])
    slow = [
        [sum(m and c == call for c, m in zip(*row, strict=True)) for call in row[0]]
        for row in zip(calls.tolist(), mask.tolist(), strict=True)
    ]
    assert count_by_call(calls, mask).tolist() == slow


def test_means_by_call_are_those_of_a_slow_loop() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, 9.0], [3.0, 5.0, 7.0, 9.0]])
    calls, mask = torch.tensor([[1, 1, 3, 2], [2, 1, 2, 3]]), torch.tensor([[True, True, True, False], [True] * 4])
    nothing = -torch.inf
    assert mean_by_call(values, calls, mask).tolist() == [[1.5, nothing, 4.0], [5.0, 5.0, 9.0]]


def test_calls_are_chosen_by_score_or_drawn_by_it() -> None:
    scores = torch.tensor([[1.0, 3.0, -torch.inf, 2.0]])
    assert best_calls(scores, 2, keys(1), 0.0).tolist() == [[2, 4]]
    assert best_calls(scores, 4, keys(1), 0.0).tolist() == [[2, 4, 1, 5]]  # there are three: the fourth is no call
    count, temperature = 20_000, 0.7
    drawn = best_calls(scores.expand(count, -1), 2, keys(count), temperature)
    rates = {call: math.exp(scores[0, call - 1] / temperature) for call in (1, 2, 4)}
    total = sum(rates.values())
    pairs = [(a, b) for a in rates for b in rates if a != b]
    law = torch.tensor([rates[a] / total * rates[b] / (total - rates[a]) for a, b in pairs])
    seen = torch.tensor([int((drawn == torch.tensor(pair)).all(-1).sum()) for pair in pairs])
    assert seen.sum() == count and abs(chi_square_z(seen, law)) < 4
    alone = best_calls(scores, 2, keys(count)[7:8], temperature)
    assert torch.equal(alone[0], drawn[7])


BLOCKS = torch.tensor([[3, 0], [3, 2], [4, 1]])
# calls of the blocks of rows of 7: decoded one block after the other
BY_BLOCK = torch.tensor([[2, 1, 1, 3, 5, 4, 6], [1, 3, 2, 2, 4, 6, 5], [3, 1, 2, 5, 4, 5, 5]])


def test_blocks_of_a_canvas_are_counted_from_its_row_or_from_itself() -> None:
    number, place = block_places(BLOCKS, 7)
    for row, (length, offset) in enumerate(BLOCKS.tolist()):
        assert number[row].tolist() == [(i + offset) // length for i in range(7)]
        assert place[row].tolist() == [(i + offset) % length for i in range(7)]


@pytest.mark.parametrize("num_latents", [0, 1, 2, 3])
def test_a_block_is_cut_as_a_rollout_of_its_own(num_latents: int) -> None:
    cuts = draw_block_cuts(BY_BLOCK, None, BLOCKS, num_latents, keys(3))
    masks, scored = cut_masks(BY_BLOCK, cuts)
    number, _ = block_places(BLOCKS, 7)
    for row, calls in enumerate(BY_BLOCK.tolist()):
        for block in number[row].unique().tolist():
            places = (number[row] == block).nonzero().flatten().tolist()
            own = {calls[place] for place in places}
            assert len({tuple(cuts[row, place].tolist()) for place in places}) == 1
            used = cuts_below(cuts[row, places[0]], max(own))
            assert used[0] == min(own) - 1 and set(used[1:]) <= own  # from the empty block on
            assert len(used) == min(num_latents or len(own), len(own))
            for place in places:
                last = max(cut for cut in used if cut < calls[place])
                index = cuts[row, place].tolist().index(last)
                assert scored[row, :, place].nonzero().flatten().tolist() == [index]
                assert masks[row, index, [p for p in places if calls[p] <= last]].sum() == 0


@pytest.mark.parametrize("law", ["uniform", *LAWS])
def test_cuts_of_a_block_follow_their_law(law: str) -> None:
    """As those of a rollout that is that block alone, in law."""
    count = 6000
    commits = torch.tensor([[1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 8]]).repeat(count, 1)
    blocks = torch.tensor([[6, 0]]).repeat(count, 1)
    worth = None if law == "uniform" else torch.linspace(0.1, 1, 12).repeat(count, 1)
    cuts = draw_block_cuts(commits, worth, blocks, 2, keys(count), law)
    for places, calls, before in ((range(6), 4, 0), (range(6, 12), 4, 4)):
        alone = commits[:, places] - before
        part = None if worth is None else worth[:, places]
        weights = cut_weights(torch.full((count,), calls), alone, part, law)
        share = torch.ones(calls - 1) if weights is None else weights[0]
        seen = (cuts[:, places[0], 1] - before).bincount(minlength=calls)[1:]
        assert abs(chi_square_z(seen, share / share.sum())) < 4
