"""The denoiser: packed rows against rows alone, grouped-query attention, rotary positions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny_denoiser, tiny_shape

from diffpo.models import attention
from diffpo.models.attention import pack
from diffpo.models.device import Flash
from diffpo.models.pointwise import EAGER, rotate
from diffpo.models.rotary import rotation_table
from diffpo.models.transformer import Transformer

VOCAB = 11
LENGTHS = torch.tensor([5, 3, 5, 12, 1, 3, 9])


def some_rows() -> torch.Tensor:
    return torch.randint(VOCAB, (len(LENGTHS), 12), generator=torch.Generator().manual_seed(0))


def logits_of(denoiser: Transformer, rows: torch.Tensor, lengths: torch.Tensor) -> list[torch.Tensor]:
    """Logits of each row, [length, V], through one packed forward."""
    ids, packing = pack(rows, lengths)
    logits = denoiser.head(denoiser(ids, packing))
    return [
        logits[start : start + length] for start, length in zip(packing.starts.tolist(), lengths.tolist(), strict=True)
    ]


def plain_logits(model: Transformer, row: torch.Tensor) -> torch.Tensor:
    """The forward pass of one row written out: key-value heads repeated, scores, softmax."""
    config = model.config
    length, heads, size = len(row), config.num_heads, config.head_size

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight

    def turn(x: torch.Tensor) -> torch.Tensor:
        turned = torch.empty_like(x)
        for position in range(length):
            for j in range(size // 2):
                angle = torch.tensor(position * config.rope_theta ** (-2 * j / size))
                a, b = x[position, :, j], x[position, :, j + size // 2]
                turned[position, :, j] = a * angle.cos() - b * angle.sin()
                turned[position, :, j + size // 2] = b * angle.cos() + a * angle.sin()
        return turned

    x = model.embed.weight[row]
    if model.places is not None:
        x = x + model.places.weight[:length]
    for block in model.blocks:
        h, attention = norm(x, block.attn_norm.weight), block.attn
        q, k, v = (f(h).view(length, -1, size) for f in (attention.q_proj, attention.k_proj, attention.v_proj))
        k, v = (t.repeat_interleave(heads // config.num_kv_heads, dim=1) for t in (turn(k), v))
        weights = (torch.einsum("qhd,khd->hqk", turn(q), k) / size**0.5).softmax(-1)
        x = x + attention.o_proj(torch.einsum("hqk,khd->qhd", weights, v).reshape(length, -1))
        h = norm(x, block.mlp_norm.weight)
        x = x + block.down_proj(F.silu(block.gate_proj(h)) * block.up_proj(h))
    return model.head(norm(x, model.norm.weight))


@pytest.mark.parametrize(
    "changes", [{}, {"num_kv_heads": 4}, {"num_kv_heads": 1}, {"qkv_bias": True}, {"learned_positions": True}]
)
def test_packed_rows_are_the_forward_pass_written_out(changes: dict) -> None:
    model = tiny_denoiser(tiny_shape(VOCAB, **changes))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that do something
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    rows = some_rows()
    for row, length, logits in zip(rows, LENGTHS, logits_of(model, rows, LENGTHS), strict=True):
        torch.testing.assert_close(logits, plain_logits(model, row[:length]), atol=1e-5, rtol=1e-4)


def test_a_row_is_the_same_alone_in_any_company_and_in_any_order() -> None:
    model, rows = tiny_denoiser(tiny_shape(VOCAB)), some_rows()
    packed = logits_of(model, rows, LENGTHS)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
    shuffled = logits_of(model, rows[order], LENGTHS[order])
    for place, row in enumerate(order.tolist()):
        torch.testing.assert_close(shuffled[place], packed[row], atol=1e-6, rtol=1e-6)
        alone = logits_of(model, rows[row : row + 1, : LENGTHS[row]], LENGTHS[row : row + 1])[0]
        torch.testing.assert_close(alone, packed[row], atol=1e-6, rtol=1e-6)


def test_padding_and_other_rows_are_never_seen() -> None:
    model, rows = tiny_denoiser(tiny_shape(VOCAB)), some_rows()
    other = rows.clone()
    other[torch.arange(12) >= LENGTHS[:, None]] = 0
    other[3] = 1
    before, after = logits_of(model, rows, LENGTHS), logits_of(model, other, LENGTHS)
    for row in range(len(rows)):
        assert torch.equal(before[row], after[row]) == (row != 3)


def test_packing_keeps_the_callers_order_and_starts_positions_at_zero() -> None:
    rows = some_rows()
    ids, packing = pack(rows, LENGTHS)
    assert len(ids) == LENGTHS.sum()
    assert [run[:2] for run in packing.runs] == [(1, 1), (2, 3), (2, 5), (1, 9), (1, 12)]
    for row, (start, length) in enumerate(zip(packing.starts.tolist(), LENGTHS.tolist(), strict=True)):
        assert torch.equal(ids[start : start + length], rows[row, :length])
        assert torch.equal(packing.positions[start : start + length], torch.arange(length))


def test_gradients_reach_every_weight_and_no_other_row() -> None:
    model, rows = tiny_denoiser(tiny_shape(VOCAB, qkv_bias=True)), some_rows()
    embedded = torch.nn.Parameter(model.embed(pack(rows, LENGTHS)[0]).detach())
    hook = model.embed.register_forward_hook(lambda *_: embedded)
    logits_of(model, rows, LENGTHS)[3].square().sum().backward()
    hook.remove()
    start = int(pack(rows, LENGTHS)[1].starts[3])
    seen = embedded.grad.any(-1)
    assert seen[start : start + 12].all() and seen.sum() == 12
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n != "embed.weight")


def test_attention_is_bidirectional() -> None:
    model, row = tiny_denoiser(tiny_shape(VOCAB)), some_rows()[3:4]
    changed = row.clone()
    changed[0, 11] = (row[0, 11] + 1) % VOCAB
    first, second = (logits_of(model, r, LENGTHS[3:4])[0] for r in (row, changed))
    assert (first != second).any(-1).all()


def test_rotation_depends_on_distance_only_and_leaves_position_zero() -> None:
    angles = rotation_table(20, 8, 100.0)[0][:, None]
    q, k = torch.randn(2, 1, 1, 8, generator=torch.Generator().manual_seed(0))

    def score(i: int, j: int) -> torch.Tensor:
        return (rotate(q, angles[i].cos(), angles[i].sin()) * rotate(k, angles[j].cos(), angles[j].sin())).sum()

    torch.testing.assert_close(score(3, 7), score(12, 16), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(score(3, 7), score(7, 3))
    assert torch.equal(rotate(q, angles[0].cos(), angles[0].sin()), q)


def test_a_row_beyond_the_models_length_is_an_error() -> None:
    model = tiny_denoiser(tiny_shape(VOCAB, max_length=8))
    with pytest.raises(ValueError, match="12 tokens exceeds the model's 8"):
        model(*pack(some_rows(), LENGTHS))


def test_fresh_weights_are_a_function_of_the_generator() -> None:
    states = [tiny_denoiser(tiny_shape(VOCAB), seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["embed.weight"], states[2]["embed.weight"])


@pytest.mark.parametrize("takes_groups", [True, False])
def test_attention_over_rows_of_any_length_is_attention_row_by_row(
    takes_groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel of a GPU by a slow twin of it, with and without an argument for grouped queries (torch 2.11)."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    def kernel(q, k, v, q_ends, k_ends, longest, longest_key, **groups: bool):  # type: ignore[no-untyped-def]
        assert groups == ({"enable_gqa": True} if takes_groups else {})
        q, k, v = (t.as_subclass(torch.Tensor).float() for t in (q, k, v))
        rows = []
        for row in range(len(q_ends) - 1):
            own, keys = slice(q_ends[row], q_ends[row + 1]), slice(k_ends[row], k_ends[row + 1])
            parts = (q[own], k[keys], v[keys])
            rows.append(F.scaled_dot_product_attention(*(t.transpose(0, 1) for t in parts), **groups).transpose(0, 1))
        return torch.cat(rows)

    monkeypatch.setattr(attention, "flash", lambda: Flash(kernel, takes_groups, takes_used=False))
    _, packing = pack(torch.zeros(3, 7, dtype=torch.int64), torch.tensor([7, 4, 7]))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(18, heads, 4, generator=generator).bfloat16() for heads in (4, 2, 2))
    ours = attention.attend(q.as_subclass(OnGpu), k, v, packing, "fresh")
    torch.testing.assert_close(ours.float(), attention.attend(q.float(), k.float(), v.float(), packing, "fresh"))
    padded = attention.attend(torch.cat([q, q[:2]]).as_subclass(OnGpu), k, v, packing, "fresh")
    assert padded.shape == (20, 16) and not padded[18:].any()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("width", [8, 70, 400])
def test_a_row_does_not_depend_on_rows_beside_it_nor_on_threads(width: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(1000, width, generator=generator) for _ in range(2))
    whole, before = EAGER.swiglu(gate, up), torch.get_num_threads()
    torch.testing.assert_close(whole, F.silu(gate) * up, atol=1e-6, rtol=1e-6)
    torch.set_num_threads(threads)
    try:
        for rows in (1, 7, 39, 67, 222, 999):
            assert torch.equal(EAGER.swiglu(gate[:rows], up[:rows]), whole[:rows])
    finally:
        torch.set_num_threads(before)


def test_the_gradient_is_that_of_silu() -> None:
    ours, theirs = (torch.linspace(-9, 9, 50, requires_grad=True) for _ in range(2))
    EAGER.swiglu(ours, torch.ones(50)).square().sum().backward()
    F.silu(theirs).square().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
