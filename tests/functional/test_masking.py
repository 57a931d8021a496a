"""The forward process and the NELBO, by enumeration of all masks."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers import chi_square_z, keys

from diffpo.functional.masking import block_times, forward_process, mask_counts, nelbo, stratified_times
from diffpo.functional.random import fold, uniform

LENGTH, VOCAB = 3, 3


def test_times_are_stratified_and_uniform() -> None:
    rows, rounds = 8, 2000
    times = torch.stack([stratified_times(uniform(fold(key, torch.arange(rows))), 0.1) for key in keys(rounds)])
    low = 0.1 + 0.9 * torch.arange(rows) / rows
    assert (times >= low - 1e-6).all() and (times <= low + 0.9 / rows + 1e-6).all()
    cells = ((times.flatten() - 0.1) / 0.9 * 40).long().clamp_max(39)
    # strata fix how many fall into each eighth: within it the five cells are as chance has it
    assert abs(chi_square_z(cells.bincount(minlength=40), torch.full((40,), 1 / 40))) < 4


def test_positions_are_masked_at_rate_t_and_only_where_they_may_be() -> None:
    rows = 20_000
    times = torch.tensor([0.2, 0.7]).repeat(rows // 2)[:, None].expand(rows, 4)
    maskable = torch.tensor([True, True, False, True]).expand(rows, 4)
    masked = forward_process(times, uniform(fold(keys(rows)[:, None], torch.arange(4))), maskable)
    assert not masked[:, 2].any()
    for half, time in enumerate((0.2, 0.7)):
        part = masked[half::2][:, [0, 1, 3]]
        pattern = (part * torch.tensor([1, 2, 4])).sum(-1)
        law = torch.tensor([time ** bin(p).count("1") * (1 - time) ** (3 - bin(p).count("1")) for p in range(8)])
        assert abs(chi_square_z(pattern.bincount(minlength=8), law)) < 4


def test_time_one_masks_everything_and_time_zero_nothing() -> None:
    uniforms = torch.tensor([[0.0, 0.5, 1 - 2.0**-24]]).expand(2, 3)
    masked = forward_process(torch.tensor([[1.0], [0.0]]).expand(2, 3), uniforms, torch.ones(2, 3, dtype=torch.bool))
    assert masked.all(-1).tolist() == [True, False] and not masked[1].any()


def test_each_block_has_a_time_of_its_own_and_they_are_spread_evenly() -> None:
    rows, blocks = 4000, torch.tensor([[4, 0], [4, 3]]).repeat(2000, 1)
    lengths = torch.tensor([8, 9]).repeat(2000)
    times = block_times(stratified_times(uniform(fold(keys(rows), 0)), 0.0), blocks, lengths, 9)
    for offset, count in ((0, 2), (1, 3)):
        own = times[offset::2]
        begins = [0, 4] if offset == 0 else [0, 1, 5]  # of the blocks: the second row's first holds one position
        for begin, end in itertools.pairwise([*begins, int(lengths[offset])]):
            assert (own[:, begin:end] == own[:, begin : begin + 1]).all()
        of_blocks = own[:, begins]
        gaps = of_blocks.sort(-1).values.diff(dim=-1)
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / count), atol=1e-5, rtol=0)
        for block in of_blocks.T:  # uniform, each of them
            cells = (block * 10).long().clamp_max(9).bincount(minlength=10)
            assert chi_square_z(cells, torch.full((10,), 0.1)) < 4  # the rows' times are stratified: no lower bound


def test_counts_of_masks_are_uniform_in_each_block_and_so_are_the_sets() -> None:
    rows, blocks = 40_000, torch.tensor([[3, 1]])  # of the canvas: 0 1, 2 3 4 and 5, behind which it ends
    times = uniform(fold(keys(rows)[:, None], torch.tensor([0, 0, 1, 1, 1, 2, 2])))
    maskable = (torch.arange(7) < 6).expand(rows, 7)
    lottery = uniform(fold(keys(rows)[:, None], 3, torch.arange(7)))
    masked, shares = mask_counts(times, lottery, maskable, blocks.expand(rows, 2))
    assert not masked[:, 6].any() and masked[:, 5].all() and (shares[:, 5] == 1).all()
    for places in ([0, 1], [2, 3, 4]):
        part, size = masked[:, places], len(places)
        torch.testing.assert_close(shares[:, places], (part.sum(-1) / size)[:, None].expand(rows, size))
        sets = (part * 2 ** torch.arange(size)).sum(-1)
        law = [1 / size / math.comb(size, s.bit_count()) if s else 0.0 for s in range(2**size)]
        assert not (sets == 0).any()
        assert abs(chi_square_z(sets.bincount(minlength=2**size)[1:], torch.tensor(law[1:]))) < 4
    least, _ = mask_counts(times, lottery, maskable, blocks.expand(rows, 2), 0.5)
    assert set(least[:, 2:5].sum(-1).tolist()) == {2, 3} and set(least[:, :2].sum(-1).tolist()) == {1, 2}
    everything, _ = mask_counts(times, lottery, maskable, blocks.expand(rows, 2), 0.99)
    assert everything.equal(maskable)


@pytest.mark.parametrize("min_share", [0.0, 0.3, 0.99])
def test_counted_masks_are_a_slow_loops(min_share: float) -> None:
    rows, width = 40, 11
    blocks = torch.tensor([[4, 0], [4, 3], [1, 0], [3, 1], [16, 5]]).repeat(8, 1)
    lengths = torch.arange(rows) % width + 1
    times = block_times(stratified_times(uniform(keys(rows)), 0.0), blocks, lengths, width)
    lottery = uniform(fold(keys(rows)[:, None], 1, torch.arange(width)))
    masked, shares = mask_counts(times, lottery, torch.arange(width) < lengths[:, None], blocks, min_share)
    for row, (size, offset) in enumerate(blocks.tolist()):
        assert not masked[row, lengths[row] :].any()
        places = range(int(lengths[row]))
        for block in {(place + offset) // size for place in places}:
            own = [place for place in places if (place + offset) // size == block]
            least = max(1, math.ceil(min_share * len(own)))
            count = least + int(times[row, own[0]] * (len(own) - least + 1))
            chosen = sorted(own, key=lambda place: float(lottery[row, place]))[:count]
            assert [place for place in own if masked[row, place]] == sorted(chosen)
            assert all(math.isclose(shares[row, place], count / len(own), rel_tol=1e-6) for place in own)


def test_the_mean_over_counts_is_that_over_times() -> None:
    """Of a denoiser that knows the joint: the log-likelihood, as the integral over times is."""
    joint, masks = a_joint(), all_masks()[1:]
    for tokens in itertools.product(range(VOCAB), repeat=LENGTH):
        scores = torch.stack([exact_logprobs(joint, tokens, masked) for masked in masks])
        counts = masks.sum(-1, keepdim=True)
        chances = torch.tensor([1 / LENGTH / math.comb(LENGTH, int(count)) for count in counts])
        mean = (chances * nelbo(scores, masks, (counts / LENGTH).expand(scores.shape))).sum()
        assert math.isclose(float(mean), -math.log(joint[tokens]), rel_tol=1e-6)


def all_masks() -> torch.Tensor:
    return torch.tensor(list(itertools.product([False, True], repeat=LENGTH)))


def exact_logprobs(joint: torch.Tensor, tokens: tuple[int, ...], masked: torch.Tensor) -> torch.Tensor:
    """log p(x_i | the unmasked tokens) of every masked position, under a joint distribution; junk elsewhere."""
    scores = torch.full((LENGTH,), 77.0, dtype=joint.dtype)
    seen = joint[tuple(slice(None) if hidden else token for hidden, token in zip(masked.tolist(), tokens, strict=True))]
    places = masked.nonzero().flatten().tolist()
    for axis, place in enumerate(places):
        marginal = seen.movedim(axis, 0).flatten(1).sum(-1) if seen.ndim > 1 else seen
        scores[place] = (marginal[tokens[place]] / marginal.sum()).log()
    return scores


def expected_nelbo(joint: torch.Tensor, tokens: tuple[int, ...], time: float) -> float:
    """E over q(z_t | x) of the one-sample estimate at a fixed time."""
    masks = all_masks()
    scores = torch.stack([exact_logprobs(joint, tokens, mask) for mask in masks])
    estimates = nelbo(scores, masks, torch.full_like(scores, time))
    law = time ** masks.sum(-1).double() * (1 - time) ** (~masks).sum(-1).double()
    return float((law * estimates).sum())


def a_joint() -> torch.Tensor:
    joint = torch.rand([VOCAB] * LENGTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    return joint / joint.sum()


def test_nelbo_is_the_weighted_sum_over_masked_positions() -> None:
    masked = all_masks()
    scores = -torch.arange(1.0, 25.0).reshape(8, 3)
    times = torch.linspace(0.1, 1, 24).reshape(8, 3)
    for row in range(8):
        slow = sum(-float(scores[row, i] / times[row, i]) for i in range(3) if masked[row, i])
        assert math.isclose(nelbo(scores, masked, times)[row], slow, rel_tol=1e-6)


def test_nelbo_at_time_one_is_the_mean_field_likelihood() -> None:
    tokens = (0, 2, 1)
    everything = torch.ones(LENGTH, dtype=torch.bool)
    assert math.isclose(
        expected_nelbo(a_joint(), tokens, 1.0), -float(exact_logprobs(a_joint(), tokens, everything).sum())
    )


def test_nelbo_of_exact_conditionals_integrates_to_the_log_likelihood() -> None:
    """For a denoiser that knows the joint the bound is tight; Gauss-Legendre is exact for these polynomials in t."""
    joint = a_joint()
    nodes = ((0.5 - math.sqrt(0.15)), 5 / 18), (0.5, 8 / 18), ((0.5 + math.sqrt(0.15)), 5 / 18)
    for tokens in itertools.product(range(VOCAB), repeat=LENGTH):
        integral = sum(weight * expected_nelbo(joint, tokens, time) for time, weight in nodes)
        assert math.isclose(integral, -math.log(joint[tokens]), rel_tol=1e-9)
