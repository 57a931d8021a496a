"""The demo, shrunk to seconds: every stage runs, and summary.json says what it promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffpo.config import DemoConfig, ModelConfig
from diffpo.lab import demo


@pytest.mark.parametrize("train", ["joint", "model"])
def test_the_demo_from_nothing_to_its_summary(train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = demo.recipes

    def shrunk(config: DemoConfig):  # type: ignore[no-untyped-def]
        pretraining, training = original(config)
        shape = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
        return (
            replace(pretraining, steps=2, num_examples=64, shape=shape),
            replace(training, steps=2, prompts_per_step=2, eval=replace(training.eval, gammas=(0.1, 1.0))),
        )

    monkeypatch.setattr(demo, "recipes", shrunk)
    output = tmp_path / "demo"
    config = DemoConfig(output=str(output), train=train, num_prompts=16, num_threads=1)  # type: ignore[arg-type]
    for _ in range(2):  # an earlier demo in the folder is replaced
        summary = demo.run_demo(config)
    assert json.loads((output / "summary.json").read_text()) == summary
    assert summary["pretrain_seconds"] >= 0 and summary["rl_seconds"] > 0
    for when in ("before", "after"):
        part = summary[when]
        assert part["num_prompts"] == 16 and part["top_k"]["2"]["nfe"] == 8
        assert [point["gamma"] for point in part["frontier"]] == pytest.approx([0.1, 1.0])
        assert {"accuracy", "nfe", "gamma"} <= part["learned"].keys() & part["learned"]["hard"].keys()
    for picture in ("training.png", "frontier.png", "unmasking.png"):
        assert (output / picture).stat().st_size > 10_000
