"""Tables hold the figures."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.measured import evaluation, point
from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffpo.cli import main
from diffpo.evaluation.answers import Answer
from diffpo.evaluation.evaluate import Effort, Evaluation
from diffpo.evaluation.paired import Difference
from diffpo.evaluation.tables import comparison_table, difference_table, evaluation_table, side_by_side_table


def render(table: Table) -> list[list[str]]:
    """The words of each line, as a terminal of 80 columns without colour shows them."""
    screen = io.StringIO()
    Console(file=screen, width=80).print(table)
    assert "…" not in screen.getvalue()
    return [line.split() for line in screen.getvalue().splitlines() if line.strip()]


def row(table: Table, name: str, nth: int = 0) -> str:
    return " ".join([words for words in render(table) if words[0] == name][nth])


def test_evaluation_table_holds_the_figures() -> None:
    table = evaluation_table(evaluation())
    assert row(table, "top_k:2") == "top_k:2 55.0 [50.0, 60.0] 8.00 2.00"
    assert row(table, "easy", 2) == "easy 51.2 [46.2, 56.2] 5.00 3.20 0.2"
    assert row(table, "entropy_bound:0.5") == "entropy_bound:0.5 50.0 [45.0, 55.0] 4.00 4.00 0.5"
    assert sum(words[0] == "easy" for words in render(table)) == 3  # of the samplers, not of the frontier


def test_evaluation_table_shows_calls_until_eos_where_they_differ() -> None:
    same, differs = (Evaluation("s", (point("top_k:1", "", 0.5, 16, eos=eos),)) for eos in (16, 12.5))
    assert "EOS" not in str(render(evaluation_table(same)))
    assert row(evaluation_table(differs), "top_k:1") == "top_k:1 50.0 [45.0, 55.0] 16.0 12.5 0.0 1.00"


def test_the_widest_evaluation_fits_a_terminal() -> None:
    wide = replace(point("entropy_bound:0.05", "", 1.0, 16, gamma=0.05, eos=12.5), num_tokens=123.4, low=1.0)
    expected = "entropy_bound:0.05 100.0 [100.0, 100.0] 16.0 12.5 123.4 1.00 0.05"
    assert row(evaluation_table(Evaluation("s", (), (wide,))), "entropy_bound:0.05") == expected


def test_comparison_table_shows_what_changed() -> None:
    table = comparison_table(evaluation(), evaluation(gain=0.1))
    assert row(table, "top_k:4") == "top_k:4 45.0 [40, 50] 55.0 [50, 60] +10.0 4.00 → 4.00 0 %"
    assert row(table, "learned") == "learned 51.2 [46, 56] 61.2 [56, 66] +10.0 5.00 → 4.00 -20 %"
    assert row(table, "hard") == "hard 51.2 [46, 56] 61.2 [56, 66] +10.0 5.00 → 4.00 -20 %"
    # the frontier before passes through 50 % at 4 calls
    assert row(table, "vs") == "vs fixed 50.0 61.2 [56, 66] +11.2 4.00 → 4.00 0 %"
    assert "+11.2 points" in " ".join(word for words in render(table) for word in words)


def test_comparison_table_is_of_one_task_and_the_same_prompts() -> None:
    """It was a table of differences without a word."""
    with pytest.raises(ValueError, match=r"different tasks \(gsm8k, tiny_sudoku\)"):
        comparison_table(evaluation(), replace(evaluation(), task="gsm8k"))
    answer = Answer("top_k:2", "q-0", 0, "", "1 + 1", "2", "2", True, 1.0, {}, 8, 8, 1, None)
    asked, other = (replace(evaluation(), answers=(replace(answer, prompt=text),)) for text in ("1 + 1", "2 + 2"))
    with pytest.raises(ValueError, match=r"before and after answer different prompts \(q-0 is another\)"):
        comparison_table(asked, other)
    comparison_table(asked, evaluation())
    fewer = replace(evaluation(), points=(replace(point("top_k:2", "", 0.5, 8), num_prompts=64),), frontier=())
    assert ["200", "prompts", "before,", "64", "after"] in render(comparison_table(evaluation(), fewer))


def test_comparison_table_is_coloured_by_better_and_worse() -> None:
    def styles(table: Table) -> set[str]:
        cells = [cell for column in table.columns for cell in column.cells if isinstance(cell, Text)]
        return {str(cell.style) for cell in cells} - {""}

    assert styles(comparison_table(evaluation(), evaluation(gain=0.1))) == {"green"}
    assert "red" in styles(comparison_table(evaluation(gain=0.1), evaluation()))


def test_comparison_table_when_nothing_was_learned_before() -> None:
    table = comparison_table(evaluation(learned=False), evaluation())
    assert row(table, "learned") == "learned - 51.2 [46, 56] - → 5.00"
    assert row(table, "vs").startswith("vs fixed 52.5 51.2 [46, 56] -1.3")


def test_comparison_table_without_a_frontier_or_a_learned_sampler() -> None:
    plain = Evaluation("tiny_sudoku", evaluation(learned=False).points)
    assert not any(words[0] == "vs" for words in render(comparison_table(plain, evaluation())))
    assert not any(words[0] in ("learned", "easy") for words in render(comparison_table(evaluation(), plain)))


def test_a_level_that_the_frontier_lacks_is_not_held_to_it() -> None:
    before = evaluation(learned=False)
    short = replace(before, frontier=tuple(fixed for fixed in before.frontier if fixed.level != "hard"))
    lines = render(comparison_table(short, evaluation()))
    below = lines[[words[0] for words in lines].index("vs") :]
    assert [words[0] for words in below if words[0] in ("easy", "hard")] == ["easy"]


def test_beyond_the_frontier_its_end_is_shown() -> None:
    slow = Evaluation("tiny_sudoku", (point("learned", "", 0.7, 12),))
    assert row(comparison_table(evaluation(), slow), "vs") == "vs fixed 60.0 70.0 [65, 75] +10.0 8.00 → 12.0 +50 %"


def test_side_by_side_table_names_each_evaluation_once() -> None:
    cost = Effort({"top_k:2": 3.21, "top_k:4": 1.0, "learned": 2.0}, 600, 12_340_000_000, "cpu")
    table = side_by_side_table({"base": evaluation(learned=False), "ours": replace(evaluation(gain=0.1), cost=cost)})
    lines = [" ".join(words) for words in render(table)]
    assert "base top_k:2 55.0 [50, 60] 8.00 8.00 0.0 2.00" in lines
    assert "ours top_k:2 65.0 [60, 70] 8.00 8.00 0.0 2.00 3.2 12.34" in lines
    assert not any("easy" in line for line in lines) and any("gamma 0.1" in line for line in lines)
    assert sum(line.startswith("ours") for line in lines) == 1


def test_a_long_name_has_several_lines_and_no_figure_is_cut() -> None:
    cost = Effort({"top_k:2": 123.4}, 600, 12_340_000_000, "cpu")
    name = "a_run_with_a_name_that_goes_on_and_on/eval/step_000030"
    lines = render(side_by_side_table({name: replace(evaluation(), cost=cost)}))  # has no …
    assert ["55.0", "[50,", "60]", "8.00", "8.00", "0.0", "2.00", "123.4", "12.34"] in [words[-9:] for words in lines]
    change = Difference((1.0, -1.0, 0.5))
    assert any(words[-3:] == ["1", "3", "1"] for words in render(difference_table("a", {name: {"top_k:2": change}})))


def test_names_in_brackets_are_no_markup() -> None:
    found = evaluation()
    points = tuple(replace(point, level=point.level and f"[/{point.level}]") for point in found.points)
    measured = replace(found, task="[bold]", points=points)
    words = {word for line in render(evaluation_table(measured)) for word in line}
    assert {"[/easy]", "[bold]"} <= words
    assert any(line[0] == "run[v2]" for line in render(side_by_side_table({"run[v2]": measured})) if line)


def test_a_rule_of_a_long_path_has_several_lines_and_no_figure_is_cut() -> None:
    rule = "/home/ada/projects/sudoku/rules.py:Careful:0.9"
    measured = Evaluation("s", (replace(point(rule, "", 1.0, 128, eos=112.5), low=1.0),))
    tables = [evaluation_table(measured), side_by_side_table({"ours": measured}), comparison_table(measured, measured)]
    for table in tables:
        assert ["128.0" in words for words in render(table)].count(True) == 1  # has no …
    change = Difference((-1.0,) * 14 + (0.0,) * 498)
    lines = render(difference_table("base", {"ours": {"entropy_bound:0.1": change}, "theirs": {rule: change}}))
    assert [words[-1] for words in lines if words[0] in ("ours", "theirs")] == ["0.000122"] * 2


def test_compare_reads_saved_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, gain in (("base/L128", 0.0), ("base/L64", 0.0), ("ours", 0.1)):
        evaluation(gain=gain).save(tmp_path / folder)
    main(["compare", f"base={tmp_path}/base", f"ours={tmp_path}/ours", "--output", f"{tmp_path}/new/both.png"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[:2] for words in shown if words[:1] in (["base"], ["ours"]) and "not" not in words] == [
        ["base", "L64"],  # by length, not by name
        ["base", "L128"],
        ["ours", "top_k:2"],
    ]
    assert (tmp_path / "new/both.png").is_file()
    assert ["ours:", "not", "paired", "with", "base", "L64:"] in [words[:6] for words in shown]


def test_compare_takes_paths_with_equals_signs_and_folders_that_are_no_lengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("lr=1", "LLaDA/L8", "LLaDA/LLaDA"):
        evaluation().save(tmp_path / folder)
    main(["compare", f"{tmp_path}/lr=1", f"a={tmp_path}/lr=1", f"b=c={tmp_path}/LLaDA"])
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [words[0] for words in shown if "top_k:2" in words] == ["lr=1", "a", "b=c"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"task.reward": ["there/r.py:right"], "task.reward (file)": {"there/r.py": "1"}}, ""),
        ({"task.reward (file)": {"r.py": "2"}}, "task.reward"),
        ({"task.reward": ["r.py:wrong"]}, "task.reward"),
        ({"task.reward": [], "task.rules": "d1"}, "task.rules, task.reward"),
        ({"task.name (file)": {"mine.py": "1"}}, "task.name"),
    ],
)
def test_compare_says_that_verdicts_are_others(
    changed: dict[str, object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"task.rules": "strict", "task.reward": ["r.py:right"], "task.reward (file)": {"r.py": "1"}}
    for name, own in (("a", settings), ("b", settings | changed)):
        evaluation().save(tmp_path / name)
        (tmp_path / name / "settings.json").write_text(json.dumps(own))
    main(["compare", f"{tmp_path}/a", f"{tmp_path}/b"])
    line = f"b: its verdicts are not those of a: other settings or code ({said})"
    assert (line in capsys.readouterr().out) == bool(said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ""),
        ({"model": "other", "weights": "2"}, ""),
        ({"temperature": 0.8}, "eval.temperature 0.8 for 0.0"),
        (
            {"rollout.block_length": 4, "full_canvas": False},
            "eval.full_canvas False for True, rollout.block_length 4 for None",
        ),
    ],
)
def test_compare_says_that_answers_were_decoded_otherwise(
    changed: dict[str, object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"temperature": 0.0, "full_canvas": True, "model": "m", "rollout.block_length": None, "weights": "1"}
    for name, own in (("a", settings), ("b", settings | changed), ("old", {})):
        evaluation().save(tmp_path / name)
        (tmp_path / name / "settings.json").write_text(json.dumps(own))
    main(["compare", f"{tmp_path}/a", f"{tmp_path}/b", f"{tmp_path}/old"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "decoded otherwise" in line]
    assert lines == ([f"b: decoded otherwise than a: {said}"] if said else [])


def test_compare_names_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation().save(tmp_path / "a")
    replace(evaluation(), task="gsm8k").save(tmp_path / "b")
    for folder, prompt in (("one", "1 + 1"), ("other", "2 + 2")):
        evaluation().save(tmp_path / folder)
        row = {"sampler": "top_k:2", "id": "q-0", "correct": True, "prompt": prompt}
        (tmp_path / folder / "completions.jsonl").write_text(json.dumps(row) + "\n")
    evaluation().save(tmp_path / "done/eval")
    for folder in ("old", "run"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    (tmp_path / "old/evaluation.json").write_text('{"task": "tiny_sudoku", "points": [], "frontier": []}')
    errors = {
        (f"{tmp_path}/one", f"{tmp_path}/other"): "one and other answer different prompts (q-0 is another)",
        (f"{tmp_path}/old",): "old: evaluated by another version ('cost'): make it again",
        (f"{tmp_path}/a/evaluation.json",): f"a file, where the folder of an evaluation is wanted: name {tmp_path}/a",
        (f"{tmp_path}/none",): "none: no such folder; diffpo eval MODEL --output",
        (f"{tmp_path}/my runs",): f"diffpo eval MODEL --output '{tmp_path}/my runs' makes one",
        (f"{tmp_path}",): "no evaluation.json in it; diffpo eval MODEL --output",
        (f"{tmp_path}/run",): f"no evaluation.json in it; diffpo eval {tmp_path}/run makes {tmp_path}/run/eval",
        (f"{tmp_path}/done",): f"no evaluation.json in it; {tmp_path}/done/eval has one",
        (f"x={tmp_path}/a", f"x={tmp_path}/a"): "x: named twice; give each evaluation a name of its own",
        (f"{tmp_path}/a", f"{tmp_path}/b"): "evaluations of different tasks (gsm8k, tiny_sudoku)",
    }
    for folders, error in errors.items():
        with pytest.raises(SystemExit):
            main(["compare", *folders])
        (line,) = capsys.readouterr().err.splitlines()
        assert error in line
