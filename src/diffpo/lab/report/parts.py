"""What the page shows beside pictures: tables, tiles, findings, unmaskings. Their HTML is in templates/parts.html."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from diffpo.evaluation.tables import accuracy_cell
from diffpo.lab.analysis.sections import Section
from diffpo.lab.report.examples import Example
from diffpo.lab.report.sources import Measured
from diffpo.lab.study.plan import BASE
from diffpo.lab.study.tables import by_seed, columns_of, commits_of, exceeds_spread, header, judged, tables, value_cell
from diffpo.view.canvas import ink_on, shade

Summary = Mapping[str, Any]

NUM_FINDINGS = 8
SIGNS = {"better": " ▲", "worse": " ▼"}
"""Beside green and red, for who does not see them."""


def _figure_and_spread(cell: str) -> tuple[str, str]:
    """A figure, and its interval, which is written in grey."""
    found = re.fullmatch(r"([-+]?[\d.,]+)( [±\[].*)", cell)
    return (found[1], found[2]) if found else (cell, "")


TEMPLATES = Environment(
    loader=PackageLoader("diffpo.lab.report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=False
)
TEMPLATES.filters["figure_and_spread"] = _figure_and_spread
TEMPLATES.globals |= {"signs": SIGNS, "shade": shade, "ink_on": ink_on, "zip": zip}


def piece(name: str, *values: Any) -> Markup:
    """A macro of parts.html; text in `values` is escaped."""
    return getattr(TEMPLATES.get_template("parts.html").module, name)(*values)


def table(rows: Sequence[Sequence[str]], classes: Mapping[tuple[int, int], str] | None = None) -> Markup:
    """Rows of text, the head first; `classes` mark cells by (row, column), the head being row 0. Nothing but a head is
    nothing."""
    return piece("table", rows, classes or {}) if len(rows) > 1 else Markup()


def folded(title: str, html: str) -> Markup:
    """What opens on a click; nothing stays nothing."""
    return piece("folded", title, html) if html else Markup()


# --- studies -----------------------------------------------------------------------------------------------------


def study_head(summary: Summary) -> Markup:
    """The question, what it took, and what stands out."""
    facts = {
        "seeds": str(len(summary["seeds"])),
        "test prompts, the same everywhere": f"{summary['num_prompts']:,}",
        "arms and the start": str(len(summary["arms"])),
        "runs": str(summary["num_cells"]),
        "of one thread": f"{summary['cell_seconds'] / 60:.0f} min",
        "baseline": summary["arms"][summary["baseline"]]["label"],
        "commit": commits_of(summary),
    }
    return piece("question", summary["question"], facts, summary["command"]) + findings(summary)


def findings(summary: Summary) -> Markup:
    """The differences that exceed the seeds' spread, the clearest first, and how many do not.

    The start is no arm: that training beats no training is in the tables.
    """
    arms, baseline = summary["arms"], summary["arms"][summary["baseline"]]["label"]
    pairs = [
        (name, metric, arm["versus"][metric])
        for name, arm in arms.items()
        for metric in columns_of(summary)
        if name != BASE and arm["versus"].get(metric, {}).get("std")
    ]
    clear = [entry for entry in pairs if exceeds_spread(entry[2])]
    clear.sort(key=lambda entry: -abs(entry[2]["mean"]) / entry[2]["half_width"])
    shown = []
    for name, metric, value in clear[:NUM_FINDINGS]:
        difference = f"{value_cell(metric, value['mean'], '+')} ± {value_cell(metric, value['half_width'])}"
        shown.append((arms[name]["label"], judged(metric, value), difference, header(metric)))
    words = (
        f"Of {len(pairs)} differences of the arms from {baseline}, {len(clear)} exceed the seeds' spread "
        f"(Student's t, 95 %); were none real, {0.05 * len(pairs):.1f} would do so by chance."
    )
    return piece("findings", words, shown, len(clear) - len(shown))


def reached_table(summary: Summary) -> Markup:
    """What the arms reached; green and red are better and worse than the baseline by more than the seeds' spread."""
    (_, *head), *arms = tables(summary)[0]
    classes = {
        (row, column): judged(metric, arm["versus"][metric])
        for row, arm in enumerate(summary["arms"].values(), 1)
        for column, metric in enumerate(columns_of(summary), 1)
        if metric in arm["versus"]
    }
    return table([["", *head], *arms], classes)


def study_tables(summary: Summary) -> Markup:
    """Differences, costs, every seed and the tuning, folded."""
    _, against, took = tables(summary)
    words = {(row, column): "words" for row in range(1, len(took)) for column in (len(took[0]) - 2, len(took[0]) - 1)}
    seeds = [["", "metric", *(f"seed {seed}" for seed in summary["seeds"])]]
    for metric in columns_of(summary):
        seeds += [[label, header(metric), *values] for label, *values in by_seed(summary, metric)]
    found = folded("Paired differences in figures", table(against))
    found += folded("What training took, and the settings", table(took, words))
    return found + folded("Every seed", table(seeds)) + folded("Learning rates and the like", _tuning(summary))


def _tuning(summary: Summary) -> Markup:
    rows = [["", "values", "metric", "mean", "by seed", ""]]
    for arm in summary["arms"].values():
        for trial in arm.get("tuning", {}).get("trials", ()):
            metric = arm["tuning"]["metric"]
            seeds = " ".join(value_cell(metric, seed) for seed in trial["by_seed"])
            values = ", ".join(f"{key} {value}" for key, value in trial["values"].items())
            taken = "taken" if trial["values"] == arm["tuned"] else ""
            rows.append([arm["label"], values, header(metric), value_cell(metric, trial["mean"]), seeds, taken])
    return table(rows)


# --- runs and evaluations ----------------------------------------------------------------------------------------


def points_table(measured: Mapping[str, Measured], levels: bool) -> Markup:
    """A row a policy and sampler: all prompts, or each level of difficulty."""
    rows = [["policy", "sampler", *(["level"] if levels else []), "prompts", "accuracy %", "NFE", "gamma"]]
    for name, found in measured.items():
        for point in found.evaluation.measured:
            if bool(point.level) == levels:
                gamma = "" if point.gamma is None else f"{point.gamma:.3g}"
                cells = [str(point.num_prompts), accuracy_cell(point, 1), f"{point.nfe:.2f}", gamma]
                rows.append([name, point.sampler, *([point.level] if levels else []), *cells])
    return table(rows)


def figures_table(section: Section) -> Markup:
    """The single numbers of an analysis' section."""
    rows = [["", ""], *([name, "" if value is None else f"{value:.4g}"] for name, value in section.figures.items())]
    return folded("figures", table(rows))


# --- unmaskings --------------------------------------------------------------------------------------------------


def races(heading: str, lanes: Mapping[str, Sequence[Example]]) -> Markup:
    """Policy to its answers to the same prompts: a card a prompt, in which the policies unmask side by side."""
    given = any(any(example.given) for examples in lanes.values() for example in examples)
    cards = [dict(zip(lanes, examples, strict=True)) for examples in zip(*lanes.values(), strict=True)]
    return piece("races", heading, cards, [shade(step, 7) for step in range(1, 8)], given)
