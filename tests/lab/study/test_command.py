"""`diffpo study` from a TOML to its summary and a page of docs, and the mistakes one can make on its line."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from lab.study.studies import TINY, write_study

from diffpo.cli import main
from diffpo.cli.studying import results_path


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["study", *arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    return said


def test_a_dry_run_prints_the_grid_and_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    main(["study", str(path), "--dry-run", "--jobs", "3"])
    shown = capsys.readouterr().out
    assert (
        "objective.surrogate = mean_field:1" in shown and "12 runs; 3 at a time" in shown and "minutes in all" in shown
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.toml"]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a study: diffpo study STUDY.toml" in fail(capsys)
    assert "nothing: no such study" in fail(capsys, "nothing")
    assert "leave out the study" in fail(capsys, str(write_study(tmp_path)), "--tables", "page.md")
    assert "none.md: no such page" in fail(capsys, "--tables", str(tmp_path / "none.md"))
    assert "leave out the study" in fail(capsys, str(write_study(tmp_path)), "--picture", "a.svg", "paper_table")
    assert "--picture: name a file, FILE.svg, then summaries" in fail(capsys, "--picture", "a.svg")
    assert "leave out the study" in fail(capsys, str(write_study(tmp_path)), "--picture")  # with nothing after it
    assert "--tables: name pages" in fail(capsys, "--tables")
    (tmp_path / "page.md").write_text("# A page\n")
    assert "page.md: no block of a study in it" in fail(capsys, "--tables", str(tmp_path / "page.md"))
    assert "a.txt: no picture's name ends in .txt" in fail(capsys, "--picture", f"{tmp_path}/a.txt", "paper_table")
    assert "nothing: no summary of a study" in fail(capsys, "--picture", "a.svg", "nothing")
    (tmp_path / "file").write_text("")
    assert "a file stands where a folder is to be" in fail(
        capsys, str(write_study(tmp_path)), "--results", str(tmp_path / "file"), "--output", str(tmp_path / "runs")
    )
    assert not (tmp_path / "runs").exists()


def test_sigterm_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which ends the cells as well (test_run.py): they would go on alone, and hold their folders."""
    path = write_study(tmp_path)
    monkeypatch.setattr("diffpo.lab.study.run.run_study", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="130"):
        main(["study", str(path), "--output", str(tmp_path / "runs")])
    assert signal.getsignal(signal.SIGTERM) == before
    assert "stopped; the same command goes on from here" in capsys.readouterr().err


def test_where_summaries_go(tmp_path: Path) -> None:
    import diffpo

    assert results_path(tmp_path / "mine.toml") == tmp_path / "results/mine.json"
    shipped = Path(diffpo.__file__).parent / "studies/paper_table.toml"
    assert results_path(shipped) == Path("studies/results/paper_table.json")


@pytest.mark.slow
def test_a_study_from_its_toml_to_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    path = write_study(tmp_path / "mine", TINY[: TINY.index('[[arms]]\nname = "two"')])
    main(["study", str(path), "--jobs", "2"])
    shown = capsys.readouterr().out
    assert "saved" in shown and "top_k:8 %" in shown
    summary = json.loads((tmp_path / "mine/results/tiny.json").read_text())
    assert summary["arms"].keys() == {"base", "one"} and summary["num_cells"] == 4
    assert summary["command"] == f"diffpo study {path}" and summary["jobs"] == 2
    (tmp_path / "page.md").write_text("<!-- study: mine/results/tiny.json -->\n<!-- /study -->\n")
    main(["study", "--tables", "page.md"])
    assert "| MF |" in (tmp_path / "page.md").read_text()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs/studies/tiny").rglob("result.json")}
    main(["study", str(path)])  # nothing is left to do
    assert {file: file.stat().st_mtime_ns for file in before} == before and len(before) == 4
