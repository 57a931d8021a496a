"""The clipped loss: what the clip cuts off is counted, on either side by its own range."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from functional.test_latents import batch_of

from diffpo.losses import Lines
from diffpo.losses.clipped import Clipped


@pytest.mark.parametrize(
    ("ratio", "advantage", "high", "gain", "cut"),
    [
        (1.3, 1.0, 0.0, 1.2, True),
        (1.3, 1.0, 0.4, 1.3, False),
        (1.5, 1.0, 0.4, 1.4, True),
        (0.7, -1.0, 0.4, -0.8, True),
        (1.3, -1.0, 0.4, -1.3, False),
    ],
)
def test_what_the_clip_cuts_off(ratio: float, advantage: float, high: float, gain: float, cut: bool) -> None:
    batch = replace(batch_of(["0"], [[1]], [1]), advantages=torch.tensor([advantage]))
    lines = Lines(batch, batch.loss_mask, torch.zeros(1, 1), None)
    found, measured = Clipped(0.2, epsilon_high=high).gain(torch.tensor([[ratio]]).log(), lines)
    torch.testing.assert_close(found, torch.tensor([[gain]]))
    assert measured["clip_ratio"].tolist() == [[float(cut)]]
