"""Adapters beside a model in use: what they compute, on one copy of the base; and the weights that a folder holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, tiny_policy

from diffpo.config import LoraConfig
from diffpo.models.policy import Policy, load_policy
from diffpo.models.variants import saved_weights, with_adapter


def stirred(policy: Policy, seed: int) -> Policy:
    """With what learns moved somewhere."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    policy.version += 1 + seed
    return policy


def hidden(policy: Policy) -> torch.Tensor:
    from diffpo.models.attention import pack

    with torch.no_grad():
        return policy.denoiser(*pack(torch.arange(6)[None], torch.tensor([6])))


def saved_base(folder: Path) -> str:
    tiny_policy(1, learned=True).save_pretrained(folder)
    return str(folder)


def saved_adapter(base: str, folder: Path, seed: int) -> Path:
    policy = load_policy(base)
    policy.add_adapters(LoraConfig(rank=2), seed)
    stirred(policy, seed).save_pretrained(folder)
    return folder


def test_adapters_stand_beside_each_other_on_one_base(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    policy = load_policy(base)
    before = hidden(policy)
    for seed in range(2):
        folder = saved_adapter(base, tmp_path / f"adapter{seed}", seed)
        variant = with_adapter(policy, folder)
        assert torch.equal(hidden(variant), hidden(load_policy(folder)))
        assert not torch.allclose(hidden(variant), before) and torch.equal(hidden(policy), before)
        assert variant.version == 1 + seed and policy.version == 0
        own = {id(parameter) for parameter in policy.denoiser.parameters()}
        fresh = [name for name, parameter in variant.denoiser.named_parameters() if id(parameter) not in own]
        assert fresh and all(".lora_" in name for name in fresh)


def test_an_adapter_attends_in_the_blocks_that_it_was_trained_in(tmp_path: Path) -> None:
    policy = load_policy(GOLDEN / "sdar-tiny", "float32", block_length=8)
    policy.add_adapters(LoraConfig(rank=2))
    policy.save_pretrained(tmp_path)
    served = load_policy(GOLDEN / "sdar-tiny", "float32")
    assert with_adapter(served, tmp_path).denoiser.config == load_policy(tmp_path, "float32").denoiser.config
    assert served.denoiser.config.block_length == 4


def test_adapters_that_cannot_stand_there_are_refused(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    folder = saved_adapter(base, tmp_path / "adapter", 0)
    with pytest.raises(ValueError, match="carries adapters itself"):
        with_adapter(load_policy(folder), folder)
    with pytest.raises(ValueError, match="loaded from a folder"):
        with_adapter(tiny_policy(), folder)


@pytest.mark.parametrize("adapters", [False, True])
def test_saved_weights_are_taken_over(adapters: bool, tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    start = str(saved_adapter(base, tmp_path / "adapter", 0)) if adapters else base
    policy, newer = load_policy(start), stirred(load_policy(start), 5)
    with torch.no_grad():
        newer.sampler_head.weight.add_(1)
    newer.save_pretrained(tmp_path / "newer")
    policy.load_weights(*saved_weights(policy, tmp_path / "newer"))
    assert policy.version == newer.version and torch.equal(hidden(policy), hidden(newer))
    assert torch.equal(policy.sampler_head.weight, newer.sampler_head.weight)


@pytest.mark.parametrize("parts", ["adapters", "whole", "head"])
def test_weights_of_a_model_with_other_parts_are_refused(parts: str, tmp_path: Path) -> None:
    """Else the base would answer under the version of adapters, or of a head, that it does not have."""
    base = saved_base(tmp_path / "base")
    folder, used = saved_adapter(base, tmp_path / "adapter", 0), load_policy(base)
    if parts == "whole":
        used, folder = load_policy(folder), Path(base)
    if parts == "head":
        used.sampler_head, folder = None, tmp_path / "alone"
        load_policy(base).save_pretrained(folder, {})
    with pytest.raises(ValueError, match="holds other adapters, or another sampler head"):
        saved_weights(used, folder)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    policy = load_policy(saved_base(tmp_path / "base"))
    policy.sampler_head.weight.data[0] = torch.nan
    policy.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match=r"broken/threshold\.safetensors: the weight threshold\.weight is not finite"):
        saved_weights(policy, tmp_path / "broken")


def test_the_weights_of_a_head_alone_are_taken_over(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    newer = load_policy(base)
    newer.sampler_head.weight.data.add_(1)
    newer.save_pretrained(tmp_path / "alone", {})
    used = load_policy(tmp_path / "alone")
    used.sampler_head.weight.data.zero_()
    used.load_weights(*saved_weights(used, tmp_path / "alone"))
    assert torch.equal(used.sampler_head.weight, newer.sampler_head.weight)
