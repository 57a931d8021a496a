"""What users get back prints itself in a line, and in a notebook as a table or a picture; frames hold what is shown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers import FirstDigitTask, tiny_policy
from rich.table import Table

from diffpo import EvalConfig, Evaluation, TaskConfig, TrainConfig, collect, evaluate, load_task, read_run, read_study
from diffpo.config import RolloutConfig, SftConfig
from diffpo.files.recipe import to_json
from diffpo.lab.analysis.sections import Section, Series
from diffpo.lab.report.figures import FIGURES
from diffpo.lab.study.plan import load_study
from diffpo.view.drawing import new_figure
from diffpo.view.notebook import as_html

PNG = b"\x89PNG"


def check_shown(thing: Any, *words: str, picture: bool = False) -> None:
    """Its line and its HTML have the words; neither is a dump."""
    line, html = repr(thing), thing._repr_html_()
    assert "\n" not in line and len(line) < 400 and "tensor(" not in line
    assert all(word in line for word in words), line
    assert ("data:image/png;base64," in html) == picture
    assert all(word.split(": ")[-1] in html for word in words), html


def test_html_is_what_the_terminal_prints_and_a_picture_below() -> None:
    table = Table("<a>")
    table.add_row("[b]", style="red")
    html = as_html(table, picture=new_figure((1, 1)))
    assert "&lt;a&gt;" in html and "color: #800000" in html
    assert html.index("</pre>") < html.index('<img style="max-width: 100%" width="80"')


def test_a_figure_is_a_picture_without_pyplot() -> None:
    assert new_figure((1, 1))._repr_png_().startswith(PNG)


def test_a_policy() -> None:
    policy = tiny_policy(learned=True)
    policy.task, policy.rollout = TaskConfig("tiny_sudoku"), RolloutConfig(gen_length=16)
    words = (
        "from: fresh weights",
        "sampler head: a threshold a prompt",
        "task: tiny_sudoku",
        "decoding: learned, canvas 16",
    )
    check_shown(policy, *words)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (TaskConfig("tiny_sudoku", hard=(9, 9), hard_share=0.25), "TinySudoku(easy 2 to 5, hard 9 to 9, 25% hard)"),
        (TaskConfig(name="tiny_arithmetic"), "TinyArithmetic(easy 2 to 3, hard 5 to 6, 50% hard)"),
        (TaskConfig(name="gsm8k", rules="d1"), "Gsm8k(name='gsm8k', rules='d1')"),
    ],
)
def test_a_task(config: TaskConfig, line: str) -> None:
    assert repr(load_task(config)) == line


def test_a_group_of_rollouts() -> None:
    task = FirstDigitTask()
    (group,) = collect(tiny_policy(), task, task.prompts("train", 1), 3, RolloutConfig(sampler="top_k:2"), 0)
    right = sum(rollout.verdict.correct for rollout in group.rollouts)
    assert repr(group).startswith(f"RolloutGroup({group.prompt.id}: {right} of 3 right, rewards ")
    assert "Completion(" in repr(group.rollouts[0]) and "tensor(" not in repr(group.rollouts[0])


def write_run(folder: Path, config: TrainConfig | SftConfig, *steps: dict[str, float | None]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    rows = ({"step": number} | step for number, step in enumerate(steps))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run(tmp_path: Path) -> None:
    sudoku = TrainConfig(task=TaskConfig("tiny_sudoku"))
    run = read_run(write_run(tmp_path / "rl", sudoku, {"reward": 0.25}, {"reward": 0.5}, {"reward": None}))
    check_shown(run, "steps: 3", "task: tiny_sudoku", picture=True)
    frame = run.to_pandas()
    assert frame.index.tolist() == [0, 1, 2] and frame.index.name == "step"
    assert frame["reward"].tolist()[:2] == [0.25, 0.5] and math.isnan(frame["reward"][2])


def test_a_run_of_fine_tuning_shows_its_loss(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "sft", SftConfig(), {"loss": 2.0}, {"loss": 1.0}))
    check_shown(run, "steps: 2", "2.000 → 1.000", picture=True)
    assert [axes.get_title(loc="left") for axes in run.plot().axes] == ["loss"]


def test_a_run_without_a_step(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "new", TrainConfig()))
    check_shown(run, "steps: 0")
    assert run.to_pandas().empty


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no run \(metrics\.jsonl\) in it"):
        read_run(tmp_path)


def test_a_study_is_found_by_name() -> None:
    study = read_study("paper_table")
    check_shown(study, "5 seeds", "d1", picture=True)
    frame = study.to_pandas()
    for row in frame.sample(8, random_state=0).itertuples():
        assert row.mean == study.summary["arms"][row.arm]["metrics"][row.metric]["mean"]
    assert frame.groupby("arm").size().index.tolist() == sorted(study.summary["arms"])
    versus = frame[frame.arm != study.summary["baseline"]]
    assert versus["difference_mean"].notna().any() and frame.metric.nunique() > 10
    assert repr(load_study("paper_table")).startswith("Study(paper_table: ")


@pytest.mark.parametrize("figure", FIGURES)
def test_every_picture_of_a_study_is_drawn(figure: Any) -> None:
    assert read_study("joint").plot(figure)._repr_png_().startswith(PNG)


def test_an_unknown_study_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"paper_tabel: no summary of a study; did you mean 'paper_table'"):
        read_study("paper_tabel")


def test_an_evaluation(tmp_path: Path) -> None:
    task = FirstDigitTask()
    config = EvalConfig(samplers=("top_k:1", "top_k:4"), gammas=(0.1,), num_prompts=3)
    found = evaluate(tiny_policy(), task, config, RolloutConfig(), quiet=True)
    check_shown(found, found.task, "top_k:1", "top_k:4", picture=True)
    assert str(found.point("top_k:4")) in repr(found) and repr(found).endswith("1 fixed threshold)")

    points = (*found.points, *found.frontier)
    frame = found.to_pandas()
    assert frame["accuracy"].tolist() == [point.accuracy for point in points]
    answers = found.to_pandas(answers=True)
    assert len(answers) == 9 and set(answers.columns) >= {"prompt", "text", "correct", "nfe", "gamma"}
    for point in points:
        rows = answers[answers.sampler == point.sampler]
        assert rows.correct.mean() == point.accuracy and rows.nfe.mean() == point.nfe

    found.save(tmp_path)
    loaded = Evaluation.load(tmp_path)
    assert loaded == found and loaded.to_pandas().equals(frame)
    with pytest.raises(ValueError, match=r"completions\.jsonl"):
        loaded.to_pandas(answers=True)


def test_a_section_of_an_analysis() -> None:
    series = [Series("MF", [1, 2], [0.1, 0.5], [0.4, 0.1])]
    check_shown(Section("kl", "KL by call", "", "call", "nats", series, {"mean": 0.3}), "KL by call", picture=True)
