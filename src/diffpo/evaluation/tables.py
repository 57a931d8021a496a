"""Tables for the terminal: one evaluation, two compared, several side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from diffpo.evaluation.answers import Point
from diffpo.evaluation.evaluate import Evaluation
from diffpo.evaluation.paired import Difference, check_same_prompts

MAX_SIZES = 6
"""Columns of pass@k beside pass@1: those of the largest k."""


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """All there is to say of one evaluation: its table, and of several answers a prompt another."""
    several = [samples_table({"": evaluation}, levels=True)] if evaluation.num_samples > 1 else []
    return [evaluation_table(evaluation), *several]


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row a sampler with its levels below it, then the frontier of fixed thresholds."""
    until_eos = any(point.nfe != point.nfe_until_eos for point in evaluation.measured)
    effort = ["to EOS", "tokens", "/ NFE"] if until_eos else ["tokens / NFE"]
    headers = ["accuracy %", "NFE", *effort, "gamma"]
    table = _table(evaluation.task, "sampler", headers)
    table.caption = "accuracy with its 95 % interval; NFE: denoiser calls; gamma in nats"
    if until_eos:
        table.padding = (0, 0, 0, 1)
        table.caption += "\nNFE of the whole canvas, and until the answer's EOS; tokens of the answer"
    fixed = [point for point in evaluation.frontier if not point.level]
    for index, point in enumerate([*evaluation.points, *fixed]):
        cells = [accuracy_cell(point, 1), _calls(point.nfe)]
        cells += [_calls(point.nfe_until_eos), f"{point.num_tokens:.1f}"] if until_eos else []
        cells += [f"{point.tokens_per_nfe:.2f}", "" if point.gamma is None else f"{point.gamma:.3g}"]
        if index == len(evaluation.points):
            table.add_section()
        table.add_row(_label(point, point.sampler), *cells, style="dim" if point.level else "")
    return table


def samples_table(evaluations: Mapping[str, Evaluation], levels: bool = False) -> Table:
    """What several answers a prompt say: pass@1, which is the accuracy, with its standard error, pass@k and maj@N.

    A row a sampler and a fixed threshold of each named evaluation that has several; with `levels` the samplers' too.
    """
    rows = {
        name: [p for p in e.measured if not p.level or (levels and p in e.points)]
        for name, e in evaluations.items()
        if e.num_samples > 1
    }
    points = [point for found in rows.values() for point in found]
    shown = sorted({k for point in points for k in point.pass_at_k} - {1})[-MAX_SIZES:]
    counts = sorted({point.num_samples for point in points})
    title = f"{_same_task(evaluations)}, {_span(counts)} answers a prompt, %"
    majority = f"maj@{counts[0]}" if len(counts) == 1 else "maj@N"
    table = _table(title, "", ["sampler", "pass@1", "±", *(f"@{k}" for k in shown), majority])
    table.padding = (0, 0, 0, 1)
    table.caption = "±: standard error over prompts; @k: a right one among k; maj: the most frequent answer is right"
    for name, found in rows.items():
        for point in found:
            error = "" if point.standard_error is None else f"{100 * point.standard_error:.1f}"
            chances = [_share(point.pass_at_k.get(k)) for k in shown]
            cells = [_label(point, _short(point.sampler)), _share(point.accuracy), error, *chances]
            table.add_row(name, *cells, _share(point.majority), style="dim" if point.level else "")
            name = ""
        table.add_section()
    table.columns[1].justify = "left"
    return table


def comparison_table(before: Evaluation, after: Evaluation) -> Table:
    """What changed, sampler by sampler; below, the learned sampler against the fixed thresholds of the model before.

    The last rows compare at equal NFE: accuracy before is the frontier's at the calls that the learned sampler makes.
    ValueError for two tasks, or for prompts that are others.
    """
    both = {"before": before, "after": after}
    task = _same_task(both)
    check_same_prompts({name: {answer.id: answer.prompt for answer in e.answers} for name, e in both.items()})
    table = _table(task, "sampler", ["before %", "after %", "points", "NFE", "calls"])
    table.caption = "accuracy with its 95 % interval; NFE: denoiser calls"
    sizes = [max((point.num_prompts for point in e.measured), default=0) for e in both.values()]
    if sizes[0] != sizes[1]:
        table.caption += f"\n{sizes[0]} prompts before, {sizes[1]} after"
    known = {(point.sampler, point.level): point for point in before.points}
    for point in after.points:
        old = known.get((point.sampler, point.level))
        if point.sampler == "learned" or (old and not point.level):
            table.add_row(_label(point, point.sampler), *_changes(old, point))
    measured = {fixed.level for fixed in before.frontier}
    learned = [point for point in after.points if point.sampler == "learned" and point.level in measured]
    if not learned:
        return table
    table.add_section()
    for point in learned:
        spans = [fixed.nfe for fixed in before.frontier if fixed.level == point.level]
        nfe = min(max(point.nfe, min(spans)), max(spans))  # beyond its ends the frontier is read at the end
        fixed = before.frontier_accuracy(nfe, point.level)
        cells = [f"{100 * fixed:.1f}", accuracy_cell(point, 0), _gain(100 * (point.accuracy - fixed))]
        cells += [f"{_calls(nfe)} → {_calls(point.nfe)}", _gain(_percent(nfe, point.nfe), -1, " %")]
        table.add_row(_label(point, "vs fixed"), *cells)
    gain = 100 * (learned[0].accuracy - before.frontier_accuracy(learned[0].nfe))
    table.caption += (
        f"\nvs fixed: learned sampler after training against fixed thresholds before, at equal NFE: {gain:+.1f} points"
    )
    return table


def side_by_side_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Named evaluations of one task in one table: a row a sampler and a fixed threshold of each, without levels."""
    points = [p for e in evaluations.values() for p in e.measured if not p.level]
    prompts = _span(sorted({point.num_prompts for point in points}))
    title = f"{_same_task(evaluations)}, {prompts} {'prompt' if prompts == '1' else 'prompts'}"
    table = _table(title, "", ["sampler", "accuracy %", "NFE", "to EOS", "tokens", "/ NFE", "s", "GB"])
    table.padding = (0, 0, 0, 1)
    table.caption = "accuracy with its 95 % interval\ngamma: a fixed threshold; tokens up to EOS"
    for name, evaluation in evaluations.items():
        cost = evaluation.cost
        for point in evaluation.measured:
            if not point.level:
                speed = [_calls(point.nfe), _calls(point.nfe_until_eos), f"{point.num_tokens:.1f}"]
                seconds = cost.seconds.get(point.sampler) if cost else None
                effort = [f"{seconds:.1f}", f"{cost.peak_memory / 1e9:.2f}"] if cost and seconds else ["", ""]
                cells = [accuracy_cell(point, 0), *speed, f"{point.tokens_per_nfe:.2f}", *effort]
                table.add_row(escape(name), _short(point.sampler), *cells)
                name = ""
        table.add_section()
    return table


def difference_table(first: str, changes: Mapping[str, Mapping[str, Difference]]) -> Table:
    """What each named evaluation gained over `first`, sampler by sampler, on the prompts that both answered."""
    table = _table(f"against {first}, prompt by prompt", "", ["sampler", "points", "95 %", "won", "lost", "of", "p"])
    table.padding = (0, 0, 0, 1)
    table.caption = "interval: over prompts; p: McNemar's exact test, of several answers a permutation test"
    for name, found in changes.items():
        for sampler, change in found.items():
            low, high = change.interval
            counts = [str(change.won), str(change.lost), str(change.num_prompts)]
            cells = [_gain(change.points), f"[{low:+.1f}, {high:+.1f}]", *counts, f"{change.p_value:.3g}"]
            table.add_row(escape(name), _short(sampler), *cells)
            name = ""
        table.add_section()
    return table


def _same_task(evaluations: Mapping[str, Evaluation]) -> str:
    """The task that all are of; ValueError where they are of several."""
    task, *others = sorted({evaluation.task for evaluation in evaluations.values()})
    if others:
        raise ValueError(f"evaluations of different tasks ({', '.join([task, *others])}): compare those of one task")
    return task


def _changes(old: Point | None, new: Point) -> list[str | Text]:
    """The cells of one comparison; a sampler that was not measured before has dashes."""
    if old is None:
        return ["-", accuracy_cell(new, 0), "", f"- → {_calls(new.nfe)}", ""]
    points = _gain(100 * (new.accuracy - old.accuracy))
    calls = _gain(_percent(old.nfe, new.nfe), -1, " %")
    return [accuracy_cell(old, 0), accuracy_cell(new, 0), points, f"{_calls(old.nfe)} → {_calls(new.nfe)}", calls]


def _table(title: str, first: str, headers: Sequence[str]) -> Table:
    table = Table(
        title=escape(title), title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, title_style="bold"
    )
    table.add_column(first, overflow="fold")
    for header in headers:  # names, a folder's or a rule's, may have several lines, so that no figure is cut
        table.add_column(header, justify="right", overflow="fold", no_wrap=header != "sampler")
    return table


def _span(counts: Sequence[int]) -> str:
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _label(point: Point, name: str) -> str:
    """The head of a row: that of a level stands below the one for all prompts."""
    return escape(f"  {point.level}" if point.level else name)


def _short(sampler: str) -> str:
    """The sampler's name where a table has little room."""
    return escape(sampler.replace("entropy_bound:", "gamma "))


def _share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def accuracy_cell(point: Point, digits: int) -> str:
    """In %, with its interval to so many digits."""
    return f"{100 * point.accuracy:.1f} [{100 * point.low:.{digits}f}, {100 * point.high:.{digits}f}]"


def _calls(nfe: float) -> str:
    return f"{nfe:.2f}" if nfe < 10 else f"{nfe:.1f}"


def _percent(old: float, new: float) -> float:
    return 100 * (new / old - 1)


def _gain(change: float, better: int = 1, unit: str = "") -> Text:
    """A signed change, green if it goes the `better` way (+1 up, -1 down), red if the other."""
    digits = 0 if unit else 1
    value = round(change, digits)
    if value == 0:
        return Text(f"0{unit}")
    return Text(f"{value:+.{digits}f}{unit}", "green" if value * better > 0 else "red")
