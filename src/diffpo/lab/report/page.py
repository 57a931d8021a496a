"""The report: studies, runs, evaluations and example rollouts as one HTML page that asks the network for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from markupsafe import Markup, escape

from diffpo import __version__
from diffpo.evaluation.figures import PANELS, frontier_figure, training_figure
from diffpo.files.record import known_task
from diffpo.lab.analysis.show import section_figure
from diffpo.lab.report.examples import Example, read_examples
from diffpo.lab.report.figures import FIGURES, NothingToDraw, runs_figure, thresholds_figure
from diffpo.lab.report.parts import (
    TEMPLATES,
    figures_table,
    folded,
    piece,
    points_table,
    races,
    reached_table,
    study_head,
    study_tables,
)
from diffpo.lab.report.sources import Measured, Run, Sources, StudyResult
from diffpo.lab.report.svg import inline, variables
from diffpo.lab.study.tables import caption
from diffpo.view.drawing import Picture
from diffpo.view.progress import Progress

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may do: nothing from outside, whatever stands in it."""
BEYOND = "better and worse than the baseline by more than the seeds' spread."
SHOWN = {
    "frontier": "Accuracy against denoiser calls at the end of training. Lines are fixed thresholds, stars learned "
    "samplers; means over seeds. The band is the baseline's 95 % interval (Student's t).",
    "differences": "Differences from the baseline, paired by seed. Ticks are seeds, dots their mean, thick bars the "
    "bootstrap over seeds, thin ones Student's t. Green discs are better and red squares worse by an interval that "
    "leaves 0 out.",
    "cost": "The same accuracies while training went on: against steps, and against rows through the denoiser. The "
    "dashed line is where all arms had cost the same. The first point is the start that all share.",
    "training": "Rollouts while training went on: the mean over an arm's seeds, and each seed faintly.",
    "thresholds": "Thresholds that learned samplers chose for the test prompts, by difficulty. Ticks are seeds, dots "
    "their mean with its 95 % interval (Student's t).",
}
"""Pictures of a study in their order, and what is said below each."""


@dataclass
class Page:
    """What a page is put together from: sections under headings, pictures on the side."""

    figures: Path | None = None
    """Folder that keeps every picture as SVG and PNG."""
    sections: list[tuple[str, Markup]] = field(default_factory=list)
    """Heading and HTML."""
    num_figures: int = 0

    def figure(self, draw: Callable[[], Picture], name: str, words: str) -> Markup:
        """A picture with its caption; nothing where there is nothing to draw, which `draw` says by NothingToDraw."""
        slug = f"{self.num_figures + 1:02d}_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:48]
        try:
            picture = inline(draw(), str(escape(words)), self.figures, slug)
        except NothingToDraw:
            return Markup()
        self.num_figures += 1
        return piece("figure", Markup(picture), words)

    def html(self, title: str, subtitle: str) -> str:
        """The page."""
        light, dark = map(Markup, variables())
        about = {"title": title, "subtitle": subtitle, "version": __version__, "policy": Markup(POLICY)}
        return TEMPLATES.get_template("page.html").render(sections=self.sections, light=light, dark=dark, **about)


def make_report(
    sources: Sources, title: str = "", figures: Path | None = None, num_examples: int = 4, quiet: bool = False
) -> str:
    """The whole page. `num_examples` test prompts are answered by the policies that are there; 0 loads no model."""
    page = Page(figures)
    with Progress("report", len(sources.studies) + len(sources.runs) + 1, quiet) as progress:
        for study in sources.studies:
            add_study(page, study, num_examples)
            progress.advance()
        if sources.evaluations:
            add_evaluations(page, sources.evaluations)
        progress.advance()
        for run in sources.runs:
            add_run(page, run, num_examples)
            progress.advance()
    names = [study.summary["title"] for study in sources.studies]
    names += dict.fromkeys(name.partition("/")[0] for name in [*(r.name for r in sources.runs), *sources.evaluations])
    words = (("study", "studies"), ("evaluation", "evaluations"), ("run", "runs"))
    counts = map(len, (sources.studies, sources.evaluations, sources.runs))
    parts = [f"{count} {word[count > 1]}" for word, count in zip(words, counts, strict=True) if count]
    return page.html(title or (" · ".join(names) if len(names) < 4 else "diffpo report"), " · ".join(parts))


# --- sections ----------------------------------------------------------------------------------------------------


def add_study(page: Page, study: StudyResult, num_examples: int) -> None:
    """One study: head, what was reached, pictures, figures, analyses and unmaskings of its first seed."""
    summary = study.summary
    metrics = {arm: [run.metrics for run in runs] for arm, runs in study.runs.items()}
    draw = {**FIGURES, "training": partial(runs_figure, runs=metrics)}
    parts = [
        study_head(summary),
        piece("heading", "What the arms reached"),
        reached_table(summary),
        piece("note", f"{caption(summary, brackets=False)} ▲ and ▼: {BEYOND}"),
        *(
            page.figure(partial(draw[name], summary), f"{summary['name']} {name}", words)
            for name, words in SHOWN.items()
        ),
        study_tables(summary),
    ]
    for runs in study.runs.values():
        parts += [analyses(page, run) for run in runs]
    lanes = {summary["arms"][arm]["label"]: runs[0] for arm, runs in study.runs.items()}
    parts.append(unmaskings(lanes, num_examples, f"seed {summary['seeds'][0]}"))
    page.sections.append((summary["title"], Markup().join(parts)))


def add_evaluations(page: Page, measured: Mapping[str, Measured]) -> None:
    """All evaluations, those of one task in one picture."""
    parts = []
    for task in dict.fromkeys(found.evaluation.task for found in measured.values()):
        group = {name: found for name, found in measured.items() if found.evaluation.task == task}
        draw = partial(frontier_figure, {name: found.evaluation for name, found in group.items()})
        words = (
            "Accuracy against denoiser calls. Lines are fixed thresholds, rings fixed rules, stars learned "
            "samplers; 95 % Wilson intervals over prompts, as bands where they are few."
        )
        parts += [piece("heading", task), page.figure(draw, f"{task} frontier", words)]
        for name, found in group.items():
            if found.gammas:
                words = f"Thresholds that {name} chose for the test prompts, by difficulty."
                parts.append(page.figure(partial(thresholds_figure, found.gammas), f"{name} thresholds", words))
        parts.append(folded("All prompts, in figures", points_table(group, levels=False)))
        parts.append(folded("By difficulty, in figures", points_table(group, levels=True)))
    page.sections.append(("Accuracy against calls", Markup().join(parts)))


def add_run(page: Page, run: Run, num_examples: int) -> None:
    """One training run: its course, its analyses, and its answers beside those of what it started from."""
    parts = [piece("tiles", run.facts)]
    known = {name for step in run.metrics for name, value in step.items() if value is not None}
    if known & {*PANELS, "loss"}:
        words = "Training by step: means over the rollouts of a step, and by difficulty where the task has levels."
        words = words if "reward" in known else "Fine-tuning by step."
        parts.append(page.figure(partial(training_figure, run.metrics), f"{run.name} training", words))
    settings = piece("command", json.dumps(run.settings, indent=1)) if run.settings else Markup()
    parts += [folded("Every setting", settings), analyses(page, run)]
    parts.append(unmaskings({"after training": run}, num_examples, "before and after"))
    page.sections.append((run.name, Markup().join(parts)))


def analyses(page: Page, run: Run) -> Markup:
    """What `diffpo analyze` found, a picture a section."""
    parts = Markup()
    for analysis in run.analyses:
        pictures = [
            page.figure(partial(section_figure, section), f"{run.name} {section.name}", section.explains)
            + figures_table(section)
            for section in analysis.sections
        ]
        parts += piece("heading", f"Why it learns as it does: {run.name}") + piece("command", analysis.command)
        parts += piece("note", f"Commit {analysis.commit or 'unknown'}; intervals are 95 %, over prompts.")
        parts += piece("side_by_side", pictures)
    return parts


def unmaskings(runs: Mapping[str, Run], num: int, words: str) -> Markup:
    """The same prompts answered by what the runs started from and by each of them, where a policy is there."""
    runs = {name: run for name, run in runs.items() if run.has_policy}
    if not num or not runs:
        return Markup()
    lanes: dict[str, Sequence[Example]] = {}
    first = next(iter(runs.values()))
    for name, run in runs.items():
        assert first.config and run.config
        if run.config.task != first.config.task:
            continue
        # the policy says where the files of its task are, the run's settings how they were typed
        config = replace(run.config, task=known_task(run.folder) or run.config.task)
        if not lanes and Path(config.model).is_dir():
            lanes["before training"] = read_examples(config, num)
        lanes[name] = read_examples(config, num, run.folder)
    return races(f"Answers, call by call ({words})", lanes)
