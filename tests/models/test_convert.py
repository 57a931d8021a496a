"""Causal parents made masked diffusion LMs: the parent at first, a learner afterwards, a folder that others load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import GOLDEN, pack_in_blocks
from safetensors.torch import load_file, save_file
from small_tokenizers import write_qwen_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from diffpo.cli import main
from diffpo.config import (
    CollectConfig,
    EvalConfig,
    LoadConfig,
    LoraConfig,
    OptimConfig,
    RolloutConfig,
    SftConfig,
    TaskConfig,
    TrainConfig,
)
from diffpo.files.recipe import find_recipe, load_config
from diffpo.models.convert import convert
from diffpo.models.export import export
from diffpo.models.inspection import inspect
from diffpo.models.policy import load_policy
from diffpo.models.rotary import rotation_table
from diffpo.rollout.local import sample
from diffpo.training.loop import train
from diffpo.training.sft import fine_tune

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 160,
    "pad_token_id": 161,
}
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
LOAD = LoadConfig(device="cpu", dtype="float32")


def write_parent(folder: Path, kind: str, vocab_size: int = 169, tied: bool = True, **changes: Any) -> Any:
    """A random causal model of `kind`, written by transformers, with a tokenizer that has no mask yet; the model."""
    config, model = KINDS[kind]
    torch.manual_seed(0)
    made = model(config(vocab_size=vocab_size, tie_word_embeddings=tied, **SIZES | changes)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    write_qwen_tokenizer(folder)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        values = json.loads((folder / name).read_text())
        values.pop("mask_token")
        values.get("added_tokens_decoder", {}).pop("168", None)
        (folder / name).write_text(json.dumps(values))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["content"] != "<|mask|>"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_in_blocks_of_one_it_is_its_parent(kind: str, tied: bool, tmp_path: Path) -> None:
    """The logits at p are the parent's of the token at p + 1; and the folder has what the published one has."""
    parent = write_parent(tmp_path / "parent", kind, vocab_size=168, tied=tied)
    convert(tmp_path / "parent", tmp_path / "child", block_length=1)
    policy = load_policy(tmp_path / "child", "float32", "cpu")
    shape = policy.denoiser.config
    assert (shape.shift, shape.block_length, shape.tied, shape.vocab_size) == (1, 1, tied, 169)
    ids = torch.randint(0, 160, (2, 12), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([12, 7])
    tokens, packing = pack_in_blocks(ids, lengths, torch.arange(12).expand(2, -1))
    with torch.no_grad():
        hidden = policy.denoiser(tokens, packing)
        logits = policy.denoiser.head(hidden)[:, :168]
        for row, length in enumerate(lengths.tolist()):
            start = int(packing.starts[row])
            expected = parent(ids[row : row + 1, :length]).logits[0]
            torch.testing.assert_close(logits[start : start + length], expected, atol=2e-5, rtol=1e-4)

    config = json.loads((tmp_path / "child" / "config.json").read_text())
    golden = json.loads((GOLDEN / f"a2d-{kind}-tiny" / "config.json").read_text())
    assert config["model_type"] == golden["model_type"] and config["architectures"] == golden["architectures"]
    assert config["mask_token_id"] == policy.mask_id == 168
    assert config["rope_theta"] == 10000.0  # where transformers 4 looks
    settings = json.loads((tmp_path / "child" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast" and "is_local" not in settings
    names = set(load_file(tmp_path / "child" / "model.safetensors"))
    ours = {name for name in names if ".layers.2." not in name}
    theirs = {n for n in load_file(GOLDEN / f"a2d-{kind}-tiny" / "model.safetensors") if ".layers.2." not in n}
    assert ours - {"lm_head.weight"} == theirs - {"lm_head.weight"} and ("lm_head.weight" in ours) == (not tied)
    assert inspect(tmp_path / "child")["converted_from"] == str(tmp_path / "parent")


def test_a_parent_with_scaled_positions_keeps_them(tmp_path: Path) -> None:
    """As Llama 3.2 has them; under the keys of transformers 4 and 5."""
    numbers = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
    scaling = {"rope_type": "llama3", "factor": 32.0} | numbers
    parent = write_parent(tmp_path / "parent", "llama", rope_parameters=scaling | {"rope_theta": 100.0})
    convert(tmp_path / "parent", tmp_path / "child", block_length=1)
    policy = load_policy(tmp_path / "child", "float32", "cpu")
    ids = torch.randint(0, 160, (1, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = policy.denoiser(*pack_in_blocks(ids, torch.tensor([40]), torch.arange(40)[None]))
        found = policy.denoiser.head(hidden)[:, : parent.config.vocab_size]
        torch.testing.assert_close(found, parent(ids).logits[0], atol=2e-5, rtol=1e-4)
    config = json.loads((tmp_path / "child" / "config.json").read_text())
    assert config["rope_theta"] == 100.0 and config["rope_scaling"] == scaling
    assert config["rope_parameters"] == scaling | {"rope_theta": 100.0}


def test_decoded_greedily_it_writes_what_its_parent_writes(tmp_path: Path) -> None:
    parent = write_parent(tmp_path / "parent", "llama")
    convert(tmp_path / "parent", tmp_path / "child", block_length=1)
    policy = load_policy(tmp_path / "child", "float32", "cpu")
    answer = sample(policy, ["is the"], RolloutConfig(sampler="top_k:1", temperature=0, gen_length=8))[0]
    ids = torch.tensor([policy.encode("is the")])
    for _ in range(8):
        logits = parent(ids).logits[0, -1]
        logits[policy.banned] = -torch.inf
        ids = torch.cat([ids, logits.argmax().view(1, 1)], dim=1)
        if ids[0, -1] == policy.eos_id:
            break
    written = ids[0, len(policy.encode("is the")) :]
    assert torch.equal(answer.tokens[: len(written)], written)
    assert answer.nfe == len(written)


@pytest.mark.parametrize(("shift", "spare"), [(True, 0), (False, 24)])
def test_a_mask_takes_a_row_that_is_spare_or_a_new_one(shift: bool, spare: int, tmp_path: Path) -> None:
    """A new row is the mean of the others; published vocabularies are padded, and have room."""
    parent = write_parent(tmp_path / "parent", "qwen3", vocab_size=168 + spare)
    convert(tmp_path / "parent", tmp_path / "child", shift=shift)
    policy, rows = load_policy(tmp_path / "child", "float32", "cpu"), parent.get_input_embeddings().weight
    embeddings = policy.denoiser.embed.weight
    assert torch.equal(embeddings[:168], rows[:168])
    torch.testing.assert_close(embeddings[168], rows[168] if spare else rows.mean(0))
    assert len(embeddings) == 168 + max(spare, 1)
    assert (policy.denoiser.config.shift, policy.denoiser.config.block_length) == (int(shift), None)


def write_gguf(parent: Any, tokenizer: Path, path: Path, more: Callable[[Any], object] = lambda writer: None) -> None:
    """`parent` in fp32, the queries and keys of a llama in llama.cpp's order, and what `more` makes of it."""
    import gguf

    config, vocabulary = parent.config, json.loads((tokenizer / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_key_length(config.head_dim)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    added = {token["id"]: token["content"] for token in vocabulary["added_tokens"]}
    tokens = {index: text for text, index in vocabulary["model"]["vocab"].items()} | added
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([tokens.get(index, f"<unused{index}>") for index in range(config.vocab_size)])
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in vocabulary["model"]["merges"]]
    writer.add_token_merges(merges)
    writer.add_token_types([3 if index in added else 1 for index in range(config.vocab_size)])
    writer.add_eos_token_id(160)
    writer.add_pad_token_id(161)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    parts = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
    }
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for name, tensor in parent.state_dict().items():
        if name == "lm_head.weight":
            continue
        (base, _, leaf), value = name.rpartition("."), tensor.float().numpy()
        if base.startswith("model.layers."):
            _, _, block, part = base.split(".", 3)
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            if heads and config.model_type == "llama":
                value = value.reshape(heads, 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
            theirs = f"blk.{block}.{parts[part]}"
        else:
            theirs = whole[base]
        writer.add_tensor(f"{theirs}.{leaf}", np.ascontiguousarray(value))
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_is_a_parent_too(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    parent = write_parent(tmp_path / "parent", "llama", vocab_size=168)
    write_gguf(parent, tmp_path / "parent", tmp_path / "small.gguf")
    for name in ("generation_config.json", "LICENSE.txt"):  # of whatever else was downloaded
        (tmp_path / name).write_text("{}")
    convert(tmp_path / "small.gguf", tmp_path / "child", dtype="float32")
    assert not {"generation_config.json", "LICENSE.txt"} & {file.name for file in (tmp_path / "child").iterdir()}
    policy = load_policy(tmp_path / "child", "float32", "cpu")
    expected = parent.state_dict()
    for name, tensor in load_file(tmp_path / "child" / "model.safetensors").items():
        torch.testing.assert_close(tensor[: len(expected[name])], expected[name])
    assert policy.mask_id == 168 and policy.tokenizer.chats


LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def stretch(writer: Any, kind: str, factor: float = 4.0, length: int | None = None) -> None:
    """What llama.cpp writes of positions that are stretched."""
    if kind == "llama3":
        angles = [rotation_table(2, 16, 10000.0, s)[0][1] for s in (None, {"rope_type": kind, "factor": 4.0} | LLAMA_3)]
        writer.add_tensor("rope_freqs.weight", (angles[0] / angles[1]).numpy() * (factor / 4))
        return
    writer.add_string(f"{writer.arch}.rope.scaling.type", kind)
    writer.add_rope_scaling_factor(factor)
    if length:
        writer.add_rope_scaling_orig_ctx_len(length)


@pytest.mark.parametrize(
    ("kind", "head_dim", "scaling", "more"),
    [
        ("qwen3", 16, {}, lambda writer: None),
        ("llama", 16, {"rope_type": "llama3", "factor": 4.0} | LLAMA_3, lambda writer: stretch(writer, "llama3")),
        ("llama", 8, {"rope_type": "linear", "factor": 4.0}, lambda writer: stretch(writer, "linear")),
        (
            "qwen3",
            8,
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
            lambda writer: stretch(writer, "yarn", length=4096),
        ),
    ],
)
def test_what_transformers_does_not_read_of_a_gguf_is_read(
    kind: str, head_dim: int, scaling: dict[str, Any], more: Callable[[Any], None], tmp_path: Path
) -> None:
    """How positions are stretched, and heads of a size of their own: the logits are the parent's, far out too."""
    pytest.importorskip("gguf")
    rope = {"rope_parameters": scaling | {"rope_theta": 10000.0}, "max_position_embeddings": 16384} if scaling else {}
    parent = write_parent(tmp_path / "parent", kind, vocab_size=168, head_dim=head_dim, **rope)
    write_gguf(parent, tmp_path / "parent", tmp_path / "small.gguf", more)
    convert(tmp_path / "small.gguf", tmp_path / "child", block_length=1, dtype="float32")
    policy = load_policy(tmp_path / "child", "float32", "cpu")
    ids = torch.randint(0, 160, (1, 500), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = policy.denoiser(*pack_in_blocks(ids, torch.tensor([500]), torch.arange(500)[None]))
        torch.testing.assert_close(policy.denoiser.head(hidden)[:, :168], parent(ids).logits[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "more", "said"),
    [
        (
            {"attention_bias": True},
            lambda writer: None,
            "has tensors that a llama does not have here: blk.0.attn_q.bias",
        ),
        ({}, lambda writer: stretch(writer, "longrope"), "asks for rope_parameters"),
        ({}, lambda writer: stretch(writer, "llama3", 5.0), "rope_freqs.weight is not that of a Llama 3"),
        (
            {},
            lambda writer: writer.add_rope_scaling_attn_factors(2.0),
            "positions are stretched by attn_factor = 2.0, which",
        ),
    ],
)
def test_a_gguf_that_says_more_than_is_read_is_refused(
    changes: dict[str, Any], more: Callable[[Any], None], said: str, tmp_path: Path
) -> None:
    pytest.importorskip("gguf")
    parent = write_parent(tmp_path / "parent", "llama", vocab_size=168, **changes)
    write_gguf(parent, tmp_path / "parent", tmp_path / "small.gguf", more)
    with pytest.raises(ValueError, match=said):
        convert(tmp_path / "small.gguf", tmp_path / "child")
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "mistral"}, "model_type 'mistral' is not one that diffpo converts"),
        ({"model_type": "a2d-llama"}, "is a masked diffusion LM already"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "config.json: asks for rope_scaling"),
        ({"num_hidden_layers": 3}, "missing model.layers.2"),
    ],
)
def test_what_is_no_parent_is_refused_and_nothing_written(change: dict[str, object], said: str, tmp_path: Path) -> None:
    write_parent(tmp_path / "parent", "llama")
    config = json.loads((tmp_path / "parent" / "config.json").read_text())
    config.pop("rope_parameters", None)
    (tmp_path / "parent" / "config.json").write_text(json.dumps(config | {"rope_theta": 10000.0} | change))
    with pytest.raises(ValueError, match=said):
        convert(tmp_path / "parent", tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_a_mask_token_that_is_eos_or_does_nothing_is_refused(tmp_path: Path) -> None:
    write_parent(tmp_path / "parent", "llama")
    with pytest.raises(ValueError, match="mask and EOS are one id, 161"):
        convert(tmp_path / "parent", tmp_path / "child", mask_token="<|endoftext|>")
    write_qwen_tokenizer(tmp_path / "parent")  # with a mask
    with pytest.raises(ValueError, match=r"mask_token '<M>': the tokenizer has a mask, '<\|mask\|>': leave it out"):
        convert(tmp_path / "parent", tmp_path / "child", mask_token="<M>")
    assert not (tmp_path / "child").exists()


@pytest.mark.parametrize("word", ["a", "Ġthe", ""])
def test_a_mask_token_that_texts_have_is_refused(word: str, tmp_path: Path) -> None:
    """Else a prompt with the word would have masks."""
    write_parent(tmp_path / "parent", "llama")
    with pytest.raises(ValueError, match=f"mask_token '{word}': texts have it: name a special token"):
        convert(tmp_path / "parent", tmp_path / "child", mask_token=word)


def test_weights_quantized_untied_or_cut_short_and_a_tokenizer_left_out_are_named(tmp_path: Path) -> None:
    write_parent(tmp_path / "parent", "llama")
    weights = tmp_path / "parent" / "model.safetensors"
    whole = load_file(weights)
    save_file({name: tensor.to(torch.uint8) for name, tensor in whole.items()}, weights)
    with pytest.raises(ValueError, match=r"the weights are quantized .* is U8"):
        convert(tmp_path / "parent", tmp_path / "child")
    save_file(whole | {"lm_head.weight": whole["model.embed_tokens.weight"] + 1}, weights)
    with pytest.raises(ValueError, match=r"lm_head.weight is not model.embed_tokens.weight, though config.json ties"):
        convert(tmp_path / "parent", tmp_path / "child")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"parent/model[.]safetensors: not a whole safetensors file"):
        convert(tmp_path / "parent", tmp_path / "child")
    for path in (tmp_path / "parent").glob("*token*"):
        path.unlink()
    with pytest.raises(ValueError, match="parent: no tokenizer here"):
        convert(tmp_path / "parent", tmp_path / "child")
    assert not (tmp_path / "child").exists()


def test_an_output_that_is_full_or_a_source_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parent(tmp_path / "parent", "llama")
    for arguments, said in (
        (["convert", str(tmp_path / "parent"), str(tmp_path)], "is there already and no empty folder"),
        (["convert", str(tmp_path / "none.gguf"), str(tmp_path / "child")], "none.gguf: no such file"),
        (
            ["convert", str(tmp_path / "parent"), str(tmp_path / "c"), "--block-length", "0"],
            "block_length must be >= 1",
        ),
        (["convert", str(tmp_path / "none"), str(tmp_path / "child")], "no config.json"),
        (
            ["convert", str(tmp_path / "parent"), str(tmp_path / "c"), "--revision", "v2"],
            "revision v2 does nothing for",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 4])
def test_from_a_parent_to_a_better_model_and_out(rank: int, tmp_path: Path) -> None:
    """Two steps of each: blocks that grow, reinforcement learning in the last of them, an export that has them."""
    write_parent(tmp_path / "parent", "llama")
    convert(tmp_path / "parent", tmp_path / "child", block_length=1)
    sft = SftConfig(
        model=str(tmp_path / "child"),
        output=str(tmp_path / "sft"),
        task=TaskConfig("sudoku_4x4"),
        steps=4,
        batch_size=4,
        num_examples=8,
        blocks=(1, 4),
        lora=LoraConfig(rank=rank),
        optim=OptimConfig(learning_rate=1e-3),
        load=LOAD,
    )
    policy = fine_tune(sft, quiet=True)
    assert policy.denoiser.config.block_length == 4
    lines = [json.loads(line) for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(np.isfinite(line["loss"]) for line in lines)
    rl = TrainConfig(
        model=str(tmp_path / "sft"),
        output=str(tmp_path / "rl"),
        steps=2,
        prompts_per_step=2,
        num_generations=2,
        rollout=CollectConfig(gen_length=32),
        eval=EvalConfig(num_prompts=2),
        lora=LoraConfig(rank=0),
        optim=OptimConfig(learning_rate=2e-4),
        load=LOAD,
    )
    trained = train(rl, quiet=True)
    assert trained.denoiser.config.block_length == 4 and trained.task == sft.task
    export(tmp_path / "rl", tmp_path / "out", merge=True)
    exported = load_policy(tmp_path / "out", "float32", "cpu")
    assert exported.denoiser.config.block_length == 4 and exported.denoiser.config.shift == 1
    config = RolloutConfig(sampler="entropy_bound:0.5", temperature=0, gen_length=16)
    mine, theirs = (sample(p, ["is the"], config)[0].tokens for p in (trained, exported))
    assert torch.equal(mine, theirs)


def test_the_recipes_of_word_problems_follow_each_other(tmp_path: Path) -> None:
    """At tiny width, two steps each: what `docs/first_model.md` tells."""
    pytest.importorskip("reasoning_gym")
    write_parent(tmp_path / "parent", "llama", max_position_embeddings=2048)
    convert(tmp_path / "parent", tmp_path / "child", block_length=1)
    recipe = load_config(SftConfig, find_recipe("smollm2_sft"))
    small = {"steps": 3, "batch_size": 2, "num_examples": 4, "max_length": 2048}
    sft = replace(recipe, model=str(tmp_path / "child"), output=str(tmp_path / "sft"), load=LOAD, **small)
    assert fine_tune(sft, quiet=True).denoiser.config.block_length == 4
    laptop = load_config(SftConfig, find_recipe("smollm2_laptop_sft"))
    for name in ("wordproblems_d1", "wordproblems_model_only", "wordproblems_diffpo", "laptop_diffpo"):
        recipe = load_config(TrainConfig, find_recipe(f"smollm2_{name}"))
        assert recipe.task == (laptop if name == "laptop_diffpo" else sft).task
        sampler = "steps:8" if name == "wordproblems_d1" else recipe.rollout.sampler
        rl = replace(
            recipe,
            model=str(tmp_path / "sft"),
            output=str(tmp_path / name),
            steps=2,
            prompts_per_step=1,
            num_generations=2,
            rollout=replace(recipe.rollout, gen_length=16, sampler=sampler),
            load=LOAD,
        )
        policy = train(rl, quiet=True)
        assert (policy.sampler_head is not None) == name.endswith("_diffpo")
        assert policy.version == 3 + 2 * recipe.objective.num_iterations


def test_blocks_grow_where_a_run_goes_on(tmp_path: Path) -> None:
    """A run that is stopped in the middle and resumed learns the same."""
    write_parent(tmp_path / "parent", "llama")
    convert(tmp_path / "parent", tmp_path / "child")
    base = SftConfig(
        model=str(tmp_path / "child"),
        task=TaskConfig("countdown_cd3"),
        steps=4,
        batch_size=2,
        num_examples=4,
        blocks=(2, 8),
        save_every=1,
        keep_checkpoints=9,
        lora=LoraConfig(rank=0),
        load=LOAD,
        optim=OptimConfig(learning_rate=1e-3),
    )
    whole = fine_tune(replace(base, output=str(tmp_path / "whole")), quiet=True)
    part = replace(base, output=str(tmp_path / "part"))
    fine_tune(part, quiet=True)
    for later in sorted((tmp_path / "part" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(later)
    shutil.rmtree(tmp_path / "part" / "policy")
    again = fine_tune(part, resume=True, quiet=True)
    for mine, other in zip(whole.denoiser.parameters(), again.denoiser.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_held_out_rows_are_scored_in_the_last_blocks(tmp_path: Path) -> None:
    """While blocks grow, and with weights that hardly move: one loss, that of a run in the last blocks all along."""
    write_parent(tmp_path / "parent", "llama")
    convert(tmp_path / "parent", tmp_path / "child", block_length=1)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "1 + 2", "completion": "3 and no more"}) + "\n")
    found = {}
    for blocks in ((1, 4), (4,)):
        config = SftConfig(
            model=str(tmp_path / "child"),
            data=str(tmp_path / "rows.jsonl"),
            eval_data=str(tmp_path / "rows.jsonl"),
            eval_every=1,
            output=str(tmp_path / f"to_4_in_{len(blocks)}"),
            steps=2,
            batch_size=1,
            blocks=blocks,
            lora=LoraConfig(rank=0),
            load=LOAD,
            optim=OptimConfig(learning_rate=1e-12),
        )
        fine_tune(config, quiet=True)
        lines = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
        found[blocks] = [line["eval/loss"] for line in lines]
    assert np.ptp(found[1, 4]) < 1e-6 and np.allclose(found[1, 4], found[4,])
