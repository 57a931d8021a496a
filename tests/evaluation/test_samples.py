"""Several answers a prompt: what keys them, what is counted, and what is shown of them."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from statistics import fmean

import pytest
from evaluation.measured import measure
from rich.console import Console
from rich.table import Table

from diffpo.cli import main
from diffpo.config import EvalConfig, ModelConfig, RolloutConfig, TaskConfig
from diffpo.evaluation.answers import Answer, answer, asked, point_of
from diffpo.evaluation.evaluate import Evaluation, evaluate
from diffpo.evaluation.log import AnswerLog
from diffpo.evaluation.tables import samples_table
from diffpo.models.policy import create_policy
from diffpo.rollout.local import sample
from diffpo.tasks import load_task
from diffpo.tasks.tiny_sudoku import TinySudoku
from diffpo.types import Prompt, Verdict


class Coin(TinySudoku):
    """Right by a coin that the answer itself throws: random weights score too."""

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        correct = completion.count("1") % 2 == 1
        return Verdict(correct, float(correct), answer=str(len(completion) % 3))  # few, so that votes meet


TASK = Coin(TaskConfig())
POLICY = create_policy(TASK.alphabet, ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16))
CONFIG = EvalConfig(samplers=("top_k:4", "random:8"), gammas=(1.0,), num_prompts=6, num_samples=4, temperature=1.0)


def texts(num_samples: int, num_slots: int = 512, seed: int = 0) -> dict[tuple[str, int], str]:
    rollout = RolloutConfig(sampler="top_k:4", temperature=1.0, num_slots=num_slots)
    made = answer(POLICY, TASK, asked(TASK.prompts("test", 5), num_samples), rollout, seed, early_exit=True)
    return {(a.id, a.sample): a.text for a in made}


def test_more_answers_contain_the_fewer_whatever_the_batch() -> None:
    four = texts(4)
    assert len(set(four.values())) > 10  # they are drawn apart
    assert texts(4, num_slots=3) == four and texts(4, num_slots=1) == four
    for fewer in (1, 2):
        assert texts(fewer) == {key: text for key, text in four.items() if key[1] < fewer}
    assert texts(4, seed=1) != four


def test_the_first_answer_is_that_of_sample() -> None:
    rollout = RolloutConfig(sampler="top_k:4", temperature=1.0)
    shown = sample(POLICY, TASK.prompts("test", 5), rollout, TASK.gen_length)
    assert [completion.text for completion in shown] == list(texts(1).values())


def test_points_are_counted_by_hand(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path, {})
    evaluation = evaluate(POLICY, TASK, CONFIG, log=log, quiet=True)
    for point in (p for p in (*evaluation.points, *evaluation.frontier) if not p.level):
        groups: dict[str, list[Answer]] = {}
        for (sampler, prompt, _), found in log.answers.items():
            if sampler == point.sampler:
                groups.setdefault(prompt, []).append(found)
        rights = [[a.correct for a in group] for group in groups.values()]
        assert (point.num_prompts, point.num_samples) == (6, 4) and [len(found) for found in rights] == [4] * 6
        assert point.accuracy == pytest.approx(fmean(map(fmean, rights))) == point.pass_at_k[1]
        for k in (1, 2, 4):
            subsets = [any(chosen) for found in rights for chosen in combinations(found, k)]
            assert point.pass_at_k[k] == pytest.approx(fmean(subsets))
        votes = []
        for group in groups.values():
            (_, most), *_ = counted = Counter(a.answer for a in group).most_common()
            tied = [text for text, number in counted if number == most]
            votes.append(fmean(fmean(a.correct for a in group if a.answer == text) for text in tied))
        assert point.majority == pytest.approx(fmean(votes))
        assert point.low <= point.accuracy <= point.high and point.standard_error is not None
        assert point.nfe == pytest.approx(fmean(a.nfe for group in groups.values() for a in group))


def test_answers_that_the_graders_clean_alike_vote_together() -> None:
    def vote(text: str, correct: bool) -> Answer:
        return Answer("s", "p", 0, "", "", "", text, correct, None, {}, 4, 4, 4, None)

    apart = [vote("12", True), vote("$12$", True), vote(r"\\text{12}", True), vote("7", False), vote("8", False)]
    assert point_of("s", "", apart).majority == 1.0
    lone = [vote("x" * 500, True), vote(" " + "x" * 500, True), vote("7", False)]  # too long for the graders
    assert point_of("s", "", lone).majority == 1.0


def test_one_answer_has_no_votes_and_its_errors_are_those_of_a_share() -> None:
    one = measure(POLICY, TASK, "top_k:4", replace(CONFIG, num_samples=1, num_prompts=12), RolloutConfig())[0]
    assert one.num_samples == 1 and one.majority is None and not one.pass_at_k
    assert one.standard_error == pytest.approx((one.accuracy * (1 - one.accuracy) / 11) ** 0.5)


def test_more_answers_are_added_to_those_on_disk(tmp_path: Path) -> None:
    two = evaluate(POLICY, TASK, replace(CONFIG, num_samples=2), log=AnswerLog(tmp_path, {}), quiet=True)
    four = evaluate(POLICY, TASK, CONFIG, log=AnswerLog(tmp_path, {}), quiet=True)
    assert two.cost and four.cost and two.cost.num_answers == four.cost.num_answers == 6 * 2 * 3
    assert four == evaluate(POLICY, TASK, CONFIG, quiet=True)
    again = evaluate(POLICY, TASK, replace(CONFIG, num_samples=2), log=AnswerLog(tmp_path, {}), quiet=True)
    assert again == two and again.cost and again.cost.num_answers == 0
    rows = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    assert Counter(row["sample"] for row in rows) == dict.fromkeys(range(4), 6 * 3)


def test_files_hold_what_was_counted(tmp_path: Path) -> None:
    evaluation = evaluate(POLICY, TASK, CONFIG, quiet=True)
    evaluation.save(tmp_path)
    assert Evaluation.load(tmp_path) == evaluation
    assert Evaluation.load(tmp_path).points[0].pass_at_k.keys() == {1, 2, 4}
    assert "maj@4" in evaluation._repr_html_() and evaluation.to_pandas()["maj@4"][0] == evaluation.points[0].majority
    with (tmp_path / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["pass@2"]) == evaluation.points[0].pass_at_k[2]
    assert float(rows[0]["maj@4"]) == evaluation.points[0].majority


def printed(table: Table) -> str:
    screen = io.StringIO()
    Console(file=screen, width=80).print(table)
    assert "…" not in screen.getvalue()
    return screen.getvalue()


def test_the_table_fits_a_terminal_whatever_the_number() -> None:
    for num_samples in (4, 64, 256):
        config = replace(CONFIG, num_samples=num_samples, num_prompts=2)
        points = measure(POLICY, TASK, "top_k:8", config, RolloutConfig())
        text = printed(samples_table({"": Evaluation(TASK.name, tuple(points))}, levels=True))
        assert f"@{num_samples // 2} " in text and f"maj@{num_samples}" in text
        words = next(line.split() for line in text.splitlines() if line.strip().startswith("top_k:8"))
        assert words[1] == f"{100 * points[0].accuracy:.1f}" and words[-1] == f"{100 * (points[0].majority or 0):.1f}"


def test_evaluations_of_several_answers_stand_side_by_side() -> None:
    found = {
        str(num): Evaluation(TASK.name, tuple(measure(POLICY, TASK, "top_k:8", config, RolloutConfig())))
        for num in (1, 2, 4)
        for config in [replace(CONFIG, num_samples=num)]
    }
    lines = [line.split() for line in printed(samples_table(found)).splitlines()]
    assert [words[:2] for words in lines if words[1:2] == ["top_k:8"]] == [["2", "top_k:8"], ["4", "top_k:8"]]
    assert ["sampler", "pass@1", "±", "@2", "@4", "maj@N"] in lines


def test_the_graders_say_which_answer_they_read() -> None:
    task = load_task("countdown_cd3")
    (prompt,) = task.prompts("test", 1)
    verdict = task.verify(prompt, "so</reasoning><answer>3 + 4</answer>")
    assert verdict.answer == "3 + 4"
    assert task.verify(prompt, "none").answer == ""


def test_the_command_line_asks_for_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    POLICY.save_pretrained(tmp_path / "m")
    flags = ["--eval.samplers", "top_k:8", "--eval.gammas", "--eval.num-prompts", "2", "--task.name", "tiny_sudoku"]
    for name, num_samples in (("a", "3"), ("b", "2")):
        several = ["--eval.num-samples", num_samples, "--eval.temperature", "1", "--output", str(tmp_path / name)]
        main(["eval", str(tmp_path / "m"), *flags, *several])
    out = capsys.readouterr().out
    assert "3 answers a prompt" in out and "maj@2" in out
    main(["compare", f"a={tmp_path}/a", f"b={tmp_path}/b"])
    out = capsys.readouterr().out
    assert "2 to 3 answers a prompt" in out and "against a, prompt by prompt" in out
    with pytest.raises(SystemExit):
        main(["eval", str(tmp_path / "m"), *flags, "--eval.num-samples", "3"])
    said = " ".join(capsys.readouterr().err.split())
    assert "eval.num_samples = 3 at eval.temperature = 0 is one answer 3 times: set a temperature" in said
