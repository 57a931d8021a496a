"""docs/tasks.md from an empty folder: every command under "Your own" runs, on a model small enough for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import GOLDEN
from small_tokenizers import write_llada_tokenizer

from diffpo.training.metrics import read_metrics

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
SMALL = (
    "--model ./model --load.dtype float32 --rollout.gen-length 16 --rollout.block-length 8 --prompts-per-step 2 "
    "--num-generations 2 --objective.num-iterations 1 --lora.rank 2 --save-every 1"
)


def commands() -> str:
    """The blocks of the section with the 8B model and its length left out: the same commands on a tiny model."""
    section = PAGE.read_text().partition("## Your own")[2].partition("\n## ")[0]
    script = "".join(re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    script = script.replace("diffpo train llada8b_own ", f"diffpo train llada8b_own {SMALL} --steps 2 ")
    script = script.replace("--steps 600", "--steps 4")
    script = re.sub(r"(diffpo eval \S+)", r"\1 --eval.num-prompts 1 --eval.samplers top_k:4 --eval.gammas", script)
    return script.replace("diffpo ", f"{sys.executable} -m diffpo ")


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path) -> None:
    write_llada_tokenizer(Path(shutil.copytree(GOLDEN / "llada-tiny", tmp_path / "model")))
    done = subprocess.run(
        ["bash", "-e", "-c", commands()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = read_metrics(tmp_path / "runs/llada8b_own/metrics.jsonl")
    assert len(steps) == 4 and {"rewards/accuracy/mean", "rewards/shortest/mean"} <= steps[-1].keys()
    assert "data    my: 2 prompts; rewards rewards.py:accuracy, rewards.py:shortest=0.2" in done.stderr  # plan's
    assert "fits: " in done.stdout and "one H100" in done.stdout
    assert "rewards.py" in done.stdout + done.stderr, "the resumed run says that the rewards changed"
    assert (tmp_path / "runs/llada8b_own/eval/evaluation.json").exists() or "evaluation.json" in done.stdout
