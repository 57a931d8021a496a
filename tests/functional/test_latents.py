"""Latents of a batch: hand counts, a count by brute force, and parts that add up and keep groups whole."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from helpers import keys
from hypothesis import given
from hypothesis import strategies as st

from diffpo.functional.latents import Latents, Unit, cut_by_tokens, cut_latents, draw_batch_cuts, token_worth
from diffpo.functional.surrogate import CutLaw, draw_cuts
from diffpo.surrogates import load_surrogate
from diffpo.types import Batch

MASK = 9


def batch_of(prompts: list[str], committed_at: list[list[int]], lengths: list[int]) -> Batch:
    """Rows with these prompts and commit orders; tokens after the length are in no loss."""
    calls = torch.tensor(committed_at)
    nothing = torch.zeros(calls.shape)
    return Batch(
        prompts=torch.nn.utils.rnn.pad_sequence([torch.tensor(list(map(int, prompt))) for prompt in prompts], True),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
        tokens=torch.ones_like(calls),
        committed_at=calls,
        behaviour_logprobs=nothing,
        entropies=nothing,
        loss_mask=torch.arange(calls.shape[1]) < torch.tensor(lengths)[:, None],
        gen_lengths=torch.full((len(prompts),), calls.shape[1]),
        nfe=calls.max(-1).values,
        keys=keys(len(prompts)),
        advantages=torch.ones(len(prompts)),
        features=None,
        actions=None,
        action_logprobs=None,
    )


def count(batch: Batch, cuts: torch.Tensor, own_prompts: bool = False) -> int:
    """Latents of these cuts."""
    return len(cut_latents(batch, cuts, MASK, 0.5 * own_prompts, keys(len(batch))))


def test_latents_by_hand() -> None:
    batch = batch_of(["01", "01", "2"], [[1, 2, 3], [1, 1, 2], [3, 2, 1]], [3, 3, 3])
    no_cut = torch.zeros(3, 1, dtype=torch.long)
    assert count(batch, no_cut) == 2  # a z_0 for each prompt
    assert count(batch, no_cut, own_prompts=True) == 3  # for each row
    cuts = torch.tensor([[0, 1], [0, 1], [0, 2]])
    assert count(batch, cuts) == 2 + 3  # and z_tau for each row
    assert count(batch, cuts, own_prompts=True) == 3 + 3


def test_a_latent_at_which_no_token_of_the_loss_is_scored_costs_nothing() -> None:
    batch = batch_of(["01", "2"], [[1, 2, 3], [1, 2, 3]], [1, 3])  # the first row ends before the cut
    assert count(batch, torch.tensor([[0, 1], [0, 1]])) == 2 + 1
    late = batch_of(["01"], [[3, 3, 1]], [2])  # and here nothing in the loss is scored given z_0
    assert count(late, torch.tensor([[0, 2]])) == 1


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
            seen.add((row // 4, cut, row if cut or own_prompts else None))
    assert count(batch, cuts, own_prompts) == len(seen)


def test_prompts_are_masked_in_the_first_latent_alone_also_where_blocks_have_cuts_of_their_own() -> None:
    batch = batch_of(["0123456"] * 4, [[1, 2, 3, 4]] * 4, [4] * 4)
    batch = replace(batch, blocks=torch.tensor([[2, 0]] * 4))
    latents = cut_latents(batch, draw_batch_cuts(batch, 2, keys(4)), MASK, 0.5, keys(4, "mask"))
    hidden = (latents.sequences[:, :7] == MASK).any(-1)
    whole = (latents.sequences[:, 7:] == MASK).all(-1)
    assert len(latents) == 8 and hidden.any() and not hidden[~whole].any()


@given(
    st.lists(st.integers(1, 9), max_size=30),
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 3),
    st.tuples(*[st.integers(0, 5)] * 2),
)
def test_parts_are_within_their_tokens_and_tear_nothing_that_fits(
    sizes: list[int], max_tokens: int, rows: int, latents: int, shared: tuple[int, int]
) -> None:
    """Groups of `rows` rows of `latents` things each, with `shared` tokens of each group and of each row."""
    row = [index // latents for index in range(len(sizes))]
    group = [index // rows for index in row]
    units = [Unit(names, [tokens] * len(sizes)) for names, tokens in zip((group, row), shared, strict=True)]
    parts = cut_by_tokens(sizes, units, max_tokens)

    def tokens(part: list[int]) -> int:
        of_units = sum(size * len({names[i] for i in part}) for names, size in zip((group, row), shared, strict=True))
        return of_units + sum(sizes[i] for i in part)

    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in parts)
    assert all(tokens(part) <= max_tokens or len(part) == 1 for part in parts)
    for unit in (group, row):
        for name in set(unit):
            if tokens([index for index, own in enumerate(unit) if own == name]) <= max_tokens:
                assert sum(any(unit[i] == name for i in part) for part in parts) == 1


def group_batch(num_groups: int = 3, size: int = 4, canvas: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    rows = num_groups * size
    calls = [(torch.randperm(canvas, generator=generator) + 1).tolist() for _ in range(rows)]
    return batch_of([str(row // size) * (1 + row // size) for row in range(rows)], calls, [canvas] * rows)


def surrogates(batch: Batch) -> dict[str, Latents]:
    cut = {f"{m}-MF": cut_latents(batch, draw_cuts(batch.nfe, m, keys(len(batch))), MASK) for m in (1, 2, 0)}
    d1 = cut_latents(batch, draw_cuts(batch.nfe, 1, keys(12)), MASK, 0.5, keys(12, "mask"))
    others = ("coupled:2", "elbo:2", "gdpo:3")
    return cut | {"d1": d1} | {spec: load_surrogate(spec).draw(batch, keys(len(batch)), MASK) for spec in others}


@pytest.mark.parametrize("max_tokens", [1, 8, 20, 60, 1000])
def test_parts_hold_every_latent_and_every_term_once(max_tokens: int) -> None:
    for name, latents in surrogates(group_batch()).items():
        parts = latents.split(max_tokens)

        def terms(part: Latents) -> list[tuple]:
            where = part.source.tolist()
            of_latent = [(*part.sequences[i].tolist(), int(part.owners[i])) for i in where]
            columns = (part.rows, part.positions, part.tokens, part.weights)
            return list(zip(of_latent, *(column.tolist() for column in columns), strict=True))

        assert sum(map(len, parts)) == len(latents), name
        assert sorted(term for part in parts for term in terms(part)) == sorted(terms(latents)), name
        assert all(part.source.unique().tolist() == list(range(len(part))) for part in parts), name
        assert all((len(part) == 1) | (int((part.prompt_lengths + 6).sum()) <= max_tokens) for part in parts), name


def test_a_group_that_fits_is_one_part_and_its_first_latent_is_made_once() -> None:
    """DiFFPO's shape, a latent for each row and one for all: 4 rows of 8 tokens are 5 latents, 40 tokens."""
    latents = surrogates(group_batch())["2-MF"]
    assert len(latents) == 3 * (4 + 1)
    for max_tokens in (45, 60):
        parts = latents.split(max_tokens)
        assert [sorted(set((part.rows // 4).tolist())) for part in parts] == [[0], [1], [2]]
    assert sum(map(len, latents.split(24))) == 3 * (4 + 1)  # torn at its rows, and z_0 still is made once
    assert [len(part) for part in latents.split(1)] == [1] * 15


def test_what_a_token_is_worth_to_its_call() -> None:
    """A token that no loss sees is worth nothing."""
    batch = batch_of(["01"], [[1, 2, 3]], [2])
    batch = replace(
        batch, entropies=torch.tensor([[0.1, 0.2, 0.3]]), behaviour_logprobs=torch.tensor([[-4.0, -5.0, -6.0]])
    )
    expected = {"tokens": [1, 1, 0], "entropy": [0.1, 0.2, 0], "surprisal": [4, 5, 0]}
    for law in get_args(CutLaw):
        worth = token_worth(batch, law)
        assert worth is None if law not in expected else worth.tolist() == [pytest.approx(expected[law])]
