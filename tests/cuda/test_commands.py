"""Every command of the command line on a machine with a GPU, at the smallest sizes: none mixes devices."""

from __future__ import annotations

import io
import shutil
from functools import partial
from pathlib import Path

import fakecuda
import pytest
from helpers import GOLDEN
from small_tokenizers import write_llada_tokenizer

from diffpo.bench import steps
from diffpo.bench.measure import matmul_peak
from diffpo.cli import COMMANDS, main
from diffpo.config import ModelConfig, SftConfig
from diffpo.training.sft import fine_tune

SHAPE = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
STEP = ["--steps", "1", "--prompts-per-step", "2", "--num-generations", "2"]
ON_DEVICE = {
    "sft": ["--steps", "1", "--batch-size", "4", "--num-examples", "8", "--output", "sft"],
    "train": ["--model", "MODEL", *STEP, "--output", "rl"],
    "eval": ["MODEL", "--eval.num-prompts", "2", "--eval.gammas", "0.1", "--output", "eval"],
    "sample": ["MODEL", "--delay", "0"],
    "bench": ["--model", "MODEL", *STEP, "--repeats", "1", "--eval.num-prompts", "2"],
    "analyze": ["MODEL", *(f"--analysis.{flag}" for flag in ("num-prompts=2", "num-draws=1", "parts=weights"))],
}
"""Commands that compute on the device, and what keeps them small."""
ELSEWHERE = {"demo", "study", "chat", "export", "inspect", "plan", "compare", "report", "grade", "recipes"}
"""On the CPU, or without a model: the demo and the study are in test_devices.py."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("models") / "tiny")
    fine_tune(SftConfig(output=output, steps=1, batch_size=8, num_examples=16, shape=SHAPE), quiet=True)
    return output


def test_no_command_is_left_out() -> None:
    assert ON_DEVICE.keys() | ELSEWHERE == COMMANDS.keys()


@pytest.mark.parametrize("command", ON_DEVICE)
def test_a_command_runs_on_the_device(
    cuda: None, command: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(steps, "matmul_peak", partial(matmul_peak, size=64))  # a product that fits a card is long here
    before = fakecuda.num_operators()
    main([command, *(flag.replace("MODEL", model) for flag in ON_DEVICE[command])])
    assert fakecuda.num_operators() > before + 100


def test_chat_and_export(cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a published checkpoint, in bf16: chat answers on the device, export writes from the CPU."""
    model = Path(shutil.copytree(GOLDEN / "llada-tiny", tmp_path / "llada"))
    write_llada_tokenizer(model)
    before = fakecuda.num_operators()
    monkeypatch.setattr("sys.stdin", io.StringIO("12+3=\n/exit\n"))
    main(["chat", str(model), "--rollout.gen-length", "4", "--rollout.block-length", "4"])
    assert fakecuda.num_operators() > before + 100
    main(["export", str(model), "--output", str(tmp_path / "exported")])
    assert (tmp_path / "exported/config.json").is_file()
