"""KL(true conditional || surrogate) against a slow twin that runs every latent on its own and sums over all tokens."""

from __future__ import annotations

import itertools
import math
from statistics import fmean

import pytest
import torch
from helpers import chi_square_z, keys, prompt_of, tiny_policy
from lab.analysis.subjects import some_subject
from models.test_likelihood import VARIANTS, some_batch
from rollout.slow_engine import run

from diffpo.functional.latents import token_worth
from diffpo.functional.prediction import ban
from diffpo.functional.surrogate import cut_weights, draw_cuts
from diffpo.lab.analysis.divergence import LAWS, at_cuts, cut_sets, divergences, expected_divergence, kl_sections
from diffpo.models.policy import Policy
from diffpo.types import Batch


def slow_prediction(policy: Policy, batch: Batch, row: int, position: int, cut: int, temperature: float) -> list[float]:
    """The distribution of one position given what stood after call `cut`."""
    prompt, size = prompt_of(batch, row), int(batch.gen_lengths[row])
    tokens, calls = batch.tokens[row].tolist(), batch.committed_at[row].tolist()
    canvas = [tokens[i] if calls[i] <= cut else policy.mask_id for i in range(size)]
    hidden = run(policy, [*prompt, *canvas])
    at = max(len(prompt) + position - policy.denoiser.config.shift, 0)
    logits = ban(policy.denoiser.head(hidden[at]).detach(), policy.banned)
    return (logits / temperature).softmax(-1).tolist()


def slow_divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("changes", VARIANTS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_divergences_are_those_of_the_slow_twin(changes: dict, temperature: float) -> None:
    policy = tiny_policy(**changes)
    batch = some_batch(policy, temperature)
    table = divergences(policy, batch, temperature)
    assert table.shape == (*batch.tokens.shape, int(batch.nfe.max())) and table.max() > 0.01
    for row, position in batch.loss_mask.nonzero().tolist():
        call = int(batch.committed_at[row, position])
        true = slow_prediction(policy, batch, row, position, call - 1, temperature)
        drawn_with = math.log(true[int(batch.tokens[row, position])])
        assert drawn_with == pytest.approx(float(batch.behaviour_logprobs[row, position]), abs=1e-4)
        for cut in range(call):
            slow = slow_divergence(true, slow_prediction(policy, batch, row, position, cut, temperature))
            assert float(table[row, position, cut]) == pytest.approx(slow, abs=1e-5), (row, position, cut)
        assert not table[row, position, call - 1 :].abs().gt(1e-6).any()
    assert not table[~batch.loss_mask].any()


def test_how_many_rows_a_pass_holds_changes_nothing() -> None:
    policy = tiny_policy()
    batch = some_batch(policy)
    torch.testing.assert_close(
        divergences(policy, batch, 1.0, 1), divergences(policy, batch, 1.0), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("law", [law for law in LAWS if law != "even"])
def test_one_cut_is_enumerated_with_the_chances_of_the_draw(law: str) -> None:
    policy = tiny_policy()
    batch = some_batch(policy)
    sets = list(cut_sets(batch, 2, law, keys(len(batch)), 1))
    torch.testing.assert_close(sum(chance for _, chance in sets), torch.ones(len(batch)))
    row = int(batch.nfe.argmax())
    calls = int(batch.nfe[row])
    assert calls > 2
    part = batch.take(torch.tensor([row]).repeat(20_000))
    weights = cut_weights(part.nfe, part.committed_at, token_worth(part, law), law)
    drawn = draw_cuts(part.nfe, 2, keys(len(part)), weights)[:, 1].bincount(minlength=calls)[1:]
    chances = torch.stack([chance[row] for cuts, chance in sets if int(cuts[row, 1]) < calls])
    assert abs(chi_square_z(drawn, chances)) < 4


def test_expectations_are_those_over_every_set_of_cuts() -> None:
    """One latent, two by enumeration, all of them; and three by many draws."""
    policy = tiny_policy()
    batch = some_batch(policy, sampler="top_k:2")
    table = divergences(policy, batch, 1.0)
    one, two, three, every = (expected_divergence(table, batch, m, "uniform", keys(12), 400) for m in (1, 2, 3, 9))
    torch.testing.assert_close(one, table[..., 0])
    assert every.abs().max() < 1e-5
    for row in range(len(batch)):
        calls = int(batch.nfe[row])
        part = batch.take(torch.tensor([row]))

        def mean_over(sets: list[tuple[int, ...]], row: int = row, part: Batch = part) -> torch.Tensor:
            found = [at_cuts(table[row : row + 1], part, torch.tensor([cuts])) for cuts in sets]
            return torch.cat(found).mean(0)

        pairs = [(0, tau) for tau in range(1, calls)]
        torch.testing.assert_close(two[row], mean_over(pairs), atol=1e-5, rtol=1e-4)
        triples = [(0, *inner) for inner in itertools.combinations(range(1, max(calls, 3)), 2)]
        torch.testing.assert_close(three[row], mean_over(triples), atol=0.05, rtol=0.2)


def test_rollouts_of_one_call_have_no_divergence() -> None:
    policy = tiny_policy()
    batch = some_batch(policy, sampler="top_k:8")
    assert set(batch.nfe.tolist()) == {1}
    table = divergences(policy, batch, 1.0)
    for law in LAWS:
        for m in (1, 2, 3):
            assert not expected_divergence(table, batch, m, law, keys(12), 2).abs().gt(1e-6).any()


def test_sections_hold_the_means_of_the_table() -> None:
    subject = some_subject()
    batch, mask = subject.batch, subject.batch.loss_mask
    by_call, by_cut, by_law = kl_sections(subject)
    assert [series.label for series in by_call.series] == ["mean field", "2-MF", "3-MF", "4-MF"]
    table = divergences(subject.policy, batch, 1.0)
    for call, mean in zip(by_call.series[0].x, by_call.series[0].y, strict=True):
        assert mean == pytest.approx(float(table[..., 0][mask & (batch.committed_at == call)].mean()), abs=1e-6)
    assert by_call.series[0].y[0] == pytest.approx(0, abs=1e-6)
    assert by_call.figures["mean field"] == pytest.approx(float(table[..., 0][mask].mean()), rel=1e-5)
    assert by_law.series[0].y == by_call.series[1].y and [series.label for series in by_law.series] == list(LAWS)
    assert all(0 < place < 1 for place in by_cut.series[0].x) and len(by_cut.series) == 2
    assert by_cut.figures["lowest KL"] == min(by_cut.series[0].y)


def test_the_divergence_by_cut_is_that_of_a_slow_loop() -> None:
    """Token by token: from the cut's canvas where the token was committed later, from the empty one where not."""
    subject = some_subject()
    batch, table = subject.batch, divergences(subject.policy, subject.batch, 1.0)
    found: dict[float, list[tuple[float, float]]] = {}
    for row, calls in enumerate(batch.nfe.tolist()):
        for cut, at in itertools.product(range(1, calls), batch.loss_mask[row].nonzero().flatten().tolist()):
            latent = cut if batch.committed_at[row, at] > cut else 0
            pair = float(table[row, at, latent]), float(table[row, at, 0])
            found.setdefault((10 * cut // calls + 0.5) / 10, []).append(pair)
    by_cut = kl_sections(subject)[1]
    assert by_cut.series[0].x and set(by_cut.series[0].x) <= set(found)
    for which, series in enumerate(by_cut.series):
        for place, mean in zip(series.x, series.y, strict=True):
            assert mean == pytest.approx(fmean(pair[which] for pair in found[place]), abs=1e-6)
