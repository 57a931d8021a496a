"""Runs on rows of the user's own with a chat model: what reaches the model, and what is said before the first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models.published_llada import golden_checkpoint

from diffpo.config import LoadConfig, LoraConfig, OptimConfig, RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.files.places import latest_checkpoint
from diffpo.models.policy import load_policy
from diffpo.rollout.local import check_prompts, make_request
from diffpo.tasks import load_task
from diffpo.training.examples import read_examples
from diffpo.training.loop import train
from diffpo.training.metrics import doubts, read_metrics
from diffpo.types import Prompt, Rollout, RolloutGroup, Verdict

CHAT = [
    {"role": "system", "content": "Be brief.", "name": None},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
    {"role": "user", "content": "And?"},
]
REWARDS = """
def letters(completions):
    return [sum(map(str.isalpha, text[-1]["content"])) / 9 for text in completions]


def nothing(completions):
    return [0.0 for text in completions]


def none(completions):
    return [None for text in completions]


def late(completions, trainer_state):
    return [float("inf") if trainer_state.global_step == 2 else float(i) for i in range(len(completions))]
"""


@pytest.fixture(params=["llada", "dream", "a2d-qwen3"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A golden checkpoint with a tokenizer, in a folder with rewards."""
    folder = golden_checkpoint(tmp_path / request.param, request.param, tokenizer=True, max_position_embeddings=128)
    monkeypatch.chdir(tmp_path)
    Path("rewards.py").write_text(REWARDS)
    write([{"prompt": CHAT, "answer": str(index)} for index in range(4)])
    return str(folder)


def write(rows: list[dict[str, Any]]) -> None:
    Path("my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(model: str, *rewards: str, **task: Any) -> TrainConfig:
    specs = tuple(f"rewards.py:{name}" for name in rewards)
    return TrainConfig(
        model=model,
        output="run",
        train="model",
        steps=4,
        prompts_per_step=2,
        num_generations=2,
        save_every=1,
        load=LoadConfig(dtype="float32"),
        lora=LoraConfig(rank=2),
        task=TaskConfig(name="own", data="my.jsonl", test_data="my.jsonl", reward=specs, **task),
        rollout=RolloutConfig(sampler="top_k:4", gen_length=8),
        optim=OptimConfig(micro_batch_tokens=64),
    )


def test_a_conversation_reaches_the_model_alike_everywhere(model: str) -> None:
    policy, settings = load_policy(model), config(model, "letters")
    asked = policy.tokenizer.chat([{"role": m["role"], "content": m["content"]} for m in CHAT])
    task = load_task(settings.task)
    for split in ("train", "test"):
        (prompt,) = task.prompts(split, 1)
        assert make_request(policy, prompt, settings.rollout, 8, key=0).prompt_ids == asked
    assert make_request(policy, CHAT, settings.rollout, 8, key=0).prompt_ids == asked
    write([{"messages": [*CHAT, {"role": "assistant", "content": "x"}]}])
    examples = read_examples("my.jsonl", policy, SftConfig(model=model, data="my.jsonl"))
    assert examples.prompts[0].tolist() == list(asked)


def test_overlong_rows(model: str) -> None:
    write([{"prompt": "a b"}, {"prompt": "a" * 200}, {"prompt": "c"}])
    policy, settings = load_policy(model), config(model, "letters")
    with pytest.raises(
        ValueError,
        match=r"my\.jsonl, line 2: a prompt of \d+ tokens, where the model's 128 and a completion of 8 leave "
        "room for 120: shorten it, lower rollout.gen_length",
    ):
        train(settings, quiet=True)
    assert not Path("run/metrics.jsonl").exists(), "before the first step"
    task = load_task(replace(settings.task, overlong="drop"))
    (line,) = check_prompts(policy, task, ["test"], settings.rollout)
    assert line == "1 prompt of my.jsonl is left out: longer than 120 tokens"
    assert [prompt.text for prompt in task.prompts("test", 3)] == ["a b", "c"]
    write([{"prompt": "a" * 200}])
    with pytest.raises(ValueError, match="every prompt is longer than the 120 tokens there is room for"):
        check_prompts(policy, load_task(replace(settings.task, overlong="drop")), ["test"], settings.rollout)


@pytest.mark.parametrize(("rewards", "teaches"), [([1.0, 1.0], "nothing"), ([1.1, 1.0], "speed alone")])
def test_right_answers_teach_speed(rewards: list[float], teaches: str) -> None:
    rollouts = [Rollout(None, "a", Verdict(True, 1.0), reward) for reward in rewards]  # type: ignore[arg-type]
    (said,) = doubts([RolloutGroup(Prompt("q", "?"), (), rollouts)])
    assert said.startswith(f"the first step's reward is 1 for all 2 completions, which teaches {teaches}; q, ")


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        (("nothing",), "the first step's reward is 0 for all 4 completions, which teaches nothing; my.jsonl, line"),
        (("none",), "the first step's reward is None for all 4 completions, which teaches nothing; my.jsonl, line"),
        (("letters", "nothing"), "the first step's rewards/nothing is 0 for all 4 completions"),
    ],
)
def test_rewards_that_teach_nothing_are_named_at_the_first_step(
    model: str, capsys: pytest.CaptureFixture[str], rewards: tuple[str, ...], said: str
) -> None:
    train(replace(config(model, *rewards), steps=1))
    lines = "".join(capsys.readouterr())
    assert said in lines.replace("\n", " ")
    assert "too easy" not in lines


@pytest.mark.parametrize(
    ("eval_every", "saved"), [(0, "step_000002"), (2, "step_000001_iteration_04")], ids=["rollouts", "evaluation"]
)
def test_a_reward_that_breaks_loses_nothing(model: str, eval_every: int, saved: str) -> None:
    settings = replace(config(model, "late"), save_every=10, eval_every=eval_every)
    with pytest.raises(ValueError, match=r"reward 'late' on my\.jsonl, line \d returned inf for completion 0"):
        train(settings, quiet=True)
    assert latest_checkpoint(Path("run/checkpoints"))[0] == Path("run/checkpoints") / saved
    Path("rewards.py").write_text(REWARDS.replace("inf", "1"))
    train(settings, resume=True, quiet=True)
    metrics = read_metrics(Path("run/metrics.jsonl"))
    assert [row["step"] for row in metrics] == [0, 1, 2, 3]
    assert [row["step"] for row in metrics if "eval/accuracy" in row] == ([1, 3] if eval_every else [])
