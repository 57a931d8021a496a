"""Sums at places named more than once: in the order of the index, and no part of an update adds up in another way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers import keys, tiny_policy
from models.test_branches import group_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffpo.models.experts import ExpertsConfig
from diffpo.models.indexing import add_at, take
from diffpo.models.likelihood import score
from diffpo.surrogates import load_surrogate


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_sums_are_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(60_000, generator=generator)
    rows, columns = (torch.randint(size, (60_000,), generator=generator) for size in (5, 7))
    expected = torch.zeros(5, 7)
    for row in range(5):
        for column in range(7):
            for value in values[(rows == row) & (columns == column)]:
                expected[row, column] += value
    assert torch.equal(add_at(values, rows, columns, (5, 7)), expected)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("shape", [(9, 64), (9, 4, 16)])
def test_gradients_are_in_order(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, requires_grad=True)
    index = torch.randint(9, (40, 25), generator=generator)
    taken = take(x, index)
    assert torch.equal(taken, x[index])
    slopes = torch.randn(taken.shape, generator=generator)
    taken.backward(slopes)
    expected = torch.zeros(shape)
    for place, slope in zip(index.flatten().tolist(), slopes.flatten(0, 1), strict=True):
        expected[place] += slope
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


class InAnyOrder(TorchDispatchMode):
    """Counts the sums, of all operators that run in it, that threads of a CPU would make in any order."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in ("aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::put_"):
            x, index, *_ = args
            accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
            if accumulate and x.dtype == torch.float32:
                self.count += repeats(index)
        return func(*args, **kwargs)


def repeats(index: list[Tensor | None]) -> bool:
    places = torch.stack([part.flatten() for part in torch.broadcast_tensors(*(p for p in index if p is not None))])
    return places.unique(dim=1).shape[1] < places.shape[1]


SURROGATES = ("mean_field:2", "agrpo:3", "rldf:2", "elbo", "coupled:2", "gdpo:3", "spg")


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("blocks", [False, True])
def test_scores_and_gradients_add_up_in_order(surrogate: str, blocks: bool) -> None:
    experts = ExpertsConfig(count=4, chosen=2, size=8)
    policy = tiny_policy(block_length=4 if blocks else None, experts=experts)
    batch = group_batch(policy)
    with InAnyOrder() as mode:
        score(policy, load_surrogate(surrogate).draw(batch, keys(9), policy.mask_id), 1.0).sum().backward()
    assert mode.count == 0


def test_what_is_counted_is_seen() -> None:
    x, places = torch.zeros(3, 2, requires_grad=True), torch.tensor([0, 2, 2])
    with InAnyOrder() as mode:
        x[places].sum().backward()
    assert mode.count == 1
