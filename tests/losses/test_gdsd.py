"""GDSD's regression: REINFORCE at the policy that drew, nothing outside its trust region."""

from __future__ import annotations

import torch
from functional.test_latents import batch_of

from diffpo.losses import Lines
from diffpo.losses.gdsd import Gdsd


def gradient(shift: float, loss: Gdsd) -> torch.Tensor:
    batch = batch_of(["0", "1"], [[1, 2, 3, 4]] * 2, [4, 3])
    old = -torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) * batch.loss_mask
    now = (old + shift * batch.loss_mask).requires_grad_()
    weights = batch.loss_mask / batch.loss_mask.sum(-1, keepdim=True)  # a mean over tokens, as of any loss
    gain, measured = loss.gain(now, Lines(batch, batch.loss_mask, old, None))
    assert bool((measured["clip_ratio"] == float(abs(shift) * 3 > 4e-4)).all())
    return torch.autograd.grad((weights * gain).sum(), now)[0]


def test_at_the_old_policy_it_is_reinforce() -> None:
    loss = Gdsd(psi=10.0)
    expected = torch.tensor([[1.0] * 4, [1.0] * 3 + [0.0]]) * 2 * 10.0 * 1.0 / 4  # A = 1, L = 4
    torch.testing.assert_close(gradient(0.0, loss), expected)


def test_outside_its_trust_region_it_has_no_gradient() -> None:
    assert not gradient(1e-3, Gdsd()).any() and not gradient(-1e-3, Gdsd()).any()
