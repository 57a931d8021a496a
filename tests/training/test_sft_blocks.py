"""Fine-tuning of block-causal models: the loss against a slow twin, block by block; what is saved has blocks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.published_llada import golden_checkpoint
from rollout.test_blocks import SlowBlocks, block_of

from diffpo.config import LoadConfig, LoraConfig, ModelConfig, OptimConfig, SftConfig, TaskConfig
from diffpo.functional.latents import Latents
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy, load_policy
from diffpo.rollout.local import sample
from diffpo.training import sft
from diffpo.training.examples import Examples, read_examples
from diffpo.training.sft import fine_tune, losses
from diffpo.types import Request, Sampler

ROWS = [
    {"prompt": "What is 2+3?", "completion": "5"},
    {"prompt": "Why?", "completion": "Because I say so, and so it is."},
]


@pytest.fixture(params=["bd3lm", "sdar"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> SftConfig:
    model = golden_checkpoint(tmp_path / "model", request.param, tokenizer=True)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    optim = OptimConfig(learning_rate=1e-3, micro_batch_tokens=400)
    shared = {"model": str(model), "data": str(rows), "output": str(tmp_path / "run"), "batch_size": 2}
    return SftConfig(**shared, steps=4, gen_length=18, load=LoadConfig(dtype="float32", device="cpu"), optim=optim)


@torch.no_grad()
def slow_loss(policy: Policy, examples: Examples, row: int, noised: torch.Tensor, bound: bool) -> float:
    """Each block given its noised tokens and the clean ones before it, in a sequence that ends with it."""
    prompt = examples.prompts[row][: examples.prompt_lengths[row]].tolist()
    clean, length = examples.canvases[row].tolist(), int(examples.canvas_lengths[row])
    size = policy.denoiser.config.block_length
    asked = Request(tuple(prompt), 0, length, size, Sampler("top_k", 1))
    blocks = [block_of(policy, asked, len(prompt) + place) for place in range(length)]
    total, count = 0.0, int((noised == policy.mask_id).sum())
    for block in sorted(set(blocks)):
        own = [i for i in range(length) if blocks[i] == block]
        masked = [i for i in own if noised[i] == policy.mask_id]
        assert masked
        state = [int(noised[i]) if blocks[i] == block else clean[i] for i in range(length) if blocks[i] <= block]
        hidden = SlowBlocks(policy, asked)(policy, [*prompt, *state])
        for place in masked:
            law = policy.logits(hidden[None, len(prompt) + place])[0].log_softmax(-1)
            total -= float(law[clean[place]]) * (len(own) / len(masked) / length if bound else 1 / count)
    return total


@pytest.mark.parametrize("bound", [False, True])
def test_the_loss_is_the_slow_twins(config: SftConfig, bound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = load_policy(config.model, "float32", "cpu")
    config = replace(config, prompt_mask_prob=0.0)
    examples, key = read_examples(config.data, policy, config), torch.tensor(7)
    rows, seen = torch.arange(2), list[Latents]()
    monkeypatch.setattr(sft, "score", lambda _, latents, heat: (seen.append(latents), score(policy, latents, heat))[1])
    found = losses(policy, examples, rows, rows, key, config, bound).detach()
    (latents,) = seen
    for row in range(2):
        start, length = int(latents.prompt_lengths[row]), int(examples.canvas_lengths[row])
        noised = latents.sequences[row, start : start + length]
        assert float(found[row]) == pytest.approx(slow_loss(policy, examples, row, noised, bound), rel=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_fine_tuning_lowers_the_loss_and_what_it_saves_has_blocks(config: SftConfig, rank: int) -> None:
    policy = fine_tune(replace(config, lora=LoraConfig(rank=rank)), quiet=True)
    lines = [json.loads(line) for line in (Path(config.output) / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    again = load_policy(config.output, "saved", "cpu")
    assert again.denoiser.config.block_length == policy.denoiser.config.block_length
    mine, theirs = (sample(p, ["What is 2+3?"], gen_length=9)[0].tokens for p in (policy, again))
    assert torch.equal(mine, theirs)


def test_a_copy_of_bd3lm_weights_is_told_its_blocks_and_remembers_them(tmp_path: Path) -> None:
    """Their config.json does not say it; adapters on such a base, and exports, do."""
    model = golden_checkpoint(tmp_path / "copy", "bd3lm")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "block_size"}))
    assert load_policy(model, "float32", "cpu").denoiser.config.block_length is None
    policy = load_policy(model, "float32", "cpu", block_length=8)
    policy.add_adapters(LoraConfig(rank=2))
    policy.save_pretrained(tmp_path / "adapter")
    assert load_policy(tmp_path / "adapter", "float32", "cpu").denoiser.config.block_length == 8
    policy.merge_adapters()
    policy.save_pretrained(tmp_path / "whole")
    assert load_policy(tmp_path / "whole", "float32", "cpu").denoiser.config.block_length == 8
    with pytest.raises(ValueError, match="a llada model attends to the whole row"):
        load_policy(golden_checkpoint(tmp_path / "llada"), "float32", "cpu", block_length=8)


def test_a_tiny_model_may_have_blocks(tmp_path: Path) -> None:
    task = TaskConfig("tiny_arithmetic")
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=32, block_length=2)
    config = SftConfig(output=str(tmp_path), task=task, shape=shape, steps=2, batch_size=4, num_examples=8)
    policy = fine_tune(replace(config, load=LoadConfig(device="cpu")), quiet=True)
    assert load_policy(tmp_path).denoiser.config.block_length == policy.denoiser.config.block_length == 2
    with pytest.raises(ValueError, match="a diffpo model attends in blocks of 2, not in blocks of 4"):
        load_policy(tmp_path, block_length=4)


def test_growing_blocks_do_not_shrink_in_a_longer_run(tmp_path: Path) -> None:
    task = TaskConfig("tiny_arithmetic")
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=32)
    shared = {"output": str(tmp_path), "task": task, "shape": shape, "batch_size": 4, "num_examples": 8}
    config = SftConfig(**shared, steps=3, blocks=(1, 2, 4), load=LoadConfig(device="cpu"), optim=OptimConfig())
    fine_tune(config, quiet=True)
    with pytest.raises(ValueError, match="differs from this config in steps: a resumed run keeps its settings"):
        fine_tune(replace(config, steps=6), resume=True, quiet=True)  # step 4 of 6 is one of blocks of 2
