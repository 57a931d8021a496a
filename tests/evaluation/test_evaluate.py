"""Intervals, the frontier, files, and the measuring of a tiny policy with random weights."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from evaluation.measured import measure

from diffpo.config import EvalConfig, ModelConfig, RolloutConfig, TaskConfig, ThresholdConfig
from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation, evaluate
from diffpo.models.policy import Policy, create_policy
from diffpo.models.threshold import ThresholdHead
from diffpo.rollout.local import collect
from diffpo.tasks.tiny_sudoku import TinySudoku
from diffpo.types import Prompt, Verdict


class Coin(TinySudoku):
    """Sudoku prompts whose answers are right by a coin that the answer itself throws: random weights score too."""

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        correct = completion.count("1") % 2 == 1
        return Verdict(correct, float(correct))


def tiny_policy(head: bool = False) -> Policy:
    policy = create_policy(TinySudoku.alphabet, ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32))
    if head:
        policy.sampler_head = ThresholdHead(32, ThresholdConfig())
    return policy


def point(nfe: float, accuracy: float, level: str = "", sampler: str = "entropy_bound:1") -> Point:
    return Point(sampler, level, 100, accuracy, max(0, accuracy - 0.1), min(1, accuracy + 0.1), nfe, nfe, 16 / nfe, 1.0)


def frontier(*points: tuple[float, float]) -> Evaluation:
    return Evaluation("tiny_sudoku", (), tuple(point(*pair) for pair in points))


TASK = Coin(TaskConfig())
CONFIG = EvalConfig(samplers=("top_k:1", "top_k:4", "learned"), gammas=(3.0, 0.5), num_prompts=12, temperature=1.0)


def test_frontier_is_linear_between_points_and_flat_beyond() -> None:
    evaluation = frontier((8, 0.9), (2, 0.4), (4, 0.8))  # any order
    expected = {1: 0.4, 2: 0.4, 3: 0.6, 4: 0.8, 6: 0.85, 8: 0.9, 20: 0.9}
    assert {nfe: evaluation.frontier_accuracy(nfe) for nfe in expected} == pytest.approx(expected)


def test_frontier_of_one_point_is_flat() -> None:
    evaluation = frontier((4, 0.7))
    assert [evaluation.frontier_accuracy(nfe) for nfe in (1, 4, 9)] == [0.7, 0.7, 0.7]


@pytest.mark.parametrize("nfe", [2, 4, 8])
def test_frontier_takes_the_best_of_equal_nfe(nfe: int) -> None:
    points = [(float(calls), accuracy) for calls in (2, 4, 8) for accuracy in (0.5, 0.6, 0.55)]
    assert frontier(*points).frontier_accuracy(nfe) == 0.6


def test_frontier_reads_one_level() -> None:
    evaluation = Evaluation("tiny_sudoku", (), (point(4, 0.5), point(4, 0.9, "easy")))
    assert (evaluation.frontier_accuracy(4), evaluation.frontier_accuracy(4, "easy")) == (0.5, 0.9)
    with pytest.raises(ValueError, match="'hard'"):
        evaluation.frontier_accuracy(4, "hard")


def test_pareto_leaves_out_what_another_point_beats() -> None:
    points = (point(8, 0.8, sampler="top_k:2"), point(4, 0.8, sampler="learned"), point(1, 0.99, "easy"))
    evaluation = Evaluation("tiny_sudoku", points, (point(2, 0.5), point(2, 0.6), point(16, 0.9), point(3, 0.6)))
    assert [(p.nfe, p.accuracy) for p in evaluation.pareto] == [(2, 0.6), (4, 0.8), (16, 0.9)]


def test_point_names_what_was_not_measured() -> None:
    evaluation = Evaluation("tiny_sudoku", (point(8, 0.8, sampler="top_k:2"),), (point(4, 0.7),))
    assert evaluation.point("entropy_bound:1").nfe == 4
    with pytest.raises(ValueError, match=r"'learned' was not measured.*allowed: "):
        evaluation.point("learned")


def test_saved_evaluation_is_loaded_unchanged(tmp_path) -> None:
    points = (replace(point(16, 1 / 3, sampler="top_k:1"), gamma=None), point(3, 2 / 3, "easy", "learned"))
    evaluation = Evaluation("tiny_sudoku", points, (point(2, 0.1), point(7, 0.7)))
    evaluation.save(tmp_path / "new" / "folder")
    assert Evaluation.load(tmp_path / "new" / "folder") == evaluation
    with (tmp_path / "new" / "folder" / "evaluation.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == list(points[0].row())
    assert [row[:2] for row in rows] == [["top_k:1", ""], ["learned", "easy"], *[["entropy_bound:1", ""]] * 2]


def test_evaluation_does_not_depend_on_num_slots() -> None:
    policy, config = tiny_policy(head=True), replace(CONFIG, num_prompts=8, gammas=(1.0,))
    alone = evaluate(policy, TASK, config, RolloutConfig(num_slots=1))
    assert evaluate(policy, TASK, config, RolloutConfig(num_slots=3)) == alone
    assert evaluate(policy, TASK, config, RolloutConfig(num_slots=512)) == alone


def test_what_is_named_twice_is_measured_once() -> None:
    twice = evaluate(tiny_policy(), TASK, replace(CONFIG, samplers=("top_k:8",) * 2, gammas=(0.5, 0.5)), quiet=True)
    assert [point.sampler for point in twice.points if not point.level] == ["top_k:8"]
    assert [point.sampler for point in twice.frontier if not point.level] == ["entropy_bound:0.5"]


def test_a_threshold_that_is_a_sampler_too_is_one_row(tmp_path) -> None:
    config = replace(CONFIG, samplers=("entropy_bound:0.5",), gammas=(0.5, 3.0))
    both = evaluate(tiny_policy(), TASK, config, quiet=True)
    both.save(tmp_path)
    rows = list(csv.DictReader((tmp_path / "evaluation.csv").read_text().splitlines()))
    keys = [(row["sampler"], row["level"]) for row in rows]
    assert len(keys) == len(set(keys)) == len(both.to_pandas()) == 6


@pytest.mark.parametrize("num_ids", [1, 5])
def test_prompts_of_one_id_are_refused(num_ids: int) -> None:
    class Alike(Coin):
        def prompts(self, split, num, start=0):
            return [replace(found, id=f"{at % num_ids}") for at, found in enumerate(super().prompts(split, num, start))]

    task = Alike(TaskConfig())
    with pytest.raises(ValueError, match="several prompts have the id '0': give each"):
        evaluate(tiny_policy(), task, replace(CONFIG, samplers=("top_k:4",)), quiet=True)
    with pytest.raises(ValueError, match="several prompts have the id '0': give each"):
        collect(tiny_policy(), task, task.prompts("train", 8), 2, RolloutConfig(), seed=0)


def test_evaluation_depends_on_the_seed() -> None:
    policy = tiny_policy()
    first, again, other = (measure(policy, TASK, "top_k:4", CONFIG, RolloutConfig(), seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("sampler", ["top_k:2", "entropy_bound:1.5", "learned"])
def test_levels_add_up(sampler: str) -> None:
    total, *levels = measure(tiny_policy(head=True), TASK, sampler, CONFIG, RolloutConfig(block_length=4))
    assert [p.level for p in levels] == ["easy", "hard"]
    assert 0 < total.accuracy < 1
    assert sum(p.num_prompts for p in levels) == total.num_prompts == CONFIG.num_prompts
    for name in ("accuracy", "nfe", "nfe_until_eos"):
        whole = sum(getattr(p, name) * p.num_prompts for p in levels) / total.num_prompts
        assert whole == pytest.approx(getattr(total, name))


def test_learned_is_left_out_without_a_head() -> None:
    def samplers(evaluation: Evaluation) -> list[str]:
        return [p.sampler for p in evaluation.points if not p.level]

    usual = replace(CONFIG, samplers=EvalConfig.samplers)
    assert samplers(evaluate(tiny_policy(), TASK, usual)) == ["top_k:1", "top_k:2", "top_k:4"]
    with pytest.raises(ValueError, match=r"eval\.samplers: learned does nothing without a sampler head"):
        evaluate(tiny_policy(), TASK, CONFIG)
    evaluation = evaluate(tiny_policy(head=True), TASK, CONFIG)
    assert samplers(evaluation) == ["top_k:1", "top_k:4", "learned"]
    assert evaluation.point("learned").gamma == pytest.approx(ThresholdConfig().gamma_init)
    assert [p.sampler for p in evaluation.frontier if not p.level] == ["entropy_bound:0.5", "entropy_bound:3"]


def test_calls_until_eos_are_no_more_than_those_of_the_full_canvas() -> None:
    rollout, config = RolloutConfig(block_length=4), replace(CONFIG, samplers=("top_k:1", "top_k:4"))
    full = evaluate(tiny_policy(), TASK, config, rollout)
    exits = evaluate(tiny_policy(), TASK, replace(config, full_canvas=False), rollout)
    for whole, early in zip((*full.points, *full.frontier), (*exits.points, *exits.frontier), strict=True):
        assert whole.nfe > whole.nfe_until_eos  # with random weights some row has an early EOS
        assert early.nfe == early.nfe_until_eos == whole.nfe_until_eos
        assert early.accuracy == whole.accuracy  # what follows an EOS changes no answer
    assert full.point("top_k:1").nfe == 16
    assert full.point("top_k:4").nfe == 4
