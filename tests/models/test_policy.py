"""Policies on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import ALPHABET, tiny_policy

from diffpo.config import ModelConfig
from diffpo.models.policy import create_policy, load_policy


@pytest.mark.parametrize("learned", [False, True])
def test_a_policy_survives_its_folder_bit_for_bit(tmp_path: Path, learned: bool) -> None:
    policy = tiny_policy(learned=learned, learned_positions=learned)
    policy.version = 7
    if policy.threshold:
        policy.threshold.observe(torch.randn(9, 16, generator=torch.Generator().manual_seed(0)))
    policy.save_pretrained(tmp_path / "a" / "b")
    loaded = load_policy(tmp_path / "a" / "b")
    assert loaded.denoiser.config == policy.denoiser.config and loaded.version == 7
    assert vars(loaded.tokenizer) == vars(policy.tokenizer)
    pairs = [(policy.denoiser, loaded.denoiser)]
    assert (loaded.threshold is not None) == learned
    if policy.threshold and loaded.threshold:
        assert loaded.threshold.config == policy.threshold.config
        pairs.append((policy.threshold, loaded.threshold))
    for ours, theirs in pairs:
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_saving_over_a_learned_policy_leaves_no_head_behind(tmp_path: Path) -> None:
    tiny_policy(learned=True).save_pretrained(tmp_path)
    tiny_policy().save_pretrained(tmp_path)
    assert load_policy(tmp_path).threshold is None


def test_a_run_folder_loads_its_policy(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path / "policy")
    assert load_policy(tmp_path).tokenizer.alphabet == ALPHABET


def test_a_folder_that_is_no_policy_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.*no checkpoint here"):
        load_policy(tmp_path)


@pytest.mark.parametrize("lost", ["model.safetensors", "threshold.safetensors", "config.json"])
def test_a_lost_file_is_an_error_that_names_the_folder(tmp_path: Path, lost: str) -> None:
    tiny_policy(learned=True).save_pretrained(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ValueError, match=tmp_path.name):
        load_policy(tmp_path)


def test_a_config_that_is_no_json_is_an_error_that_names_it(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_policy(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([]))
    with pytest.raises(ValueError, match=r"config\.json"):
        load_policy(tmp_path)


def test_a_truncated_weights_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_policy(tmp_path)


def test_banned_are_mask_and_padding() -> None:
    policy = tiny_policy(padding=3)
    assert policy.banned.tolist() == [policy.mask_id, *range(9, 12)]
    assert policy.eos_id == 7 and policy.mask_id == 8


def test_a_fresh_policy_is_a_function_of_its_seed() -> None:
    config = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16)
    first, same, other = (create_policy(ALPHABET, config, seed).denoiser.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
