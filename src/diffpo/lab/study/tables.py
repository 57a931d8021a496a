"""A study's summary as tables: for the terminal, and for pages of the docs, which a command keeps up to date."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from diffpo.files.recipe import read_json
from diffpo.view.progress import counted

Summary = Mapping[str, Any]


class Kind(NamedTuple):
    """How tables and pictures write the metrics whose whole name matches `pattern`."""

    pattern: str
    header: str
    """Of a column, with the groups of the pattern."""
    unit: str = ""
    """What differences are counted in; the header if empty."""
    scale: float = 1
    digits: int = 2
    better: int = 1
    """Which way is better: 1 up, -1 down, 0 neither."""


SHARE, SAVED, CALLS, ROWS = ("points", 100, 1), ("% of the calls", 100, 1), ("calls", 1, 2, -1), ("rows", 1, 0, -1)
KINDS = (
    Kind("accuracy/own", "own sampler %", *SHARE),
    Kind("nfe/own", "own sampler NFE", *CALLS),
    Kind("accuracy/(.+)", r"\1 %", *SHARE),
    Kind("nfe/(.+)", r"\1 NFE", *CALLS),
    Kind("gamma/(.+)", r"\1 gamma", "nats", better=0),
    Kind("reward/own", "own sampler reward", digits=3),
    Kind("reward/(.+)", r"\1 reward", digits=3),
    Kind("frontier/(.+)", r"fixed thresholds at \1 calls %", *SHARE),
    Kind("equal_forwards/accuracy/(.+)", r"\1 % at equal denoiser rows", *SHARE),
    Kind("equal_forwards/nfe/(.+)", r"\1 NFE at equal denoiser rows", *CALLS),
    Kind("gain_over_fixed", "points over own fixed thresholds", *SHARE),
    Kind("gain_over_fixed/(.+)", r"\1: points over own fixed thresholds", *SHARE),
    Kind("gain_over_baseline", "points over the baseline's fixed thresholds", *SHARE),
    Kind("gain_over_baseline/(.+)", r"\1: points over the baseline's fixed thresholds", *SHARE),
    Kind("calls_saved_over_fixed", "calls saved over own fixed thresholds %", *SAVED),
    Kind("calls_saved_over_baseline", "calls saved over the baseline's fixed thresholds %", *SAVED),
    Kind("(calls_saved_over_.+)", r"\1", *SAVED),
    Kind("forwards", "denoiser rows", *ROWS),
    Kind("forwards/(.+)", r"denoiser rows, \1", *ROWS),
    Kind("seconds", "training s", digits=0, better=-1),
    Kind("updates", "updates", digits=0, better=-1),
    Kind("(.+)", r"\1"),
)
"""The first that a metric matches counts."""
USUAL = (r"accuracy/top_k:\d+", "accuracy/own", "nfe/own", r"frontier/.+", r"equal_forwards/accuracy/top_k:\d+")
"""Patterns of the columns of a study that names none, in their order; within one by their number."""
COLOURS = {"better": "green", "worse": "red", "": ""}
NEEDED = ("name", "title", "question", "command", "origin", "commits", "seeds", "baseline", "columns", "num_prompts")
NEEDED += ("equal_forwards", "num_cells", "cell_seconds", "arms")
OF_AN_ARM = ("label", "changes", "tuned", "metrics", "versus", "curve")
COSTS = ("updates", "forwards", "forwards/rollouts", "forwards/updates", "seconds")
FOLDED = "What training took, its settings, and every seed"
OPEN = "<!-- study: "
BLOCK = re.compile(
    rf"(?P<open>{OPEN}(?P<path>\S+) -->(?P<end>\r?\n))(?:(?!{OPEN}).)*?(?P<close><!-- /study -->)", re.DOTALL
)
"""Where a page shows a study; the path of the summary is relative to the page."""


def check_summary(file: Path, summary: Summary) -> None:
    """ValueError names what the summary in `file` lacks of what a study writes."""
    arms = summary.get("arms")
    arms = arms if isinstance(arms, Mapping) else {}
    missing = [name for name in NEEDED if name not in summary]
    missing += [f"arms.{name}.{entry}" for name, arm in arms.items() for entry in OF_AN_ARM if entry not in (arm or ())]
    if not missing:
        missing += [f"arms.{name}.metrics.forwards" for name, arm in arms.items() if "forwards" not in arm["metrics"]]
        missing += [] if summary["baseline"] in arms else [f"arms.{summary['baseline']}"]
    if missing:
        raise ValueError(f"{file}: a summary without {', '.join(missing)}: make it again with diffpo study")


def columns_of(summary: Summary) -> list[str]:
    """The metrics that the study wants shown, or the usual ones; those that no arm has are left out."""
    known = dict.fromkeys(metric for arm in summary["arms"].values() for metric in arm["metrics"])
    usual = [
        metric
        for pattern in USUAL
        for metric in sorted(known, key=lambda name: [float(number) for number in re.findall(r"[\d.]+", name)])
        if re.fullmatch(pattern, metric)
    ]
    return [metric for metric in summary["columns"] or usual if metric in known]


def kind_of(metric: str) -> Kind:
    """How a metric is written."""
    return next(kind for kind in KINDS if re.fullmatch(kind.pattern, metric))


def header(metric: str) -> str:
    """A metric's name as the head of a column."""
    kind = kind_of(metric)
    return re.sub(rf"^{kind.pattern}$", kind.header, metric)


def value_cell(metric: str, value: float | None, sign: str = "") -> str:
    """One value as tables write it, with a `sign` of format's; "" where it is not defined."""
    kind = kind_of(metric)
    return "" if value is None else f"{kind.scale * value:{sign}.{kind.digits}f}"


def mean_cell(metric: str, value: Mapping[str, Any] | None, num_seeds: int) -> str:
    """Mean and half-width, and over how many seeds where it is not all; "" for what is not there."""
    if value is None:
        return ""
    few = f" (n = {value['n']})" if value["n"] < num_seeds else ""
    spread = "" if metric == "updates" or not value["std"] else f" ± {value_cell(metric, value['half_width'])}"
    return f"{value_cell(metric, value['mean'])}{spread}{few}"


def difference_cell(metric: str, value: Mapping[str, Any] | None, num_seeds: int) -> str:
    """Mean difference, half-width and bootstrap interval; * where Student's interval leaves 0 out."""
    if value is None:
        return ""
    few = f" (n = {value['n']})" if value["n"] < num_seeds else ""
    mean, low, high = (value_cell(metric, value[name], "+") for name in ("mean", "low", "high"))
    mark = " *" if exceeds_spread(value) else ""
    return f"{mean} ± {value_cell(metric, value['half_width'])} [{low}, {high}]{mark}{few}"


def exceeds_spread(value: Mapping[str, Any]) -> bool:
    """Whether Student's 95 % interval of a difference leaves 0 out."""
    return abs(value["mean"]) > value["half_width"]


def judged(metric: str, difference: Mapping[str, Any]) -> str:
    """ "better" or "worse" where a difference exceeds the seeds' spread and the metric has a good direction."""
    gain = kind_of(metric).better * difference["mean"] if exceeds_spread(difference) else 0
    return "better" if gain > 0 else "worse" if gain < 0 else ""


def tables(summary: Summary) -> tuple[list[list[str]], list[list[str]], list[list[str]]]:
    """Rows, the head first, of what arms reached, of their differences, of what they took."""
    num_seeds, columns, arms = len(summary["seeds"]), columns_of(summary), summary["arms"].values()
    shared = [metric for metric in columns if any(metric in arm["versus"] for arm in arms)]
    reached = [["arm", *map(header, columns)]]
    against = [[f"less {summary['arms'][summary['baseline']]['label']}", *map(header, shared)]]
    took = [["arm", *map(header, COSTS), "settings", "tuned"]]
    for arm in arms:
        label, metrics = arm["label"], arm["metrics"]
        reached.append([label, *(mean_cell(m, metrics.get(m), num_seeds) for m in columns)])
        if metrics["forwards"]["mean"]:
            cells = [mean_cell(m, metrics.get(m), num_seeds) for m in COSTS]
            took.append([label, *cells, _settings(arm["changes"]), _settings(arm["tuned"])])
    compared = [(arm["label"], arm["versus"]) for arm in arms if arm["versus"]] + paired(summary)
    against += [[label, *(difference_cell(m, versus.get(m), num_seeds) for m in shared)] for label, versus in compared]
    return reached, against, took


def paired(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    """The study's own pairs of arms: what is compared, and the differences by metric."""
    arms, pairs = summary["arms"], summary.get("pairs", ())
    return [(f"{arms[p['arm']]['label']}, less {arms[p['less']]['label']}", p["versus"]) for p in pairs]


def by_seed(summary: Summary, metric: str) -> list[list[str]]:
    """Of each arm that has the metric its label, and the value at every seed, so that nobody has to trust a mean."""
    arms = [arm for arm in summary["arms"].values() if metric in arm["metrics"]]
    return [[arm["label"], *(value_cell(metric, value) for value in arm["metrics"][metric]["by_seed"])] for arm in arms]


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def commits_of(summary: Summary) -> str:
    """The commits that the study's runs are of."""
    return ", ".join(commit or "unknown" for commit in summary["commits"])


def caption(summary: Summary, brackets: bool = True) -> str:
    """What the figures are, in a few sentences; `brackets` where differences stand beside the means."""
    seeds, origin = summary["seeds"], summary["origin"]
    minutes = round(summary["cell_seconds"] / 60)
    where = f"{counted(origin['cores'], 'core')} of {origin['cpu']}" + (
        f" and an {origin['gpu']}" if "gpu" in origin else ""
    )
    differences = (
        "in brackets the 95 % bootstrap over seeds, which for few seeds is too narrow.",
        "* marks differences, paired by seed, whose t interval leaves 0 out; of many, one in twenty does so by chance.",
    )
    sentences = (
        f"{len(seeds)} seeds ({', '.join(map(str, seeds))}), {summary['num_prompts']:,} distinct test prompts,",
        "the same in every arm.",
        f"Means over seeds ± half of their 95 % interval (Student's t){';' if brackets else '.'}",
        *(differences if brackets else ()),
        f"Equal denoiser rows: where training had forwarded {summary['equal_forwards']:,.0f} rows in all.",
        f"Commit {commits_of(summary)}; {where}, one thread a run, torch {origin['torch']};",
        f"{counted(summary['num_cells'], 'run')}, {counted(minutes, 'minute')} of one thread.",
    )
    return " ".join(sentences)


def rich_table(summary: Summary) -> Table:
    """For the terminal: a section a metric, a row an arm; differences that exceed the seeds' spread are coloured."""
    num_seeds, columns, arms = len(summary["seeds"]), columns_of(summary), summary["arms"]
    baseline = arms[summary["baseline"]]["label"]
    table = Table(title=escape(summary["title"]), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.pad_edge, table.padding = False, (0, 1, 0, 0)  # 80 columns hold it
    table.add_column("")
    for name in ("mean ± t", "less baseline ± t [bootstrap]"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for metric in [*columns, "updates", "forwards", "seconds"]:
        table.add_row(Text(header(metric), "bold"), "", "")
        for arm in arms.values():
            if metric in arm["metrics"]:
                versus = None if metric in COSTS else arm["versus"].get(metric)
                colour = COLOURS[judged(metric, versus)] if versus else ""
                value = mean_cell(metric, arm["metrics"][metric], num_seeds)
                difference = Text(difference_cell(metric, versus, num_seeds), colour)
                table.add_row(Text(f"  {arm['label']}"), value, difference)
        for label, versus in paired(summary) if metric not in COSTS else ():
            if found := versus.get(metric):
                difference = Text(difference_cell(metric, found, num_seeds), COLOURS[judged(metric, found)])
                table.add_row(Text(f"  {label}"), "", difference)
        table.add_section()
    table.caption = (
        f"baseline: {escape(baseline)}; {num_seeds} seeds, {summary['num_prompts']} prompts\n"
        "*: Student's t over seeds leaves 0 out"
    )
    return table


def markdown(summary: Summary) -> str:
    """The study as a block of a page: command, tables, what the figures are; folded what it took, and all seeds."""
    reached, against, took = tables(summary)
    seeds = list(map(str, summary["seeds"]))
    by_seeds = [[[f"{header(m)} by seed", *seeds], *by_seed(summary, m)] for m in columns_of(summary)[:1]]
    shown, folded = (
        [_markdown_table(rows) for rows in those if len(rows) > 1] for those in ((reached, against), (took, *by_seeds))
    )
    parts = [f"    {summary['command']}", *shown, caption(summary)]
    return "\n\n".join([*parts, f'<details markdown="1">\n<summary>{FOLDED}</summary>', *folded, "</details>"])


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def render_page(path: Path) -> str:
    """The page with each of its study blocks written anew from the summary that the block names."""

    def block(found: re.Match[str]) -> str:
        file = path.parent / found["path"]
        if not file.is_file():
            raise ValueError(f"{path}: {found['path']} is missing; run the study, or take its block out")
        check_summary(file, summary := read_json(file))
        table = f"\n{markdown(summary)}\n\n".replace("\n", found["end"])  # lines end as the page's do
        return f"{found['open']}{table}{found['close']}"

    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error.reason})") from None
    page, whole = BLOCK.subn(block, text)
    if whole < (begun := text.count(OPEN)):
        raise ValueError(
            f"{path}: {begun} blocks begin ({OPEN}FILE -->), {whole} of them whole: end each with <!-- /study -->"
        )
    return page
