"""The parts of `diffpo bench --suite gpu` that measure, at a tiny size on the fake device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import fakecuda
import pytest
import torch
from lab.bench.test_gpu import STEP, TINY, by_name

from diffpo.lab.bench import card
from diffpo.lab.bench.card import Figure, Size

SIZE = replace(TINY, device="cuda", step=replace(STEP, load=replace(STEP.load, device="cuda")))


@pytest.mark.parametrize("part", [card.rollouts, card.step, card.exact_rollouts, card.alone_and_batched])
def test_each_part_runs_on_a_gpu(
    cuda: None, part: Callable[[Size], Iterator[Figure]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def kernels(work: Callable[[], object], device: torch.device) -> int:
        """Operators of the fake device, of which torch's profiler knows nothing."""
        before = fakecuda.num_operators()
        work()
        return fakecuda.num_operators() - before

    monkeypatch.setattr(card, "kernels", kernels)
    found = by_name(part(SIZE))
    assert found and all(figure.value >= 0 for figure in found.values())
