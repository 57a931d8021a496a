"""Scores straight from hidden states against all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diffpo.models import fused
from diffpo.models.fused import centred_logits, head_logits, keeps_sums, token_logprobs

BANNED = torch.tensor([3, 10])


def inputs(count: int = 37, dtype: torch.dtype = torch.float32, learns: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states [N, 6], a head [11, 6] and tokens [N]."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 6, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(11, 6, generator=generator).to(dtype).requires_grad_(learns)
    allowed = torch.tensor([token for token in range(11) if token not in BANNED])
    return hidden, weight, allowed[torch.randint(len(allowed), (count,), generator=generator)]


def plain(hidden: Tensor, weight: Tensor, tokens: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    logits = (hidden.to(dtype) @ weight.to(dtype).T).float().index_fill(-1, BANNED, -torch.inf)
    return (logits / temperature).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("chunk", [1, 8, 36, 37, 1000])
def test_values_and_gradients_are_those_of_all_logits(
    temperature: float, learns: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fused.MAX_LOGITS, "cpu", 11 * chunk)
    hidden, weight, tokens = inputs(learns=learns)
    factors = torch.randn(37, generator=torch.Generator().manual_seed(1))
    learning = [hidden, weight] if learns else [hidden]
    theirs = plain(hidden, weight, tokens, temperature, torch.float32)
    expected = torch.autograd.grad((theirs * factors).sum(), learning)
    ours = token_logprobs(hidden, weight, tokens, temperature, BANNED)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(torch.autograd.grad((ours * factors).sum(), learning), expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("learns", [True, False])
def test_products_in_bf16_are_those_of_autocast(learns: bool) -> None:
    hidden, weight, tokens = inputs(learns=learns)
    learning = [hidden, weight] if learns else [hidden]
    theirs = plain(hidden, weight, tokens, 0.8, torch.bfloat16)
    ours = token_logprobs(hidden, weight, tokens, 0.8, BANNED, torch.bfloat16)
    torch.testing.assert_close(ours, theirs)
    expected = torch.autograd.grad(theirs.sum(), learning)
    for mine, other in zip(torch.autograd.grad(ours.sum(), learning), expected, strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine, other, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("learns", [True, False])
def test_centred_logits_are_log_probabilities_less_their_mean(learns: bool) -> None:
    hidden, weight, tokens = inputs(learns=learns)
    factors = torch.randn(37, generator=torch.Generator().manual_seed(1))
    learning = [hidden, weight] if learns else [hidden]
    logprobs = ((hidden @ weight.T).index_fill(-1, BANNED, -torch.inf) / 0.7).log_softmax(-1)
    means = logprobs[:, [token for token in range(11) if token not in BANNED]].mean(-1)
    theirs = logprobs.gather(-1, tokens[:, None]).squeeze(-1) - means
    ours = centred_logits(hidden, weight, tokens, 0.7, BANNED)
    torch.testing.assert_close(ours, theirs)
    expected = torch.autograd.grad((theirs * factors).sum(), learning)
    for mine, other in zip(torch.autograd.grad((ours * factors).sum(), learning), expected, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("likelihood", [0.5, 0.9, 0.99, 0.999, 0.9999])
@pytest.mark.parametrize("learns", [True, False])
def test_the_gradient_of_a_likely_token_survives_products_in_bf16(likelihood: float, learns: bool) -> None:
    """Against fp64, relative to its own size, which shrinks with 1 - p."""
    generator = torch.Generator().manual_seed(0)
    count, width, size = 32, 64, 512
    weight = (torch.randn(size, width, generator=generator) / width**0.5).bfloat16().requires_grad_(learns)
    tokens = torch.arange(count)
    # hidden states along the token's own row, as far out as makes it this likely
    rows = weight.detach()[tokens].double()
    low, high = torch.zeros(count, 1).double(), torch.full((count, 1), 100.0).double()
    for _ in range(40):
        middle = (low + high) / 2
        found = (middle * rows @ weight.detach().double().T).softmax(-1)[tokens, tokens, None]
        low, high = torch.where(found < likelihood, middle, low), torch.where(found < likelihood, high, middle)
    hidden = (high * rows).bfloat16().requires_grad_()

    # the logits are what the product makes of them: rounding those is another error than that of the gradient
    logits = (hidden.detach() @ weight.detach().T).double()
    slopes = torch.eye(size).double()[tokens] - logits.softmax(-1)
    exact = slopes @ weight.detach().double()
    nobody = torch.empty(0, dtype=torch.int64)
    (ours,) = torch.autograd.grad(token_logprobs(hidden, weight, tokens, 1.0, nobody).sum(), hidden)
    errors = (ours.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert errors.max() < 0.015


def sums(left: Tensor, right: Tensor, out_dtype: torch.dtype) -> Tensor:
    """What torch.mm makes of bf16 on a device that keeps its sums."""
    assert left.dtype == right.dtype == torch.bfloat16 and out_dtype == torch.float32
    return left.float() @ right.float()


def test_a_device_that_keeps_its_sums_gives_logits_that_were_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, tokens = inputs(dtype=torch.bfloat16, learns=False)
    exact = hidden.detach().float() @ weight.detach().float().T
    with torch.no_grad():
        assert torch.equal(head_logits(hidden, weight), exact.bfloat16().float())  # a CPU rounds them
    rounded = token_logprobs(hidden, weight, tokens, 1.0, BANNED)
    monkeypatch.setattr(fused, "keeps_sums", lambda device, dtype: True)
    monkeypatch.setattr(torch, "mm", sums)
    scores = exact.index_fill(-1, BANNED, -torch.inf).log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    ours = token_logprobs(hidden, weight, tokens, 1.0, BANNED)
    torch.testing.assert_close(ours, scores)
    assert (rounded - scores).abs().max() > 1e-3
    assert ours.requires_grad and torch.autograd.grad(ours.sum(), hidden)[0].any()
    with torch.no_grad():
        assert torch.equal(head_logits(hidden, weight), exact)
    assert head_logits(hidden, weight).requires_grad  # with a gradient they are rounded: sums have no derivative


@pytest.mark.parametrize("kept", [True, False])
def test_a_device_is_asked_once_whether_it_keeps_its_sums(kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ones = [], torch.ones

    def product(left: Tensor, right: Tensor, out_dtype: torch.dtype) -> Tensor:
        asked.append(left.dtype)
        if not kept:
            raise NotImplementedError("Could not run 'aten::mm.dtype'")
        return sums(left, right, out_dtype)

    monkeypatch.setattr(torch, "mm", product)
    monkeypatch.setattr(torch, "ones", lambda *size, dtype, device: ones(*size, dtype=dtype))
    keeps_sums.cache_clear()
    card = torch.device("cuda", 0)
    assert [keeps_sums(card, torch.bfloat16) for _ in range(2)] == [kept, kept]
    assert not keeps_sums(card, torch.float32) and not keeps_sums(torch.device("cpu"), torch.bfloat16)
    assert asked == [torch.bfloat16]
    keeps_sums.cache_clear()


def test_nothing_of_the_size_of_all_logits_outlives_its_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused.MAX_LOGITS, "cpu", 11 * 4)
    for learns in (True, False):
        hidden, weight, tokens = inputs(learns=learns)
        largest = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal largest
            largest = max(largest, tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            token_logprobs(hidden, weight, tokens, 1.0, BANNED)
        assert largest == hidden.numel() < 37 * 11


def test_without_gradients_none_is_made() -> None:
    hidden, weight, tokens = inputs()
    with torch.no_grad():
        ours = token_logprobs(hidden, weight, tokens, 1.0, BANNED)
    assert not ours.requires_grad
    torch.testing.assert_close(ours, plain(hidden, weight, tokens, 1.0, torch.float32).detach())


def test_banned_ids_have_no_probability_and_no_gradient() -> None:
    hidden, weight, tokens = inputs()
    token_logprobs(hidden, weight, tokens, 1.0, BANNED).sum().backward()
    assert weight.grad is not None and not weight.grad[BANNED].any() and weight.grad[0].any()
