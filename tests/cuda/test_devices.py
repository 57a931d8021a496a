"""Where models go on a machine with a GPU: tiny ones stay on the CPU unless told otherwise, all parts go together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fakecuda
import pytest
from helpers import tiny_policy
from lab.study.studies import write_study

from diffpo.config import DemoConfig, ModelConfig, ThresholdConfig
from diffpo.lab import demo
from diffpo.lab.study.cell import run_cell
from diffpo.lab.study.plan import load_study


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    original = demo.recipes

    def shrunk(config: DemoConfig):  # type: ignore[no-untyped-def]
        pretraining, training = original(config)
        shape = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
        return (
            replace(pretraining, steps=2, batch_size=8, num_examples=16, shape=shape),
            replace(training, steps=1, prompts_per_step=2, eval=replace(training.eval, gammas=(0.1,))),
        )

    monkeypatch.setattr(demo, "recipes", shrunk)


def test_the_demo_runs_on_a_gpu_when_told_to(cuda: None, small_demo: None, tmp_path: Path) -> None:
    config = DemoConfig(output=str(tmp_path / "demo"), num_prompts=2, num_threads=1, device="cuda")
    before = fakecuda.num_operators()
    summary = demo.run_demo(config)
    assert summary["after"]["num_prompts"] == 2 and fakecuda.num_operators() > before + 1000


def test_the_demo_stays_on_the_cpu(cuda: None, small_demo: None, tmp_path: Path) -> None:
    before = fakecuda.num_operators()
    demo.run_demo(DemoConfig(output=str(tmp_path / "demo"), num_prompts=2, num_threads=1))
    assert fakecuda.num_operators() == before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_study_s_cells_are_on_the_device_that_they_are_given(cuda: None, device: str, tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    base = tmp_path / "base"
    base.mkdir()
    settings = study.base_cells()[0].settings() | {"model": "", "device": device}
    (base / "cell.json").write_text(json.dumps(settings))
    before = fakecuda.num_operators()
    run_cell(base)
    arm = tmp_path / "arm"
    arm.mkdir()
    settings = study.cells(study.arms[0], {})[0].settings() | {"model": str(base / "run"), "device": device}
    (arm / "cell.json").write_text(json.dumps(settings))
    run_cell(arm)
    assert (fakecuda.num_operators() > before) == (device == "cuda")


def test_a_threshold_head_is_where_its_policy_is(cuda: None, tmp_path: Path) -> None:
    policy = tiny_policy().to("cuda")
    policy.add_head(ThresholdConfig())
    assert policy.sampler_head
    assert {tensor.device.type for tensor in policy.sampler_head.state_dict().values()} == {"cuda"}
