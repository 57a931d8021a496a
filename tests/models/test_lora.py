"""Adapters: what they compute, which modules they are on, and that PEFT reads ours as we read PEFT's."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

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
    random_llada,
    write_checkpoint,
)
from peft import LoraConfig as PeftLora
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffpo.config import LoraConfig
from diffpo.models.lora import PREFIX, Adapted, merged_adapters
from diffpo.models.policy import Policy, load_policy

LLADA_LINEARS = ["attn_out", "ff_out", "ff_proj", "k_proj", "q_proj", "up_proj", "v_proj"]
DREAM_LINEARS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
LINEARS = {"llada": LLADA_LINEARS, "dream": DREAM_LINEARS, "a2d-qwen3": DREAM_LINEARS}


def skeleton(family: str) -> nn.Module:
    """The module tree of the published code, which PEFT looks at: linears, and embeddings, under their names."""
    root = nn.Module()
    for name, tensor in load_file(GOLDEN / f"{family}-tiny" / "model.safetensors").items():
        if name.endswith(".bias") or tensor.ndim == 1:
            continue
        *path, leaf, _ = name.split(".")
        parent = root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        kind = nn.Embedding if leaf in ("wte", "embed_tokens") else nn.Linear
        parent.add_module(leaf, kind(*reversed(tensor.shape)) if kind is nn.Linear else kind(*tensor.shape))
    return root


def deltas(model: nn.Module) -> dict[str, Tensor]:
    """scaling * B A of every module that has an adapter, under the module's name."""
    return {
        name.removeprefix(PREFIX): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def our_deltas(policy: Policy) -> dict[str, Tensor]:
    return {
        policy.family.original(name): (module.scaling * module.lora_B.weight @ module.lora_A.weight).detach()
        for name, module in policy.denoiser.named_modules()
        if isinstance(module, Adapted)
    }


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and ours
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-6, rtol=1e-5)


def load(family: str = "llada", adapter: Path | None = None, dtype: str = "float32") -> Policy:
    return load_policy(GOLDEN / f"{family}-tiny", dtype=dtype, device="cpu", adapter=adapter)


def stir(policy: Policy) -> None:
    """Give B some values, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


# -- fresh adapters


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_fresh_adapters_leave_what_is_computed_as_it_was(family: str, dtype: str) -> None:
    policy = load(family, dtype=dtype)
    ids, _ = golden(family)
    before = logits_of(policy.denoiser, ids)
    policy.add_adapters(LoraConfig(rank=4))
    assert torch.equal(logits_of(policy.denoiser, ids), before)
    assert {tensor.dtype for tensor in policy.trainable().values()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_fresh_adapters_are_on_every_linear_of_the_blocks_and_never_on_the_head(family: str) -> None:
    policy = load(family)
    policy.add_adapters(LoraConfig(rank=4, alpha=8))
    adapted = our_deltas(policy)
    assert len(adapted) == 7 * 3 and sorted({name.rpartition(".")[2] for name in adapted}) == LINEARS[family]
    assert not any(name in adapted for name in ("model.transformer.ff_out", "lm_head"))
    assert policy.adapter and policy.adapter["r"] == 4 and policy.adapter["lora_alpha"] == 8
    shapes = {name: tuple(tensor.shape) for name, tensor in policy.trainable().items()}
    assert shapes["blocks.2.down_proj.lora_A.weight"] == (4, {"llada": 192}.get(family, 160))
    assert shapes["blocks.2.attn.k_proj.lora_B.weight"] == ({"dream": 32}.get(family, 64), 4)


def test_fresh_adapters_are_a_function_of_the_seed_and_the_name() -> None:
    first, same, other = load(), load(), load()
    for policy, seed in ((first, 0), (same, 0), (other, 1)):
        policy.add_adapters(LoraConfig(rank=4), seed)
    few = load()
    few.add_adapters(LoraConfig(rank=4, targets=("v_proj",)))
    a, b, c, d = (policy.trainable() for policy in (first, same, other, few))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(a[name], d[name]) for name in d)
    drawn = [name for name in a if "lora_A" in name]
    assert not any(torch.equal(a[name], c[name]) for name in drawn)
    assert len({a[name][0, 0].item() for name in drawn}) == len(drawn)


def test_fresh_adapters_are_drawn_as_peft_draws_them() -> None:
    """A uniform within 1 / sqrt(in), B zero."""
    policy, model = load(), get_peft_model(skeleton("llada"), PeftLora(r=32, target_modules=LLADA_LINEARS[1:]))
    policy.add_adapters(LoraConfig(rank=32))
    theirs = dict(model.named_parameters())
    for name, ours in policy.trainable().items():
        original = PREFIX + policy.family.original(name.replace(".weight", ".default.weight"))
        if "lora_B" in name:
            assert not ours.any()
        elif original in theirs and "ff_out" not in original:
            bound = ours.shape[1] ** -0.5
            for drawn in (ours, theirs[original]):
                assert 0.98 * bound < drawn.abs().max() <= bound
                assert abs(drawn.std() * 3**0.5 / bound - 1) < 0.05 and abs(drawn.mean()) < 0.1 * bound


@pytest.mark.parametrize(
    ("targets", "count"),
    [(("q_proj",), 3), (("attn_out", "ff_out"), 6), (("blocks.0.q_proj", "blocks.2.ff_out"), 2), (("1.v_proj",), 1)],
)
def test_targets_are_names_or_their_ends(targets: tuple[str, ...], count: int, tmp_path: Path) -> None:
    policy = load()
    policy.add_adapters(LoraConfig(rank=2, targets=targets))
    adapted = our_deltas(policy)
    assert len(adapted) == count and all(name.endswith(targets) for name in adapted)
    policy.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(skeleton("llada"), str(tmp_path))
    assert_same(adapted, deltas(model))


@pytest.mark.parametrize(
    ("family", "target", "suggestion"),
    [
        ("llada", "o_proj", "did you mean '[qkv]_proj'"),
        ("llada", "att_out", "did you mean 'attn_out'"),
        ("llada", "model.transformer.ff_out", "allowed: attn_out, ff_out, ff_proj"),
        ("llada", "proj", "allowed: "),
        ("dream", "lm_head", "allowed: down_proj"),
        ("dream", "ff_proj", "did you mean '.*_proj'"),
    ],
)
def test_a_target_that_matches_nothing_is_an_error_that_suggests(family: str, target: str, suggestion: str) -> None:
    policy = load(family)
    with pytest.raises(ValueError, match=f"lora.targets: no module is named {target}.*{suggestion}"):
        policy.add_adapters(LoraConfig(rank=2, targets=("q_proj", target)))
    assert policy.adapter is None and all(parameter.requires_grad for parameter in policy.denoiser.parameters())


def test_no_adapters_upon_adapters() -> None:
    policy = load(adapter=GOLDEN / "llada-tiny" / "lora")
    with pytest.raises(ValueError, match="carries adapters already"):
        policy.add_adapters(LoraConfig(rank=2))


# -- to PEFT and back


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_puts_our_adapters_where_they_belong(family: str, tmp_path: Path) -> None:
    """On the tree of the published code: exactly the modules we trained, the same change of weights, no head."""
    policy = load(family)
    policy.add_adapters(LoraConfig(rank=4, alpha=6))
    stir(policy)
    policy.save_pretrained(tmp_path)
    assert {name.split(".lora_")[0] for name in load_file(tmp_path / "adapter_model.safetensors")} == {
        PREFIX + name for name in our_deltas(policy)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(skeleton(family), str(tmp_path))
    assert_same(our_deltas(policy), deltas(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_our_adapters_load_again(family: str, tmp_path: Path) -> None:
    policy = load(family)
    policy.add_adapters(LoraConfig(rank=4, alpha=6))
    stir(policy)
    policy.save_pretrained(tmp_path)
    again = load(family, tmp_path)
    assert again.adapter == policy.adapter
    ids, _ = golden(family)
    assert torch.equal(logits_of(again.denoiser, ids), logits_of(policy.denoiser, ids))


def test_a_loaded_adapter_goes_back_to_disk_as_it_came(tmp_path: Path) -> None:
    """adapter_config.json keeps what diffpo does not know; it names the base that was loaded, and says what it does."""
    source = golden_adapter(tmp_path / "theirs", base_model_name_or_path="GSAI-ML/LLaDA-8B-Base", lora_dropout=0.05)
    with pytest.warns(UserWarning) as said:
        load(adapter=source).save_pretrained(tmp_path / "ours")
    assert [str(line.message) for line in said] == [
        f"{source} was trained on GSAI-ML/LLaDA-8B-Base; it is put on {(GOLDEN / 'llada-tiny').resolve()}",
        f"{source}: lora_dropout 0.05 is left out: diffpo trains without dropout",
    ]
    theirs, ours = (json.loads((tmp_path / who / "adapter_config.json").read_text()) for who in ("theirs", "ours"))
    assert ours == theirs | {"base_model_name_or_path": str((GOLDEN / "llada-tiny").resolve()), "lora_dropout": 0.0}
    assert list(ours) == list(theirs)
    before, after = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("theirs", "ours"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def peft_adapter(folder: Path, family: str = "llada", **settings: Any) -> dict[str, Tensor]:
    """Write an adapter as PEFT does, with random values; returns its changes of the weights."""
    model = get_peft_model(skeleton(family), PeftLora(**settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder))
    return deltas(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "attn_out"]},
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"], "use_rslora": True},
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5}},
        {
            "r": 3,
            "target_modules": LLADA_LINEARS[2:],
            "rank_pattern": {r"blocks\.[01]\.q_proj": 5, "ff_proj": 1},
            "alpha_pattern": {r"blocks\.1\..*": 3, "k_proj": 7, "^model.transformer.blocks.2.up_proj": 11},
            "use_rslora": True,
        },
        {"target_modules": ["q_proj", "k_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
        {"target_modules": r".*blocks\.\d+\.ff_out"},
        {"target_modules": "all-linear", "exclude_modules": r"model\.transformer\.ff_out"},
        {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
        {"r": 4, "lora_alpha": -6, "target_modules": ["q_proj"], "layers_to_transform": []},
    ],
)
def test_adapters_of_peft_compute_what_peft_computes(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = peft_adapter(tmp_path, **settings)
    policy = load(adapter=tmp_path)
    assert_same(our_deltas(policy), theirs)
    assert all(parameter.requires_grad == ("lora" in name) for name, parameter in policy.denoiser.named_parameters())


def test_an_adapter_of_dream_computes_what_peft_computes(tmp_path: Path) -> None:
    theirs = peft_adapter(tmp_path, "dream", r=2, lora_alpha=3, target_modules=["gate_proj", "o_proj", "k_proj"])
    assert_same(our_deltas(load("dream", tmp_path)), theirs)


@pytest.mark.parametrize("moved", [False, True])
def test_a_chat_template_that_adapters_bring_is_a_warning_unless_it_is_the_bases(moved: bool, tmp_path: Path) -> None:
    base = golden_checkpoint(tmp_path / "base", tokenizer=True)
    folder = golden_adapter(tmp_path / "adapter")
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").write_text(settings["chat_template"] + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(base, adapter=folder, device="cpu")
    if moved:  # to where transformers wrote it before 4.52
        (folder / "chat_template.jinja").unlink()
        (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    else:
        (folder / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.warns(UserWarning, match="adapter has a chat template of its own, which is not used"):
        load_policy(base, adapter=folder, device="cpu")


def test_a_recipe_with_names_of_another_model_is_one_warning_that_names_what_it_leaves(tmp_path: Path) -> None:
    """d1's targets are Llama's: on LLaDA they hit four of seven linears."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "gate_proj"]
    theirs = peft_adapter(tmp_path, r=4, target_modules=targets)
    assert len(theirs) == 4 * 3
    with pytest.warns(UserWarning) as caught:
        policy = load(adapter=tmp_path)
    (warning,) = caught
    message = str(warning.message)
    assert "down_proj, gate_proj, o_proj match nothing" in message and "leaves attn_out, ff_out, ff_proj" in message
    assert_same(our_deltas(policy), theirs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("dream", GOLDEN / "dream-tiny" / "lora")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["ff_out"]}, "modules_to_save, which diffpo does not have: merge it with PEFT"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"use_qalora": True, "use_dora": True}, "use_dora, use_qalora"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights = 'olora'"),
        ({"peft_type": "IA3"}, "a IA3 adapter; diffpo loads LORA"),
        ({"r": 8}, "k_proj (64 to 64 features) at rank 8 has {'lora_A.weight': (4, 64), 'lora_B.weight': (64, 4)}"),
        ({"rank_pattern": {"v_proj": 2}}, "v_proj (64 to 64 features) at rank 2 has"),
        ({"lora_alpha": "16"}, "lora_alpha = '16'"),
        ({"alpha_pattern": {"q_proj": None}}, "q_proj = None"),
        ({"alpha_pattern": {"q_proj(": 4}}, "alpha_pattern has 'q_proj(', which is no pattern"),
        ({"target_modules": "q_proj("}, "target_modules has 'q_proj(', which is no pattern"),
        ({"exclude_modules": "q_proj("}, "exclude_modules has 'q_proj(', which is no pattern"),
        ({"alpha_pattern": [4]}, "alpha_pattern = [4], which PEFT does not write"),
        ({"layers_to_transform": "1"}, "layers_to_transform = '1', which PEFT does not write"),
        ({"use_rslora": "false"}, "use_rslora = 'false', which PEFT does not write"),
        *(({"lora_alpha": alpha}, f"lora_alpha = {alpha}: it must be") for alpha in (0, float("nan"), float("inf"))),
        *(({"r": rank}, f"r = {rank}: it must be a number above 0") for rank in (0, -4)),
        ({"rank_pattern": {"v_proj": 0}}, "v_proj = 0: it must be a number above 0"),
        ({"alpha_pattern": {"v_proj": 0}}, "v_proj = 0: it must be a number other than 0"),
        ({"target_modules": r".*blocks\.0\.q_proj"}, "blocks.0.attn_out, model.transformer.blocks.0.ff_proj"),
        ({"exclude_modules": ["v_proj"]}, "v_proj, which adapter_config.json leaves out"),
        ({"layers_to_transform": 1}, "and 9 more, which adapter_config.json leaves out"),
    ],
)
def test_other_kinds_of_adapters_are_one_error(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    folder = golden_adapter(tmp_path / "adapter", **settings)
    with pytest.raises(ValueError) as error:
        load(adapter=folder)
    assert str(folder) in str(error.value) and named in str(error.value) and "\n" not in str(error.value)


def test_an_adapter_that_does_not_fit_is_one_error_that_names_its_modules(tmp_path: Path) -> None:
    config = llada_config(d_model=64, mlp_hidden_size=40)
    narrow = write_checkpoint(tmp_path / "narrow", config, random_llada(config))
    with pytest.raises(ValueError, match=r"is on model\.transformer\.blocks\.2\.attn_out, .*own base") as error:
        load_policy(narrow, device="cpu", adapter=GOLDEN / "llada-tiny" / "lora")
    config |= {"n_layers": 3}
    narrow = write_checkpoint(tmp_path / "narrow", config, random_llada(config))
    with pytest.raises(ValueError, match="does not fit") as error:
        load_policy(narrow, device="cpu", adapter=GOLDEN / "llada-tiny" / "lora")
    assert "model.transformer.blocks.0.ff_proj (64 to 40 features)" in str(error.value)
    assert str(error.value).endswith("and 3 more")  # ff_proj and up_proj of three blocks: an 8B model has 64 of them
    assert "q_proj" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("wte.weight", r"holds model\.transformer\.wte\.weight, more than .* resized .*: merge it with PEFT"),
        ("ff_out.weight", r"holds model\.transformer\.ff_out\.weight, more than"),
        ("wte.lora_embedding_A", r"holds model\.transformer\.wte\.lora_embedding_A, more than"),
        ("blocks.0.q_proj.lora_magnitude_vector", "q_proj.lora_magnitude_vector, more than"),
        ("ff_out.lora_A.weight", r"is on model\.transformer\.ff_out; in this model one goes on the blocks' attn_out"),
    ],
)
def test_tensors_beyond_adapters_of_linears_are_one_error_with_the_mend(name: str, named: str, tmp_path: Path) -> None:
    folder = golden_adapter(tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {f"{PREFIX}model.transformer.{name}": torch.ones(4, 64)}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=named):
        load(adapter=folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
def test_adapters_count_as_saved_and_are_refused_where_they_are_no_plain_numbers(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = golden_adapter(tmp_path)
    tensors = {name: value.to(dtype) for name, value in load_file(folder / "adapter_model.safetensors").items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    if dtype == torch.int8:
        with pytest.raises(ValueError, match="quantized"):
            load(adapter=folder)
    else:
        for name, delta in our_deltas(load(adapter=folder)).items():
            a, b = (tensors[f"{PREFIX}{name}.lora_{part}.weight"].float() for part in "AB")
            torch.testing.assert_close(delta, 8 / 4 * b @ a)


@pytest.mark.parametrize("lost", ["lora_A.weight", "lora_B.weight"])
def test_half_an_adapter_is_an_error(lost: str, tmp_path: Path) -> None:
    folder = golden_adapter(tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.pop(f"{PREFIX}model.transformer.blocks.1.v_proj.{lost}")
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit.*blocks\.1\.v_proj"):
        load(adapter=folder)


@pytest.mark.parametrize("lost", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_lost_file_of_an_adapter_is_an_error_that_names_it(lost: str, tmp_path: Path) -> None:
    folder = golden_adapter(tmp_path)
    (folder / lost).unlink()
    with pytest.raises(ValueError, match=lost):
        load(adapter=folder)


def test_an_adapter_that_is_a_pickle_is_told_the_mend(tmp_path: Path) -> None:
    folder = golden_adapter(tmp_path)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(
        ValueError, match=r"only adapter_model\.bin, which diffpo does not read: save it as safetensors"
    ):
        load(adapter=folder)


# -- merging and learning


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_is_unmerged(family: str) -> None:
    policy = load(family, GOLDEN / f"{family}-tiny" / "lora")
    ids, _ = golden(family)
    before = logits_of(policy.denoiser, ids)
    policy.merge_adapters()
    torch.testing.assert_close(logits_of(policy.denoiser, ids), before, atol=1e-5, rtol=0)
    plain = load(family).denoiser
    assert policy.adapter is None and all(parameter.requires_grad for parameter in policy.denoiser.parameters())
    assert [name for name, _ in policy.denoiser.named_modules()] == [name for name, _ in plain.named_modules()]
    policy.add_adapters(LoraConfig(rank=2))
    assert len(policy.trainable()) == 2 * 7 * 3


@pytest.mark.parametrize("family", FAMILIES)
def test_rollouts_may_see_merged_copies_and_leave_the_base_as_it_was(family: str) -> None:
    """In bf16 the merged weights are rounded, so close; afterwards every weight is the same, bit for bit."""
    policy = load_policy(GOLDEN / f"{family}-tiny", "bfloat16", adapter=GOLDEN / f"{family}-tiny" / "lora")
    (ids, _), denoiser = golden(family), policy.denoiser
    before, weights = logits_of(denoiser, ids), {k: v.clone() for k, v in policy.denoiser.state_dict().items()}
    with merged_adapters(policy.denoiser):
        assert all(module.merged is not None for module in policy.denoiser.modules() if isinstance(module, Adapted))
        inside = logits_of(denoiser, ids)
    assert not torch.equal(inside, before)
    torch.testing.assert_close(inside, before, atol=0.2, rtol=0.05)
    assert torch.equal(logits_of(denoiser, ids), before)
    assert all(torch.equal(value, weights[name]) for name, value in policy.denoiser.state_dict().items())
    with (
        pytest.raises(ValueError, match=r"rollout\.merge_adapters: the model has no adapters"),
        merged_adapters(load_policy(GOLDEN / f"{family}-tiny").denoiser),
    ):
        pass


def test_merging_nothing_changes_nothing() -> None:
    policy = load()
    policy.use_master_weights()
    before = dict(policy.denoiser.named_parameters())
    policy.merge_adapters()
    after = dict(policy.denoiser.named_parameters())
    assert before.keys() == after.keys() and all(before[name] is after[name] for name in before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_moves_adapters_alone(dtype: str) -> None:
    policy = load(dtype=dtype)
    policy.add_adapters(LoraConfig(rank=4))
    before = {name: parameter.detach().clone() for name, parameter in policy.denoiser.named_parameters()}
    ids, _ = golden("llada")
    seen: set[torch.dtype] = set()
    for block in policy.denoiser.blocks:
        block.gate_proj.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    optimizer = torch.optim.AdamW(policy.trainable().values(), 1e-2)
    for _ in range(2):  # in the first step A has no gradient: B is zero
        optimizer.zero_grad()
        (logits_of(policy.denoiser, ids) ** 2).mean().backward()
        gradients = {parameter.grad.dtype for parameter in policy.trainable().values() if parameter.grad is not None}
        assert gradients == {torch.float32}
        optimizer.step()
    for name, parameter in policy.denoiser.named_parameters():
        adapts = ".lora_" in name
        assert parameter.dtype == (torch.float32 if adapts else {"float32": torch.float32}.get(dtype, torch.bfloat16))
        assert (parameter.grad is not None) == adapts == (not torch.equal(parameter, before[name])), name
    assert seen == {torch.float32 if dtype == "float32" else torch.bfloat16}  # what matrix products come out in
    assert policy.denoiser.compute_dtype == (None if dtype == "float32" else torch.bfloat16)


def test_adapters_on_a_tiny_policy_of_diffpo(tmp_path: Path) -> None:
    tiny_policy(learned_positions=True).save_pretrained(tmp_path / "base")
    policy = load_policy(tmp_path / "base", device="cpu")
    policy.add_adapters(LoraConfig(rank=2, targets=("q_proj", "gate_proj")))
    stir(policy)
    policy.save_pretrained(tmp_path / "adapter")
    again = load_policy(tmp_path / "adapter", device="cpu")
    ids = torch.arange(7)[None]
    assert len(again.trainable()) == 2 * 2 * 2
    assert torch.equal(logits_of(again.denoiser, ids), logits_of(policy.denoiser, ids))


def test_an_adapter_file_alone_does_not_matter_to_a_whole_checkpoint(tmp_path: Path) -> None:
    """A folder with config.json is a checkpoint, whatever adapter lies beside it."""
    golden_adapter(golden_checkpoint(tmp_path))
    shutil.copy(GOLDEN / "llada-tiny" / "config.json", tmp_path)
    assert load_policy(tmp_path, device="cpu").adapter is None
