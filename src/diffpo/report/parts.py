"""Pieces of the page that are not pictures: tables, tiles, findings, unmaskings. All text that comes in is escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from diffpo.analysis.sections import Section, surrogate_name
from diffpo.report.examples import Example
from diffpo.report.sources import Measured, Run
from diffpo.study.tables import (
    COSTS,
    columns_of,
    difference_cell,
    direction_of,
    exceeds_spread,
    header,
    mean_cell,
    tables,
)

Summary = Mapping[str, Any]

NUM_FINDINGS = 8
EDGE = 10
"""A run's first and last 1 / EDGE of its steps are compared."""


def table(rows: Sequence[Sequence[str]], classes: Mapping[tuple[int, int], str] | None = None) -> str:
    """Rows of text, the head first; `classes` colour cells by (row, column), the head being row 0."""
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{cells}</tr>"]
    for number, row in enumerate(body, 1):
        kinds = [(classes or {}).get((number, column), "") for column in range(len(row))]
        cells = "".join(
            f'<td class="{kind}">{_cell(cell)}</td>' if kind else f"<td>{_cell(cell)}</td>"
            for kind, cell in zip(kinds, row, strict=True)
        )
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="scroll"><table><thead>{lines[0]}</thead><tbody>{"".join(lines[1:])}</tbody></table></div>'


def _cell(text: str) -> str:
    """A figure in ink, its interval in grey."""
    found = re.fullmatch(r"([-+]?[\d.,]+)( [±\[].*)", text)
    return f'{found[1]}<span class="soft">{escape(found[2])}</span>' if found else escape(text)


def tiles(values: Mapping[str, str]) -> str:
    """Label to value, as a row of cards."""
    items = "".join(f"<li><b>{escape(value)}</b><span>{escape(label)}</span></li>" for label, value in values.items())
    return f'<ul class="tiles">{items}</ul>'


def folded(title: str, html: str) -> str:
    """What opens on a click; "" stays ""."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>" if html else ""


# --- studies -----------------------------------------------------------------------------------------------------


def study_head(summary: Summary) -> str:
    """The question, what it took, and what stands out."""
    commits = ", ".join(commit or "unknown" for commit in summary["commits"])
    facts = {
        "seeds": str(len(summary["seeds"])),
        "test prompts, the same everywhere": f"{summary['num_prompts']:,}",
        "arms and the start": str(len(summary["arms"])),
        "runs": str(summary["num_cells"]),
        "of one thread": f"{summary['cell_seconds'] / 60:.0f} min",
        "baseline": summary["arms"][summary["baseline"]]["label"],
        "commit": commits,
    }
    return (
        f'<p class="question">{escape(summary["question"])}</p>{tiles(facts)}'
        f"<pre>{escape(summary['command'])}</pre>{findings(summary)}"
    )


def findings(summary: Summary) -> str:
    """The differences that exceed the seeds' spread, the clearest first, and how many do not."""
    arms, baseline = summary["arms"], summary["arms"][summary["baseline"]]["label"]
    pairs = [
        (name, metric, arm["versus"][metric])
        for name, arm in arms.items()
        for metric in columns_of(summary)
        if arm["versus"].get(metric, {}).get("std")
    ]
    clear = [entry for entry in pairs if exceeds_spread(entry[2])]
    clear.sort(key=lambda entry: -abs(entry[2]["mean"]) / entry[2]["half_width"])
    items = []
    for name, metric, value in clear[:NUM_FINDINGS]:
        difference = difference_cell(metric, value, len(summary["seeds"])).partition(" [")[0]
        items.append(
            f"<li><b>{escape(arms[name]['label'])}</b> "
            f'<span class="{colour(metric, value)}">{difference}</span> in {escape(header(metric))}</li>'
        )
    if len(clear) > NUM_FINDINGS:
        items.append(f"<li>and {len(clear) - NUM_FINDINGS} more, in the tables below</li>")
    words = (
        f"Of {len(pairs)} differences from {escape(baseline)}, {len(clear)} exceed the seeds' spread "
        f"(Student's t, 95 %); were none real, {0.05 * len(pairs):.1f} would do so by chance."
    )
    return f'<h3>What stands out</h3><p>{words}</p><ul class="findings">{"".join(items)}</ul>'


def reached_table(summary: Summary) -> str:
    """What the arms reached; green and red are better and worse than the baseline by more than the seeds' spread."""
    columns, classes = columns_of(summary), {}
    rows = [["", *map(header, columns)]]
    for number, arm in enumerate(summary["arms"].values(), 1):
        rows.append([arm["label"], *(mean_cell(m, arm["metrics"].get(m), len(summary["seeds"])) for m in columns)])
        for column, metric in enumerate(columns, 1):
            if value := arm["versus"].get(metric):
                classes[number, column] = colour(metric, value)
    return table(rows, classes)


def study_tables(summary: Summary) -> str:
    """Differences, costs, every seed and the tuning, folded."""
    _, (_, against), (_, took) = tables(summary)
    words = {(row, column): "words" for row in range(1, len(took)) for column in (len(took[0]) - 2, len(took[0]) - 1)}
    found = folded("Paired differences in figures", table(against)) if len(against) > 1 else ""
    found += folded("What training took, and the settings", table(took, words)) if len(took) > 1 else ""
    return found + folded("Every seed", _by_seed(summary)) + folded("Learning rates and the like", _tuning(summary))


def _by_seed(summary: Summary) -> str:
    rows = [["", "metric", *(f"seed {seed}" for seed in summary["seeds"])]]
    for metric in columns_of(summary):
        for arm in summary["arms"].values():
            if value := arm["metrics"].get(metric):
                seeds = [mean_cell(metric, _alone(seed), 1) for seed in value["by_seed"]]
                rows.append([arm["label"], header(metric), *seeds])
    return table(rows) if len(rows) > 1 else ""


def _alone(value: float | None) -> dict[str, float] | None:
    return None if value is None else {"mean": value, "std": 0.0, "n": 1}


def _tuning(summary: Summary) -> str:
    rows = [["", "values", "metric", "mean", "by seed", ""]]
    for arm in summary["arms"].values():
        for trial in arm.get("tuning", {}).get("trials", ()):
            metric = arm["tuning"]["metric"]
            seeds = " ".join(mean_cell(metric, _alone(seed), 1) for seed in trial["by_seed"])
            values = ", ".join(f"{key} {value}" for key, value in trial["values"].items())
            mean = mean_cell(metric, _alone(trial["mean"]), 1)
            rows.append(
                [arm["label"], values, header(metric), mean, seeds, "taken" * (trial["values"] == arm["tuned"])]
            )
    return table(rows) if len(rows) > 1 else ""


def colour(metric: str, value: Mapping[str, Any]) -> str:
    """ "better" or "worse" where a difference exceeds the seeds' spread and the metric has a good direction."""
    gain = direction_of(metric) * value["mean"] if exceeds_spread(value) and metric not in COSTS else 0
    return "better" if gain > 0 else "worse" if gain < 0 else ""


# --- runs and evaluations ----------------------------------------------------------------------------------------


def run_facts(run: Run) -> str:
    """What a run trained, and where reward, accuracy and calls went."""
    facts: dict[str, str] = {"steps": str(len(run.metrics))}
    if config := run.config:
        clamp = config.objective.importance_clamp
        facts["task"] = config.task.name
        facts["learns"] = {"joint": "denoiser and sampler", "model": "denoiser", "sampler": "sampler"}[config.train]
        facts["surrogate"] = surrogate_name(config.objective.num_latents)
        facts["importance weights"] = f"C = {clamp:g}" if clamp else "off"
        facts["rollouts"] = config.rollout.sampler
    edge = max(1, len(run.metrics) // EDGE)
    for metric, label, scale, digits in (
        ("reward", "reward", 1, 2),
        ("accuracy", "accuracy %", 100, 1),
        ("nfe", "denoiser calls", 1, 1),
        ("loss", "loss", 1, 3),
    ):
        ends = [mean_of(steps, metric) for steps in (run.metrics[:edge], run.metrics[-edge:])]
        first, last = (None if end is None else f"{scale * end:.{digits}f}" for end in ends)
        if first and last:
            facts[f"{label}, first and last {edge} steps" if edge > 1 else f"{label}, first and last step"] = (
                f"{first} → {last}"
            )
    return tiles(facts)


def mean_of(steps: Sequence[Mapping[str, float | None]], metric: str) -> float | None:
    """Mean over the steps that have it."""
    values = [value for step in steps if (value := step.get(metric)) is not None]
    return fmean(values) if values else None


def points_table(measured: Mapping[str, Measured], levels: bool) -> str:
    """A row a policy and sampler: all prompts, or each level of difficulty."""
    rows = [["policy", "sampler", *(["level"] if levels else []), "prompts", "accuracy %", "NFE", "gamma"]]
    for name, found in measured.items():
        for point in (*found.evaluation.points, *found.evaluation.frontier):
            if bool(point.level) == levels:
                accuracy = f"{100 * point.accuracy:.1f} [{100 * point.low:.1f}, {100 * point.high:.1f}]"
                gamma = "" if point.gamma is None else f"{point.gamma:.3g}"
                level = [point.level] if levels else []
                rows.append([name, point.sampler, *level, str(point.num_prompts), accuracy, f"{point.nfe:.2f}", gamma])
    return table(rows) if len(rows) > 1 else ""


def figures_table(section: Section) -> str:
    """The single numbers of an analysis' section."""
    rows = [["", ""], *([name, "" if value is None else f"{value:.4g}"] for name, value in section.figures.items())]
    return folded("figures", table(rows)) if section.figures else ""


# --- unmaskings --------------------------------------------------------------------------------------------------


def races(lanes: Mapping[str, Sequence[Example]]) -> str:
    """Policy to its answers to the same prompts: a card a prompt, in which the policies unmask side by side."""
    given = any(any(example.given) for examples in lanes.values() for example in examples)
    key = (
        f'<p class="soft">Colour is the call that committed a token: first <span class="ramp" style="background:'
        f'linear-gradient(90deg,{",".join(shade(step, 7) for step in range(1, 8))})"></span> last. '
        "The bar below a token is how sure the model was, exp(-entropy): full when it had no doubt. "
        + ("Cells with a rim stand in the puzzle. " if given else "")
        + "Point at a token for its figures; the slider takes the calls back.</p>"
    )
    cards = [_race(dict(zip(lanes, examples, strict=True))) for examples in zip(*lanes.values(), strict=True)]
    return key + "".join(cards)


def _race(lanes: Mapping[str, Example]) -> str:
    first, last = next(iter(lanes.values())), max(example.nfe for example in lanes.values())
    level = f'<span class="soft">{escape(first.level)}</span>' if first.level else ""
    body = "".join(_lane(name, example, last) for name, example in lanes.items())
    player = (
        '<div class="player"><button type="button">▶ play</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="denoiser calls made">'
        f"<output>call {last} of {last}</output></div>"
    )
    prompt = f'<pre class="prompt">{escape(first.prompt)}</pre>'
    return f'<div class="race"><header>{prompt}{level}</header><div class="lanes">{body}</div>{player}</div>'


def _lane(name: str, example: Example, last: int) -> str:
    mark = '<span class="better">✓ right</span>' if example.correct else '<span class="worse">✗ wrong</span>'
    gamma = f", gamma {example.gamma:.2g}" if example.sampler == "learned" and example.gamma is not None else ""
    facts = f"{mark} in {example.nfe} call{'s' * (example.nfe != 1)} · {escape(example.sampler)}{gamma}"
    style = f' style="--columns:{example.columns}"' if example.columns else ""
    tokens = "".join(_token(example, place, last) for place in range(len(example.tokens)))
    canvas = f'<div class="canvas{" grid" if example.columns else ""}"{style}>{tokens}</div>'
    return f'<div class="lane"><h4>{escape(name)}</h4><p class="facts">{facts}</p>{canvas}</div>'


def _token(example: Example, place: int, last: int) -> str:
    text, call, sure = example.tokens[place], example.calls[place], example.certainties[place]
    shown = text.replace("\n", "↵") or "·"
    background = shade(call, last)
    ink = "#ffffff" if luminance(background) < 0.55 else "#1b1f24"
    kind = "token given" if example.given[place] else "token"
    token = (
        f'<span class="{kind}" data-call="{call}" style="--call:{background};--text:{ink};--sure:{sure:.2f}" '
        f'title="call {call}, {100 * sure:.0f} % sure">{escape(shown)}</span>'
    )
    return token + "<br>" * (text.count("\n") if not example.columns else 0)


def shade(call: int, last: int) -> str:
    """Colour of a call among `last`."""
    return to_hex(colormaps["viridis"](0.12 + 0.83 * (call - 1) / max(1, last - 1)))


def luminance(colour: str) -> float:
    """How light a #rrggbb is, in [0, 1]."""
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue
