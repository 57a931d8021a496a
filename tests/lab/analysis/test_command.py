"""`diffpo analyze` from a policy's folder to tables, pictures and JSON; and the mistakes one can make on its line."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from diffpo.cli import main, parse
from diffpo.config import ModelConfig
from diffpo.lab.analysis.analyze import PARTS
from diffpo.lab.analysis.sections import Section, Series
from diffpo.lab.analysis.settings import AnalysisConfig
from diffpo.lab.analysis.show import MAX_COLUMNS, section_figure, section_table
from diffpo.models.policy import create_policy
from diffpo.tasks import load_task
from diffpo.view.drawing import save_figure

TASK = ["--task.name", "tiny_sudoku"]
SMALL = [*TASK, "--analysis.num-prompts", "4", "--analysis.num-generations", "2"]
BATCHES = ["--analysis.gradient-batches", "3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A fresh policy for Sudoku."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shape = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
    create_policy(load_task("tiny_sudoku").alphabet, shape).save_pretrained(folder)
    return str(folder)


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["analyze", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    return said


def test_from_a_model_to_tables_pictures_and_json(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["analyze", model, *SMALL, *BATCHES, "--against", model + "/../tiny", "--figures", str(tmp_path / "figures")])
    shown = capsys.readouterr().out
    found = json.loads((Path(model) / "analysis.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert found.keys() == {"title", "command", "origin", "sections"} and found["origin"]["torch"]
    names = [section["name"] for section in found["sections"]]
    assert names[:3] == ["kl_by_call", "kl_by_cut", "kl_by_cut_law"] and names[-1] == "order" and len(names) == 13
    assert len(set(names)) == len(names) and "threshold_by_difficulty" not in names  # no head
    for section in found["sections"]:
        assert section.keys() == {"name", "title", "explains", "x", "y", "series", "figures"}
        assert section["title"] in shown and section["explains"].endswith(".")
        for series in section["series"]:
            lengths = {len(series["x"]), len(series["y"]), len(series["half_width"] or series["x"])}
            assert lengths == {len(series["x"])}
        for kind in ("png", "svg"):
            assert (tmp_path / "figures" / f"{section['name']}.{kind}").stat().st_size > 1000


def test_pictures_without_a_place_are_refused_before_the_work(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    where = ["--json", str(tmp_path / "a.json"), "--figures", str(tmp_path / "file")]
    assert "file: a file stands where a folder is to be" in fail(capsys, model, *SMALL, *where)
    assert not (tmp_path / "a.json").exists()


def test_several_runs_are_one_analysis(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [*SMALL, "--analysis.parts", "order", "--json", str(tmp_path / "order.json")]
    other = str(shutil.copytree(model, tmp_path / "other"))
    main(["analyze", model, "--also", other, *options, "--against", model, other])
    section = json.loads((tmp_path / "order.json").read_text())["sections"][0]
    assert "Means over 2 runs" in section["explains"]
    assert section["series"][0]["label"] == "model, as in training"
    widths = [width for series in section["series"] for width in series["half_width"]]
    assert widths and set(widths) == {0}  # equal weights
    capsys.readouterr()
    assert "against names 1 models for 2 runs" in fail(capsys, model, "--also", other, *options, "--against", model)
    assert "--also names a run twice" in fail(capsys, model, "--also", other, f"{model}/", *options)
    assert "several runs have no folder" in fail(capsys, model, "--also", model)


def test_parts_that_are_asked_for(model: str, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "order.json"
    main(["analyze", model, *SMALL, "--analysis.parts", "order", "--json", str(path)])
    assert [section["name"] for section in json.loads(path.read_text())["sections"]] == ["order"]
    assert tuple(PARTS) == AnalysisConfig().parts


def test_a_run_is_analysed_as_it_was_trained(tmp_path: Path) -> None:
    run = {
        "train": "model",
        "task": {"name": "tiny_countdown"},
        "rollout": {"sampler": "top_k:2", "temperature": 0.7},
        "objective": {"surrogate": "mean_field:3"},
    }
    (tmp_path / "config.json").write_text(json.dumps(run))
    parsed = parse("analyze", str(tmp_path))
    assert parsed.task.name == "tiny_countdown" and parsed.objective.surrogate == "mean_field:3"
    assert parsed.rollout.sampler == "top_k:2" and parsed.rollout.temperature == 0.7
    assert parse("analyze", str(tmp_path), "--rollout.temperature", "0.9").rollout.temperature == 0.9


def test_mistakes_are_one_line(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "name a file with --json" in fail(capsys, "some/hub-model")
    few = [*SMALL, *BATCHES, "--analysis.num-prompts", "2"]
    few_prompts = "2 test prompts are fewer than analysis.gradient_batches = 3: "
    assert few_prompts + "raise analysis.num_prompts, or lower that" in fail(capsys, model, *few)
    own = ["--task.name", "own", "--task.data", "two.jsonl", "--task.reward", "number", "--rollout.gen-length", "2"]
    Path("two.jsonl").write_text('{"prompt": "1=", "answer": 1}\n{"prompt": "2=", "answer": 2}\n')
    assert "1 test prompts are fewer" in (said := fail(capsys, model, *own)) and "task.test_data" in said
    assert "runs/nowhere: no checkpoint here" in fail(capsys, "runs/nowhere", *TASK)
    assert "rollout.temperature must be > 0" in fail(capsys, model, *TASK, "--rollout.temperature", "0")


def test_tables_are_thinned_and_gaps_are_dashes() -> None:
    series = [Series("a", list(range(50)), [float(i) for i in range(50)]), Series("b", [0], [None])]
    table = section_table(Section("n", "t", "e", "x", "y", series, {"f": math.nan})).renderables[1]
    cells = [list(column.cells) for column in table.columns]
    assert len(cells) == 1 + MAX_COLUMNS and cells[1] == ["0", "-"] and cells[-1] == ["49", "-"]


def test_a_table_of_many_surrogates_can_be_read() -> None:
    names = ["as in training", "mean field", "2-MF", "3-MF", "exact", "mine.py:Halves:2", "coupled", "elbo", "agrpo:2"]
    values = [0.1234 + number for number in range(9)]
    series = [Series(label, names, values) for label in ("all noise", "cuts or masks alone")]
    console = Console(width=80, file=io.StringIO())
    console.print(section_table(Section("n", "t", "e", "surrogate", "y", series)))
    shown = console.file.getvalue()
    assert "…" not in shown and "cuts or masks alone" in shown
    assert all(
        re.search(rf"^ *{name} +{value:.3g} +{value:.3g} *$", shown, re.M)
        for name, value in zip(names, values, strict=True)
    )


def test_hostile_labels_are_drawn_as_they_are(tmp_path: Path) -> None:
    series = [Series("$\\frac{$", [1, 2], [0.5, None], [0.1, None]), Series("[red]", [1], [1.0])]
    for index, x in enumerate((series, [Series("a$b$", ["$x", "y"], [1.0, None], [math.nan, None])])):
        save_figure(section_figure(Section("n", "$t$ [b]", "e", "x $", "y", x)), tmp_path / f"{index}.svg")
        assert (tmp_path / f"{index}.svg").stat().st_size > 1000
