"""Compiled kernels against eager ones."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from helpers import tiny_denoiser, tiny_shape

from diffpo.models.transformer import pack

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile takes a C++ compiler")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, not of the project
def test_compiled_is_eager_forward_and_backward() -> None:
    eager = tiny_denoiser(tiny_shape(12, qkv_bias=True))
    fused = copy.deepcopy(eager)
    fused.fuse()
    for rows, longest in ((3, 9), (5, 14)):  # other numbers of tokens, compiled once
        sequences = torch.randint(0, 12, (rows, longest), generator=torch.Generator().manual_seed(rows))
        ids, packing = pack(sequences, torch.arange(longest - rows, longest) + 1)
        ours, theirs = fused(ids, packing), eager(ids, packing)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        for hidden in (ours, theirs):
            hidden.square().sum().backward()
    for (name, ours), theirs in zip(fused.named_parameters(), eager.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-3, rtol=1e-4, msg=name)
