"""Fast-dLLM v2 on transformers' Qwen2, whose layers it has by its own code: blocks of the row, shifted logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models.fast_dllm import PUBLISHED, save_checkpoint, twin
from models.small_runs import fine_tuned_and_trained
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from diffpo.models.policy import Policy, load_policy
from diffpo.models.weights import load_denoiser
from diffpo.rollout.engine import generate
from diffpo.types import Request, Sampler


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "fast_dllm")


def load(folder: Path) -> Policy:
    return load_policy(folder, "float32", "cpu")


def block_logits(model: PreTrainedModel, row: Tensor, start: int) -> Tensor:
    """Logits of the block at [start, start + 4) of a row [1, L], [4, V], by the states one place before: no cache."""
    block = torch.arange(start + 4) // 4
    mask = torch.where(block <= block[:, None], 0.0, -torch.inf)[None, None]
    logits = model(row[:, : start + 4], attention_mask=mask, position_ids=torch.arange(start + 4)[None]).logits[0]
    return logits.roll(1, 0)[start:]


@torch.no_grad()
@pytest.mark.parametrize("cache", ["none", "exact"])
@pytest.mark.parametrize("prompt_length", [1, 3, 4, 6, 9])
def test_tokens_are_those_of_a_plain_loop_over_blocks(folder: Path, prompt_length: int, cache: str) -> None:
    """At temperature 0: all tokens that are likely enough, at least the likeliest; the prompt's tail is in a block."""
    model, policy, threshold = twin(), load(folder), 0.3
    prompt = torch.randint(160, (1, prompt_length), generator=torch.Generator().manual_seed(1))
    end = -(-(prompt_length + 10) // 4) * 4
    row, calls = torch.full((1, end), policy.mask_id), 0
    row[:, :prompt_length] = prompt
    for start in range(prompt_length // 4 * 4, end, 4):
        while (masked := row[0, start : start + 4] == policy.mask_id).any():
            logits = block_logits(model, row, start).clone()
            logits[:, policy.banned] = -torch.inf
            sure, likeliest = logits.softmax(-1).max(-1)
            sure[~masked] = -1.0
            chosen = sure > threshold
            chosen[sure.argmax()] = True
            row[0, start : start + 4][chosen] = likeliest[chosen]
            calls += 1
    sampler, ids = Sampler("confidence", threshold), tuple(prompt[0].tolist())
    asked = Request(ids, 0, end - prompt_length, 4, sampler, temperature=0.0, early_exit=False, cache=cache)
    [completion] = generate(policy, [asked])
    assert torch.equal(completion.tokens, row[0, prompt_length:]) and completion.nfe == calls


def test_ids_that_its_code_has_need_not_stand_in_its_config(folder: Path) -> None:
    config = {key: value for key, value in PUBLISHED.items() if not key.endswith("_id")} | {"vocab_size": 151936}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink()
    for file in folder.glob("*token*"):
        file.unlink()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = torch.zeros(151936, 32)
    save_file(tensors, folder / "model.safetensors")
    policy = load(folder)
    assert (policy.mask_id, policy.eos_id) == (151665, 151645)


def test_both_trainers_take_it_and_it_is_saved_under_its_own_names(folder: Path, tmp_path: Path) -> None:
    learned = fine_tuned_and_trained(folder, tmp_path)
    config = load(learned).denoiser.config
    assert (config.shift, config.block_length, config.blocks_from) == (1, 4, "row")
    saved = load_file(next((learned / "policy").glob("*.safetensors")))
    assert saved.keys() >= load_file(folder / "model.safetensors").keys()


def test_other_blocks_are_told_to_its_own_code(folder: Path, tmp_path: Path) -> None:
    policy = load_policy(folder, "float32", "cpu", block_length=8)
    policy.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["bd_size"] == 8
    assert load(tmp_path / "saved").denoiser.config.block_length == 8


def test_sliding_windows_are_an_error(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(PUBLISHED | {"use_sliding_window": True}))
    with pytest.raises(ValueError, match="asks for use_sliding_window = True"):
        load_denoiser(folder)
