"""Policies on disk and back; what saves memory in training and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ALPHABET, GOLDEN, tiny_policy
from models.published_llada import golden, golden_adapter, golden_checkpoint, logits_of, write_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffpo.config import LoraConfig, ModelConfig, ThresholdConfig
from diffpo.models import fused
from diffpo.models.likelihood import score_tokens
from diffpo.models.policy import Policy, create_policy, load_policy
from diffpo.models.threshold import ThresholdHead

LLADA = GOLDEN / "llada-tiny"


@pytest.mark.parametrize("learned", [False, "prompt", "bernoulli"])
def test_a_policy_survives_its_folder_bit_for_bit(tmp_path: Path, learned: bool | str) -> None:
    policy = tiny_policy(learned=learned, learned_positions=bool(learned))
    policy.version = 7
    if policy.sampler_head:
        policy.sampler_head.observe(torch.randn(9, 16, generator=torch.Generator().manual_seed(0)))
    policy.save_pretrained(tmp_path / "a" / "b")
    loaded = load_policy(tmp_path / "a" / "b")
    assert loaded.denoiser.config == policy.denoiser.config and loaded.version == 7
    assert vars(loaded.tokenizer) == vars(policy.tokenizer)
    pairs = [(policy.denoiser, loaded.denoiser)]
    assert (loaded.sampler_head is not None) == bool(learned)
    if policy.sampler_head and loaded.sampler_head:
        assert loaded.sampler_head.config == policy.sampler_head.config
        pairs.append((policy.sampler_head, loaded.sampler_head))
    for ours, theirs in pairs:
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_saving_over_a_learned_policy_leaves_no_head_behind(tmp_path: Path) -> None:
    for learned in (True, "bernoulli", False):
        tiny_policy(learned=learned).save_pretrained(tmp_path)
        head = load_policy(tmp_path).sampler_head
        assert (head and head.kind) == {True: "threshold", "bernoulli": "bernoulli", False: None}[learned]


def test_a_run_folder_loads_its_policy(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path / "policy")
    assert load_policy(tmp_path).tokenizer.alphabet == ALPHABET


def test_a_folder_that_is_no_policy_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path.name}.*no checkpoint here"):
        load_policy(tmp_path)


@pytest.mark.parametrize("lost", ["model.safetensors", "threshold.safetensors", "bernoulli.safetensors", "config.json"])
def test_a_lost_file_is_an_error_that_names_the_folder(tmp_path: Path, lost: str) -> None:
    tiny_policy(learned="bernoulli" if "bernoulli" in lost else "prompt").save_pretrained(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ValueError, match=tmp_path.name):
        load_policy(tmp_path)


def test_a_head_of_another_shape_or_version_is_an_error_that_names_it(tmp_path: Path) -> None:
    policy = tiny_policy(learned=True)
    policy.save_pretrained(tmp_path)
    assert policy.sampler_head is not None
    head = policy.sampler_head.state_dict()
    old = {name.replace("variance", "square"): tensor for name, tensor in head.items()}
    for saved in (old, {name: tensor.repeat(2) if tensor.ndim else tensor for name, tensor in head.items()}):
        save_file(saved, tmp_path / "threshold.safetensors")
        with pytest.raises(ValueError, match=r"threshold\.safetensors: no head of this version.*width 16: train"):
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


def state(policy: Policy) -> dict[str, Tensor]:
    """All that a policy computes with, by name."""
    parts = {f"denoiser.{name}": tensor for name, tensor in policy.denoiser.state_dict().items()}
    if policy.sampler_head:
        parts |= {f"sampler_head.{name}": tensor for name, tensor in policy.sampler_head.state_dict().items()}
    return {name: tensor.clone() for name, tensor in parts.items()}


def add_head(policy: Policy) -> None:
    policy.sampler_head = ThresholdHead(policy.denoiser.config.hidden_size, ThresholdConfig(gamma_max=2.0))


def stir(policy: Policy, seed: int = 1) -> None:
    """Move all that learns, as training would."""
    generator = torch.Generator().manual_seed(seed)
    head = policy.sampler_head.parameters() if policy.sampler_head else ()
    with torch.no_grad():
        for parameter in (*policy.trainable().values(), *head):
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.1)
    policy.version += 1


KINDS: dict[str, Callable[[Path], Policy]] = {
    "tiny": lambda folder: tiny_policy(),
    "tiny, loaded": lambda folder: (tiny_policy().save_pretrained(folder), load_policy(folder, device="cpu"))[1],
    "llada": lambda folder: load_policy(GOLDEN / "llada-tiny", "float32", "cpu"),
    "llada, bf16": lambda folder: load_policy(GOLDEN / "llada-tiny", device="cpu"),
    "dream, with a tokenizer": lambda folder: load_policy(golden_checkpoint(folder, "dream", True), device="cpu"),
    "llada with adapters": lambda folder: adapted(load_policy(GOLDEN / "llada-tiny", "float32", "cpu")),
    "llada, bf16 with adapters": lambda folder: adapted(load_policy(GOLDEN / "llada-tiny", device="cpu")),
    "llada with others' adapters": lambda folder: load_policy(
        GOLDEN / "llada-tiny", "float32", "cpu", adapter=golden_adapter(folder, base_model_name_or_path=str(LLADA))
    ),
}


def adapted(policy: Policy) -> Policy:
    policy.add_adapters(LoraConfig(rank=2, alpha=3, targets=("k_proj", "ff_out")))
    return policy


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_and_restored_bit_for_bit(kind: str, learned: bool, tmp_path: Path) -> None:
    policy = KINDS[kind](tmp_path / "base")
    if learned:
        add_head(policy)
    stir(policy)
    policy.save_pretrained(tmp_path / "saved")
    saved, names = state(policy), set(policy.trainable())
    stir(policy, seed=2)
    moved = {name for name, tensor in state(policy).items() if not torch.equal(tensor, saved[name])}
    assert len(moved) == len(names) + learned * 2
    if learned:
        add_head(policy)
    policy.restore(tmp_path / "saved")
    # bases are read in the dtype of the policy; adapters and heads are fp32 whatever the base is
    loaded = load_policy(tmp_path / "saved", policy.denoiser.head.weight.dtype, "cpu")
    for other in (policy, loaded):
        assert other.version == 1 and set(other.trainable()) == names and other.adapter == policy.adapter
        assert state(other).keys() == saved.keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in state(other).items())
        assert all(tensor.dtype == saved[name].dtype for name, tensor in state(other).items())
        assert (other.sampler_head is not None) == learned
    if policy.sampler_head and loaded.sampler_head:
        assert loaded.sampler_head.config == policy.sampler_head.config == ThresholdConfig(gamma_max=2.0)
    assert loaded.denoiser.compute_dtype == policy.denoiser.compute_dtype
    ids = torch.arange(5)[None]
    assert torch.equal(logits_of(loaded.denoiser, ids), logits_of(policy.denoiser, ids))
    assert torch.equal(loaded.banned, policy.banned) and type(loaded.tokenizer) is type(policy.tokenizer)


def test_restoring_a_folder_of_another_policy_is_an_error(tmp_path: Path) -> None:
    policy = adapted(load_policy(LLADA, "float32", "cpu"))
    policy.save_pretrained(tmp_path / "adapters")
    whole = load_policy(LLADA, "float32", "cpu")
    other = load_policy(LLADA, "float32", "cpu")
    other.add_adapters(LoraConfig(rank=2, targets=("q_proj",)))
    for stranger in (whole, other):
        before = state(stranger)
        with pytest.raises(ValueError, match="adapters: does not hold the tensors"):
            stranger.restore(tmp_path / "adapters")
        assert all(torch.equal(tensor, before[name]) for name, tensor in state(stranger).items())


def test_an_adapter_folder_follows_its_base(tmp_path: Path) -> None:
    """The base's sampler head comes with it, where the adapter has none."""
    base = golden_checkpoint(tmp_path / "base")
    with_head = load_policy(base, "float32", "cpu")
    add_head(with_head)
    with_head.save_pretrained(base)
    adapter = golden_adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    followed = load_policy(adapter, "float32", "cpu")
    with pytest.warns(UserWarning, match=f"was trained on {base}; it is put on {LLADA}"):
        given = load_policy(LLADA, "float32", "cpu", adapter=adapter)
    ids, logits = golden("llada", adapter=True)
    for policy in (followed, given):
        torch.testing.assert_close(logits_of(policy.denoiser, ids), logits, atol=1e-4, rtol=0)
    assert followed.sampler_head and not given.sampler_head
    assert followed.base and followed.base.name == str(base)


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    """It is loaded as it stands, whatever its name once was on the hub."""
    base = golden_checkpoint(tmp_path / "base")
    with pytest.raises(ValueError, match=r"revision v0 does nothing for .*base, which is a folder"):
        load_policy(base, revision="v0")


def test_a_run_of_adapters_is_an_adapter(tmp_path: Path) -> None:
    """A run's folder, its policy folder, and either as the adapter of a named base."""
    policy = adapted(load_policy(LLADA, "float32", "cpu"))
    stir(policy)
    policy.save_pretrained(tmp_path / "policy")
    for folder in (tmp_path, tmp_path / "policy"):
        for loaded in (load_policy(folder, "float32", "cpu"), load_policy(LLADA, "float32", "cpu", adapter=folder)):
            assert loaded.version == 1
            assert all(torch.equal(tensor, state(policy)[name]) for name, tensor in state(loaded).items())


def test_an_adapter_without_a_base_and_one_upon_another_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no base model"):
        load_policy(LLADA / "lora", device="cpu")
    with pytest.raises(ValueError, match="is an adapter itself"):
        load_policy(LLADA / "lora", device="cpu", adapter=LLADA / "lora")
    with pytest.raises(ValueError, match=r"nowhere is not there: name its place with load\.base"):
        load_policy(golden_adapter(tmp_path, base_model_name_or_path=str(tmp_path / "nowhere")), device="cpu")
    with pytest.raises(ValueError, match=r"nowhere.*adapter_config\.json: no such file"):
        load_policy(LLADA, device="cpu", adapter=tmp_path / "nowhere")


def test_master_weights_are_fp32_computed_with_in_bf16_and_saved_in_fp32(tmp_path: Path) -> None:
    config = json.loads((LLADA / "config.json").read_text()) | {"dtype": "bfloat16"}
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(LLADA / "model.safetensors").items()}
    base = write_checkpoint(tmp_path / "base", config, tensors)
    policy, plain = load_policy(base, device="cpu"), load_policy(base, device="cpu")
    policy.use_master_weights()
    assert {parameter.dtype for parameter in policy.denoiser.parameters()} == {torch.float32}
    assert policy.denoiser.compute_dtype == torch.bfloat16 and policy.denoiser.angles.dtype == torch.float32
    ids, logits = golden("llada")
    seen = set()
    hook = policy.denoiser.blocks[0].gate_proj.register_forward_hook(lambda _, __, out: seen.add(out.dtype))
    ours = logits_of(policy.denoiser, ids)
    hook.remove()
    assert seen == {torch.bfloat16}
    torch.testing.assert_close(ours, logits, atol=0.1, rtol=0)
    assert (ours - logits).abs().mean() < 1.2 * (logits_of(plain.denoiser, ids) - logits).abs().mean()
    # a step too small for bf16 survives a save
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.mul_(1 + 2**-12)
    policy.save_pretrained(tmp_path / "run")
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    assert all(torch.equal(saved[name], tensor.float() * (1 + 2**-12)) for name, tensor in tensors.items())
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config
    assert load_policy(tmp_path / "run", device="cpu").denoiser.head.weight.dtype == torch.bfloat16
    restored = load_policy(base, device="cpu")
    restored.use_master_weights()
    restored.restore(tmp_path / "run")
    assert all(torch.equal(tensor, state(restored)[name]) for name, tensor in state(policy).items())


def test_master_weights_of_an_fp32_policy_change_nothing() -> None:
    policy = load_policy(LLADA, "float32", "cpu")
    before = state(policy)
    policy.use_master_weights()
    assert policy.denoiser.compute_dtype is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(policy).items())


def test_saving_over_the_folder_it_was_loaded_from(tmp_path: Path) -> None:
    """Weights may be mapped from the very file that is written."""
    golden_checkpoint(tmp_path, tokenizer=True)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    policy = load_policy(tmp_path, "saved", "cpu")
    policy.save_pretrained(tmp_path)
    before = load_file(LLADA / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(tmp_path / "model.safetensors").items())
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == files.keys() | {"diffpo.json"}
    assert all(after[name] == data for name, data in files.items() if name != "model.safetensors")


def test_whole_tensors_that_are_given_are_what_is_saved(tmp_path: Path) -> None:
    """Where ranks hold shares of the parameters, the whole values come from outside."""
    policy = adapted(load_policy(LLADA, "float32", "cpu"))
    whole = {name: torch.full_like(parameter, 2.0) for name, parameter in policy.trainable().items()}
    policy.save_pretrained(tmp_path, whole)
    assert all((tensor == 2).all() for tensor in load_file(tmp_path / "adapter_model.safetensors").values())


# -- what saves memory changes no gradient


def loss_gradients(policy: Policy) -> tuple[Tensor, dict[str, Tensor]]:
    ids, _ = golden("llada")
    logits = logits_of(policy.denoiser, ids)
    loss = logits.log_softmax(-1)[..., 0].sum()
    policy.denoiser.zero_grad()
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in policy.denoiser.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "adapters", "master weights"])
def test_gradient_checkpointing_changes_no_gradient(kind: str) -> None:
    policy = load_policy(LLADA, "float32" if kind == "float32" else "bfloat16", "cpu")
    if kind == "adapters":
        adapted(policy)
        stir(policy)
    if kind == "master weights":
        policy.use_master_weights()
    loss, gradients = loss_gradients(policy)
    calls = []
    hook = policy.denoiser.blocks[1].register_forward_pre_hook(lambda *_: calls.append(1))
    policy.denoiser.gradient_checkpointing = True
    again, checkpointed = loss_gradients(policy)
    hook.remove()
    assert len(calls) == 2  # once more in the backward pass
    assert torch.equal(loss, again) and gradients.keys() == checkpointed.keys()
    assert len(gradients) == (3 * 2 * 2 if kind == "adapters" else 3 * 9 + 3)
    assert all(torch.equal(gradients[name], checkpointed[name]) for name in gradients)


@pytest.mark.parametrize("chunk", [1, 5, 8, 23])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scores_by_chunks_are_those_at_once(chunk: int, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(LLADA, dtype, "cpu")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(24, 64, generator=generator).to(policy.denoiser.head.weight.dtype).requires_grad_()
    tokens = torch.randint(160, (24,), generator=generator)
    factors = torch.randn(24, generator=generator)

    def values() -> tuple[Tensor, Tensor, Tensor]:
        scores = score_tokens(policy, hidden, tokens, 0.7)
        gradients = torch.autograd.grad((scores * factors).sum(), (hidden, policy.denoiser.head.weight))
        return scores.detach(), *gradients

    whole = values()
    monkeypatch.setitem(fused.MAX_LOGITS, "cpu", chunk * 192 + 100)
    parts = values()
    expected = (policy.logits(hidden).detach().float() / 0.7).log_softmax(-1)[torch.arange(24), tokens]
    torch.testing.assert_close(whole[0], expected, atol=1e-5, rtol=1e-5)
    tolerance = {"float32": 1e-5, "bfloat16": 0.02}[dtype]  # the head's gradient is a sum over chunks, in its dtype
    for ours, theirs in zip(parts, whole, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
