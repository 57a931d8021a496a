"""Checkpoints in the published layouts: what they compute, how they are read, and those that do not fit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, tiny_policy
from models.published_llada import (
    FAMILIES,
    GOLDENS,
    golden,
    golden_checkpoint,
    llada_config,
    logits_of,
    published_logits,
    random_llada,
    write_checkpoint,
)
from safetensors.torch import load_file, save_file

from diffpo.config import LoraConfig, TrainConfig
from diffpo.models.policy import load_policy
from diffpo.models.published import PUBLISHED, with_blocks
from diffpo.models.weights import load_denoiser, read_tensors
from diffpo.planning.plan import find_start

WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(("family", "adapter"), [*((f, False) for f in GOLDENS), *((f, True) for f in FAMILIES)])
def test_logits_are_those_of_the_published_code(family: str, adapter: bool) -> None:
    """Dream's golden logits are unshifted: `shift` is applied where tokens are predicted."""
    folder = GOLDEN / f"{family}-tiny"
    policy = load_policy(folder, dtype="float32", device="cpu", adapter=folder / "lora" if adapter else None)
    ids, logits = golden(family, adapter)
    torch.testing.assert_close(logits_of(policy.denoiser, ids), logits, atol=3e-6, rtol=0)
    assert policy.denoiser.config.shift == (family == "dream")
    assert all(p.requires_grad == (not adapter or "lora" in name) for name, p in policy.denoiser.named_parameters())


def test_an_adapter_changes_the_golden_logits() -> None:
    """So the test above can tell whether adapters count."""
    for family in FAMILIES:
        assert (golden(family)[1] - golden(family, adapter=True)[1]).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("adapter", [False, True])
def test_bf16_is_near_the_published_logits(family: str, adapter: bool) -> None:
    """Measured: 0.006 on average and 0.035 at worst, of logits that spread over 0.7."""
    folder = GOLDEN / f"{family}-tiny"
    policy = load_policy(folder, device="cpu", adapter=folder / "lora" if adapter else None)
    ids, logits = golden(family, adapter)
    error = (logits_of(policy.denoiser, ids) - logits).abs()
    assert policy.denoiser.head.weight.dtype == torch.bfloat16
    assert 1e-4 < error.mean() < 0.02 and error.max() < 0.1


def test_bf16_keeps_the_argmax() -> None:
    """At 95 % of the positions: the golden logits are random and have near ties."""
    same = []
    for family in FAMILIES:
        for adapter in (None, GOLDEN / f"{family}-tiny" / "lora"):
            policy = load_policy(GOLDEN / f"{family}-tiny", device="cpu", adapter=adapter)
            ids, logits = golden(family, adapter is not None)
            same.append((logits_of(policy.denoiser, ids).argmax(-1) == logits.argmax(-1)).flatten())
    assert torch.cat(same).float().mean() >= 0.95


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ("auto", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("float32", torch.float32),
        ("saved", torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(asked: str | torch.dtype, got: torch.dtype) -> None:
    denoiser = load_policy(GOLDEN / "llada-tiny", dtype=asked, device="cpu").denoiser
    assert {parameter.dtype for parameter in denoiser.parameters()} == {got}
    assert denoiser.angles.dtype == torch.float32 and denoiser.compute_dtype is None


@pytest.mark.parametrize("name", ["a2d-qwen3-tiny", "a2d-llama-tiny"])  # the head of the second is tied
def test_weights_saved_in_several_dtypes_are_loaded_in_the_widest(name: str, tmp_path: Path) -> None:
    """A product needs both factors in one; nothing computes in fp64."""
    config, tensors = json.loads((GOLDEN / name / "config.json").read_text()), load_file(GOLDEN / name / WEIGHTS)
    wide, half, brain, double = torch.float32, torch.float16, torch.bfloat16, torch.float64
    for number, (kinds, widest) in enumerate(
        (
            ((brain, wide), wide),
            ((brain, half), wide),
            ((double, brain), wide),
            ((double,) * 2, wide),
            ((half,) * 2, half),
        )
    ):
        mixed = {tensor: values.to(kinds["mlp" in tensor]) for tensor, values in tensors.items()}
        folder = write_checkpoint(tmp_path / str(number), config, mixed)
        policy = load_policy(folder, dtype="saved", device="cpu")
        assert {parameter.dtype for parameter in policy.denoiser.parameters()} == {widest}
        policy.add_adapters(LoraConfig(rank=2))
        assert logits_of(policy.denoiser, golden("a2d-qwen3")[0]).isfinite().all()
        assert find_start(TrainConfig(model=str(folder))).dtype == widest


def test_auto_keeps_a_policy_of_diffpo_as_it_was_saved(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    assert load_policy(tmp_path, device="cpu").denoiser.head.weight.dtype == torch.float32


def test_an_unknown_dtype_or_device_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'float8'.*auto, saved, bfloat16, float32"):
        load_policy(GOLDEN / "llada-tiny", dtype="float8")
    with pytest.raises(ValueError, match=r"load\.device 'gpu'"):
        load_policy(GOLDEN / "llada-tiny", device="gpu")


def test_the_slow_twin_is_the_published_model() -> None:
    folder = GOLDEN / "llada-tiny"
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    ids, logits = golden("llada")
    for row, expected in zip(ids, logits, strict=True):
        torch.testing.assert_close(published_logits(config, tensors, row), expected, atol=1e-4, rtol=0)


SHAPES = {
    "two heads": {"n_heads": 2, "n_kv_heads": 2},
    "twelve heads": {"n_heads": 12, "n_kv_heads": 12},
    "grouped heads": {"n_heads": 6, "n_kv_heads": 2},
    "one head of keys": {"n_heads": 4, "n_kv_heads": 1},
    "as many heads of keys as of queries": {"n_kv_heads": None},
    "biases": {"n_kv_heads": 2, "include_qkv_bias": True},
    "a wide mlp": {"mlp_hidden_size": 200},
    "mlp_ratio": {"mlp_hidden_size": None, "mlp_ratio": 3},
    "mlp_ratio, the other key absent": {"mlp_hidden_size": ..., "mlp_ratio": 2},
    "vocab_size": {"embedding_size": None},
    "vocab_size, the other key absent": {"embedding_size": ...},
    "another theta and eps": {"rope_theta": 50.0, "rms_norm_eps": 0.1},
    "one block": {"n_layers": 1},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_compute_what_the_slow_twin_does(shape: str, tmp_path: Path) -> None:
    config = llada_config(**SHAPES[shape])
    tensors = random_llada(config)
    denoiser = load_denoiser(write_checkpoint(tmp_path, config, tensors))
    ids = torch.randint(config["vocab_size"], (2, 7), generator=torch.Generator().manual_seed(1))
    twin = torch.stack([published_logits(config, tensors, row) for row in ids])
    assert twin.std() > 1
    torch.testing.assert_close(logits_of(denoiser, ids), twin, atol=1e-4, rtol=1e-4)


def test_multi_query_attention_is_one_head_of_keys(tmp_path: Path) -> None:
    config = llada_config(n_kv_heads=1)
    tensors = random_llada(config)
    asked = llada_config(n_kv_heads=None, multi_query_attention=True)
    denoiser = load_denoiser(write_checkpoint(tmp_path, asked, tensors))
    ids = torch.arange(6)[None]
    twin = published_logits(config, tensors, ids[0])[None]
    torch.testing.assert_close(logits_of(denoiser, ids), twin, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("index", [True, False])
def test_sharded_weights_load_alike(family: str, index: bool, tmp_path: Path) -> None:
    source = GOLDEN / f"{family}-tiny"
    config = json.loads((source / "config.json").read_text())
    write_checkpoint(tmp_path, config, load_file(source / "model.safetensors"), shards=3, index=index)
    whole, sharded = load_denoiser(source).state_dict(), load_denoiser(tmp_path).state_dict()
    assert whole.keys() == sharded.keys() and all(torch.equal(whole[name], sharded[name]) for name in whole)


def test_the_index_says_which_files_count(tmp_path: Path) -> None:
    """A whole copy under another name lies about often enough."""
    config = llada_config()
    write_checkpoint(tmp_path, config, random_llada(config), shards=2)
    save_file({"stray": torch.zeros(1)}, tmp_path / "model-copy.safetensors")
    load_denoiser(tmp_path)


def test_shards_that_the_index_names_and_that_are_lost_are_one_error(tmp_path: Path) -> None:
    config = llada_config()
    write_checkpoint(tmp_path, config, random_llada(config), shards=4)
    for number in (2, 4):
        (tmp_path / f"model-0000{number}-of-00004.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00004.*model-00004-of-00004.*not here") as error:
        load_denoiser(tmp_path)
    assert one_line(error) and "missing" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"weight_map": ["model.safetensors"]}', '{"weight_map": {"x": null}}']
)
def test_an_index_that_is_none_is_an_error_that_names_it(text: str, tmp_path: Path) -> None:
    golden_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json"):
        load_denoiser(tmp_path)


def test_whole_weights_beside_an_index_of_others_are_an_error(tmp_path: Path) -> None:
    """Which of them a loader takes differs: weights saved over others left these, and their index, behind."""
    golden_checkpoint(tmp_path)
    tensors, index = load_file(tmp_path / WEIGHTS), tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, WEIGHTS)}))
    load_denoiser(tmp_path)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, tmp_path / "model-00001-of-00001.safetensors")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}))
    with pytest.raises(ValueError, match=r"model\.safetensors stands beside .* remove what is not") as error:
        load_denoiser(tmp_path)
    assert one_line(error)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return golden_checkpoint(tmp_path)


EMBED, NORM = "model.transformer.wte.weight", "model.transformer.ln_f.weight"
BLOCK = "model.transformer.blocks.1"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda tensors: tensors.pop(EMBED), [f"missing {EMBED}"]),
        (lambda tensors: tensors.update({NORM: torch.zeros(7)}), [NORM, "(7,)", "(64,)"]),
        (lambda tensors: tensors.update({"stray": torch.zeros(7)}), ["unexpected stray"]),
        *(
            (
                lambda tensors, dtype=dtype: tensors.update({EMBED: tensors[EMBED].to(dtype)}),
                [f"are quantized ({EMBED} is {named})"],
            )
            for dtype, named in ((torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.bool, "BOOL"))
        ),
        (
            lambda tensors: tensors.update({f"{BLOCK}.q_proj.bias": torch.zeros(64)}),
            [f"unexpected {BLOCK}.q_proj.bias"],
        ),
        (
            lambda tensors: (
                tensors.pop(f"{BLOCK}.ff_out.weight"),
                tensors.pop(NORM),
                tensors.update({"blocks.1.attn.bias": torch.zeros(7)}),
                tensors.update({f"{BLOCK}.attn_out.weight": torch.zeros(64, 32)}),
            ),
            [f"missing {BLOCK}.ff_out.weight", f"missing {NORM}", "unexpected blocks.1", "(64, 32)", "(64, 64)"],
        ),
    ],
)
def test_one_error_names_all_that_does_not_fit(
    checkpoint: Path, spoil: Callable[[dict[str, torch.Tensor]], object], named: list[str]
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    spoil(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load_denoiser(checkpoint)
    assert one_line(error) and all(part in str(error.value) for part in [str(checkpoint), *named])


def test_a_tensor_under_our_own_name_does_not_pass_for_the_published_one(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["embed.weight"] = tensors.pop(EMBED)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=f"unexpected embed.weight.*missing {EMBED}"):
        load_denoiser(checkpoint)


@pytest.mark.parametrize("place", ["rope_parameters", "rope_scaling", None])
def test_heads_that_turn_in_part_are_refused_wherever_the_config_says_so(place: str | None, tmp_path: Path) -> None:
    share = {"partial_rotary_factor": 0.5}
    said = {place: {"rope_type": "default", "rope_theta": 7.0, **share}} if place else share
    with pytest.raises(ValueError, match=r"asks for partial_rotary_factor = 0\.5"):
        load_denoiser(golden_checkpoint(tmp_path, "a2d-qwen3", **said))


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llada", "alibi", True),
        ("llada", "rope", False),
        ("llada", "weight_tying", True),
        ("llada", "include_bias", True),
        ("llada", "attention_layer_norm", True),
        ("llada", "input_emb_norm", True),
        ("llada", "scale_logits", True),
        ("llada", "layer_norm_type", "default"),
        ("llada", "activation_type", "gelu"),
        ("llada", "block_type", "sequential"),
        ("a2d-qwen3", "attention_bias", True),
        ("a2d-qwen3", "layer_types", ["full_attention", "sliding_attention"]),
        ("a2d-qwen3", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}),
        ("a2d-llama", "mlp_bias", True),
        ("a2d-llama", "rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("dream", "use_sliding_window", True),
        ("dream", "hidden_act", "gelu"),
        ("dream", "rope_scaling", {"type": "dynamic", "factor": 2.0}),
    ],
)
def test_a_variant_that_the_transformer_lacks_is_an_error(family: str, key: str, value: object, tmp_path: Path) -> None:
    folder = golden_checkpoint(tmp_path, family, **{key: value})
    with pytest.raises(ValueError, match=rf"{folder.name}.*asks for {key} = ") as error:
        load_denoiser(folder)
    assert one_line(error)


@pytest.mark.parametrize("key", ["n_heads", "d_model", "rope_theta"])
def test_a_config_that_lacks_a_key_is_an_error_that_names_it(key: str, tmp_path: Path) -> None:
    config = llada_config()
    write_checkpoint(tmp_path, {name: value for name, value in config.items() if name != key}, random_llada(config))
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*config.json lacks '{key}'"):
        load_denoiser(tmp_path)


@pytest.mark.parametrize(
    ("family", "key", "value", "said"),
    [
        ("llada", "n_heads", 0, "num_heads must be a whole number > 0, got 0"),
        ("llada", "d_model", "64", "hidden_size must be a whole number > 0, got '64'"),
        ("llada", "rope_theta", None, "rope_theta must be a number > 0, got None"),
        ("llada", "rms_norm_eps", "1e-5", "norm_eps must be a number > 0"),
        ("dream", "num_key_value_heads", None, "num_kv_heads must be"),
        ("sdar", "block_size", -4, "block_length must be a whole number > 0, got -4"),
        ("a2d-qwen3", "causal_context", True, "causal_context is a model's that has blocks: give block_size"),
    ],
)
def test_a_size_that_is_none_is_an_error_that_names_it(
    family: str, key: str, value: object, said: str, tmp_path: Path
) -> None:
    folder = golden_checkpoint(tmp_path, family, **{key: value})
    with pytest.raises(ValueError, match=rf"{folder.name}.*{re.escape(said)}") as error:
        load_denoiser(folder)
    assert one_line(error)


def test_a_model_that_attends_in_blocks_does_so_where_its_config_leaves_their_length_open(tmp_path: Path) -> None:
    assert load_denoiser(golden_checkpoint(tmp_path, "sdar", block_size=None)).config.block_length == 4


@pytest.mark.parametrize("moved", [False, True])
def test_the_base_of_rope_is_read_from_either_place(moved: bool, tmp_path: Path) -> None:
    theta = {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    folder = golden_checkpoint(tmp_path, "a2d-qwen3", **(theta if moved else {"rope_theta": 7.0}))
    assert load_denoiser(folder).config.rope_theta == 7


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_experts": 64}, r"mixtures of experts \(num_experts = 64\)"),
        ({"model_type": "mixtral", "num_local_experts": 8}, r"mixtures of experts \(num_local_experts = 8\)"),
        ({"model_type": "diffusion_gemma"}, "has no mask token"),
        ({"model_type": "qwen3"}, "predicts the next token"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"config\.json: this model .*{said}.*; diffpo loads .*a2d-qwen3") as error:
        load_denoiser(golden_checkpoint(tmp_path, "a2d-qwen3", **changes))
    assert one_line(error)


def test_block_causal_models_whose_config_does_not_tell_are_known_by_their_hub_id() -> None:
    config = PUBLISHED["dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1"]
    assert "block_size" not in with_blocks("someone/else", config)
    assert with_blocks("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", config)["block_size"] == 32
    assert with_blocks("someone/else", config, block_length=8)["block_size"] == 8


def test_an_unknown_family_is_an_error_that_suggests_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'lada'.*did you mean 'llada'"):
        load_denoiser(golden_checkpoint(tmp_path, model_type="lada"))


def test_a_folder_without_weights_is_an_error(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"model\.safetensors is wanted, and there is none"):
        load_denoiser(checkpoint)
    (checkpoint / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match=r"only pytorch_model.bin, which diffpo does not read: save it as safetensors"):
        load_denoiser(checkpoint)
    with pytest.raises(ValueError, match="no checkpoint here"):
        load_denoiser(checkpoint / "nowhere")
    with pytest.raises(ValueError, match=rf"config.json: a file, where .* wanted: name {checkpoint}$"):
        load_denoiser(checkpoint / "config.json")
    (checkpoint / "parent.gguf").touch()
    with pytest.raises(ValueError, match="`diffpo convert` makes one of it"):
        load_denoiser(checkpoint / "parent.gguf")


def test_a_file_of_tensors_that_is_lost_or_none_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.safetensors"):
        read_tensors(tmp_path / "nothing.safetensors")
    (tmp_path / "none.safetensors").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"none\.safetensors: not a whole"):
        read_tensors(tmp_path / "none.safetensors")


def test_a_tensor_in_two_files_is_an_error_where_no_index_says_which_counts(checkpoint: Path) -> None:
    save_file({EMBED: torch.zeros(192, 64)}, checkpoint / "model-00001-of-00002.safetensors")
    with pytest.raises(ValueError, match=rf"{EMBED} stands in another file than model\.safetensors as well$"):
        load_denoiser(checkpoint)


MEASURE = """
import sys
from pathlib import Path
import torch
from diffpo.models.policy import load_policy

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])

small, misfit, folder = sys.argv[1:]
load_policy(small, device="cpu")
before, peaks = kilobytes("VmRSS"), [kilobytes("VmHWM")]
try:
    load_policy(misfit, device="cpu")
except ValueError:
    peaks.append(kilobytes("VmHWM"))
policy = load_policy(folder, dtype="bfloat16", device="cpu")
peaks.append(kilobytes("VmHWM"))
weights = sum(p.numel() * p.element_size() for p in policy.denoiser.parameters())
print(weights, 1024 * (kilobytes("VmRSS") - before), *[1024 * (peak - before) for peak in peaks])
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak of a process's memory from /proc")
def test_loading_holds_the_weights_and_one_shard(tmp_path: Path) -> None:
    """200 MB in fp32 become 100 MB in bf16 beside one shard of 50 MB at a time; what does not fit is not read."""
    config = llada_config(d_model=1024, n_heads=8, n_kv_heads=8, n_layers=4, mlp_hidden_size=2560, vocab_size=2048)
    config |= {"embedding_size": 2048}
    folder = write_checkpoint(tmp_path / "big", config, random_llada(config), shards=4)
    shard = max(file.stat().st_size for file in folder.glob("*.safetensors"))
    (tmp_path / "misfit").mkdir()
    for file in folder.iterdir():
        (tmp_path / "misfit" / file.name).symlink_to(file)
    (tmp_path / "misfit" / "config.json").unlink()
    (tmp_path / "misfit" / "config.json").write_text(json.dumps(config | {"n_layers": 5}))
    folders = [golden_checkpoint(tmp_path / "small"), tmp_path / "misfit", folder]
    run = subprocess.run([sys.executable, "-c", MEASURE, *folders], capture_output=True, text=True, check=True)
    weights, after, start, failed, peak = map(int, run.stdout.split())
    assert 90e6 < weights < 110e6 and after > 0.9 * weights
    assert failed - start < 5e6
    assert peak <= 1.15 * (weights + shard), f"{peak / 1e6:.0f} MB for {weights / 1e6:.0f} MB of weights"


def one_line(error: pytest.ExceptionInfo[ValueError]) -> bool:
    return "\n" not in str(error.value)
