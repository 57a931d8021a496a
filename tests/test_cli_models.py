"""Commands on published checkpoints, as someone with a downloaded folder would type them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import GOLDEN
from small_tokenizers import TOKENIZERS

from diffpo.cli import _start, main
from diffpo.config import TaskConfig, TrainConfig
from diffpo.models.policy import load_policy
from diffpo.models.published import has_blocks


@pytest.fixture(params=["llada", "dream", "a2d-qwen3"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / f"{request.param}-tiny", tmp_path / "model")
    TOKENIZERS[request.param](tmp_path / "model")
    return "model"


def test_inspect(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", model])
    table = capsys.readouterr().out
    assert "lora targets" in table and "q_proj" in table and "chat template" in table
    main(["inspect", model, "--json"])
    described = json.loads(capsys.readouterr().out)
    assert described["mask_id"] == 168 and described["chat_template"] and described["shape"]["num_layers"] == 3


@pytest.mark.parametrize("model", ["llada"], indirect=True)
def test_decoding_does_not_wait_for_the_compiler(model: str) -> None:
    """torch.compile takes as long to import as the rest of torch; a server on a CPU, or a worker, never needs it."""
    script = f"""
import sys
from diffpo.cli import main
main(["sample", "{model}", "2+3", "--rollout.gen-length", "4"])
print("heavy:", *({{"torch._dynamo", "torch.distributed.tensor"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy:\n"), done.stdout


@pytest.mark.parametrize("sampler", ["entropy_bound:0.1", "confidence:0.5", "top_k:2", "steps:4", "random:4"])
def test_sample_with_every_sampler(model: str, sampler: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", model, "What is 2+3?", "--rollout.gen-length", "8", "--rollout.sampler", sampler])
    said = capsys.readouterr().out
    assert said.startswith("prompt    What is 2+3?") and "NFE" in said and "tokens per NFE" in said


def test_sample_with_an_adapter(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", model, "hi", "--load.adapter", "model/lora", "--rollout.gen-length", "4"])
    assert "NFE" in capsys.readouterr().out


def test_chat(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The third answer is the first again: the conversation was forgotten in between."""
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd you?\n\n/reset\nHello\n"))
    main(["chat", model, "--system", "Be brief.", "--rollout.gen-length", "8"])
    lines = capsys.readouterr().out.splitlines()
    figures = [index for index, line in enumerate(lines) if line.startswith("NFE ")]
    answers = ["\n".join(lines[start:end]) for start, end in zip([0, *(i + 1 for i in figures)], figures, strict=False)]
    assert len(answers) == 3 and answers[0] == answers[2]


def test_a_chat_goes_on_after_a_line_that_is_too_long(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a terminal; a script that pipes lines in is told by the exit status."""
    for terminal in (True, False):
        lines = io.StringIO(f"Hello\n{'x' * 600}\n/reset\nHello\n")
        lines.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr("sys.stdin", lines)
        with contextlib.nullcontext() if terminal else pytest.raises(SystemExit, match="2"):
            main(["chat", model, "--rollout.gen-length", "8"])
        said = capsys.readouterr()
        assert "exceeds the model's" in said.err and said.out.count("\nNFE ") == 1 + terminal


def test_chat_wants_a_template(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["chat", str(GOLDEN / "llada-tiny")])
    assert "has no chat template" in capsys.readouterr().err


def test_sft_then_export(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "2+3?", "completion": "5"}\n')
    size = ["--steps", "2", "--batch-size", "2", "--lora.rank", "2", "--optim.learning-rate", "1e-3"]
    main(["sft", "--model", model, "--data", "rows.jsonl", "--output", "runs/sft", *size])
    main(["export", "runs/sft", "--output", "adapter"])
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    main(["export", "runs/sft", "--merge", "--output", "merged"])
    assert "merged/model.safetensors" in capsys.readouterr().out
    main(["sample", "merged", "2+3?", "--rollout.gen-length", "4"])
    with pytest.raises(SystemExit):
        main(["export", "runs/sft", "--output", "merged"])
    assert capsys.readouterr().err == "diffpo: merged is there already and no empty folder: choose another output\n"


def test_a_prompt_needs_no_rewards(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A policy names the rewards it was trained by, and is asked where they are not."""
    policy = load_policy(model, device="cpu")
    policy.task = TaskConfig("own", data="/gone/rows.jsonl", reward=("/gone/rewards.py:accuracy",))
    policy.save_pretrained(tmp_path / "policy")
    main(["sample", str(tmp_path / "policy"), "2+3?", "--rollout.gen-length", "4"])
    assert "answer" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path / "policy")])
    assert "/gone/rewards.py: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["eval", "MODEL"], "no task: name one by task.name (gsm8k, math500, "),
        (["sample", "MODEL"], "no task: name one by task.name (gsm8k, math500, "),
        (["analyze", "MODEL"], "no task: name one by task.name (gsm8k, math500, "),
        (
            ["train", "--model", "MODEL"],
            "a task of your own takes task.data FILE.jsonl and task.reward FILE.py:FUNCTION",
        ),
        (
            ["bench", "--model", "MODEL"],
            "a task of your own takes task.data FILE.jsonl and task.reward FILE.py:FUNCTION",
        ),
        (["sft", "--model", "MODEL"], "nothing to learn from: name rows by data"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_chat_model_has_no_task_by_default(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(GOLDEN / "llada-tiny") if word == "MODEL" else word for word in arguments])
    line = capsys.readouterr().err
    assert ended.value.code == 2 and line.startswith(f"diffpo: {said}") and line.count("\n") == 1


def test_a_tiny_model_brings_the_task_that_it_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shape = "--shape.hidden-size 16 --shape.num-layers 1 --shape.num-heads 2 --shape.mlp-size 16"
    size = "--steps 1 --num-examples 8 --batch-size 2"
    main(f"sft --task.name tiny_sudoku --task.easy 1 1 --output start {shape} {size}".split())
    main(
        [
            "train",
            "--model",
            "start",
            "--output",
            "run",
            "--steps",
            "1",
            "--prompts-per-step",
            "2",
            "--num-generations",
            "2",
        ]
    )
    task = json.loads((tmp_path / "run/config.json").read_text())["task"]
    assert (task["name"], task["easy"]) == ("tiny_sudoku", [1, 1])


@pytest.mark.parametrize("flags", [[], ["--rollout.block-length", "8"]])
def test_block_causal_models_are_decoded_in_their_own_blocks(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """SDAR's blocks of 4 begin with the row: of a prompt of 3 tokens the first holds one position of the canvas."""
    model = GOLDEN / "sdar-tiny"
    main(["sample", str(model), "5 17 42", "--rollout.gen-length", "10", "--rollout.sampler", "top_k:1", *flags])
    canvases = [line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("call")]
    assert canvases[0].endswith("_" * 9) == (not flags)
    assert load_policy(model).decoding.block_length is None


def test_blocks_are_known_by_config_and_by_hub_id() -> None:
    assert has_blocks("JetLM/SDAR-1.7B-Chat", {}) and has_blocks("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", {})
    assert has_blocks("x", {"model_type": "a2d-qwen3", "block_size": 8})
    assert not has_blocks("GSAI-ML/LLaDA-8B-Instruct", {}) and not has_blocks("x", {"model_type": "a2d-qwen3"})


def test_a_run_of_a_block_causal_model_keeps_its_blocks() -> None:
    for model, length in (("JetLM/SDAR-1.7B-Chat", None), ("GSAI-ML/LLaDA-8B-Instruct", 32)):
        assert _start(TrainConfig, "", ["train", "--model", model]).rollout.block_length == length
