"""Counter-based random numbers: pure functions of their key, uniform, normal, and without correlation."""

from __future__ import annotations

import numpy as np
import torch
from helpers import chi_square_z, keys

from diffpo.functional.random import fold, make_key, normal, uniform

COUNT = 40_000
STREAM = fold(torch.tensor(make_key(0, "stream")), torch.arange(COUNT))


def test_numbers_depend_on_their_key_alone() -> None:
    cube = keys(24).reshape(2, 3, 4)
    for function in (uniform, normal, lambda key: fold(key, 3, 5)):
        whole = function(cube)
        assert whole.shape == cube.shape
        for key, number in zip(cube.flatten(), whole.flatten(), strict=True):
            assert torch.equal(function(key), number)
        assert torch.equal(function(cube.flatten().flip(0)), whole.flatten().flip(0))


def test_fold_takes_counters_one_after_the_other_and_broadcasts() -> None:
    rows, columns = keys(3), torch.arange(4)
    table = fold(rows[:, None], 7, columns)
    for i in range(3):
        for j in range(4):
            assert table[i, j] == fold(fold(rows[i], 7), j)


def test_fold_has_no_collisions_and_is_not_commutative() -> None:
    key = torch.tensor(make_key(1))
    table = fold(key, torch.arange(200)[:, None], torch.arange(200))
    assert table.unique().numel() == table.numel()
    # few keys, many counters: neighbouring keys do not run into each other's counters
    neighbours = fold(torch.arange(-100, 100)[:, None], torch.arange(200))
    assert neighbours.unique().numel() == neighbours.numel()


def test_make_key_is_stable() -> None:
    assert make_key(0) == 5263075011782779848
    assert make_key(7, "train-3", 2) == -7566892588440211712
    assert len({make_key(0, 1, 2), make_key(0, 12), make_key(0, "1", "2"), make_key(0, "12"), make_key(0, 2, 1)}) == 5


def test_make_key_takes_the_integers_of_numpy_for_pythons() -> None:
    assert make_key(np.int64(3), np.int32(5), "a") == make_key(3, 5, "a")


def test_numbers_are_pinned() -> None:
    key = torch.tensor(make_key(0, "pin"))
    assert int(fold(key, 1, 2)) == -263886641692047952
    three = fold(key, torch.arange(3))
    torch.testing.assert_close(uniform(three), torch.tensor([0.5999176, 0.6978772, 0.4391641]), atol=1e-6, rtol=0)
    torch.testing.assert_close(normal(three), torch.tensor([-0.0420737, 0.8464492, -0.7019730]), atol=1e-6, rtol=0)


def test_uniforms_are_uniform() -> None:
    numbers = uniform(STREAM)
    assert numbers.dtype == torch.float32 and numbers.min() >= 0 and numbers.max() < 1
    assert torch.equal(numbers * 2**24, (numbers * 2**24).round())
    counts = torch.histc(numbers, 100, 0, 1)
    assert abs(chi_square_z(counts, torch.full((100,), 0.01))) < 4


def test_normals_have_the_moments_of_a_standard_normal() -> None:
    numbers = normal(STREAM).double()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((numbers**power).mean() - moment) < 4 * (variance / COUNT) ** 0.5
    cuts = torch.special.ndtri(torch.arange(1, 50, dtype=torch.float64) / 50)
    counts = torch.bucketize(numbers, cuts).bincount(minlength=50)
    assert abs(chi_square_z(counts, torch.full((50,), 0.02))) < 4


def test_streams_are_uncorrelated() -> None:
    """Neighbouring counters, streams and keys, and the two numbers inside `normal`."""
    key = torch.tensor(make_key(3))
    counter = torch.arange(COUNT)
    streams = torch.stack(
        [
            uniform(fold(key, 0, counter)),
            uniform(fold(key, 1, counter)),
            uniform(fold(key + 1, 0, counter)),
            uniform(fold(key, 0, counter + 1)),
            uniform(fold(key, counter, 0)),
            uniform(fold(key + counter, 0)),
            uniform(fold(key, counter)),
        ]
    )
    correlations = torch.corrcoef(streams.double()) - torch.eye(len(streams))
    assert correlations.abs().max() < 4.5 / COUNT**0.5


def test_pairs_of_uniforms_fill_the_square() -> None:
    first, second = uniform(fold(STREAM, 0)), uniform(fold(STREAM, 1))
    cells = (first * 10).long() * 10 + (second * 10).long()
    assert abs(chi_square_z(cells.bincount(minlength=100), torch.full((100,), 0.01))) < 4
