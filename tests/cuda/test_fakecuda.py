"""The fake device itself: it computes as the CPU does, refuses mixtures, and counts what a card would wait for."""

from __future__ import annotations

from collections.abc import Callable

import fakecuda
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from diffpo.functional.random import fold
from diffpo.models.device import to_device


def test_it_is_there_only_while_it_is_asked_for(fake: None) -> None:
    assert not torch.cuda.is_available() and not torch.accelerator.is_available()
    with fakecuda.device():
        assert torch.cuda.is_available() and torch.accelerator.current_accelerator() == torch.device("cuda")
        kept = torch.ones(2, device="cuda")
    assert not torch.cuda.is_available() and not torch.accelerator.is_available()
    with pytest.raises(RuntimeError, match="not linked with support for cuda"):
        kept + 1
    torch.ones(2, requires_grad=True).sum().backward()


@pytest.mark.parametrize("fused", [False, True])
def test_a_module_learns_as_on_the_cpu(cuda: None, fused: bool) -> None:
    def learn(device: str) -> Tensor:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3)).to(device)
        optimizer = torch.optim.AdamW(module.parameters(), 1e-2, fused=fused)
        inputs = torch.linspace(-1, 1, 30).view(5, 6).to(device)
        for _ in range(3):
            optimizer.zero_grad()
            (module(inputs).softmax(-1)[:, 0].log().mean()).backward()
            optimizer.step()
        assert {parameter.device.type for parameter in module.parameters()} == {device}
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).cpu()

    torch.testing.assert_close(learn("cuda"), learn("cpu"), rtol=1e-6, atol=1e-6)


def test_views_share_memory_and_outputs_grow(cuda: None) -> None:
    x = torch.zeros(4, 3, device="cuda")
    x.t()[1].add_(2)
    assert x[:, 1].tolist() == [2] * 4 and x[0].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    grown = torch.empty(0, device="cuda")
    torch.cat([x, x], out=grown)
    assert grown.shape == (8, 3) and float(grown.sum()) == 16


def test_autocast_is_cudas(cuda: None) -> None:
    x = torch.ones(2, 2, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16 and (x @ x).softmax(-1).dtype == torch.float32


MIXTURES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "add": lambda a, b: a + b,
    "add in place": lambda a, b: a.add_(b),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "matmul": lambda a, b: a @ b,
    "cat": lambda a, b: torch.cat([a, b]),
    "gather": lambda a, b: a.gather(0, b.long()),
    "a CPU tensor by indices of the device": lambda a, b: b[a.long()],
}


@pytest.mark.parametrize("mix", MIXTURES.values(), ids=MIXTURES)
def test_devices_do_not_mix(cuda: None, mix: Callable[[Tensor, Tensor], object]) -> None:
    ours, theirs = torch.ones(3, 3, device="cuda"), torch.ones(3, 3)
    mix(ours, theirs.to("cuda"))
    with pytest.raises(RuntimeError, match=r"same device|indices should be"):
        mix(ours, theirs)


WAITS: dict[str, tuple[str, Callable[[Tensor], object]]] = {
    "item": ("item", lambda x: x[0].item()),
    "float": ("item", lambda x: float(x.sum())),
    "bool": ("item", lambda x: bool((x > 0).any())),
    "tolist": ("copy to the host", lambda x: x.tolist()),
    "cpu": ("copy to the host", lambda x: x.cpu()),
    "numpy": ("copy to the host", lambda x: x.to("cpu").numpy()),
    "nonzero": ("nonzero", lambda x: x.nonzero()),
    "where": ("nonzero", lambda x: torch.where(x > 0)),
    "boolean index": ("boolean index", lambda x: x[x > 0]),
    "boolean assignment": ("boolean index", lambda x: x.__setitem__(x > 0, x[:2].clone())),
    "masked_select": ("boolean index", lambda x: x.masked_select(x > 0)),
    "unique": ("unique", lambda x: x.unique()),
    "repeat_interleave": ("repeat_interleave", lambda x: x.repeat_interleave(x.long().abs())),
    "equal": ("equal", lambda x: torch.equal(x, x)),
    "a number": ("copy to the device", lambda x: torch.tensor(3, device="cuda")),
    "as_tensor": ("copy to the device", lambda x: torch.as_tensor(3, device=x.device)),
    "unpinned": ("copy to the device", lambda x: torch.zeros(3).to("cuda", non_blocking=True)),
    "pinned, blocking": ("copy to the device", lambda x: torch.zeros(3).pin_memory().to("cuda")),
    "indices of the CPU": ("copy to the device", lambda x: x[torch.tensor([0, 1])]),
    "synchronize": ("synchronize", lambda x: torch.cuda.synchronize()),
}


@pytest.mark.parametrize("kind", WAITS)
def test_a_wait_is_counted(cuda: None, kind: str) -> None:
    name, act = WAITS[kind]
    x = torch.tensor([1.0, -2.0, 3.0], device="cuda")
    with fakecuda.Watch() as watch:
        act(x)
    assert [(wait.kind, count) for wait, count in watch.waits.items()] == [(name, 1)]


FREE: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + 1).cumsum(0).sort(),
    "a number in": lambda x: x.masked_fill(x > 0, 3.0),
    "boolean fill": lambda x: x.__setitem__(x > 0, 3.0),
    "full": lambda x: torch.full((), 3, device="cuda"),
    "pinned in": lambda x: to_device(torch.arange(3), x.device),
    "pinned out": lambda x: x.to("cpu", non_blocking=True),
    "integer index": lambda x: x[torch.zeros(2, dtype=torch.int64, device="cuda")],
    "keys": lambda x: fold(x.long(), 1, 2),
    "a CPU tensor": lambda x: torch.ones(3).nonzero().tolist(),
}


@pytest.mark.parametrize("act", FREE.values(), ids=FREE)
def test_what_does_not_wait_is_not_counted(cuda: None, act: Callable[[Tensor], object]) -> None:
    x = torch.tensor([1.0, -2.0, 3.0], device="cuda")
    with fakecuda.Watch() as watch:
        act(x)
    assert not watch.waits


def test_a_wait_names_the_line_that_caused_it(cuda: None) -> None:
    key = torch.zeros(2, dtype=torch.int64, device="cuda")
    with fakecuda.Watch() as watch:
        fold(key, torch.tensor(3))  # a counter on the CPU
    (wait,) = watch.waits
    assert wait.line.startswith("functional/random.py:") and wait.function == "functional.random.fold"
    assert watch.by_function() == {("functional.random.fold", "copy to the device"): 1} and watch.operators > 5


def test_memory_is_counted(cuda: None) -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    x = torch.zeros(1000, device="cuda")
    y = x + 1
    del y
    assert torch.cuda.memory_allocated() - before == 4000 and torch.cuda.max_memory_allocated() - before == 8000
    del x
    assert torch.cuda.memory_allocated() == before


def test_attention_over_packed_rows(cuda: None) -> None:
    """Forward and gradients of the kernels' twin are those of each row by itself."""
    lengths, generator = (3, 5), torch.Generator().manual_seed(0)
    bounds = torch.tensor([0, 3, 8], dtype=torch.int32).cuda()
    shapes = ((8, 4, 8), (8, 2, 8), (8, 2, 8))
    packed = [torch.randn(shape, generator=generator).bfloat16().cuda().requires_grad_() for shape in shapes]
    alone = [tensor.detach().clone().requires_grad_() for tensor in packed]
    out = varlen_attn(packed[0], packed[1], packed[2], bounds, bounds, 5, 5, enable_gqa=True)
    rows = zip(*(tensor.split(lengths) for tensor in alone), strict=True)
    expected = torch.cat(
        [
            nn.functional.scaled_dot_product_attention(*(t.transpose(0, 1) for t in row), enable_gqa=True).transpose(
                0, 1
            )
            for row in rows
        ]
    )
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=2e-2)
    for result in (out, expected):
        result.float().square().sum().backward()
    for ours, theirs in zip(packed, alone, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=5e-2, atol=5e-2)
