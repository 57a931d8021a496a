"""Mixtures of experts: logits and gradients of transformers' relatives, files, adapters, decoding and both trainers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from models.mixtures import CONFIGS, SHARED, relative, save_checkpoint
from models.published_llada import logits_of
from safetensors.torch import load_file
from small_tokenizers import TOKENIZERS
from torch import Tensor

from diffpo.config import LoadConfig, LoraConfig, OptimConfig, RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.models.experts import Experts, ExpertsConfig, Router, apart, together
from diffpo.models.export import export
from diffpo.models.families import FAMILIES
from diffpo.models.inspection import inspect
from diffpo.models.lora import linear_names, short_names
from diffpo.models.policy import Policy, load_policy
from diffpo.models.weights import load_denoiser
from diffpo.planning.gpus import find_gpu
from diffpo.planning.plan import Cluster, find_start, plan
from diffpo.rollout.engine import generate
from diffpo.training.loop import train
from diffpo.training.sft import fine_tune
from diffpo.types import Request, Sampler

KINDS = tuple(CONFIGS)
BLOCKS = ("sdar_moe", "llada2_moe")
"""Those that are block-causal."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(kind: str, tmp_path: Path) -> Path:
    folder = save_checkpoint(kind, tmp_path / kind, relative(kind), {"block_size": 4} if kind in BLOCKS else {})
    TOKENIZERS["sdar"](folder)
    return folder


def load(folder: Path, **settings) -> Policy:
    return load_policy(folder, "float32", "cpu", **settings)


def mask_of(kind: str, length: int) -> Tensor:
    """What transformers adds to scores of attention: 0 where a token sees another."""
    blocks = torch.arange(length) // 4 if kind in BLOCKS else torch.zeros(length)
    return torch.where(blocks[:, None] >= blocks, 0.0, -torch.inf)[None, None]


def some_ids(rows: int = 3, length: int = 14) -> Tensor:
    return torch.randint(160, (rows, length), generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_relative(kind: str, folder: Path) -> None:
    ids = some_ids()
    with torch.no_grad():
        expected = relative(kind)(ids, attention_mask=mask_of(kind, ids.shape[1])).logits
        torch.testing.assert_close(logits_of(load_denoiser(folder), ids), expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_the_relative(kind: str, folder: Path) -> None:
    ids, twin, denoiser = some_ids(), relative(kind), load_denoiser(folder)
    twin(ids, attention_mask=mask_of(kind, ids.shape[1])).logits.log_softmax(-1)[..., 5].sum().backward()
    logits_of(denoiser, ids).log_softmax(-1)[..., 5].sum().backward()
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters() if parameter.grad is not None}
    for number, block in enumerate(denoiser.blocks):
        mixture, path = block.experts, f"model.layers.{number}.mlp"
        if mixture is None:
            torch.testing.assert_close(block.up_proj.weight.grad, gradients[f"{path}.up_proj.weight"])
            continue
        both = torch.cat([mixture.gate_proj.grad, mixture.up_proj.grad], dim=1)
        close = {"rtol": 1e-3, "atol": 1e-3}
        torch.testing.assert_close(both, gradients[f"{path}.experts.gate_up_proj"], **close)
        torch.testing.assert_close(mixture.down_proj.grad, gradients[f"{path}.experts.down_proj"], **close)
        torch.testing.assert_close(mixture.router.weight.grad, gradients[f"{path}.gate.weight"], **close)
        assert (mixture.router.weight.grad != 0).any()


@torch.no_grad()
def slow_mixture(mixture: Experts, token: Tensor) -> Tensor:
    """One token: its experts one after the other, as the router's own description says."""
    config, router = mixture.router.config, mixture.router
    logits = router.weight @ token
    scores = logits.sigmoid() if config.score == "sigmoid" else logits.softmax(0)
    ranked = scores if router.expert_bias is None else scores + router.expert_bias
    size = config.count // config.groups
    groups = [
        ranked[group * size : (group + 1) * size].sort(descending=True).values[:2].sum()
        for group in range(config.groups)
    ]
    best = sorted(range(config.groups), key=lambda group: -groups[group])[: config.chosen_groups]
    allowed = [expert for expert in range(config.count) if expert // size in best]
    chosen = sorted(allowed, key=lambda expert: -ranked[expert])[: config.chosen]
    whole = sum(scores[expert] for expert in chosen) if config.normalized else 1.0
    out = torch.zeros_like(token)
    for expert in chosen:
        gate, up = mixture.gate_proj[expert] @ token, mixture.up_proj[expert] @ token
        made = mixture.down_proj[expert] @ (gate * gate.sigmoid() * up)
        out += config.scale * scores[expert] / whole * made
    return out if mixture.shared is None else out + mixture.shared(token)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("groups", "chosen_groups"), [(1, 1), (4, 2), (8, 5)])
def test_a_mixture_is_the_sum_over_each_tokens_experts(
    score: str, normalized: bool, groups: int, chosen_groups: int
) -> None:
    torch.manual_seed(0)
    config = ExpertsConfig(8, 3, 16, 8, 0, score, normalized, 1.5, groups > 1, groups, chosen_groups)
    mixture = Experts(config, 16)
    with torch.no_grad():
        for parameter in mixture.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
        tokens = torch.randn(40, 16)
        together_, alone = mixture(tokens), torch.stack([mixture(token[None])[0] for token in tokens])
    expected = torch.stack([slow_mixture(mixture, token) for token in tokens])
    torch.testing.assert_close(together_, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together_, alone, rtol=1e-4, atol=1e-4)


def test_routing_is_in_fp32_whatever_the_weights_are_in() -> None:
    router = Router(ExpertsConfig(64, 8, 4), 32).to(torch.bfloat16)
    torch.nn.init.normal_(router.weight, generator=torch.Generator().manual_seed(0))
    tokens = torch.randn(50, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    weights, experts = router(tokens)
    expected = (tokens.float() @ router.weight.float().T).softmax(-1).topk(8)
    assert weights.dtype == torch.float32
    assert torch.equal(experts, expected.indices)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(router(tokens)[1], experts)


def test_a_choice_that_cannot_be_is_an_error() -> None:
    for count, chosen, groups, open_groups in ((8, 9, 1, 1), (8, 3, 4, 1), (8, 2, 3, 1)):
        with pytest.raises(ValueError, match=f"go to {chosen} of {count} experts in {open_groups} of {groups} groups"):
            ExpertsConfig(count, chosen, 4, groups=groups, chosen_groups=open_groups)


def test_stacks_come_apart_and_together() -> None:
    tensors = {"blocks.1.experts.up_proj": torch.randn(3, 4, 5), "blocks.1.experts.router.weight": torch.randn(3, 5)}
    parts = apart(tensors)
    assert sorted(parts) == [
        *(f"blocks.1.experts.{n}.up_proj.weight" for n in range(3)),
        "blocks.1.experts.router.weight",
    ]
    back = together(dict(reversed(parts.items())))
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_a_model_is_saved_under_the_names_it_came_with(folder: Path, tmp_path: Path) -> None:
    load(folder).save_pretrained(tmp_path / "saved")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "saved" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["num_experts"] == 8


def test_the_share_of_a_head_that_turns_is_read_from_either_place() -> None:
    config = SHARED | CONFIGS["llada2_moe"]
    rope = {"rope_type": "default", "rope_theta": 7.0, "partial_rotary_factor": config["partial_rotary_factor"]}
    moved = {key: value for key, value in config.items() if key != "partial_rotary_factor"} | {"rope_parameters": rope}
    assert [FAMILIES["llada2_moe"].shape(each).rotary_share for each in (config, moved)] == [0.5, 0.5]


def test_a_lost_expert_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    lost = next(name for name in tensors if ".experts.5.down_proj" in name)

    safetensors.torch.save_file(
        {name: part for name, part in tensors.items() if name != lost}, folder / "model.safetensors"
    )
    with pytest.raises(ValueError, match=f"missing {lost}") as error:
        load_denoiser(folder)
    assert "\n" not in str(error.value)


def test_adapters_go_on_what_every_token_passes(kind: str, folder: Path, tmp_path: Path) -> None:
    policy = load(folder)
    names = {
        "lladamoe": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "sdar_moe": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "llada2_moe": ["dense", "down_proj", "gate_proj", "query_key_value", "up_proj"],
    }
    linears = linear_names(policy.denoiser, policy.family)
    assert short_names(linears) == names[kind]
    assert not any(".experts.0" in name or name.endswith("mlp.gate") for name in linears)
    policy.add_adapters(LoraConfig(rank=2), seed=0)
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            parameter.data.normal_(generator=torch.Generator().manual_seed(len(name)))
    ids = some_ids()
    with torch.no_grad():
        adapted = logits_of(policy.denoiser, ids)
        policy.save_pretrained(tmp_path / "adapter")
        torch.testing.assert_close(logits_of(load(tmp_path / "adapter").denoiser, ids), adapted)
        export(tmp_path / "adapter", tmp_path / "merged", merge=True)
        merged = load(tmp_path / "merged")
        assert not merged.adapter
        torch.testing.assert_close(logits_of(merged.denoiser, ids), adapted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("chosen", [1, 3])
def test_what_an_expert_makes_of_a_token_hangs_on_no_other(chosen: int) -> None:
    """To the last bit, however few tokens go to it; widths are whole vectors of any CPU."""
    mixture = Experts(ExpertsConfig(16, chosen, 32, 32), 32)
    for parameter in mixture.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    tokens = torch.randn(120, 32, generator=torch.Generator().manual_seed(0))
    whole = mixture(tokens)
    for some in (slice(32), slice(40, 80), slice(3, 90)):  # the engine sends 32 tokens at least
        assert torch.equal(mixture(tokens[some]), whole[some])


@torch.no_grad()
@pytest.mark.parametrize("prompt_length", [4, 6, 11])
def test_tokens_are_those_of_the_published_loop(kind: str, folder: Path, prompt_length: int) -> None:
    """Block by block, at temperature 0: all tokens that are likely enough, at least the likeliest; no cache."""
    twin, policy, gen_length, threshold = relative(kind), load(folder), 13, 0.3
    prompt = some_ids(1, prompt_length)
    length = -(-(prompt_length + gen_length) // 4) * 4 if kind in BLOCKS else prompt_length + gen_length
    row, size = torch.full((1, length), policy.mask_id), 4 if kind in BLOCKS else length
    row[:, :prompt_length] = prompt
    for end in range(prompt_length - prompt_length % 4 + 4 if kind in BLOCKS else length, length + 1, size):
        while (masked := row[0, :end] == policy.mask_id).any():
            logits = twin(row[:, :end], attention_mask=mask_of(kind, end)).logits[0].clone()
            logits[:, policy.banned] = -torch.inf
            sure, likeliest = logits.softmax(-1).max(-1)
            sure[~masked] = -1.0
            chosen = sure > threshold
            chosen[sure.argmax()] = True
            row[0, :end][chosen] = likeliest[chosen]
    asked = Request(
        tuple(prompt[0].tolist()),
        0,
        length - prompt_length,
        size,
        Sampler("confidence", threshold),
        temperature=0.0,
        early_exit=False,
    )
    [completion] = generate(policy, [asked])
    assert torch.equal(completion.tokens, row[0, prompt_length:])


def test_rows_do_not_depend_on_batch_mates_or_the_cache(kind: str, folder: Path) -> None:
    policy = load(folder)
    requests = [
        Request(
            tuple(range(row, row + 5 + row)), row, 12, 4, Sampler("entropy_bound", 0.5), temperature=0.8, cache=cache
        )
        for row in range(4)
        for cache in (("none", "exact") if kind in BLOCKS else ("none",))
    ]
    together_ = generate(policy, requests)
    alone = [completion for request in requests for completion in generate(policy, [request])]
    for one, other in zip(together_, alone, strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert one.nfe == other.nfe
    if kind in BLOCKS:
        for plain, cached in zip(together_[::2], together_[1::2], strict=True):
            assert torch.equal(plain.tokens, cached.tokens)


@pytest.mark.parametrize("rank", [0, 2])
def test_both_trainers_take_it(folder: Path, rank: int, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n}+1?", "completion": str(n + 1)}) + "\n" for n in range(4)))
    shared = {"load": LoadConfig(dtype="float32", device="cpu"), "lora": LoraConfig(rank=rank)}
    shared["optim"] = OptimConfig(learning_rate=1e-2, micro_batch_tokens=120)
    tuned, learned = tmp_path / "sft", tmp_path / "rl"
    sft = SftConfig(model=str(folder), data=str(rows), output=str(tuned), batch_size=4, steps=3, gen_length=8, **shared)
    fine_tune(sft)
    task = TaskConfig(data=str(rows), reward=(f"{write_reward(tmp_path)}:short",))
    rollout = RolloutConfig(gen_length=8)
    config = TrainConfig(
        model=str(tuned),
        output=str(learned),
        steps=2,
        prompts_per_step=2,
        num_generations=3,
        task=task,
        rollout=rollout,
        **shared | {"lora": LoraConfig(rank=0)},
    )
    train(config)
    before, after = load(folder).denoiser, load(learned).denoiser
    router = "blocks.1.experts.router.weight"
    stack = "blocks.1.experts.up_proj"
    for name in (router, stack):
        same = torch.equal(before.get_parameter(name), after.get_parameter(name))
        assert same == bool(rank), name
    assert all(parameter.isfinite().all() for parameter in after.parameters())
    kept = dict(after.named_buffers())
    assert all(torch.equal(buffer, kept[name]) for name, buffer in before.named_buffers())


def write_reward(folder: Path) -> Path:
    path = folder / "rewards.py"
    path.write_text("def short(completions, **_):\n    return [1.0 / (1 + len(text)) for text in completions]\n")
    return path


def test_four_bits_are_refused_by_runs_and_by_plans(folder: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ValueError, match="experts of this model have no 4-bit products"):
        load(folder, four_bit=True)
    config = TrainConfig(model=str(folder), load=LoadConfig(four_bit=True), lora=LoraConfig(rank=2))
    with pytest.raises(ValueError, match="experts of this model have no 4-bit products"):
        plan(config, find_start(config), Cluster(find_gpu("h100")))


def test_it_is_described(kind: str, folder: Path) -> None:
    facts = inspect(folder)
    assert facts["family"] == kind
    tensors = load_file(folder / "model.safetensors")
    assert facts["parameters"] == sum(part.numel() for name, part in tensors.items() if "expert_bias" not in name)
    assert facts["shape"]["experts"].count == 8
    mixtures = 2 if kind == "llada2_moe" else 3
    assert facts["parameters"] - facts["parameters_per_token"] == mixtures * (8 - 3) * 3 * 32 * 24
    assert "four_bit" not in facts["memory"]


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("lladamoe", {"moe_layer_freq": [1, 0, 1]}, "moe_layer_freq"),
        ("lladamoe", {"clip_qkv": 8.0}, "clip_qkv"),
        ("lladamoe", {"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias"),
        ("sdar_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("llada2_moe", {"score_function": "softmax"}, "score_function"),
        ("llada2_moe", {"n_group": 3}, "3 groups"),
        ("llada2_moe", {"num_experts": None}, "count must be a whole number > 0, got None"),
    ],
)
def test_a_variant_that_it_does_not_have_is_an_error(kind: str, changes: dict, said: str, tmp_path: Path) -> None:
    folder = save_checkpoint(kind, tmp_path / "model", relative(kind), changes)
    with pytest.raises(ValueError, match=said) as error:
        load_denoiser(folder)
    assert "\n" not in str(error.value)
