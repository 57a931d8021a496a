"""Commands that ask and answer: study, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from diffpo.files.places import PACKAGE
from diffpo.view.terminal import show

STUDY = "A TOML file, or the name of a study that ships with diffpo."


@dataclass(frozen=True)
class Study:
    """Run a grid of arms and seeds, go on where it stopped, and say what differs by more than the seeds' spread."""

    study: Annotated[Positional[str], tyro.conf.arg(help=STUDY, metavar="[STUDY]")] = ""
    output: str = "runs/studies"
    """Folder below which each study has one of its own for its runs."""
    results: str = ""
    """Folder of the summary, NAME.json. Empty: results/ beside the study, or studies/results/ for one that ships."""
    jobs: int = 0
    """Runs at a time, each of one thread; 0: as many as there are cores."""
    device: str = "cpu"
    """Where the models are, such as cuda; runs share it."""
    dry_run: bool = False
    """Print the grid and an estimate of its time, and stop."""
    tables: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="PAGE...")] = None
    """Pages whose study tables are written anew from their summaries; nothing is run."""
    picture: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="FILE STUDY...")] = None
    """FILE.svg (or .png), then summaries or names of studies: accuracy against rows spent, a panel a study."""

    def run(self) -> None:
        if self.tables is not None or self.picture is not None:
            if self.study:
                raise ValueError(
                    "--tables and --picture take what is in summaries and run nothing: leave out the study"
                )
            if self.tables is not None:
                self._write_tables(self.tables)
            if self.picture is not None:
                self._draw(self.picture)
            return
        if not self.study:
            raise ValueError("name a study: diffpo study STUDY.toml")
        from diffpo.lab.study.plan import load_study

        study = load_study(self.study)
        folder = Path(self.output, study.name)
        if self.dry_run:
            from diffpo.lab.study.estimate import grid_table

            show(grid_table(study, folder, self.jobs))
            return
        self._run(study, folder)

    def _run(self, study: Any, folder: Path) -> None:
        import json

        from diffpo.files.folder import file_to_write, write_text
        from diffpo.lab.study.run import run_study
        from diffpo.lab.study.tables import rich_table

        path = Path(self.results) / f"{study.name}.json" if self.results else results_path(study.path)
        file_to_write(path)
        try:
            found = run_study(study, folder, self.jobs, device=self.device)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; the same command goes on from here") from None
        summary = {"command": f"diffpo study {self.study}"} | found
        for place in (path, folder / "summary.json"):
            write_text(place, json.dumps(summary, indent=1) + "\n")
        show(rich_table(summary))
        print(f"saved {path}; next: diffpo report {quote(str(path))}")

    def _write_tables(self, pages: tuple[str, ...]) -> None:
        from diffpo.files.folder import write_text
        from diffpo.lab.study.tables import OPEN, render_page

        if not pages:
            raise ValueError("--tables: name pages, such as docs/results.md")
        for name in pages:
            path = Path(name)
            if not path.is_file():
                raise ValueError(f"{path}: no such page")
            if OPEN not in (text := render_page(path)):
                raise ValueError(
                    f"{path}: no block of a study in it: write {OPEN}SUMMARY.json -->, <!-- /study --> below"
                )
            write_text(path, text)
            print(f"saved {path}")

    def _draw(self, named: tuple[str, ...]) -> None:
        from diffpo.lab.report.figures import equal_cost_figure
        from diffpo.lab.report.sources import read_study
        from diffpo.view.drawing import save_figure

        if len(named) < 2:
            raise ValueError("--picture: name a file, FILE.svg, then summaries of studies")
        picture, *names = named
        save_figure(equal_cost_figure([read_study(name).summary for name in names]), picture)
        print(f"saved {picture}")


@dataclass(frozen=True)
class Report:
    """Put studies, evaluations, runs and their unmaskings on one HTML page that opens offline."""

    paths: Positional[tuple[str, ...]]
    """Summaries or folders of studies, folders of runs and evaluations; NAME=PATH gives one a name."""
    output: str = "report.html"
    """File of the page."""
    figures: str = ""
    """Folder that gets every picture as SVG and PNG; none if empty."""
    examples: int = 4
    """Test prompts that the policies answer on the page; 0 loads no model."""
    title: str = ""
    """Title of the page; empty: the study's or run's where it is one."""

    def run(self) -> None:
        from diffpo.files.folder import file_to_write, folder_to_fill, write_text
        from diffpo.lab.report.page import make_report
        from diffpo.lab.report.sources import read_sources

        if not self.paths:
            raise ValueError("name a study, an evaluation or a run: diffpo report RUN_OR_STUDY...")
        if self.examples < 0:
            raise ValueError(f"--examples must be >= 0, got {self.examples}")
        sources, path = read_sources(self.paths), file_to_write(self.output)
        figures = folder_to_fill(self.figures) if self.figures else None
        write_text(path, make_report(sources, self.title, figures, self.examples))
        print(f"saved {path}" + (f" and pictures in {figures}" if figures else ""))


def results_path(study: Path) -> Path:
    """Where a study's summary goes: beside the study, unless that is inside an installed package."""
    home = Path("studies") if study.resolve().is_relative_to(PACKAGE) else study.parent
    return home / "results" / f"{study.stem}.json"
