"""Hints where no completion of a prompt is right: which parts of a solution are given, and whose places they take."""

from __future__ import annotations

import json
import math
import string
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest
from helpers import FirstDigitTask, tiny_denoiser, tiny_policy, tiny_shape
from rollout.test_engine import assert_same

from diffpo.config import CollectConfig, TaskConfig, TrainConfig
from diffpo.lab.bench.workloads import IdsTask
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import CharTokenizer
from diffpo.rollout.hints import hinted_canvas, with_hinted
from diffpo.rollout.local import check_prompts, collect
from diffpo.tasks import load_task
from diffpo.training.collect import _rollouts_of
from diffpo.training.loop import task_of
from diffpo.training.metrics import summarize
from diffpo.types import Prompt, RolloutGroup, Verdict

CONFIG = CollectConfig(sampler="top_k:2", gen_length=6)
MASK = -1


@dataclass
class Hard(FirstDigitTask):
    """Right is an answer with a 3 in the first place and a 4 in the third: hardly any is."""

    wanted: str = "3?4"

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        right = len(completion) > 2 and all(w in ("?", c) for w, c in zip(self.wanted, completion, strict=False))
        return Verdict(right, float(right))

    def solution(self, prompt: Prompt) -> str:
        return "304152"


@pytest.mark.parametrize("size, length", [(100, 128), (128, 128), (200, 128), (30, 32), (6, 6), (2, 8)])
def test_chunks_of_the_solution_stand_where_they_belong(size: int, length: int) -> None:
    solution, shares, runs = list(range(size)), [], []
    for seed in range(400):
        canvas = hinted_canvas(solution, length, MASK, 0.6, Random(seed))
        given = [place for place, token in enumerate(canvas) if token != MASK]
        assert len(canvas) == length and all(canvas[place] == place for place in given)
        assert len(given) < min(size, length)
        shares.append(len(given) / min(size, length))
        runs += "".join("x" if token != MASK else " " for token in canvas).split()
    if size >= 100:
        assert abs(sum(shares) / 400 - 0.36) < 0.03  # (0.2 + 0.6) / 2, rounded down to whole chunks
        assert min(map(len, runs)) >= 1 and sum(len(run) in range(5, 11) for run in runs) > 0.4 * len(runs)
    assert max(shares) <= 0.75


def test_a_solution_of_one_token_gives_nothing_away() -> None:
    assert hinted_canvas([3], 4, MASK, 0.6, Random(0)) == (MASK,) * 4


def test_right_ones_take_the_places_of_up_to_half() -> None:
    policy, task, prompts = tiny_policy(1), Hard(), Hard().prompts("train", 24)
    plain = collect(policy, task, prompts, 6, CONFIG, seed=0, speed_weight=0.5)
    hinted = collect(policy, task, prompts, 6, CONFIG, seed=0, speed_weight=0.5, hints=0.6)
    taken = 0
    for group, before in zip(hinted, plain, strict=True):
        if any(rollout.verdict.correct for rollout in before.rollouts):
            assert not group.unused_calls
        new = [rollout for rollout in group.rollouts if rollout.hinted]
        taken += len(new)
        assert len(new) <= 3 and all(rollout.verdict.correct and rollout.reward == 1 for rollout in new)
        for ours, theirs in zip(group.rollouts[len(new) :], before.rollouts[len(new) :], strict=True):
            assert_same(ours.completion, theirs.completion, exact=True)
        for rollout in new:
            given = rollout.completion.committed_at == 0
            assert given.any() and rollout.completion.tokens[given].tolist() == [
                token for token, there in zip([3, 0, 4, 1, 5, 2], given.tolist(), strict=True) if there
            ]
    assert taken > 5
    made = sum(r.completion.nfe for g in hinted for r in g.rollouts) + sum(g.unused_calls for g in hinted)
    assert made > sum(r.completion.nfe for g in plain for r in g.rollouts)
    config = TrainConfig(train="model", rollout=CONFIG, task=TaskConfig("tiny_sudoku"), num_generations=6)
    rollouts = _rollouts_of(hinted, 0, config)
    assert rollouts.forwards == made and not (rollouts.batch.loss_mask & ~rollouts.batch.written).any()
    metrics, alone = summarize(hinted), summarize(plain)
    assert metrics["accuracy"] == alone["accuracy"] and metrics["frac_hinted"] == taken / 144
    assert math.isclose(metrics["reward"], alone["reward"] + taken / 144, abs_tol=1e-6)


def test_hints_hang_on_no_batch_mate() -> None:
    policy, task, prompts = tiny_policy(1), Hard(), Hard().prompts("train", 8)
    together = collect(policy, task, prompts, 4, CONFIG, seed=3, hints=0.6)
    for prompt, group in zip(prompts, together, strict=True):
        (alone,) = collect(policy, task, [prompt], 4, replace(CONFIG, num_slots=1), seed=3, hints=0.6)
        for ours, theirs in zip(group.rollouts, alone.rollouts, strict=True):
            assert_same(ours.completion, theirs.completion, exact=True)


def test_calls_that_were_made_in_vain_are_counted() -> None:
    policy, task = tiny_policy(1), Hard()
    (plain,) = collect(policy, task, task.prompts("train", 1), 2, CONFIG, seed=0)
    wrong = [replace(rollout, verdict=Verdict(False, 0.0)) for rollout in plain.rollouts]
    right = [replace(rollout, verdict=Verdict(True, 1.0)) for rollout in plain.rollouts]
    group = RolloutGroup(plain.prompt, plain.prompt_ids, wrong)
    mixed = with_hinted(group, replace(group, rollouts=right))
    assert [rollout.verdict.correct for rollout in mixed.rollouts] == [True, False]
    assert mixed.unused_calls == wrong[0].completion.nfe + right[1].completion.nfe


def test_a_task_without_solutions_is_named() -> None:
    hints = replace(CONFIG, hints=0.6)
    config = TrainConfig(model="x", train="model", task=TaskConfig("math500"), rollout=replace(hints, gen_length=64))
    with pytest.raises(ValueError, match=r"rollout.hints: math500 knows no solutions: choose one of .*hints out"):
        task_of(config, None)
    with pytest.raises(ValueError, match=r"rollout.hints: ids knows no solutions"):
        task_of(replace(config, task=TaskConfig()), IdsTask([]))
    with pytest.raises(ValueError, match=r"rollout.hints must lie in \[0, 1\)"):
        replace(hints, hints=1.0)
    with pytest.raises(ValueError, match=r"rollout.hints does nothing beside rollout.canvas"):
        replace(hints, canvas="{6}", gen_length=None)


@pytest.mark.parametrize("reward", [(), ("task", "format=0.1")])
def test_a_row_without_a_solution_is_named_before_the_first_step(reward: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"question": "1 + 1?", "answer": answer} for answer in ("One more.\n#### 2", "2")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task(TaskConfig("gsm8k", data=str(tmp_path / "rows.jsonl"), reward=reward))
    tokenizer = CharTokenizer(string.printable)
    policy = Policy(tiny_denoiser(tiny_shape(tokenizer.vocab_size, max_length=1024), 0), tokenizer)
    assert not check_prompts(policy, task, ["train"], CONFIG)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: column 'answer' holds the number alone, no solution"):
        check_prompts(policy, task, ["train"], replace(CONFIG, hints=0.6))
