"""What is said of a checkpoint, against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, tiny_policy
from models.published_llada import golden_adapter, golden_checkpoint, llada_config, random_llada, write_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file

from diffpo.config import LoraConfig, ThresholdConfig
from diffpo.models.families import FAMILIES
from diffpo.models.inspection import inspect
from diffpo.models.policy import load_policy
from diffpo.models.published import PUBLISHED
from diffpo.models.threshold import ThresholdHead
from diffpo.models.transformer import Transformer

EOS = {"llada": 161, "dream": 163, "a2d-qwen3": 161}
TARGETS = {
    "llada": ["attn_out", "ff_out", "ff_proj", "k_proj", "q_proj", "up_proj", "v_proj"],
    "dream": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
}
TARGETS["a2d-qwen3"] = TARGETS["dream"]


@pytest.mark.parametrize("tokenizer", [False, True])
@pytest.mark.parametrize("family", EOS)
def test_figures_of_the_golden_checkpoints(family: str, tokenizer: bool, tmp_path: Path) -> None:
    folder = golden_checkpoint(tmp_path, family, tokenizer)
    tensors = load_file(folder / "model.safetensors")
    count = sum(tensor.numel() for tensor in tensors.values())
    blocks = [
        tensor for name, tensor in tensors.items() if (".blocks." in name or ".layers." in name) and tensor.ndim == 2
    ]
    said = inspect(folder)
    assert said["model"] == said["folder"] == str(folder)
    assert said["family"] == {"dream": "Dream"}.get(family, family) and not said["known"]
    assert said["parameters"] == count and said["dtypes"] == {"F32": len(tensors)}
    assert said["files"] == {"model.safetensors": (folder / "model.safetensors").stat().st_size}
    # without a tokenizer A2D's config.json says what EOS is, with one its padding is what fills canvases
    assert said["mask_id"] == 168 and said["eos_id"] == (EOS[family] if tokenizer or family != "a2d-qwen3" else 160)
    assert said["tokenizer"] == ("HubTokenizer" if tokenizer else "IdTokenizer")
    assert said["chat_template"] == tokenizer and said["vocab_size"] == (169 if tokenizer else 192)
    assert said["lora_targets"] == TARGETS[family] and said["threshold"] is None
    assert said["lora_parameters_per_rank"] == sum(sum(tensor.shape) for tensor in blocks)
    assert said["memory"]["float32"] == 4 * count and said["memory"]["bfloat16"] == 2 * count
    assert said["shape"]["num_layers"] == 3 and said["shape"]["vocab_size"] == 192
    json.dumps(said)
    policy = load_policy(folder, device="cpu")
    policy.add_adapters(LoraConfig(rank=5))
    assert sum(p.numel() for p in policy.trainable().values()) == 5 * said["lora_parameters_per_rank"]


def test_an_adapter_is_described_with_its_base(tmp_path: Path) -> None:
    base = golden_checkpoint(tmp_path / "base", "dream", tokenizer=True)
    adapter = golden_adapter(tmp_path / "adapter", "dream", base_model_name_or_path=str(base))
    said, plain = inspect(adapter), inspect(base)
    assert said | plain == said and said["model"] == str(base)
    own = {key: value for key, value in said.items() if key not in plain}
    assert own == {
        "adapter": str(adapter),
        "adapter_rank": 4,
        "adapter_alpha": 8,
        "adapter_rank_pattern": None,
        "adapter_alpha_pattern": None,
        "adapter_rslora": False,
        "adapter_targets": json.loads((adapter / "adapter_config.json").read_text())["target_modules"],
        "adapter_parameters": 4 * plain["lora_parameters_per_rank"],
    }
    json.dumps(said)


def test_an_adapter_without_a_base_is_described_alone() -> None:
    said = inspect(GOLDEN / "llada-tiny" / "lora")
    assert said["base"] is None and said["adapter_rank"] == 4 and "parameters" not in said
    # six of LLaDA's seven linears: all but ff_out
    assert said["adapter_parameters"] == 4 * 3 * (4 * (64 + 64) + 2 * (64 + 192))


def test_another_kind_of_adapter_is_described_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    said = inspect(tmp_path)
    assert said["adapter"] == str(tmp_path) and said["adapter_rank"] is None and said["adapter_parameters"] is None


def test_a_run_is_described_by_its_policy(tmp_path: Path) -> None:
    policy = load_policy(GOLDEN / "llada-tiny", device="cpu")
    policy.sampler_head = ThresholdHead(64, ThresholdConfig(gamma_max=2.0))
    policy.save_pretrained(tmp_path / "whole" / "policy")
    policy.add_adapters(LoraConfig(rank=3, targets=("q_proj",)))
    policy.save_pretrained(tmp_path / "adapters" / "policy")
    whole, adapters = inspect(tmp_path / "whole"), inspect(tmp_path / "adapters")
    assert whole["dtypes"] == {"BF16": 30} and "adapter" not in whole
    assert adapters["dtypes"] == {"F32": 30} and adapters["adapter_parameters"] == 3 * 3 * 128
    assert whole["threshold"]["gamma_max"] == adapters["threshold"]["gamma_max"] == 2.0


def test_a_tiny_policy_and_shards(tmp_path: Path) -> None:
    policy = tiny_policy(learned=True, learned_positions=True)
    policy.save_pretrained(tmp_path / "tiny")
    said = inspect(tmp_path / "tiny")
    assert said["family"] == "diffpo" and said["tokenizer"] == "CharTokenizer" and said["threshold"]
    assert said["bernoulli"] is None
    tiny_policy(learned="bernoulli").save_pretrained(tmp_path / "other")
    assert inspect(tmp_path / "other")["bernoulli"]["width"] == 8 and inspect(tmp_path / "other")["threshold"] is None
    assert said["parameters"] == sum(parameter.numel() for parameter in policy.denoiser.parameters())
    assert said["lora_targets"] == TARGETS["dream"]
    config = llada_config()
    write_checkpoint(tmp_path / "shards", config, {n: t.bfloat16() for n, t in random_llada(config).items()}, shards=3)
    sharded = inspect(tmp_path / "shards")
    assert list(sharded["files"]) == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sharded["dtypes"] == {"BF16": len(random_llada(config))}


def test_files_are_those_that_the_index_names_and_loading_reads(tmp_path: Path) -> None:
    folder = golden_checkpoint(tmp_path / "named")
    names = inspect(folder)["dtypes"]
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with safe_open(folder / "weights.safetensors", framework="pt") as tensors:
        index = dict.fromkeys(tensors.keys(), "weights.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert list(inspect(folder)["files"]) == ["weights.safetensors"] and inspect(folder)["dtypes"] == names
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "lost.safetensors"}}))
    with pytest.raises(ValueError, match=r"the index names lost\.safetensors, which is not here"):
        inspect(folder)


def test_what_is_no_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.*no checkpoint here"):
        inspect(tmp_path)
    folder = golden_checkpoint(tmp_path / "cut")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"cut/model\.safetensors: not a whole"):
        inspect(folder)


def published(name: str) -> Transformer:
    config = PUBLISHED[name]
    with torch.device("meta"):
        return Transformer(FAMILIES[config["model_type"]].shape(config))


def llada_count(d: int, layers: int, mlp: int, vocab: int) -> int:
    """Embedding and head, then of each block four square matrices, three of the mlp and two norms, a norm at last."""
    return 2 * vocab * d + layers * (4 * d * d + 3 * d * mlp + 2 * d) + d


def dream_count(d: int, layers: int, mlp: int, vocab: int, kv: int) -> int:
    """As LLaDA's, with `kv` features of keys and values, and biases of queries, keys and values."""
    attention = 2 * d * d + 2 * kv * d + d + 2 * kv
    return 2 * vocab * d + layers * (attention + 3 * d * mlp + 2 * d) + d


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("GSAI-ML")])
def test_llada_has_eight_billion_parameters(name: str) -> None:
    model = published(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == llada_count(4096, 32, 12288, 126464) == 8_015_581_184
    assert model.config.head_size == 128 and not model.config.qkv_bias and not model.config.shift
    assert (model.config.rope_theta, model.config.norm_eps, model.config.max_length) == (500_000, 1e-5, 4096)


def test_llada2_mini_has_sixteen_billion_parameters_of_which_a_token_meets_a_tenth() -> None:
    """Embedding and head; attention and norms of each block; one dense mlp, and in 19 blocks 257 experts."""
    model, d, vocab, expert = published("inclusionAI/LLaDA2.0-mini"), 2048, 157184, 3 * 2048 * 512
    attention = (16 + 4 + 4) * 128 * d + 16 * 128 * d + 2 * 128 + 2 * d
    around, router = 2 * vocab * d + d + 20 * attention + 3 * d * 5120, 256 * d
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == around + 19 * (257 * expert + router) == 16_255_638_528
    assert round((around + 19 * (9 * expert + router)) / 1e9, 1) == 1.4
    assert (model.config.block_length, model.config.blocks_from, model.config.rotary_size) == (32, "row", 64)


@pytest.mark.parametrize(
    ("size", "d", "layers", "mlp", "total"),
    [("3B", 3072, 26, 9216, 3.83), ("8B", 4096, 34, 14336, 8.49), ("14B", 5120, 40, 16384, 13.51)],
)
def test_nemotron_is_as_large_as_its_files(size: str, d: int, layers: int, mlp: int, total: float) -> None:
    model = published(f"nvidia/Nemotron-Labs-Diffusion-{size}")
    attention = 2 * d * 32 * 128 + 2 * d * 8 * 128
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == 2 * 131072 * d + layers * (attention + 3 * d * mlp + 2 * d) + d
    assert round(count / 1e9, 2) == total
    assert model.config.causal_context and model.config.block_length == 32


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "Dream" in name or "DiffuCoder" in name])
def test_dream_and_those_made_of_it_have_7_6_billion_parameters(name: str) -> None:
    model = published(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == dream_count(3584, 28, 18944, 152064, 4 * 128) == 7_615_616_512
    assert model.config.head_size == 128 and model.config.qkv_bias and model.config.shift == 1
    assert (model.config.rope_theta, model.config.norm_eps, model.config.max_length) == (1_000_000, 1e-6, 131_072)


@pytest.mark.parametrize(
    ("name", "total", "heads"),
    [
        ("dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", 596_049_920, 128),
        ("dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1", 494_032_768, 64),
    ],
)
def test_a2d_has_as_many_parameters_as_what_it_was_made_of(name: str, total: int, heads: int) -> None:
    """A tied head counts once."""
    model = published(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == total
    assert model.config.head_size == heads and model.config.tied and not model.config.shift
    assert model.config.qk_norm != model.config.qkv_bias


@pytest.mark.parametrize(
    ("config", "per_rank", "count"),
    [
        ("GSAI-ML/LLaDA-8B-Instruct", 32 * (4 * 8192 + 3 * (4096 + 12288)), 335_544_320),
        ("Dream-org/Dream-v0-Instruct-7B", 28 * (2 * 7168 + 2 * (3584 + 512) + 3 * (3584 + 18944)), 322_961_408),
    ],
)
def test_rank_128_on_the_published_models(config: str, per_rank: int, count: int, tmp_path: Path) -> None:
    """From config.json alone, as before a download."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[config]))
    said = inspect(tmp_path)
    assert said["lora_parameters_per_rank"] == per_rank and 128 * per_rank == count
    assert said["files"] == {} and said["dtypes"] == {}
    assert said["memory"]["bfloat16"] == 2 * said["parameters"]
    # nf4 with doubly quantised scales of 64: 4 bits, 8 bits a 64, 32 bits a 64 * 256
    quantised = sum(p.numel() for name, p in published(config).blocks.named_parameters() if p.ndim == 2)
    exact = quantised * (1 / 2 + 1 / 64 + 4 / (64 * 256)) + 2 * (said["parameters"] - quantised)
    assert abs(said["memory"]["four_bit"] / exact - 1) < 0.002
