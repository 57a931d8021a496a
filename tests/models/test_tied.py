"""A head that is the embeddings: one parameter, one gradient, one moment, one tensor on disk."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, tiny_denoiser, tiny_shape
from models.published_llada import golden, golden_checkpoint, logits_of
from safetensors.torch import load_file, save_file
from torch import Tensor
from training.test_published import CoinTask

from diffpo.config import LoadConfig, OptimConfig, RolloutConfig, TaskConfig, TrainConfig
from diffpo.models.attention import pack
from diffpo.models.export import export
from diffpo.models.fused import token_logprobs
from diffpo.models.policy import load_policy
from diffpo.models.transformer import Transformer
from diffpo.models.weights import load_denoiser
from diffpo.training import loop
from diffpo.training.loop import train
from diffpo.training.state import adamw

TIED = ("a2d-qwen3", "a2d-qwen2", "a2d-llama")
SHAPE = replace(tiny_shape(11), head_dim=6, qk_norm=True)
LENGTHS, NONE = torch.tensor([5, 3]), torch.tensor([], dtype=torch.int64)


def pair() -> tuple[Transformer, Transformer]:
    """A tied denoiser, and its slow twin: the same, with a head of its own that starts as a copy."""
    tied = tiny_denoiser(replace(SHAPE, tied=True))
    twin = tiny_denoiser(SHAPE)
    twin.load_state_dict({**tied.state_dict(), "head.weight": tied.embed.weight.detach().clone()})
    return tied, twin


def loss(denoiser: Transformer, dtype: torch.dtype | None = None) -> Tensor:
    """Of two rows, tokens scored as in training."""
    ids = torch.arange(10).view(2, 5) % 9
    denoiser.compute_dtype = dtype
    hidden = denoiser(*pack(ids, LENGTHS))
    return token_logprobs(hidden, denoiser.head.weight, torch.arange(8), 0.7, NONE, dtype).sum()


@pytest.mark.parametrize("family", TIED)
def test_it_is_one_parameter(family: str) -> None:
    policy = load_policy(GOLDEN / f"{family}-tiny", "float32", "cpu")
    stored = load_file(GOLDEN / f"{family}-tiny" / "model.safetensors")
    names = dict(policy.denoiser.named_parameters())
    assert (
        {policy.family.original(name) for name in names}
        == stored.keys()
        == {policy.family.original(name) for name in policy.denoiser.state_dict()}
    )
    assert policy.denoiser.head.weight is policy.denoiser.embed.weight is policy.trainable()["embed.weight"]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_its_gradient_is_the_sum_of_both(dtype: torch.dtype | None) -> None:
    """And so the twin's updates, both of them, are not the tied one's: AdamW sees it once."""
    tied, twin = pair()
    for denoiser in (tied, twin):
        loss(denoiser, dtype).backward()
    assert twin.embed.weight.grad is not None and twin.head.weight.grad is not None
    both = twin.embed.weight.grad + twin.head.weight.grad
    assert twin.embed.weight.grad.abs().max() > 1e-3 and twin.head.weight.grad.abs().max() > 1e-3
    torch.testing.assert_close(tied.embed.weight.grad, both)
    twin.embed.weight.grad = both
    optimizers = [adamw(denoiser.parameters(), 1e-2, (0.9, 0.99), 0.1) for denoiser in (tied, twin)]
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(tied.embed.weight, twin.embed.weight)
    assert len(optimizers[0].state) == len(optimizers[1].state) - 1


def test_norms_of_heads_do_not_decay() -> None:
    tied, _ = pair()
    spared = {
        id(p)
        for group in adamw(tied.parameters(), 1e-2, (0.9, 0.99), 0.1).param_groups
        for p in group["params"]
        if not group["weight_decay"]
    }
    assert {name for name, p in tied.named_parameters() if id(p) in spared} == {
        name for name, _ in tied.named_parameters() if "norm" in name
    }


def test_it_stays_one_wherever_the_model_goes() -> None:
    tied, _ = pair()
    for moved in (copy.deepcopy(tied), tied.bfloat16(), tied.to_empty(device="meta")):
        assert moved.head.weight is moved.embed.weight
    assert copy.deepcopy(tied).embed is not tied.embed


@pytest.mark.parametrize("family", TIED)
def test_an_export_holds_it_once(family: str, tmp_path: Path) -> None:
    """Trained with all weights: the exported folder computes what the policy does, and its config.json says why."""
    policy = load_policy(golden_checkpoint(tmp_path / "base", family), "float32", "cpu")
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.mul_(1.1)
    policy.save_pretrained(tmp_path / "run" / "policy")
    export(tmp_path / "run", tmp_path / "out", merge=True)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert "lm_head.weight" not in stored and stored.keys() == load_file(tmp_path / "base/model.safetensors").keys()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    ids, before = golden(family)
    after = logits_of(load_policy(tmp_path / "out", "float32", "cpu").denoiser, ids)
    assert torch.equal(after, logits_of(policy.denoiser, ids)) and not torch.allclose(after, before, atol=0.1)


def test_a_file_may_hold_it_twice_if_both_are_one(tmp_path: Path) -> None:
    """Qwen3-0.6B's does."""
    folder = golden_checkpoint(tmp_path, "a2d-qwen3")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    ids, logits = golden("a2d-qwen3")
    torch.testing.assert_close(logits_of(load_denoiser(folder), ids), logits, atol=3e-6, rtol=0)
    tensors["lm_head.weight"][3, 4] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head\.weight is not model\.embed_tokens\.weight, .*tie_word_embeddings"):
        load_denoiser(folder)
    golden_checkpoint(tmp_path / "untied", "a2d-qwen3", tie_word_embeddings=False)
    save_file(tensors, tmp_path / "untied" / "model.safetensors")
    assert load_denoiser(tmp_path / "untied").head.weight[3, 4] == tensors["lm_head.weight"][3, 4]


def test_a_run_of_all_weights_saves_it_once_and_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = golden_checkpoint(tmp_path / "base", "a2d-qwen3", tokenizer=True)
    monkeypatch.setattr(loop, "load_task", lambda config: CoinTask())
    config = TrainConfig(
        model=str(model),
        output=str(tmp_path / "run"),
        train="model",
        task=TaskConfig(name="countdown_cd3"),  # CoinTask stands in for it
        steps=2,
        prompts_per_step=2,
        num_generations=4,
        save_every=1,
        load=LoadConfig(dtype="float32"),
        rollout=RolloutConfig(sampler="top_k:2", gen_length=4),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=1),
    )
    straight = train(config, quiet=True)
    last = tmp_path / "run" / "checkpoints" / "step_000002"
    moments = load_file(last / "optimizer.safetensors")
    assert moments["denoiser/embed.weight/exp_avg"].any() and not any("head" in name for name in moments)
    assert "lm_head.weight" not in load_file(last / "policy" / "model.safetensors")
    shutil.rmtree(last)
    resumed = train(config, resume=True, quiet=True)
    assert resumed.trainable().keys() == straight.trainable().keys()
    for name, parameter in straight.trainable().items():
        assert torch.equal(resumed.trainable()[name], parameter), name
    assert resumed.denoiser.head.weight is resumed.denoiser.embed.weight
