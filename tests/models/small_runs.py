"""What tiny copies of published models share: weights drawn wide, and a run of both trainers from their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffpo.config import LoadConfig, OptimConfig, RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.models.policy import load_policy
from diffpo.training.loop import train
from diffpo.training.sft import fine_tune


def drawn_wide(model: nn.Module) -> Any:
    """The model with weights drawn so that every part counts."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1))
    return model.eval()


def fine_tuned_and_trained(folder: Path, tmp_path: Path) -> Path:
    """A policy after three steps of fine-tuning and two of reinforcement learning, which move all its weights."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{n}+1?", "completion": str(n + 1)}) + "\n" for n in range(4)))
    (tmp_path / "rewards.py").write_text(
        "def short(completions, **_):\n    return [1 / (1 + len(c)) for c in completions]\n"
    )
    shared: dict[str, Any] = {"load": LoadConfig(dtype="float32", device="cpu")}
    shared["optim"] = OptimConfig(learning_rate=1e-2, micro_batch_tokens=120)
    tuned, learned = str(tmp_path / "sft"), str(tmp_path / "rl")
    fine_tune(SftConfig(model=str(folder), data=str(rows), output=tuned, batch_size=4, steps=3, gen_length=8, **shared))
    task = TaskConfig(data=str(rows), reward=(f"{tmp_path / 'rewards.py'}:short",))
    sizes: dict[str, Any] = {"steps": 2, "prompts_per_step": 2, "num_generations": 3}
    sizes["rollout"] = RolloutConfig(gen_length=8)
    train(TrainConfig(model=tuned, output=learned, task=task, **sizes, **shared))
    before, after = (load_policy(place, "float32", "cpu").denoiser for place in (folder, learned))
    assert after.config == before.config
    for name, parameter in after.named_parameters():
        assert parameter.isfinite().all() and not torch.equal(parameter, before.get_parameter(name)), name
    return Path(learned)
