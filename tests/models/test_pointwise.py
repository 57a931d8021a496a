"""Compiled kernels against eager ones."""

from __future__ import annotations

import copy
import importlib.util
import shutil

import pytest
import torch
from helpers import GOLDEN, tiny_denoiser, tiny_shape

from diffpo.config import LoraConfig
from diffpo.models.attention import pack
from diffpo.models.pointwise import is_wanted
from diffpo.models.policy import load_policy

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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_composes_with_adapters_autocast_and_checkpointing() -> None:
    """A bf16 base with fp32 adapters whose blocks are computed twice: the same loss and gradients to rounding."""
    gradients = []
    for compiles in (False, True):
        policy = load_policy(GOLDEN / "llada-tiny", "bfloat16", "cpu", compile=compiles)
        policy.add_adapters(LoraConfig(rank=4))
        policy.denoiser.gradient_checkpointing = True
        with torch.no_grad():
            for parameter in policy.trainable().values():
                parameter.add_(0.02)
        ids, packing = pack(torch.arange(24).view(2, 12), torch.tensor([12, 9]))
        policy.denoiser(ids, packing).float().square().mean().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in policy.trainable().values()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999


def test_who_asks_for_a_compiler_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert is_wanted(True, cpu) and not is_wanted(None, cpu) and not is_wanted(False, gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not is_wanted(None, gpu)  # quietly
    with pytest.raises(ValueError, match=r"load\.compile: torch\.compile lacks Triton"):
        is_wanted(True, gpu)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert is_wanted(None, gpu)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not is_wanted(None, gpu)
    with pytest.raises(ValueError, match=r"lacks a C compiler \(no-such-compiler\): install it"):
        is_wanted(True, cpu)
