"""`diffpo report`: a page that opens offline, escapes what it is given, and says only what its sources say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from helpers import GOLDEN

from diffpo import (
    LoadConfig,
    LoraConfig,
    ModelConfig,
    RolloutConfig,
    SftConfig,
    TaskConfig,
    TrainConfig,
    create_policy,
    fine_tune,
    load_policy,
    sample,
    train,
)
from diffpo.cli import main
from diffpo.evaluation.evaluate import Evaluation
from diffpo.files.folder import own_draft
from diffpo.lab.report.examples import read_examples
from diffpo.lab.report.figures import equal_cost_figure
from diffpo.lab.report.page import make_report
from diffpo.lab.report.sources import read_sources
from diffpo.tasks import load_tiny_task

ROOT = Path(__file__).parents[3]
STUDY = ROOT / "studies" / "results" / "paper_table.json"
HOSTILE = '</script><img src=x onerror=alert(1)> & "quoted"'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_report(read_sources([str(STUDY)]), figures=tmp_path_factory.mktemp("figures"), quiet=True)


def test_the_page_asks_the_network_for_nothing(page: str) -> None:
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", re.sub(r'xlink:href="#', "", page))
    assert "@import" not in page and "fetch(" not in page


def test_a_study_that_ships_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    by_name, by_path = read_sources(["paper_table"]), read_sources([str(STUDY)])
    assert by_name.studies[0].summary == by_path.studies[0].summary
    with pytest.raises(ValueError, match=r"results/paper_table\.json: no such file"):  # but not in another's place
        read_sources(["results/paper_table.json"])
    Path("results").mkdir()
    Path("results", "own.json").write_text(STUDY.read_text())
    by_file = read_sources(["own.toml", "of=studies/paper_table.toml"])
    assert by_file.studies[0].summary == by_path.studies[0].summary


def test_means_on_the_page_are_those_of_the_summary(page: str) -> None:
    summary = json.loads(STUDY.read_text())
    for arm in summary["arms"].values():
        value = arm["metrics"]["accuracy/top_k:2"]
        assert arm["label"] in page
        assert f"{100 * value['mean']:.1f}" in page
    assert summary["question"] in page and "1,024" in page


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    summary = json.loads(STUDY.read_text()) | {"title": HOSTILE, "question": HOSTILE}
    summary["arms"]["d1"]["label"] = HOSTILE
    file = tmp_path / "study.json"
    file.write_text(json.dumps(summary))
    page = make_report(read_sources([str(file)]), quiet=True)
    assert "<img src=x" not in page and page.count("</script>") == 1
    assert "&lt;img src=x" in page


def test_a_fine_tuning_run_shows_its_loss(tmp_path: Path) -> None:
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=32)
    config = SftConfig(output=str(tmp_path / "tuned"), steps=2, batch_size=4, num_examples=8, shape=shape)
    fine_tune(replace(config, task=TaskConfig("tiny_sudoku")), quiet=True)
    make_report(read_sources([config.output]), num_examples=0, figures=tmp_path / "figures", quiet=True)
    (picture,) = (tmp_path / "figures").glob("*.svg")
    assert "loss" in "".join(ElementTree.parse(picture).getroot().itertext())


def test_pictures_are_kept_as_svg_and_png(tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    main(["report", str(STUDY), "--output", str(tmp_path / "r.html"), "--figures", str(folder)])
    pictures = {path.suffix for path in folder.iterdir()}
    assert pictures == {".svg", ".png"}
    for path in folder.glob("*.svg"):
        ElementTree.parse(path)


def test_pictures_without_a_place_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("diffpo.lab.report.page.make_report", lambda *arguments: pytest.fail("worked"))
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(STUDY), "--output", str(tmp_path / "r.html"), "--figures", str(tmp_path / "file")])
    assert "file: a file stands where a folder is to be" in capsys.readouterr().err


def test_equal_cost_is_drawn_as_gain_over_rows_a_panel_a_study(tmp_path: Path) -> None:
    summary = json.loads(STUDY.read_text())
    figure = equal_cost_figure([summary, summary | {"title": "Again"}])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [summary["title"], "Again"]
    arms, metric = summary["arms"], summary["columns"][1]
    assert metric == "accuracy/top_k:2" and [len(axes.lines) for axes in figure.axes] == [len(arms) - 1] * 2
    start = fmean(arms["base"]["metrics"][metric]["by_seed"])
    for line, arm in zip(figure.axes[1].lines, [arm for name, arm in arms.items() if name != "base"], strict=True):
        x, y = np.asarray(line.get_data())
        assert (x[0], y[0]) == (0, 0) and x[-1] == pytest.approx(arm["metrics"]["forwards"]["mean"] / 1000)
        assert y[-1] == pytest.approx(100 * (fmean(arm["metrics"][metric]["by_seed"]) - start), abs=1e-3)
    main(["study", "--picture", str(tmp_path / "rows.svg"), "paper_table"])
    assert "2-MF + IS (DiFFPO)" in (tmp_path / "rows.svg").read_text()


def test_what_a_run_started_from_has_its_adapter(tmp_path: Path) -> None:
    task = load_tiny_task(TaskConfig("tiny_sudoku"))
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=32)
    policy = create_policy(task.alphabet, shape, seed=0)
    policy.save_pretrained(tmp_path / "base")
    policy = load_policy(tmp_path / "base", device="cpu")
    policy.add_adapters(LoraConfig(rank=4))
    for parameter in policy.trainable().values():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    policy.save_pretrained(tmp_path / "adapter")
    load = LoadConfig(adapter=str(tmp_path / "adapter"), device="cpu")
    config = TrainConfig(model=str(tmp_path / "base"), task=TaskConfig("tiny_sudoku"), load=load)
    config = replace(config, rollout=replace(config.rollout, sampler="top_k:4"), train="model")
    shown, bare = (read_examples(c, 2) for c in (config, replace(config, load=LoadConfig(device="cpu"))))
    greedy = replace(config.rollout.decoding, temperature=0.0)
    answers = sample(policy, [example.prompt for example in shown], greedy, task.gen_length)
    assert [example.completion.text for example in shown] == [answer.text for answer in answers]
    assert [example.completion.text for example in bare] != [answer.text for answer in answers]


def test_a_run_of_a_task_of_ones_own_is_reported_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from diffpo.tasks.tiny_sudoku import TinySudoku\nclass Mine(TinySudoku): ...\n")
    shape = ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=32)
    policy = create_policy(load_tiny_task(TaskConfig("tiny_sudoku")).alphabet, shape, seed=0)
    policy.save_pretrained(tmp_path / "base")
    rollout = RolloutConfig(sampler="top_k:4")
    load = LoadConfig(device="cpu")
    config = TrainConfig("base", "run", "model", task=TaskConfig("mine.py:Mine"), load=load, rollout=rollout, steps=1)
    train(replace(config, prompts_per_step=2, num_generations=2), quiet=True)
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    main(["report", str(tmp_path / "run"), "--examples", "1", "--output", "r.html"])
    assert "after training" in Path("r.html").read_text()


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        ([f"{GOLDEN}/llada-tiny/config.json"], f"for a run or an evaluation name its folder, {GOLDEN}/llada-tiny"),
        ([], "name a study, an evaluation or a run"),
        ([str(STUDY), str(STUDY)], "named twice; give each a name of its own, NAME=PATH"),
    ],
)
def test_what_is_no_source_is_named(
    paths: list[str], wanted: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["report", *paths, "--output", str(tmp_path / "r.html")])
    assert wanted in capsys.readouterr().err


def test_a_study_may_be_given_a_name() -> None:
    assert [study.summary["title"] for study in read_sources([f"a={STUDY}", f"b={STUDY}"]).studies] == ["a", "b"]


def test_answers_of_another_version_are_named(tmp_path: Path) -> None:
    Evaluation("t", ()).save(tmp_path)
    (tmp_path / "completions.jsonl").write_text('{"sampler": "learned", "level": ""}\n')
    with pytest.raises(ValueError, match=r"evaluated by another version \('gamma'\): make it again, diffpo eval"):
        read_sources([str(tmp_path)])


def test_a_page_that_cannot_be_written_is_not_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("diffpo.lab.report.page.make_report", lambda *_: pytest.fail("drawn"))
    with pytest.raises(SystemExit):
        main(["report", str(STUDY), "--output", str(tmp_path)])
    assert f"{tmp_path}: a folder stands where a file is to be" in capsys.readouterr().err


def test_a_page_that_is_cut_short_leaves_the_one_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("diffpo.lab.report.page.make_report", lambda *_: "new")
    (tmp_path / "r.html").write_text("old")
    own_draft(tmp_path / "r.html").mkdir()  # as if the disk were full
    with pytest.raises(SystemExit):
        main(["report", str(STUDY), "--output", str(tmp_path / "r.html")])
    assert f"{tmp_path}/r.html: could not be written" in capsys.readouterr().err
    assert (tmp_path / "r.html").read_text() == "old"
