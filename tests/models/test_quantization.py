"""Four-bit weights: what is stored, what it computes, and adapters that learn upon it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import GOLDEN
from models.published_llada import golden, golden_checkpoint, logits_of, write_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from diffpo.config import LoadConfig, LoraConfig, RolloutConfig, ThresholdConfig, TrainConfig
from diffpo.models.export import export
from diffpo.models.inspection import inspect
from diffpo.models.policy import Policy, load_policy
from diffpo.models.threshold import ThresholdHead
from diffpo.models.variants import with_adapter

bitsandbytes = pytest.importorskip("bitsandbytes")


def narrow(folder: Path, family: str) -> Path:
    """A golden checkpoint with 128 of its mlp's 160 features: bitsandbytes wants multiples of 64 on a CPU."""
    tensors = load_file(GOLDEN / f"{family}-tiny" / "model.safetensors")
    for name in tensors:
        if ".mlp." in name:
            tensors[name] = (tensors[name][:, :128] if "down" in name else tensors[name][:128]).contiguous()
    config = json.loads((GOLDEN / f"{family}-tiny" / "config.json").read_text())
    return write_checkpoint(folder, config | {"intermediate_size": 128}, tensors)


@pytest.fixture(params=["llada", "dream", "a2d-qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return GOLDEN / "llada-tiny" if request.param == "llada" else narrow(tmp_path, request.param)


def four_bit(folder: Path = GOLDEN / "llada-tiny", **settings: Any) -> Policy:
    return load_policy(folder, device="cpu", four_bit=True, **settings)


def unpacked(policy: Policy) -> dict[str, Tensor]:
    """The linears of the blocks, as bitsandbytes reads its four bits."""
    return {
        name: bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        for name, module in policy.denoiser.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }


def test_the_linears_of_the_blocks_are_packed_and_nothing_else(folder: Path) -> None:
    policy, plain = four_bit(folder), load_policy(folder, "float32", "cpu")
    packed = unpacked(policy)
    assert len(packed) == 3 * 7 and all(name.startswith("blocks.") for name in packed)
    for name, parameter in policy.denoiser.named_parameters():
        if name.removesuffix(".weight") in packed:
            assert parameter.dtype == torch.uint8 and not parameter.requires_grad
        else:
            assert parameter.dtype == torch.bfloat16
            assert torch.equal(parameter, plain.denoiser.get_parameter(name).bfloat16())
    for name, weight in packed.items():
        exact = plain.denoiser.get_submodule(name).weight.detach()
        assert weight.shape == exact.shape
        # nf4's coarsest step is 0.3 of a block's largest weight; over normal weights the error is a tenth
        assert (weight.float() - exact).abs().max() < 0.16 * exact.abs().max()
        assert 0.05 < (weight.float() - exact).std() / exact.std() < 0.12


def test_logits_are_those_of_the_unpacked_weights_and_near_those_of_the_whole_ones(folder: Path) -> None:
    """Measured: 0.005 on average from the one, correlated by 0.965 and 0.972 with the other."""
    policy, plain = four_bit(folder), load_policy(folder, "float32", "cpu")
    ids, _ = golden("llada")
    with torch.no_grad():
        ours, exact = logits_of(policy.denoiser, ids), logits_of(plain.denoiser, ids)
        for name, weight in unpacked(policy).items():
            plain.denoiser.get_submodule(name).weight.copy_(weight)
        twin = logits_of(plain.denoiser, ids)
    assert (ours - twin).abs().mean() < 0.02 and (ours - twin).abs().max() < 0.15
    assert correlation(ours, exact) > 0.9


def correlation(ours: Tensor, theirs: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([ours.detach().flatten(), theirs.detach().flatten()]))[0, 1])


def test_adapters_trained_on_four_bits_say_so_on_whole_weights(tmp_path: Path) -> None:
    """Their answers are others: such a run was evaluated, and merged, as if nothing were wrong."""
    policy = four_bit()
    policy.add_adapters(LoraConfig(rank=2))
    policy.version = 3
    policy.save_pretrained(tmp_path / "run" / "policy")
    export(tmp_path / "run", tmp_path / "home")  # a copy of what was trained
    for place in (tmp_path / "run", tmp_path / "home"):
        four_bit(place)
        with pytest.warns(UserWarning, match=r"was trained on 4-bit weights.*load\.four_bit"):
            whole = load_policy(place, device="cpu")
    with pytest.warns(UserWarning, match=r"was trained on 4-bit weights"):
        with_adapter(load_policy(GOLDEN / "llada-tiny", device="cpu"), tmp_path / "run")
    with_adapter(four_bit(), tmp_path / "run")
    whole.version += 1  # it learns on
    whole.save_pretrained(tmp_path / "further")
    load_policy(tmp_path / "further", device="cpu")


def test_rows_that_bitsandbytes_misreads_on_a_cpu_are_refused() -> None:
    """Dream's down_proj here has rows of 160; the published widths are all multiples of 64."""
    with pytest.raises(ValueError, match=r"load\.four_bit.*rows of 160, no multiple of 64"):
        four_bit(GOLDEN / "dream-tiny")


def test_the_size_that_inspection_names_is_the_size() -> None:
    policy = four_bit()
    size = 0
    for parameter in policy.denoiser.parameters():
        size += parameter.numel() * parameter.element_size()
        if parameter.dtype == torch.uint8:
            state = parameter.quant_state
            size += state.absmax.numel() * state.absmax.element_size()
            size += state.state2.absmax.numel() * state.state2.absmax.element_size()
    said = inspect(GOLDEN / "llada-tiny")["memory"]["four_bit"]
    assert abs(size / said - 1) < 0.02


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_learn_upon_four_bits(checkpointing: bool) -> None:
    policy = four_bit()
    before = {name: weight.clone() for name, weight in policy.denoiser.state_dict().items() if "quant" not in name}
    ids, _ = golden("llada")
    fresh = logits_of(policy.denoiser, ids)
    policy.add_adapters(LoraConfig(rank=4))
    policy.denoiser.gradient_checkpointing = checkpointing
    assert torch.equal(logits_of(policy.denoiser, ids), fresh)
    assert policy.denoiser.compute_dtype == torch.bfloat16
    optimizer = torch.optim.AdamW(policy.trainable().values(), 1e-2)
    losses = []
    for _ in range(8):
        loss = -logits_of(policy.denoiser, ids).log_softmax(-1)[..., 3].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    assert all(p.grad is not None and p.dtype == p.grad.dtype == torch.float32 for p in policy.trainable().values())
    assert len(policy.trainable()) == 2 * 7 * 3
    for name, parameter in policy.denoiser.named_parameters():
        if ".lora_" not in name:
            assert parameter.grad is None and torch.equal(parameter, before[name.replace(".base_layer", "")])


def test_adapters_trained_upon_four_bits_are_saved_and_loaded(tmp_path: Path) -> None:
    """On four bits the same policy, on whole weights a near one."""
    policy = four_bit()
    policy.add_adapters(LoraConfig(rank=4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    policy.save_pretrained(tmp_path)
    again = load_policy(tmp_path, device="cpu", four_bit=True)
    ids, _ = golden("llada")
    ours = logits_of(policy.denoiser, ids)
    assert torch.equal(logits_of(again.denoiser, ids), ours)
    with pytest.warns(UserWarning, match="4-bit weights"):
        whole = logits_of(load_policy(tmp_path, device="cpu").denoiser, ids)
    assert correlation(ours, whole) > 0.9


def test_an_adapter_of_others_upon_four_bits() -> None:
    ids, logits = golden("llada", adapter=True)
    ours = logits_of(four_bit(adapter=GOLDEN / "llada-tiny" / "lora").denoiser, ids)
    assert correlation(ours, logits) > 0.85  # measured: 0.908; the golden adapter is a large one


def test_a_run_on_four_bits_merges_into_a_whole_model_that_answers_alike(folder: Path, tmp_path: Path) -> None:
    """It went onto the whole weights, whose answers are others. Measured: 0.01 apart on average."""
    policy = four_bit(folder)
    policy.add_adapters(LoraConfig(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    policy.version = 3
    policy.save_pretrained(tmp_path / "run" / "policy")
    export(tmp_path / "run", tmp_path / "merged", merge=True)
    merged = load_policy(tmp_path / "merged", "float32", "cpu")
    plain = load_policy(folder, "float32", "cpu")
    assert not merged.adapter and merged.denoiser.config == plain.denoiser.config
    ids, _ = golden("llada")
    with torch.no_grad():
        ours, alike = logits_of(policy.denoiser, ids), logits_of(merged.denoiser, ids)
        policy.merge_adapters()
        assert all(parameter.requires_grad for parameter in policy.denoiser.parameters())
        here = logits_of(policy.denoiser, ids)
    for other in (alike, here):
        assert (ours - other).abs().mean() < 0.02 and (ours - other).abs().max() < 0.15


def test_a_head_trained_on_four_bits_goes_home_with_the_weights_it_saw(tmp_path: Path) -> None:
    policy = four_bit()
    policy.sampler_head = ThresholdHead(64, ThresholdConfig())
    policy.version = 3
    policy.save_pretrained(tmp_path / "head", policy.trainable())
    export(tmp_path / "head", tmp_path / "home")
    home = load_policy(tmp_path / "home", "float32", "cpu").denoiser
    for name, weight in unpacked(policy).items():
        assert torch.equal(home.get_submodule(name).weight, weight.float())


def test_four_bit_weights_do_not_learn() -> None:
    load, rollout = LoadConfig(four_bit=True), RolloutConfig(sampler="top_k:1")
    with pytest.raises(ValueError, match=r"load\.four_bit.*set lora\.rank > 0"):
        TrainConfig(load=load, train="model", rollout=rollout)
    with pytest.raises(ValueError, match=r"load\.four_bit"):
        TrainConfig(load=load)
    TrainConfig(load=load, lora=LoraConfig(rank=4))
    TrainConfig(load=LoadConfig(four_bit=True, adapter="runs/adapter"))
    TrainConfig(load=load, train="sampler")


def test_a_head_learns_upon_four_bits_and_is_saved_with_the_weights_it_saw(tmp_path: Path) -> None:
    """The sampler alone learns: a checkpoint of the run is the head, on the base that was loaded in four bits."""
    policy = four_bit()
    policy.sampler_head = ThresholdHead(64, ThresholdConfig())
    policy.version = 3
    assert policy.trainable() == {}
    policy.save_pretrained(tmp_path, policy.trainable())
    assert not list(tmp_path.glob("model*.safetensors"))
    again = four_bit(tmp_path)
    ids, _ = golden("llada")
    assert torch.equal(logits_of(again.denoiser, ids), logits_of(policy.denoiser, ids))
    assert again.sampler_head and torch.equal(again.sampler_head.weight, policy.sampler_head.weight)
    before = unpacked(policy)
    with torch.no_grad():
        policy.sampler_head.weight.add_(1.0)
    policy.version = 9
    policy.restore(tmp_path)
    assert policy.version == again.version == 3 and not policy.sampler_head.weight.any()
    assert all(torch.equal(weight, before[name]) for name, weight in unpacked(policy).items())


def test_a_call_in_eval_mode_leaves_the_weights_as_they_are(folder: Path) -> None:
    """bitsandbytes would repack them on some CPUs, for a kernel without a gradient."""
    policy = four_bit(folder)
    policy.add_adapters(LoraConfig(rank=2))
    ids, _ = golden("llada")
    before = {name: weight.clone() for name, weight in policy.denoiser.named_parameters()}

    def step() -> tuple[Tensor, list[Tensor]]:
        logits = logits_of(policy.denoiser, ids)
        return logits.detach(), list(torch.autograd.grad(logits.square().mean(), list(policy.trainable().values())))

    fresh = step()
    with torch.no_grad():
        called = logits_of(policy.denoiser.eval(), ids)
    again = step()
    assert torch.equal(fresh[0], called) and torch.equal(called, again[0])
    assert all(torch.equal(a, b) for a, b in zip(fresh[1], again[1], strict=True))
    assert all(torch.equal(weight, before[name]) for name, weight in policy.denoiser.named_parameters())


def test_weights_that_do_not_fit_are_refused_before_they_are_packed(tmp_path: Path) -> None:
    folder = golden_checkpoint(tmp_path, n_layers=4)
    with pytest.raises(ValueError, match=r"missing model\.transformer\.blocks\.3"):
        load_policy(folder, device="cpu", four_bit=True)
