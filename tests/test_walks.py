"""Four walks from empty folders, command by command, as a user makes them: nothing wrong, nothing lost, all said."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import GOLDEN
from small_tokenizers import write_llada_tokenizer

from diffpo.cli import main
from diffpo.training.metrics import read_metrics

pytestmark = pytest.mark.slow

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
DRIVER = """
import json, subprocess, sys, warnings
from diffpo.cli import main
warnings.simplefilter("always")  # a command is a process of its own: it has warned of nothing yet
for words in json.loads(sys.argv[1]):
    print("\\n$", *words, flush=True)
    try:
        print(f"[{main(words[1:]) or 0 if words[0] == 'diffpo' else subprocess.run(words).returncode}]", flush=True)
    except SystemExit as stop:
        print(f"[{stop.code or 0}]", flush=True)
"""
"""Runs commands in turn and shows what each writes, stdout and stderr alike; in one process, which is quicker."""

ROWS = [
    {
        "prompt": [{"role": "system", "content": "One word."}, {"role": "user", "content": f"Capital of {country}?"}],
        "answer": city,
    }
    for country, city in {"France": "Paris", "Norway": "Oslo", "Japan": "Tokyo", "Chad": "N'Djamena"}.items()
]
REWARDS = """
import pathlib, time


def letters(completions, answer, trainer_state):
    if trainer_state.global_step == 2 and pathlib.Path("wait").exists():
        time.sleep(600)
    replies = [reply[0]["content"] for reply in completions]
    return [sum(sign in reply for sign in truth) / len(truth) for reply, truth in zip(replies, answer)]
"""
SMALL = (
    "--load.dtype float32 --prompts-per-step 2 --num-generations 2 --lora.rank 2 --objective.num-iterations 1 "
    "--rollout.gen-length 8 --rollout.block-length 4 --eval.num-prompts 2 --eval.samplers learned --eval.gammas"
)
OWN = "--model ./model --task.data my.jsonl --task.reward rewards.py:letters"


def walk(folder: Path, *commands: str) -> list[str]:
    """What each command says, its exit status in brackets at the end."""
    process = [sys.executable, "-u", "-c", DRIVER, json.dumps(list(map(shlex.split, commands)))]
    done = subprocess.run(
        process, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return [part.split("\n", 1)[1].strip() for part in done.stdout.split("\n$ ")[1:]]


def succeeded(*said: str) -> None:
    assert [text.splitlines()[-1] for text in said] == ["[0]"] * len(said)


def refused(said: str) -> str:
    """The one line of a command that was refused."""
    (line, status) = said.splitlines()
    assert line.startswith("diffpo: ") and status == "[2]"
    return line.removeprefix("diffpo: ")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a downloaded model in it, rows and rewards."""
    write_llada_tokenizer(Path(shutil.copytree(GOLDEN / "llada-tiny", tmp_path / "model")))
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tmp_path


def steps_of(run: Path) -> list[float]:
    return [row["step"] for row in read_metrics(run / "metrics.jsonl")]


def test_own_data_on_llada(folder: Path) -> None:
    main(["recipes", "llada8b_own", "--copy", str(folder / "my.toml")])
    recipe = (folder / "my.toml").read_text()
    for before, after in {
        'model = "GSAI-ML/LLaDA-8B-Instruct"': 'model = "./model"',
        'output = "runs/llada8b_own"': 'output = "runs/mine"',
        "steps = 500": "steps = 2",
        "prompts_per_step = 16": "prompts_per_step = 2",
        "num_generations = 6": "num_generations = 2",
        'name = "own"': 'data = "my.jsonl"\nreward = ["rewards.py:letters"]',
        "rank = 128": "rank = 2",
        "gen_length = 256": "gen_length = 8",
        "block_length = 32": "block_length = 4",
        "num_iterations = 8": "num_iterations = 1",
    }.items():
        assert before in recipe
        recipe = recipe.replace(before, after)
    (folder / "my.toml").write_text(recipe)
    dry, plan, train, evaluated, sampled, exported, answered = walk(
        folder,
        "diffpo train my.toml --dry-run",
        "diffpo plan my.toml",
        "diffpo train my.toml",
        "diffpo eval runs/mine --eval.gammas 0.1",
        "diffpo sample runs/mine 'Capital of Peru?'",
        "diffpo export runs/mine --merge --output out",
        "diffpo sample out 'Capital of Peru?'",
    )
    succeeded(dry, plan, train, evaluated, sampled, exported, answered)
    assert "data    my: 3 prompts; rewards rewards.py:letters" in dry and '"output": "runs/mine"' in dry
    assert "fits: " in plan and "data    my: 3 prompts" in plan
    for word in (
        "model   ./model",
        "adapters and the sampler head",
        "output  runs/mine",
        "train 2/2",
        "next: diffpo eval",
    ):
        assert word in train, word
    assert "learned" in evaluated and "entropy_bound:0.1" in evaluated and "saved runs/mine/eval" in evaluated
    assert sampled.count("call ") >= 2 and "out/model.safetensors" in exported
    assert next(line for line in answered.splitlines() if line.startswith("call")).count("_") >= 4  # as it was trained
    assert steps_of(folder / "runs/mine") == [0, 1]


def test_a_killed_run(folder: Path) -> None:
    """Killed in its third step; then measured, sampled, resumed, lengthened and measured again."""
    (folder / "wait").touch()
    command = f"train {OWN} {SMALL} --output run --steps 4 --save-every 1".split()
    process = subprocess.Popen(
        [sys.executable, "-m", "diffpo", *command], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    while not (folder / "run/checkpoints/step_000002/manifest.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.kill()
    process.wait()
    (folder / "wait").unlink()
    evaluated, sampled, resumed, longer, again = walk(
        folder,
        "diffpo eval run",
        "diffpo sample run Hi",
        "diffpo train run --resume",
        "diffpo train run --resume --steps 5",
        "diffpo eval run",
    )
    succeeded(evaluated, sampled, resumed, longer, again)
    for said in (evaluated, sampled):
        assert "run is not at its end: taking its checkpoint step_000002" in said
    assert "saved run/eval/step_000002/evaluation.json" in evaluated
    assert "resuming from run/checkpoints/step_000002" in resumed and "resuming from run/checkpoints/step_" in longer
    assert "saved run/eval/evaluation.json" in again and "reused" not in again
    assert steps_of(folder / "run") == [0, 1, 2, 3, 4]


def test_other_weights_in_the_same_folder(tmp_path: Path) -> None:
    """What was measured of the weights before is never shown for those that are there now."""
    shape = "--shape.hidden-size 32 --shape.num-layers 1 --shape.num-heads 2 --shape.mlp-size 32"
    sft = f"diffpo sft sudoku_tiny_pretrain {shape} --num-examples 64 --batch-size 16 --output st --steps"
    measure = "diffpo eval st --eval.samplers top_k:4 --eval.gammas --eval.num-prompts 16 --output found"
    first, measured, known, taken, _, second, fresh, listed = walk(
        tmp_path,
        *(f"{sft} 1", measure, measure, f"{sft} 9"),
        "rm -r st",
        *(f"{sft} 9", measure, "ls found"),
    )
    succeeded(first, measured, known, second, fresh)
    assert "reused" not in measured and "16 of 16 answers reused from 20" in known
    assert "st already holds a run" in refused(taken)
    assert "found held results of other weights: they are in found/" in fresh
    assert "reused" not in fresh and "16 answers in" in fresh and len(listed.splitlines()) == 7  # five files, a folder


def test_folders_that_moved(folder: Path) -> None:
    """Base and run moved together, then the base alone, then the adapter alone: found, or named where to look."""
    trained, _, _, sampled, evaluated, exported, _, _, _, lost, found, missing, named, merged, whole = walk(
        folder,
        f"diffpo train {OWN} {SMALL} --output runs/mine --steps 1",
        "mkdir far",
        "mv model runs far",
        "diffpo sample far/runs/mine Hi",
        "diffpo eval far/runs/mine",
        "diffpo export far/runs/mine --output adapter",
        "mv far/model base",
        "mv far/runs/mine/policy alone",
        "mv my.jsonl data.jsonl",
        "diffpo sample alone Hi",
        "diffpo sample alone Hi --load.base base",
        "diffpo eval alone --load.base base",
        "diffpo eval alone --load.base base --task.data data.jsonl",
        "diffpo export adapter --merge --output out --base base",
        "diffpo sample out Hi",
    )
    succeeded(trained, sampled, evaluated, exported, found, named, merged, whole)
    assert "name its place with load.base" in refused(lost)
    assert "my.jsonl: no such file; task.data takes" in refused(missing)
    answers = [text.splitlines()[-2] for text in (sampled, found, whole)]
    assert len(set(answers)) == 1, "the same policy, wherever it lies"
