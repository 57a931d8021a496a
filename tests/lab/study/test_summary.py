"""A study from its cells: paired by seed, compared at equal cost and at equal calls, nothing typed in by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from lab.study.studies import TINY, write_study
from rich.console import Console

from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation
from diffpo.lab.report.sources import read_study
from diffpo.lab.study.plan import Study, load_study
from diffpo.lab.study.statistics import statistic
from diffpo.lab.study.summary import summarize
from diffpo.lab.study.tables import (
    OF_AN_ARM,
    columns_of,
    difference_cell,
    exceeds_spread,
    header,
    markdown,
    mean_cell,
    render_page,
    rich_table,
    tables,
)

JOINT = '[[arms]]\nname = "joint"\ntrain = "joint"\nrollout.sampler = "learned"\n[tune]'
HARD = (0.7, 4.0)
"""Accuracy and calls of the learned sampler on hard prompts."""
ORIGIN = {"commit": "abc", "cpu": "none", "cores": 2, "torch": "2", "python": "3", "version": "0"}


def point(sampler: str, accuracy: float, nfe: float, gamma: float | None = None) -> Point:
    return Point(sampler, "", 4, accuracy, 0.0, 1.0, nfe, nfe, 1.0, gamma)


def hard(overall: Point) -> Point:
    return replace(overall, level="hard")


def write_cell(
    folder: Path,
    steps: Sequence[tuple[int, int]],
    accuracies: Sequence[float],
    learned: tuple[float, float] | None = None,
) -> None:
    """A finished cell: (step, forwards) of its points, accuracy of top_k:8 at each; a frontier at calls 2 and 4."""
    for (step, _), accuracy in zip(steps, accuracies, strict=True):
        place = folder / "points" / f"{step:06d}"
        own = [point("learned", *learned, 0.5), hard(point("learned", *HARD, 0.5))] if learned else []
        frontier = (point("entropy_bound:0.5", accuracy, 4.0), point("entropy_bound:3", accuracy - 0.2, 2.0))
        frontier += tuple(hard(replace(fixed, accuracy=fixed.accuracy - 0.1)) for fixed in frontier)
        Evaluation("tiny_sudoku", (point("top_k:8", accuracy, 2.0), *own), frontier).save(place)
        right = "".join(str(int(index < round(4 * accuracy))) for index in range(4))
        answers = {"correct": {"top_k:8": right}, "nfe": {"top_k:8": [2, 2, 4, 8]}}
        record = {"prompts": ["a", "b", "c", "d"], "gen_length": 16} | answers
        (place / "answers.json").write_text(json.dumps(record))
    points = [
        {"step": s, "forwards": f, "forwards/rollouts": f // 2, "forwards/updates": f - f // 2, "seconds": s}
        for s, f in steps
    ]
    result = {"points": points, "seconds": {"train": 3.0, "measure": 1.0}, "origin": ORIGIN}
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    pairs = 'baseline = "one"\npairs = [["joint", "two"]]'
    return load_study(write_study(tmp_path, TINY.replace("[tune]", JOINT).replace('baseline = "one"', pairs)))


@pytest.fixture
def summary(study: Study, tmp_path: Path) -> dict:  # type: ignore[type-arg]
    folder = tmp_path / "cells"
    base, one, two, joint = {0: 0.25, 1: 0.5}, {0: 0.5, 1: 0.75}, {0: 0.75, 1: 0.75}, {0: 0.75, 1: 1.0}
    for seed in (0, 1):
        write_cell(folder / f"base/seed_{seed}", [(0, 0)], [base[seed]])
        write_cell(folder / f"one/seed_{seed}", [(1, 100), (2, 200)], [0.5, one[seed]])
        write_cell(folder / f"two/seed_{seed}", [(1, 200), (2, 400)], [0.75, two[seed]])
        write_cell(folder / f"joint/seed_{seed}", [(1, 100), (2, 400)], [0.5, joint[seed]], (0.6, 3.0))
        for trial in (0, 1):
            write_cell(folder / f"two/tune_{trial}/seed_{100 + seed}", [(2, 400)], [0.25 * (1 + trial)])
    tuning = {arm.name: study.tune_cells(arm) for arm in study.arms}
    chosen = {"one": {}, "two": {"optim.learning_rate": 3e-4}, "joint": {}}
    cells = {arm.name: study.cells(arm, chosen[arm.name]) for arm in study.arms}
    return {"command": "diffpo study tiny"} | summarize(study, folder, cells, tuning, chosen)


def test_metrics_by_seed_and_their_means(summary: dict) -> None:  # type: ignore[type-arg]
    found = summary["arms"]["one"]["metrics"]
    assert found["accuracy/top_k:8"]["by_seed"] == [0.5, 0.75] and found["accuracy/top_k:8"]["mean"] == 0.625
    assert found["accuracy/own"] == found["accuracy/top_k:8"] and found["updates"]["mean"] == 4
    assert found["frontier/4"]["by_seed"] == [0.5, 0.75] and found["frontier/2"]["by_seed"] == [0.3, 0.55]
    assert "frontier/8" not in found  # beyond what was measured
    assert summary["arms"]["base"]["metrics"]["accuracy/top_k:8"]["by_seed"] == [0.25, 0.5]
    assert (summary["num_prompts"], summary["seeds"], summary["num_cells"]) == (4, [0, 1], 12)
    assert summary["cell_seconds"] == 12 * 4.0 and summary["commits"] == ["abc"]


def test_differences_are_paired_by_seed(summary: dict) -> None:  # type: ignore[type-arg]
    found = summary["arms"]["two"]["versus"]["accuracy/top_k:8"]
    assert found["by_seed"] == [0.25, 0.0] and found["mean"] == 0.125
    expected = statistic([0.25, 0.0])
    assert expected is not None and found["half_width"] == pytest.approx(expected.half_width, abs=1e-6)
    assert found["crossed_low"] <= 0 <= found["mean"] <= found["crossed_high"]
    assert summary["arms"]["base"]["versus"]["accuracy/top_k:8"]["by_seed"] == [-0.25, -0.25]
    assert summary["arms"]["one"]["versus"] == {}  # the baseline


def test_pairs_beside_the_baseline_are_compared_too(summary: dict) -> None:  # type: ignore[type-arg]
    (pair,) = summary["pairs"]
    found = pair["versus"]["accuracy/top_k:8"]
    assert (pair["arm"], pair["less"], found["by_seed"]) == ("joint", "two", [0.0, 0.25])
    (row,) = [row for row in tables(summary)[1] if row[0] == "joint, less 2-MF"]
    assert row[1] == difference_cell("accuracy/top_k:8", found, 2)
    console = Console(width=100, file=io.StringIO())
    console.print(rich_table(summary))
    assert "joint, less 2-MF" in console.file.getvalue()


def test_equal_cost_is_where_the_cheapest_run_ended(summary: dict) -> None:  # type: ignore[type-arg]
    assert summary["equal_forwards"] == 200
    metric = "equal_forwards/accuracy/top_k:8"
    assert summary["arms"]["one"]["metrics"][metric]["by_seed"] == [0.5, 0.75]
    assert summary["arms"]["two"]["metrics"][metric]["by_seed"] == [0.75, 0.75]
    # the joint arm had spent 100 rows at 0.5 and 400 at 0.75 or 1: a third of the way
    assert summary["arms"]["joint"]["metrics"][metric]["by_seed"] == pytest.approx(
        [0.5 + 0.25 / 3, 0.5 + 0.5 / 3], abs=1e-6
    )


def test_a_learned_sampler_against_fixed_thresholds(summary: dict) -> None:  # type: ignore[type-arg]
    found = summary["arms"]["joint"]["metrics"]
    assert found["accuracy/own"]["mean"] == 0.6 and found["nfe/own"]["mean"] == 3.0
    # its own frontier goes from (2, a - 0.2) to (4, a), a = 0.75 and 1: at 3 calls a - 0.1
    assert found["gain_over_fixed"]["by_seed"] == pytest.approx([0.6 - 0.65, 0.6 - 0.9])
    # the baseline's, a = 0.5 and 0.75: 0.6 is reached at seed 1 alone, after 2.5 calls
    assert found["gain_over_baseline"]["by_seed"] == pytest.approx([0.6 - 0.4, 0.6 - 0.65])
    assert "calls_saved_over_baseline" not in found  # one seed is no statistic
    assert "gain_over_fixed" not in summary["arms"]["one"]["metrics"]
    # on hard prompts against the frontiers of hard prompts, 0.1 lower, at 4 calls
    assert found["gain_over_fixed/hard"]["by_seed"] == pytest.approx([0.7 - 0.65, 0.7 - 0.9])
    assert found["gain_over_baseline/hard"]["by_seed"] == pytest.approx([0.7 - 0.4, 0.7 - 0.65])


def test_a_reward_pays_right_answers_for_speed(summary: dict) -> None:  # type: ignore[type-arg]
    # lambda 0.5 (recipe): right at 2, 2 calls, and at 2, 2, 4
    quick, slower = 1 + 0.5 * 14 / 16, 1 + 0.5 * 12 / 16
    expected = [2 * quick / 4, (2 * quick + slower) / 4]
    assert summary["arms"]["one"]["metrics"]["reward/top_k:8"]["by_seed"] == pytest.approx(expected)
    assert summary["arms"]["one"]["metrics"]["reward/own"]["by_seed"] == pytest.approx(expected)


def test_the_curve_and_the_tuning_are_told(summary: dict) -> None:  # type: ignore[type-arg]
    curve = summary["arms"]["two"]["curve"]
    assert [(entry["step"], entry["forwards"]) for entry in curve] == [(1, 200), (2, 400)]
    assert curve[0]["accuracy/top_k:8"]["mean"] == 0.75
    tuning = summary["arms"]["two"]["tuning"]
    assert [trial["mean"] for trial in tuning["trials"]] == [0.25, 0.5] and tuning["seeds"] == [100, 101]
    assert summary["arms"]["two"]["tuned"] == {"optim.learning_rate": 3e-4}
    assert "tuning" not in summary["arms"]["one"]


def test_other_prompts_are_refused(study: Study, summary: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    path = tmp_path / "cells/one/seed_1/points/000002/answers.json"
    path.write_text(path.read_text().replace('"d"', '"e"'))
    cells = {arm.name: study.cells(arm, {}) for arm in study.arms}
    with pytest.raises(ValueError, match="measured on different prompts"):
        summarize(study, tmp_path / "cells", cells, {}, {})


def test_infinity_survives_json(tmp_path: Path) -> None:
    study = load_study(
        write_study(tmp_path, TINY.replace('surrogate = "mean_field:1"', "importance_clamp = inf"), "inf")
    )
    assert study.arms[0].config.objective.importance_clamp == float("inf")


# --- tables ------------------------------------------------------------------------------------------------------


def test_cells_of_tables() -> None:
    value = {"mean": 0.625, "half_width": 0.1234, "n": 5, "std": 0.1, "low": 0.6, "high": 0.65}
    assert mean_cell("accuracy/top_k:2", value, 5) == "62.5 ± 12.3"
    assert mean_cell("nfe/own", value | {"n": 4}, 5) == "0.62 ± 0.12 (n = 4)"
    assert mean_cell("nfe/top_k:2", value | {"std": 0.0, "mean": 8.0}, 5) == "8.00"
    assert mean_cell("accuracy/top_k:2", None, 5) == "" == difference_cell("nfe/own", None, 5)
    assert difference_cell("accuracy/own", value, 5) == "+62.5 ± 12.3 [+60.0, +65.0] *"
    unsure = value | {"mean": -0.05, "low": -0.1, "high": 0.01}
    assert difference_cell("accuracy/own", unsure, 5) == "-5.0 ± 12.3 [-10.0, +1.0]"
    assert exceeds_spread(value) and not exceeds_spread(unsure)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("accuracy/top_k:2", "top_k:2 %"),
        ("accuracy/own", "own sampler %"),
        ("accuracy/learned/hard", "learned/hard %"),
        ("nfe/own", "own sampler NFE"),
        ("frontier/4", "fixed thresholds at 4 calls %"),
        ("equal_forwards/accuracy/top_k:2", "top_k:2 % at equal denoiser rows"),
        ("forwards/updates", "denoiser rows, updates"),
        ("updates", "updates"),
    ],
)
def test_headers(metric: str, words: str) -> None:
    assert header(metric) == words


def test_columns_are_the_usual_or_those_asked_for(summary: dict) -> None:  # type: ignore[type-arg]
    assert columns_of(summary) == [
        *("accuracy/top_k:8", "accuracy/own", "nfe/own"),
        *("frontier/2", "frontier/4", "equal_forwards/accuracy/top_k:8"),
    ]
    assert columns_of(summary | {"columns": ["nfe/own", "nothing"]}) == ["nfe/own"]


def test_tables_show_every_arm(summary: dict) -> None:  # type: ignore[type-arg]
    text = markdown(summary)
    lines = text.splitlines()
    assert lines[0] == "    diffpo study tiny"
    assert any(line.startswith("| 2-MF | 75.0 | ") for line in lines)  # one value at both seeds has no spread
    assert any(line.startswith("| less MF | ") for line in lines)
    fold = lines.index('<details markdown="1">')
    assert "| MF | 50.0 | 75.0 |" in lines[fold:]  # by seed
    assert "| less MF | " not in text[text.index("<details") :] and lines[-1] == "</details>"
    assert "optim.learning_rate 0.0003" in text and "4 distinct test prompts" in text and "Commit abc" in text
    assert rich_table(summary).row_count > 20


def test_pages_are_written_from_the_summaries_they_name(summary: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tiny.json").write_text(json.dumps(summary))
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\nBy hand.\n\n<!-- study: results/tiny.json -->\nstale\n<!-- /study -->\n\nBy hand, too.\n"
    )
    first = render_page(page)
    assert first.startswith("# Page\n\nBy hand.\n\n<!-- study: results/tiny.json -->\n") and "stale" not in first
    assert first.endswith("<!-- /study -->\n\nBy hand, too.\n") and markdown(summary) in first
    page.write_text(first)
    assert render_page(page) == first
    page.write_bytes(first.replace("\n", "\r\n").encode())  # an editor's of Windows
    assert render_page(page) == first.replace("\n", "\r\n")
    page.write_text("<!-- study: results/none.json -->\n<!-- /study -->\n")
    with pytest.raises(ValueError, match=r"page\.md: results/none\.json is missing"):
        render_page(page)
    page.write_text(f"<!-- study: results/tiny.json -->\nits end is lost\n\nBy hand.\n\n{first}")
    with pytest.raises(ValueError, match=r"page\.md: 2 blocks begin .* 1 of them whole"):
        render_page(page)
    page.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"page\.md: not UTF-8"):
        render_page(page)
    page.write_text("<!-- study: results/none.json -->\n<!-- /study -->\n")
    (tmp_path / "results/none.json").write_text("{")
    with pytest.raises(ValueError, match=r"results/none\.json: not JSON"):
        render_page(page)


def test_names_in_brackets_stay_as_they_are(summary: dict) -> None:  # type: ignore[type-arg]
    summary["title"] = summary["arms"]["one"]["label"] = "[bold]MF[/x]"
    console = Console(width=80, file=io.StringIO())
    console.print(rich_table(summary))
    shown = console.file.getvalue()
    assert shown.startswith("[bold]MF[/x]") and "baseline: [bold]MF[/x];" in shown


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"baseline": "zz"}, r"arms\.zz"),
        ({"arms": [1]}, r"arms\.one"),
        ({"arms": {"one": None}}, r"arms\.one\.label, arms\.one\.changes"),
        ({"arms": {"one": {key: {} for key in OF_AN_ARM}}}, r"arms\.one\.metrics\.forwards"),
    ],
)
def test_a_summary_says_what_it_lacks(summary: dict, change: dict, lacks: str, tmp_path: Path) -> None:  # type: ignore[type-arg]
    (tmp_path / "s.json").write_text(json.dumps(summary | change))
    with pytest.raises(ValueError, match=f"s\\.json: a summary without {lacks}.*: make it again"):
        read_study(tmp_path / "s.json")
    (tmp_path / "page.md").write_text("<!-- study: s.json -->\n<!-- /study -->\n")
    with pytest.raises(ValueError, match=f"s\\.json: a summary without {lacks}"):
        render_page(tmp_path / "page.md")


DOCS = sorted((Path(__file__).parents[3] / "docs").glob("*.md"))


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.stem)
def test_the_docs_say_what_the_summaries_say(page: Path) -> None:
    """`diffpo study --tables docs/PAGE.md` writes them anew."""
    assert render_page(page) == page.read_text()


RESULTS = sorted((Path(__file__).parents[3] / "studies/results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_means_in_the_summaries_are_those_of_their_seeds(path: Path) -> None:
    summary = json.loads(path.read_text())
    for arm in summary["arms"].values():
        for value in (*arm["metrics"].values(), *arm["versus"].values()):
            known = [entry for entry in value["by_seed"] if entry is not None]
            assert len(value["by_seed"]) == len(summary["seeds"]) and value["n"] == len(known)
            assert value["mean"] == pytest.approx(fmean(known), abs=1e-5)
