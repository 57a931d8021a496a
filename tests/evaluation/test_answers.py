"""Answers on disk: resumed, shared among processes, and refused where they do not belong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from diffpo.config import EvalConfig, ModelConfig, RolloutConfig, TaskConfig
from diffpo.evaluation import evaluate as module
from diffpo.evaluation.evaluate import evaluate
from diffpo.evaluation.log import AnswerLog
from diffpo.models.policy import create_policy
from diffpo.processes.world import World
from diffpo.tasks import load_task
from diffpo.tasks.tiny_sudoku import TinySudoku
from diffpo.types import Prompt, Verdict

TASK = load_task(TaskConfig(name="tiny_sudoku"))
POLICY = create_policy(TASK.alphabet, ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16))
CONFIG = EvalConfig(samplers=("top_k:4",), gammas=(1.0,), num_prompts=10)


@dataclass(frozen=True)
class Half(World):
    """One of two processes that take turns; `sent` holds what it sends."""

    num_ranks: int = 2
    sent: list[list[object]] = field(default_factory=list)

    def gather(self, items: Sequence) -> list:
        self.sent.append(list(items))
        return list(items)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]


def test_every_completion_stands_with_its_verdict(tmp_path: Path) -> None:
    evaluation = evaluate(POLICY, TASK, CONFIG, log=AnswerLog(tmp_path, {"model": "a"}), quiet=True)
    found = rows(tmp_path)
    assert [row["sampler"] for row in found] == ["top_k:4"] * 10 + ["entropy_bound:1"] * 10
    assert evaluation.points[0].accuracy == sum(row["correct"] for row in found[:10]) / 10
    assert found[0]["prompt"] == TASK.prompts("test", 1)[0].text and found[0]["nfe"] == 4
    assert evaluation.cost and evaluation.cost.num_answers == 20 and evaluation.cost.peak_memory > 1e6


def test_answers_without_a_reward_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    class Silent(TinySudoku):
        def verify(self, prompt: Prompt, completion: str) -> Verdict:
            return replace(super().verify(prompt, completion), reward=None if prompt.id[-1] in "135" else 0.0)

    evaluate(POLICY, Silent(TaskConfig(name="tiny_sudoku")), CONFIG)
    assert "top_k:4: 3 of 10 answers have no reward (None), and count as wrong" in capsys.readouterr().err
    evaluate(POLICY, TASK, CONFIG)
    assert "no reward" not in capsys.readouterr().err


def test_an_evaluation_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_EVERY", 3)
    rollout = RolloutConfig(num_slots=3)
    straight = evaluate(POLICY, TASK, CONFIG, rollout, log=AnswerLog(tmp_path / "a", {}), quiet=True)
    whole = (tmp_path / "a" / "completions.jsonl").read_text()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "completions.jsonl").write_text(whole[: len(whole) // 2])  # within a line
    log = AnswerLog(tmp_path / "b", {})
    known = len(log.answers)
    resumed = evaluate(POLICY, TASK, CONFIG, rollout, log=log, quiet=True)
    assert 0 < known < 20 and resumed == straight and resumed.cost and resumed.cost.num_answers == 20 - known
    assert (tmp_path / "b" / "completions.jsonl").read_text() == whole
    more = replace(CONFIG, num_prompts=12)  # more prompts, or samplers, only add rows
    assert evaluate(POLICY, TASK, more, rollout, log=AnswerLog(tmp_path / "b", {}), quiet=True).cost.num_answers == 4


def test_other_settings_are_another_evaluation(tmp_path: Path) -> None:
    evaluate(POLICY, TASK, CONFIG, log=AnswerLog(tmp_path, {"model": "a", "seed": 0}), quiet=True)
    with pytest.raises(ValueError, match=r"other settings \(seed\): choose another output"):
        AnswerLog(tmp_path, {"model": "a", "seed": 1})
    (tmp_path / "completions.jsonl").write_text("{}\n")
    with pytest.raises(
        ValueError, match=r"completions\.jsonl:1: not a row .*: choose another output, or remove that file"
    ):
        AnswerLog(tmp_path, {"model": "a", "seed": 0})


def test_two_ranks_answer_what_one_does(tmp_path: Path) -> None:
    alone = AnswerLog(tmp_path, {})
    evaluate(POLICY, TASK, CONFIG, log=alone, quiet=True)
    answers = []
    for rank in (0, 1):
        world = Half(rank)
        with pytest.raises(KeyError):  # the other's half never comes
            evaluate(POLICY, TASK, CONFIG, world=world, quiet=True)
        [(_, own, _)] = world.sent[0]
        answers += own
    assert answers == [alone.answers["top_k:4", answer.id, 0] for answer in answers] and len(answers) == 10
