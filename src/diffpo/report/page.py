"""The report: studies, runs, evaluations and example rollouts as one HTML page that asks the network for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path

from diffpo import __version__
from diffpo.analysis.show import draw_section
from diffpo.evaluation.figures import frontier_figure, training_figure
from diffpo.progress import Progress
from diffpo.report.examples import Example, read_examples
from diffpo.report.figures import (
    PANELS,
    NothingToDraw,
    cost_figure,
    differences_figure,
    runs_figure,
    study_frontier_figure,
    study_thresholds_figure,
    thresholds_figure,
)
from diffpo.report.parts import (
    figures_table,
    folded,
    points_table,
    races,
    reached_table,
    run_facts,
    study_head,
    study_tables,
)
from diffpo.report.sources import Measured, Run, Sources, StudyResult
from diffpo.report.svg import inline, variables
from diffpo.study.tables import caption

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""What the page may do: nothing from outside, whatever stands in it."""
SHELL = """<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<header>
<button id="theme" type="button">light / dark</button>
<h1>{title}</h1>
<p class="soft">{subtitle}</p>
</header>
<nav>{nav}</nav>
<main>
{sections}
</main>
<footer>Made by diffpo {version}. All figures come from the files named on this page.</footer>
<script>
{script}
</script>
</body>
</html>
"""


@dataclass
class Page:
    """What a page is put together from: sections under headings, pictures on the side."""

    figures: Path | None = None
    """Folder that keeps every picture as SVG and PNG."""
    sections: list[tuple[str, str]] = field(default_factory=list)
    """Heading and HTML."""
    num_figures: int = 0

    def add(self, heading: str, html: str) -> None:
        self.sections.append((heading, html))

    def figure(self, draw: Callable[[Path], None], name: str, words: str) -> str:
        """A picture with its caption; "" where there is nothing to draw, which `draw` says by NothingToDraw."""
        slug = f"{self.num_figures + 1:02d}_" + re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:48]
        try:
            picture = inline(draw, escape(words), self.figures, slug)
        except NothingToDraw:
            return ""
        self.num_figures += 1
        return f"<figure>{picture}<figcaption>{escape(words)}</figcaption></figure>"

    def html(self, title: str, subtitle: str) -> str:
        """The page."""
        assets = files("diffpo.report")
        light, dark = variables()
        style = assets.joinpath("page.css").read_text()
        style += f":root {{ {light} }}\n:root[data-theme=dark] {{ {dark} }}\n"
        anchors = [(f"s{number}", *section) for number, section in enumerate(self.sections, 1)]
        return SHELL.format(
            policy=POLICY,
            title=escape(title),
            subtitle=escape(subtitle),
            style=style,
            script=assets.joinpath("page.js").read_text(),
            nav="".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in anchors),
            sections="\n".join(
                f'<section id="{anchor}"><h2>{escape(heading)}</h2>{html}</section>'
                for anchor, heading, html in anchors
            ),
            version=__version__,
        )


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
    counts = {"stud{}": len(sources.studies), "evaluation{}": len(sources.evaluations), "run{}": len(sources.runs)}
    endings = {"stud{}": ("y", "ies"), "evaluation{}": ("", "s"), "run{}": ("", "s")}
    parts = [f"{count} {word.format(endings[word][count > 1])}" for word, count in counts.items() if count]
    return page.html(title or (" · ".join(names) if len(names) < 4 else "diffpo report"), " · ".join(parts))


# --- sections ----------------------------------------------------------------------------------------------------


def add_study(page: Page, study: StudyResult, num_examples: int) -> None:
    """One study: head, what was reached, pictures, figures, analyses and unmaskings of its first seed."""
    summary = study.summary
    parts = [
        study_head(summary),
        "<h3>What the arms reached</h3>",
        reached_table(summary),
        f'<p class="soft">{escape(caption(summary))} Green and red: better and worse than the baseline by more than '
        "the seeds' spread.</p>",
        page.figure(
            partial(study_frontier_figure, summary),
            f"{summary['name']} frontier",
            "Accuracy against denoiser calls at the end of training. Lines are fixed thresholds, stars learned ones; "
            "means over seeds with their 95 % interval (Student's t).",
        ),
        page.figure(
            partial(differences_figure, summary),
            f"{summary['name']} differences",
            "Differences from the baseline, paired by seed. Ticks are seeds, dots their mean, thick bars the bootstrap "
            "over seeds, thin ones Student's t. Green and red leave 0 out.",
        ),
        page.figure(
            partial(cost_figure, summary),
            f"{summary['name']} cost",
            "The same accuracies while training went on: against steps, and against rows through the denoiser. The "
            "dashed line is where all arms had cost the same. The first point is the start that all share.",
        ),
        page.figure(
            partial(runs_figure, summary, {arm: [run.metrics for run in runs] for arm, runs in study.runs.items()}),
            f"{summary['name']} training",
            "Rollouts while training went on: the mean over an arm's seeds, and each seed faintly.",
        ),
        page.figure(
            partial(study_thresholds_figure, summary),
            f"{summary['name']} thresholds",
            "Thresholds that learned samplers chose for the test prompts, by difficulty. Ticks are seeds, dots their "
            "mean with its 95 % interval (Student's t).",
        ),
        study_tables(summary),
    ]
    firsts = {arm: runs[0] for arm, runs in study.runs.items()}
    for runs in study.runs.values():
        parts += [analyses(page, run) for run in runs]
    lanes = {summary["arms"][arm]["label"]: run for arm, run in firsts.items()}
    parts.append(unmaskings(lanes, num_examples, f"seed {summary['seeds'][0]}"))
    page.add(summary["title"], "".join(parts))


def add_evaluations(page: Page, measured: Mapping[str, Measured]) -> None:
    """All evaluations, those of one task in one picture."""
    parts = []
    for task in dict.fromkeys(found.evaluation.task for found in measured.values()):
        group = {name: found for name, found in measured.items() if found.evaluation.task == task}
        parts += [
            f"<h3>{escape(task)}</h3>",
            page.figure(
                partial(frontier_figure, {name: found.evaluation for name, found in group.items()}),
                f"{task} frontier",
                "Accuracy against denoiser calls. Lines are fixed thresholds, rings fixed rules, stars learned "
                "thresholds; 95 % Wilson intervals over prompts.",
            ),
        ]
        for name, found in group.items():
            if found.gammas:
                words = f"Thresholds that {name} chose for the test prompts, by difficulty."
                parts.append(page.figure(partial(thresholds_figure, found.gammas), f"{name} thresholds", words))
        parts.append(folded("All prompts, in figures", points_table(group, levels=False)))
        parts.append(folded("By difficulty, in figures", points_table(group, levels=True)))
    page.add("Accuracy against calls", "".join(parts))


def add_run(page: Page, run: Run, num_examples: int) -> None:
    """One training run: its course, its analyses, and its answers beside those of what it started from."""
    drawn = any(step.get(metric) is not None for step in run.metrics for metric in PANELS)
    parts = [run_facts(run)]
    if drawn:
        words = "Training by step: means over the rollouts of a step, and by difficulty where the task has levels."
        parts.append(page.figure(partial(training_figure, run.metrics), f"{run.name} training", words))
    settings = f"<pre>{escape(json.dumps(run.settings, indent=1))}</pre>" if run.settings else ""
    parts += [folded("Every setting", settings), analyses(page, run)]
    parts.append(unmaskings({"after training": run}, num_examples, "before and after"))
    page.add(run.name, "".join(parts))


def analyses(page: Page, run: Run) -> str:
    """What `diffpo analyze` found, a picture a section."""
    parts = []
    for analysis in run.analyses:
        pictures = [
            "<div>"
            + page.figure(partial(draw_section, section), f"{run.name} {section.name}", section.explains)
            + figures_table(section)
            + "</div>"
            for section in analysis.sections
        ]
        parts.append(
            f"<h3>Why it learns as it does: {escape(run.name)}</h3><pre>{escape(analysis.command)}</pre>"
            f'<p class="soft">Commit {escape(analysis.commit or "unknown")}; intervals are 95 %, over prompts.</p>'
            f'<div class="pair">{"".join(pictures)}</div>'
        )
    return "".join(parts)


def unmaskings(runs: Mapping[str, Run], num: int, words: str) -> str:
    """The same prompts answered by what the runs started from and by each of them; "" where no policy is there."""
    runs = {name: run for name, run in runs.items() if run.has_policy}
    if not num or not runs:
        return ""
    lanes: dict[str, Sequence[Example]] = {}
    first = next(iter(runs.values()))
    for name, run in runs.items():
        assert first.config and run.config
        if run.config.task != first.config.task:
            continue
        if not lanes and Path(run.config.model).is_dir():
            lanes["before training"] = read_examples(Path(run.config.model), run.config, num)
        lanes[name] = read_examples(run.folder, run.config, num)
    return f"<h3>Answers, call by call ({escape(words)})</h3>{races(lanes)}"
