"""The command that measures speed: bench."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from diffpo.cli.flags import FLAT, Recipe
from diffpo.config import TrainConfig
from diffpo.config.checks import check
from diffpo.config.idle import Idle, Knobs
from diffpo.files.folder import file_to_write, write_text
from diffpo.view.notebook import numeric
from diffpo.view.progress import counted, short
from diffpo.view.terminal import show

if TYPE_CHECKING:
    from diffpo.lab.bench.card import Figure
    from diffpo.lab.bench.growth import GrowthPoint
    from diffpo.lab.bench.steps import Measured
    from diffpo.lab.bench.suite import Row


Found = Iterator[tuple["Table", list[dict[str, Any]]]]
"""Of each part of a suite, what is printed and what is written."""


@dataclass(frozen=True)
class Bench(Knobs):
    """Measure how fast a recipe's rollouts and updates are here; or everything against the published loops."""

    recipe: Recipe = ""
    config: Annotated[TrainConfig, FLAT] = field(default_factory=TrainConfig)
    suite: Literal["recipe", "published", "growth", "gpu"] = "recipe"
    """Steps of the recipe; the published loops on a CPU; growth with batch, canvas, vocabulary and NFE; one GPU."""
    repeats: int = 5
    """Times that everything is measured, in turn, long works fewer times; medians count. Suite gpu: once."""
    random_weights: bool = False
    """Take the model's shape alone, with random weights and prompts: nothing is downloaded."""
    sharpness: float = 1.0
    """Random weights: logits so many times as large as fresh ones. Where they are larger, thresholds commit more."""
    json: str = ""
    """File for the figures, written after each part. Suite gpu: benchmarks/results/gpu_CARD.json unless given."""
    figure: str = ""
    """PNG or SVG of the suite growth."""
    profile: str = ""
    """Folder for a torch profiler trace of each phase of the recipe's step."""
    minutes: float = 10.0
    """Suite gpu: the most it takes; what is not done by then is left out."""

    def idle(self) -> Idle:
        other = f"in the suite {self.suite}"
        return {
            "profile random_weights": self.suite != "recipe" and other,
            "figure": self.suite != "growth" and other,
            "minutes": self.suite != "gpu" and other,
            "repeats": self.suite == "gpu" and f"{other}, which measures once",
            "sharpness": not self.random_weights and "without random_weights",
        }

    def run(self) -> None:
        check(self.repeats >= 1, f"--repeats must be >= 1, got {self.repeats}")
        check(self.minutes > 0, f"--minutes must be > 0, got {self.minutes:g}")
        suites = {"recipe": self._recipe, "published": self._published, "growth": self._growth, "gpu": self._gpu}
        measure = suites[self.suite]()

        from diffpo.lab.bench.measure import gpu_facts
        from diffpo.lab.study.origin import origin

        where, written, path = origin() | gpu_facts(), [], self._path(gpu_facts())
        for found, figures in measure:
            show(found)
            written += [figure | where for figure in figures]
            if path:
                write_text(path, json.dumps(written, indent=1) + "\n")
        if path:
            print(f"saved {path}")
        if failed := [figure["part"] for figure in written if figure.get("failed")]:
            raise ValueError(f"parts that failed or were left out: {', '.join(failed)}")

    def _path(self, card: Mapping[str, str]) -> Path | None:
        name = self.json
        if self.suite == "gpu" and not name:
            name = f"benchmarks/results/gpu_{card['gpu'].replace(' ', '_')}.json"
        return file_to_write(name) if name else None

    def _recipe(self) -> Found:
        from diffpo.lab.bench.steps import measure, open_bench
        from diffpo.planning.plan import find_start

        shape = find_start(self.config).shape if self.random_weights else None
        bench = open_bench(self.config, shape, self.sharpness)
        measured = measure(bench, self.repeats, profiles=Path(self.profile) if self.profile else None)
        yield (
            _phases_table(measured),
            [
                asdict(phase) | {"peak_flops": measured.peak, "utilisation": phase.utilisation(measured.peak)}
                for phase in measured.phases
            ],
        )

    def _published(self) -> Found:
        from diffpo.lab.bench.suite import Size, published

        for rows in published(Size(self.repeats)):
            yield rows_table(rows), list(map(_plain, rows))

    def _gpu(self) -> Found:
        from diffpo.lab.bench.gpu import full_size, gpu_suite

        return (
            (_figures_table(figures), [_plain(figure) | {"reached": figure.reached} for figure in figures])
            for figures in gpu_suite(full_size(self.minutes), self.minutes)
        )

    def _growth(self) -> Found:
        from diffpo.lab.bench.growth import growth_figure, growth_points
        from diffpo.view.drawing import save_figure

        measured = growth_points(self.repeats)
        if self.figure:
            save_figure(growth_figure(measured), self.figure)
            print(f"saved {self.figure}")
        yield (
            _growth_table(measured),
            [{"axis": axis} | asdict(point) for axis, points in measured.items() for point in points],
        )


def _plain(row: Row | Figure) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if value not in (None, "")}


def rows_table(rows: Sequence[Row]) -> Table:
    """Ours, plain, how many times as fast or small, and the target."""
    table = Table("what", *numeric("ours", "plain", "ratio", "target"), box=box.SIMPLE_HEAD)
    for row in rows:
        pair = (row.ours_seconds, row.plain_seconds) if row.ours_bytes is None else (row.ours_bytes, row.plain_bytes)
        cells = [_seconds(value) if row.ours_bytes is None else f"{value / 2**20:.0f} MiB" for value in pair if value]
        style = "green" if row.ratio >= row.target else "red"
        table.add_row(row.name, *cells, f"[{style}]{row.ratio:.2f}[/]", f"{row.target:g}")
    return table


def _figures_table(figures: Sequence[Figure]) -> Table:
    """A part of the suite gpu: what was measured, and the goal where there is one."""
    table = Table(figures[0].part, *numeric("measured", "goal"), box=box.SIMPLE_HEAD)
    for figure in figures:
        if figure.failed:
            table.add_row(f"[red]{escape(figure.failed)}[/]", "", "")
        else:
            style = "" if not figure.goal else "[green]" if figure.reached else "[red]"
            table.add_row(figure.name, f"{style}{figure.shown}", figure.goal)
    return table


def _phases_table(measured: Measured) -> Table:
    heads = ("time", "answers\na second", "tokens\na second", "rows\na second", "GiB", "TFLOP/s", "of peak")
    table = Table("a step", *numeric(*heads), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # 80 columns hold it
    for phase in measured.phases:
        rates = [short(count / phase.seconds) for count in (phase.sequences, phase.tokens, phase.rows)]
        done = phase.flops / phase.seconds / 1e12
        memory = f"{phase.bytes / 2**30:.2f}"
        share = f"{phase.utilisation(measured.peak):.0%}"
        speed = f"{done:,.3g}" if done >= 0.01 else "< 0.01"
        table.add_row(phase.name, _seconds(phase.seconds), *rates, memory, speed, share)
    total = sum(phase.seconds for phase in measured.phases)
    first = measured.phases[0]
    rates = [short(count / total) for count in (first.sequences, first.tokens)]
    table.add_row("all", _seconds(total), *rates, *[""] * 4, style="bold")
    table.caption_justify = "left"
    table.caption = (
        f"{counted(first.sequences, 'answer')}, {measured.nfe:.4g} denoiser calls each\n"
        "rows: sequences through the denoiser; "
        f"GiB: beside what stands\npeak: a matrix product's {measured.peak / 1e12:.3g} TFLOP/s on this machine"
    )
    return table


def _growth_table(measured: dict[str, list[GrowthPoint]]) -> Table:
    table = Table("axis", *numeric("size", "ms", "GFLOP", "grows", "operations grow"), box=box.SIMPLE_HEAD)
    for axis, points in measured.items():
        for point in points:
            growth = (point.seconds / points[0].seconds, point.flops / points[0].flops)
            cells = (f"{1000 * point.seconds:.4g}", f"{point.flops / 1e9:.4g}", *(f"{value:.2f}" for value in growth))
            table.add_row(axis, f"{point.size:,}", *cells)
        table.add_section()
    return table


def _seconds(value: float) -> str:
    return f"{value:,.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
