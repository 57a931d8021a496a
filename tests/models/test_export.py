"""Exports: the files of the base model, byte for byte where they are its own, with the policy's weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, tiny_policy
from models.published_llada import (
    FAMILIES,
    golden,
    golden_adapter,
    golden_checkpoint,
    llada_config,
    logits_of,
    published_logits,
    random_llada,
    write_checkpoint,
)
from safetensors import safe_open
from safetensors.torch import load_file

from diffpo.config import LoraConfig, ThresholdConfig
from diffpo.models.export import export
from diffpo.models.policy import load_policy
from diffpo.models.threshold import ThresholdHead

MODELLING = {"llada": {"modeling_llada.py", "configuration_llada.py"}, "dream": {"modeling_dream.py"}}
MODELLING["dream"] |= {"configuration_dream.py", "tokenization_dream.py"}
MODELLING["a2d-qwen3"] = {"modeling_a2d-qwen3.py", "configuration_a2d-qwen3.py"}
TOKENIZER = {"llada": {"tokenizer.json"}, "dream": {"vocab.json", "merges.txt", "added_tokens.json"}}
TOKENIZER["a2d-qwen3"] = TOKENIZER["llada"]


def description(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and dtype of every tensor of a safetensors file."""
    with safe_open(file, framework="pt") as tensors:
        parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        assert tensors.metadata()["format"] == "pt"  # transformers refuses a file that does not say so
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_export_is_a_whole_model_in_the_layout_of_its_base(family: str, tmp_path: Path) -> None:
    base = golden_checkpoint(tmp_path / "base", family, tokenizer=True)
    adapter = golden_adapter(tmp_path / "adapter", family, base_model_name_or_path=str(base))
    files = export(adapter, tmp_path / "out", merge=True)
    own = {"config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"}
    own |= MODELLING[family] | TOKENIZER[family]
    assert {file.name for file in files} == own | {"model.safetensors", "diffpo.json", "README.md"}
    for name in own:  # A2D's golden config.json does not end in a newline
        assert (tmp_path / "out" / name).read_bytes().rstrip() == (base / name).read_bytes().rstrip(), name
    out, before = (folder / "model.safetensors" for folder in (tmp_path / "out", base))
    assert description(out) == description(before)
    policy = load_policy(adapter, "float32", "cpu")
    policy.merge_adapters()
    again = load_policy(tmp_path / "out", "float32", "cpu")
    ids, logits = golden(family, adapter=True)
    assert torch.equal(logits_of(again.denoiser, ids), logits_of(policy.denoiser, ids))
    torch.testing.assert_close(logits_of(again.denoiser, ids), logits, atol=1e-4, rtol=0)
    assert again.tokenizer.encode("the user is here") == policy.tokenizer.encode("the user is here")


def test_what_is_merged_is_what_the_published_model_computes(tmp_path: Path) -> None:
    """The slow twin reads the exported folder."""
    adapter = golden_adapter(tmp_path / "adapter", base_model_name_or_path=str(GOLDEN / "llada-tiny"))
    export(adapter, tmp_path / "out", merge=True)
    config, tensors = (
        json.loads((tmp_path / "out/config.json").read_text()),
        load_file(tmp_path / "out/model.safetensors"),
    )
    ids, logits = golden("llada", adapter=True)
    torch.testing.assert_close(published_logits(config, tensors, ids[0]), logits[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_export_of_adapters_is_a_peft_folder_that_names_its_base(family: str, tmp_path: Path) -> None:
    base = golden_checkpoint(tmp_path / "base", family, tokenizer=True)
    policy = load_policy(base, device="cpu")
    policy.add_adapters(LoraConfig(rank=2))
    policy.save_pretrained(tmp_path / "run" / "policy")
    files = export(tmp_path / "run", tmp_path / "out")
    assert {file.name for file in files} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "diffpo.json",
        "README.md",
    }
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(base) and settings["peft_type"] == "LORA"
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "run/policy", tmp_path / "out")
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_weights_trained_in_fp32_go_home_in_the_dtype_of_the_base(key: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """And so do the companions of the base, by way of the run's folder."""
    base = golden_checkpoint(tmp_path / "base", tokenizer=True)
    config = json.loads((base / "config.json").read_text())
    config = {name: value for name, value in config.items() if name != "dtype"} | {
        key: str(dtype).removeprefix("torch.")
    }
    write_checkpoint(
        base, config, {name: tensor.to(dtype) for name, tensor in load_file(base / "model.safetensors").items()}
    )
    policy = load_policy(base, device="cpu")
    policy.use_master_weights()
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.mul_(1.1)
    policy.save_pretrained(tmp_path / "run" / "policy")
    files = export(tmp_path / "run", tmp_path / "out", merge=True)
    assert description(tmp_path / "out" / "model.safetensors") == description(base / "model.safetensors")
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(tensor, load_file(tmp_path / "run/policy/model.safetensors")[name].to(dtype))
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config
    assert {file.name for file in files} == {file.name for file in base.iterdir()} | {"diffpo.json", "README.md"}


def test_adapters_on_a_bf16_base_merge_into_bf16(tmp_path: Path) -> None:
    config = llada_config(dtype="bfloat16")
    base = write_checkpoint(tmp_path / "base", config, {n: t.bfloat16() for n, t in random_llada(config).items()})
    policy = load_policy(base, device="cpu")
    policy.add_adapters(LoraConfig(rank=2))
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.1)
    policy.save_pretrained(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", merge=True)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert description(tmp_path / "out" / "model.safetensors") == description(base / "model.safetensors")
    for name, parameter in before.items():
        theirs = policy.family.native(name).removesuffix(".weight")
        adapted = f"{theirs}.lora_A.weight" in policy.trainable()
        assert torch.equal(after[name], parameter) != adapted
        if adapted:
            a, b = (policy.trainable()[f"{theirs}.lora_{side}.weight"].detach() for side in "AB")
            assert torch.equal(after[name], (parameter.float() + 32.0 * (b @ a)).bfloat16())  # alpha 64 over rank 2


def test_shards_of_a_base_become_one_file(tmp_path: Path) -> None:
    config = llada_config()
    base = write_checkpoint(tmp_path / "base", config, random_llada(config), shards=3)
    files = export(base, tmp_path / "out")
    assert {file.name for file in files} == {"config.json", "model.safetensors", "diffpo.json", "README.md"}
    before, after = random_llada(config), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("merge", [False, True])
def test_the_threshold_head_goes_along(merge: bool, tmp_path: Path) -> None:
    policy = load_policy(GOLDEN / "llada-tiny", device="cpu")
    policy.add_adapters(LoraConfig(rank=2))
    policy.sampler_head = ThresholdHead(64, ThresholdConfig(gamma_max=2.0))
    torch.nn.init.ones_(policy.sampler_head.weight)
    policy.save_pretrained(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", merge)
    again = load_policy(tmp_path / "out", device="cpu")
    assert again.sampler_head and (again.sampler_head.weight == 1).all() and again.sampler_head.config.gamma_max == 2
    assert (again.adapter is None) == merge


@pytest.mark.parametrize("head", ["prompt", "bernoulli"])
def test_a_tiny_policy_of_diffpo(tmp_path: Path, head: str) -> None:
    policy = tiny_policy(learned=head)
    policy.save_pretrained(tmp_path / "run" / "policy")
    files = export(tmp_path / "run", tmp_path / "out", merge=True)
    assert {file.name for file in files} == {file.name for file in (tmp_path / "run/policy").iterdir()} | {"README.md"}
    own = [file for file in files if file.name != "README.md"]
    assert all(file.read_bytes() == (tmp_path / "run" / "policy" / file.name).read_bytes() for file in own)


def test_an_output_that_is_no_empty_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("done")
    (tmp_path / "empty").mkdir()
    for taken in (tmp_path / "full", tmp_path / "full" / "thesis.tex"):
        with pytest.raises(ValueError, match=rf"{taken.name} is there already.*another output"):
            export(GOLDEN / "llada-tiny", taken)
    assert [file.name for file in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    export(GOLDEN / "llada-tiny", tmp_path / "empty")
    with pytest.raises(ValueError, match="no checkpoint here"):
        export(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


PUSH = """
from diffpo.models.export import push_to_hub
for repository in ("owner/name", "a name that is none"):
    try:
        push_to_hub("exported", repository)
    except ValueError as error:
        print(error)
"""


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_does_not_answer_is_one_line_that_says_what_is_done(offline: bool, tmp_path: Path) -> None:
    """At a port of this machine where nobody listens."""
    settings = {"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_none", "HF_ENDPOINT": "http://127.0.0.1:9"}
    settings |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    run = subprocess.run(
        [sys.executable, "-c", PUSH], env=os.environ | settings, capture_output=True, text=True, check=True
    )
    unreachable, misnamed = run.stdout.splitlines()
    assert unreachable.startswith("owner/name: the hub refused (")
    assert ("offline" in unreachable) if offline else ("Connection refused" in unreachable)
    assert misnamed.startswith("a name that is none: the hub refused (")
    assert all(line.endswith("exported is complete") for line in (unreachable, misnamed))


def test_an_export_has_a_model_card(tmp_path: Path) -> None:
    base = golden_checkpoint(tmp_path / "base", "llada", tokenizer=True)
    adapter = golden_adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    export(adapter, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft\n") and f'base_model: "{base}"' in card and "load_policy" in card
