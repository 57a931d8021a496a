"""Analyses of several runs as one: means over runs with their 95 % interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from diffpo.lab.analysis.sections import Section, Series
from diffpo.lab.study.statistics import statistic

K = TypeVar("K")


def means_over(runs: Sequence[Sequence[Section]]) -> list[Section]:
    """Means over runs, two or more, and Student's 95 % interval of each, instead of the intervals over prompts.

    Sections, lines, places and figures that one of the runs does not have, or has no value at, are left out.
    """
    others = [{section.name: section for section in sections} for sections in runs]
    return [_mean([found[s.name] for found in others]) for s in runs[0] if all(s.name in found for found in others)]


def _mean(sections: Sequence[Section]) -> Section:
    lines = [{series.label: series for series in section.series} for section in sections]
    series = [_line([known[label] for known in lines]) for label in lines[0] if all(label in known for known in lines)]
    figures: dict[str, float | None] = {}
    for name, (mean, half_width) in _means([section.figures for section in sections]).items():
        figures |= {name: mean, f"{name} ±": half_width}
    explains = f"{sections[0].explains} Means over {len(sections)} runs with their 95 % interval."
    return replace(sections[0], explains=explains, series=series, figures=figures)


def _line(lines: Sequence[Series]) -> Series:
    found = _means([dict(zip(line.x, line.y, strict=True)) for line in lines])
    y, half_width = zip(*found.values(), strict=True) if found else ((), ())
    return Series(lines[0].label, list(found), list(y), list(half_width))


def _means(runs: Sequence[Mapping[K, float | None]]) -> dict[K, tuple[float, float]]:
    """Mean and half-width at each place where every run has a value."""
    found: dict[K, tuple[float, float]] = {}
    for place in runs[0]:
        over = statistic([known.get(place) for known in runs])
        if over and over.n == len(runs):
            found[place] = over.mean, over.half_width
    return found
