"""What an analysis says: sections of series and figures, and means with their 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from diffpo.lab.study.statistics import rounded, statistic, student_quantile

if TYPE_CHECKING:
    from diffpo.view.drawing import Picture


@dataclass(frozen=True)
class Series:
    """One line of a picture. What is not defined somewhere is None there."""

    label: str
    x: Sequence[float | str]
    """Numbers, or the names of categories."""
    y: Sequence[float | None]
    half_width: Sequence[float | None] | None = None
    """The 95 % interval is y +- half_width; None where there is none."""


@dataclass(frozen=True)
class Section:
    """One question and its answer: a picture can be drawn from it without knowing the question."""

    name: str
    title: str
    explains: str
    """What is shown and how to read it, in one or two sentences."""
    x: str
    """Label of the axis."""
    y: str
    series: Sequence[Series]
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """Single numbers by name."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Section:
        """What `plain` gave."""
        return cls(**{**plain, "series": [Series(**series) for series in plain["series"]]})

    @property
    def bounds(self) -> tuple[float, float]:
        """What the quantity on the axis cannot leave, whatever its interval; an estimate beyond it stays in sight."""
        low, high = next((ends for name, ends in BOUNDS.items() if self.name.startswith(name)), (-math.inf, math.inf))
        known = [y for series in self.series for y in series.y if y is not None and math.isfinite(y)]
        return min([low, *known]), max([high, *known])

    def __repr__(self) -> str:
        figures = "; ".join(f"{name} {value:.3g}" for name, value in self.figures.items() if value is not None)
        return f"Section({self.name}: {self.title}{': ' if figures else ''}{figures})"

    def _repr_html_(self) -> str:
        from diffpo.lab.analysis.show import section_table
        from diffpo.view.notebook import as_html

        return as_html(section_table(self), picture=self.plot())

    def plot(self) -> Picture:
        """Its picture (`analysis.show.section_figure`)."""
        from diffpo.lab.analysis.show import section_figure

        return section_figure(self)

    def plain(self) -> dict[str, Any]:
        """For JSON, rounded."""
        return rounded(asdict(self))


BOUNDS = {
    **dict.fromkeys(("kl_", "threshold_by_difficulty", "weights_by_call"), (0.0, math.inf)),
    **dict.fromkeys(("gamma_commits", "order"), (1.0, math.inf)),
    **dict.fromkeys(("calibration", "gamma_accuracy", "gradient_noise", "weights_in_use"), (0.0, 1.0)),
    "gradient_direction": (-1.0, 1.0),
}
"""Bounds by how a section's name begins."""


class Means(NamedTuple):
    """Means by ascending bin."""

    bins: list[int]
    mean: list[float]
    half_width: list[float]


def means_by(values: Tensor, bins: Tensor, clusters: Tensor, least: int = 2) -> Means:
    """Mean of `values` [N] in each of the `bins` [N], and half the width of its 95 % interval over `clusters` [N].

    Bins with values of fewer than `least` clusters are left out.

    Values of one cluster, such as tokens of one prompt, are alike; clusters are not. So the variance is that of a
    ratio of sums over clusters (Cochran 1977, 6.3), and Student's t has one degree of freedom less than clusters.
    """
    names, bins = bins.unique(return_inverse=True)
    clusters = clusters.unique(return_inverse=True)[1]
    empty = torch.zeros(len(names), int(clusters.max()) + 1 if len(clusters) else 0, dtype=torch.float64)
    sums = empty.index_put((bins, clusters), values.double(), accumulate=True)
    counts = empty.index_put((bins, clusters), torch.ones_like(values, dtype=torch.float64), accumulate=True)
    total, present = counts.sum(-1), (counts > 0).sum(-1)
    mean = sums.sum(-1) / total
    spread = (sums - mean[:, None] * counts).square().sum(-1).sqrt() / total * (present / (present - 1)).sqrt()
    keep = present >= least
    quantile = torch.tensor([student_quantile(count) for count in present[keep].tolist()], dtype=torch.float64)
    return Means(names[keep].tolist(), mean[keep].tolist(), (quantile * spread[keep]).tolist())


K = TypeVar("K")
V = TypeVar("V")


def means_over(runs: Sequence[Sequence[Section]]) -> list[Section]:
    """Means over runs, two or more, and Student's 95 % interval of each, instead of the intervals over prompts.

    Sections, lines, places and figures that one of the runs does not have, or has no value at, are left out.
    """
    return [_mean(same) for same in _shared([{section.name: section for section in run} for run in runs]).values()]


def _shared(runs: Sequence[Mapping[K, V]]) -> dict[K, list[V]]:
    """What every run has, in each of them."""
    return {key: [run[key] for run in runs] for key in runs[0] if all(key in run for run in runs)}


def _mean(sections: Sequence[Section]) -> Section:
    series, figures = [], dict[str, float | None]()
    for label, lines in _shared([{line.label: line for line in section.series} for section in sections]).items():
        found = _means([dict(zip(line.x, line.y, strict=True)) for line in lines])
        y, half_width = [mean for mean, _ in found.values()], [half for _, half in found.values()]
        series.append(Series(label, list(found), y, half_width))
    for name, (mean, half_width) in _means([section.figures for section in sections]).items():
        figures |= {name: mean, f"{name} ±": half_width}
    explains = f"{sections[0].explains} Means over {len(sections)} runs with their 95 % interval."
    return replace(sections[0], explains=explains, series=series, figures=figures)


def _means(runs: Sequence[Mapping[K, float | None]]) -> dict[K, tuple[float, float]]:
    """Mean and half-width at each place where every run has a value."""
    over = {place: statistic(values) for place, values in _shared(runs).items()}
    return {place: (found.mean, found.half_width) for place, found in over.items() if found and found.n == len(runs)}


def surrogate_name(spec: str) -> str:
    """What a surrogate is called: mean field, 2-MF, exact; others as they are written."""
    name, _, m = spec.partition(":")
    if name != "mean_field" or not m.isdigit():
        return spec
    return {"0": "exact", "1": "mean field"}.get(m, f"{m}-MF")
