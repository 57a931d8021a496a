"""What a finished study says: figures of each cell, means over seeds, paired differences against the baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from math import isinf
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from diffpo.evaluation.evaluate import Evaluation
from diffpo.lab.study.plan import BASE, Cell, Study
from diffpo.lab.study.statistics import crossed_interval, first_reach, read_off, rounded, statistic

T = TypeVar("T")
Figures = dict[str, float]
Trials = Sequence[tuple[Mapping[str, Any], Sequence[Cell]]]
"""Combinations of an arm's values, each with its tuning cells."""


def figures(folder: Path, cell: Cell, study: Study) -> Figures:
    """What one cell measured, by name (docs/studies.md): accuracies and shares in [0, 1]."""
    last, place = json.loads((folder / "result.json").read_text())["points"][-1], _end(folder)
    evaluation, found = Evaluation.load(place), _rewards(place, study.train.objective.speed_weight)
    for point in evaluation.measured:
        name = f"{point.sampler}/{point.level}" if point.level else point.sampler
        found |= {f"accuracy/{name}": point.accuracy, f"nfe/{name}": point.nfe}
        if point.sampler == "learned" and point.gamma is not None:
            found[f"gamma/{name}"] = point.gamma
    for calls in study.config.measure.at_nfe:
        if (accuracy := read_off(_frontier(evaluation), calls)) is not None:
            found[f"frontier/{calls:g}"] = accuracy
    if cell.train:
        own = evaluation.point(cell.train.rollout.sampler)
        found |= {"accuracy/own": own.accuracy, "nfe/own": own.nfe}
        if own.sampler == "learned":
            found |= _against("fixed", "learned", evaluation, evaluation)
        if (name := f"reward/{own.sampler}") in found:
            found["reward/own"] = found[name]
    found["updates"] = last["step"] * (cell.train.objective.num_iterations if cell.train else 0)
    found |= {name: last[name] for name in ("forwards", "forwards/rollouts", "forwards/updates", "seconds")}
    return found


def _end(folder: Path) -> Path:
    """Where a cell was measured when its training had ended."""
    return max((folder / "points").iterdir())


def _answers(place: Path) -> dict[str, Any]:
    """What a cell noted of every answer."""
    return json.loads((place / "answers.json").read_text())


def _rewards(place: Path, speed_weight: float) -> Figures:
    """Mean of correct * (1 + lambda * (1 - NFE / L)), what training maximises but for its gate; none without lambda.

    NFE are the calls until the EOS, after which training makes none.
    """
    if not speed_weight:
        return {}
    record, found = _answers(place), {}
    for spec, right in record["correct"].items():
        speeds = (1 + speed_weight * (1 - nfe / record["gen_length"]) for nfe in record["nfe"][spec])
        found[f"reward/{spec}"] = fmean(int(x) * speed for x, speed in zip(right, speeds, strict=True))
    return found


def _frontier(evaluation: Evaluation, level: str = "") -> list[tuple[float, float]]:
    return [(point.nfe, point.accuracy) for point in evaluation.frontier if point.level == level]


def _against(name: str, sampler: str, own: Evaluation, other: Evaluation) -> Figures:
    """A sampler against fixed thresholds: accuracy at its own calls, and calls at its own accuracy, where measured.

    Over all prompts, and within each level: there a threshold cannot gain by moving calls from one level to another.
    """
    found: Figures = {}
    for point in own.points:
        if point.sampler != sampler:
            continue
        frontier, end = _frontier(other, point.level), f"/{point.level}" if point.level else ""
        if (accuracy := read_off(frontier, point.nfe)) is not None:
            found[f"gain_over_{name}{end}"] = point.accuracy - accuracy
        if nfe := first_reach(frontier, point.accuracy):
            found[f"calls_saved_over_{name}{end}"] = 1 - point.nfe / nfe
    return found


def track(folder: Path) -> list[dict[str, float]]:
    """The points of a cell's training: step, cost, and accuracy and NFE of each sampler measured there."""
    found = []
    for point in json.loads((folder / "result.json").read_text())["points"]:
        evaluation = Evaluation.load(folder / "points" / f"{point['step']:06d}")
        overall = [p for p in evaluation.points if not p.level]
        accuracies = {f"accuracy/{p.sampler}": p.accuracy for p in overall}
        found.append(point | accuracies | {f"nfe/{p.sampler}": p.nfe for p in overall})
    return found


class Results:
    """All cells of a finished study, read from disk."""

    def __init__(self, study: Study, folder: Path, cells: Mapping[str, Sequence[Cell]]) -> None:
        self.study, self.folder = study, folder
        bases = {cell.name: cell for cell in study.base_cells()}
        self.cells = {BASE: [bases[study.start(seed)] for seed in study.config.seeds], **cells}

        def of_each(read: Callable[[Path, Cell], T]) -> dict[str, list[T]]:
            return {name: [read(folder / cell.name, cell) for cell in found] for name, found in self.cells.items()}

        self.figures = of_each(lambda place, cell: figures(place, cell, study))
        self.tracks = of_each(lambda place, _: track(place))
        self.answers = of_each(lambda place, _: _answers(_end(place)))
        lists = {tuple(record["prompts"]) for found in self.answers.values() for record in found}
        if len(lists) > 1:  # nothing would be paired
            raise ValueError(f"{self.folder}: cells were measured on different prompts; remove it and start again")
        self.num_prompts = len(next(iter(lists)))
        self.equal_forwards = min(f["forwards"] for name in cells for f in self.figures[name])
        for name in self.cells:
            for index, own in enumerate(self.figures[name]):
                own |= self._at_equal_forwards(name, index)
                own |= self._over_baseline(name, index)

    def _at_equal_forwards(self, name: str, index: int) -> Figures:
        """Accuracy of tracked samplers where training had cost as much as the cheapest run of the study in all."""
        if name == BASE:
            return {}
        points = [*self.tracks[BASE][index], *self.tracks[name][index]]
        found: Figures = {}
        for metric in self.tracks[name][index][0]:
            line = [(point["forwards"], point[metric]) for point in points if metric in point]
            followed = metric.startswith(("accuracy/", "nfe/")) and len(line) > 1
            if followed and (value := read_off(line, self.equal_forwards)) is not None:
                found[f"equal_forwards/{metric}"] = value
        return found

    def _over_baseline(self, name: str, index: int) -> Figures:
        """The arm's own sampler against the baseline's fixed thresholds, at equal calls and at equal accuracy."""
        cell, baseline = self.cells[name][index], self.study.config.baseline
        if not cell.train or name == baseline:
            return {}
        ends = (_end(self.folder / self.cells[arm][index].name) for arm in (name, baseline))
        return _against("baseline", cell.train.rollout.sampler, *map(Evaluation.load, ends))

    def metrics(self, name: str) -> dict[str, dict[str, Any]]:
        """Every metric of an arm over the seeds."""
        names = dict.fromkeys(metric for found in self.figures[name] for metric in found)
        every = {metric: statistic([found.get(metric) for found in self.figures[name]]) for metric in names}
        return {metric: value.plain() for metric, value in every.items() if value}

    def differences(self, name: str, other: str) -> dict[str, dict[str, Any]]:
        """Every metric of an arm less the other's, paired by seed; accuracies also with prompts drawn again."""
        found: dict[str, dict[str, Any]] = {}
        pairs = list(zip(self.figures[name], self.figures[other], strict=True))
        answers = list(zip(self.answers[name], self.answers[other], strict=True))
        for metric in dict.fromkeys(metric for own in self.figures[name] for metric in own):
            if value := statistic([a[metric] - b[metric] if metric in a and metric in b else None for a, b in pairs]):
                found[metric] = value.plain()
                kind, _, sampler = metric.partition("/")
                if kind == "accuracy" and all(sampler in one["correct"] for pair in answers for one in pair):
                    rights = [(a["correct"][sampler], b["correct"][sampler]) for a, b in answers]
                    rows = [[int(x) - int(y) for x, y in zip(*right, strict=True)] for right in rights]
                    found[metric]["crossed_low"], found[metric]["crossed_high"] = rounded(crossed_interval(rows))
        return found

    def curve(self, name: str) -> list[dict[str, Any]]:
        """Means over seeds at each point of training, with the intervals of what was measured."""
        found = []
        for points in zip(*self.tracks[name], strict=True):
            entry: dict[str, Any] = {"step": points[0]["step"]}
            for metric in points[0]:
                values = [point[metric] for point in points if metric in point]
                if metric.startswith(("accuracy/", "nfe/")) and (value := statistic(values)):
                    entry[metric] = value.plain()
                elif metric in ("forwards", "seconds"):
                    entry[metric] = rounded(fmean(values))
            found.append(entry)
        return found


def summarize(
    study: Study,
    folder: Path,
    cells: Mapping[str, Sequence[Cell]],
    tuning: Mapping[str, Trials],
    chosen: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The summary of a finished study, as it is written to results/NAME.json."""
    results, config = Results(study, folder, cells), study.config
    names = [cell.name for found in results.cells.values() for cell in found]
    trials = [cell.name for found in tuning.values() for _, group in found for cell in group]
    done = [json.loads((folder / name / "result.json").read_text()) for name in dict.fromkeys([*names, *trials])]
    return {
        "name": study.name,
        "title": config.title or study.name,
        "question": config.question,
        "origin": done[-1]["origin"],
        "commits": sorted({result["origin"]["commit"] for result in done}),
        "seeds": list(config.seeds),
        "baseline": config.baseline,
        "columns": list(config.columns),
        "task": study.train.task.name,
        "num_prompts": results.num_prompts,
        "equal_forwards": results.equal_forwards,
        "num_cells": len(done),
        "cell_seconds": rounded(sum(sum(result["seconds"].values()) for result in done)),
        "arms": {name: _arm(name, results, tuning, chosen) for name in results.cells},
        "pairs": [{"arm": a, "less": b, "versus": results.differences(a, b)} for a, b in config.pairs],
    }


def _arm(
    name: str, results: Results, tuning: Mapping[str, Trials], chosen: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    study, baseline = results.study, results.study.config.baseline
    arm = next((arm for arm in study.arms if arm.name == name), None)
    found: dict[str, Any] = {
        "label": arm.label if arm else "base",
        "changes": _spoken(arm.changes if arm else {}),
        "tuned": _spoken(chosen.get(name, {})),
        "metrics": results.metrics(name),
        "versus": results.differences(name, baseline) if name != baseline else {},
        "curve": results.curve(name),
    }
    if tuning.get(name):
        metric = study.config.tune.metric
        found["tuning"] = {"metric": metric, "seeds": list(study.config.tune.seeds), "trials": []}
        for values, cells in tuning[name]:
            by_seed = [figures(results.folder / cell.name, cell, study)[metric] for cell in cells]
            trial = {"values": _spoken(values), "by_seed": rounded(by_seed), "mean": rounded(fmean(by_seed))}
            found["tuning"]["trials"].append(trial)
    return found


def _spoken(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings for JSON, which has no infinity."""
    return {key: str(value) if isinstance(value, float) and isinf(value) else value for key, value in values.items()}
