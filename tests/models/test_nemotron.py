"""Nemotron-Labs-Diffusion on transformers' Ministral, whose layers it has: a causal context, scaled RoPE, its names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models.ministral import ROPE, SHAPE, save_checkpoint, twin
from models.published_llada import logits_of
from models.small_runs import fine_tuned_and_trained
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from diffpo.config import LoraConfig
from diffpo.models.export import export
from diffpo.models.inspection import inspect
from diffpo.models.policy import Policy, load_policy
from diffpo.models.weights import load_denoiser
from diffpo.rollout.engine import generate
from diffpo.types import Request, Sampler


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "nemotron")


def load(folder: Path, **settings) -> Policy:
    return load_policy(folder, "float32", "cpu", **settings)


def some_ids(length: int, rows: int = 1) -> Tensor:
    return torch.randint(160, (rows, length), generator=torch.Generator().manual_seed(1))


def logits_at(model: PreTrainedModel, row: Tensor, start: int, end: int) -> Tensor:
    """Logits of the block [start, end) of a row [1, L] whose context is causal, [end - start, V]: no cache."""
    place = torch.arange(end)
    seen = (place <= place[:, None]) | (place[:, None] >= start)
    mask = torch.where(seen, 0.0, -torch.inf)[None, None]
    return model(row[:, :end], attention_mask=mask, position_ids=place[None]).logits[0, start:]


@torch.no_grad()
@pytest.mark.parametrize("cache", ["none", "exact"])
@pytest.mark.parametrize("prompt_length", [1, 4, 7])
def test_tokens_are_those_of_a_plain_loop_over_blocks(folder: Path, prompt_length: int, cache: str) -> None:
    """At temperature 0, from a block that is all masks: all tokens that are likely enough, at least the likeliest."""
    model, policy, threshold, prompt = twin(), load(folder), 0.3, some_ids(prompt_length)
    row, calls = torch.full((1, prompt_length + 14), policy.mask_id), 0
    row[:, :prompt_length] = prompt
    for start in range(prompt_length, row.shape[1], 4):
        end = min(start + 4, row.shape[1])
        while (masked := row[0, start:end] == policy.mask_id).any():
            logits = logits_at(model, row, start, end).clone()
            logits[:, policy.banned] = -torch.inf
            sure, likeliest = logits.softmax(-1).max(-1)
            sure[~masked] = -1.0
            chosen = sure > threshold
            chosen[sure.argmax()] = True
            row[0, start:end][chosen] = likeliest[chosen]
            calls += 1
    sampler = Sampler("confidence", threshold)
    asked = Request(
        tuple(prompt[0].tolist()), 0, 14, 4, sampler, temperature=0.0, early_exit=False, cache=cache
    )  # fmt: skip
    [completion] = generate(policy, [asked])
    assert torch.equal(completion.tokens, row[0, prompt_length:]) and completion.nfe == calls


def test_its_rows_end_where_queries_would_be_scaled(folder: Path, tmp_path: Path) -> None:
    assert load_denoiser(folder).config.max_length == 64
    unscaled = {key: value for key, value in ROPE.items() if key != "llama_4_scaling_beta"}
    assert load_denoiser(save_checkpoint(tmp_path / "long", rope_parameters=unscaled)).config.max_length == 1024


def test_a_model_is_saved_and_exported_under_the_names_it_came_with(folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    policy.save_pretrained(tmp_path / "saved")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(after[name], part) for name, part in before.items())
    policy.add_adapters(LoraConfig(rank=2), seed=0)
    for parameter in policy.trainable().values():
        parameter.data.normal_(generator=torch.Generator().manual_seed(1))
    policy.save_pretrained(tmp_path / "adapter")
    adapted = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert "encoder" in str(adapted["target_modules"])
    export(tmp_path / "adapter", tmp_path / "merged", merge=True)
    merged, asked = load(tmp_path / "merged"), Request((1, 2, 3), 0, 12, 4, Sampler("top_k", 1.0), temperature=0.0)
    assert not merged.adapter
    assert torch.equal(generate(merged, [asked])[0].tokens, generate(policy, [asked])[0].tokens)


def test_both_trainers_take_it(folder: Path, tmp_path: Path) -> None:
    fine_tuned_and_trained(folder, tmp_path)


def test_it_is_described(folder: Path) -> None:
    facts = inspect(folder)
    assert facts["family"] == "nemotron_labs_diffusion" and facts["shape"]["causal_context"]
    assert facts["parameters"] == sum(part.numel() for part in load_file(folder / "model.safetensors").values())


def test_a_sliding_window_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asks for sliding_window = 8") as error:
        load_denoiser(save_checkpoint(tmp_path / "model", sliding_window=8))
    assert "\n" not in str(error.value)


LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"original_max_position_embeddings": 16, "beta_fast": 8.0}


@torch.no_grad()
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(("kind", "numbers"), [("linear", {}), ("llama3", LLAMA3), ("yarn", YARN)])
def test_scaled_positions_are_transformers(kind: str, numbers: dict[str, float], key: str, tmp_path: Path) -> None:
    scaling, torch_seed = {"rope_type": kind, "factor": 8.0, "rope_theta": 100.0} | numbers, torch.manual_seed(0)
    shape = {name: value for name, value in SHAPE.items() if name != "rope_parameters"}
    model = LlamaForCausalLM(LlamaConfig(**shape, rope_parameters=dict(scaling), attn_implementation="eager")).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch_seed) * 0.3 + (parameter.ndim == 1))
    written = dict(scaling)
    config = shape | {"model_type": "a2d-llama", key: written}
    if key == "rope_scaling":  # as transformers 4 writes it
        config["rope_theta"] = written.pop("rope_theta")
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: part.clone() for name, part in model.state_dict().items()}, tmp_path / "model.safetensors")
    ids = some_ids(40, rows=2)
    expected = model(ids, attention_mask=torch.zeros(1, 1, 40, 40)).logits
    torch.testing.assert_close(logits_of(load_denoiser(tmp_path), ids), expected, rtol=1e-4, atol=1e-4)
