"""Means over runs: what every run has, with the interval over runs."""

from __future__ import annotations

import pytest

from diffpo.lab.analysis.sections import Section, Series, means_over
from diffpo.lab.study.statistics import student_quantile


def section(name: str, *series: Series, **figures: float | None) -> Section:
    return Section(name, "title", "What is shown.", "x", "y", series, figures)


def test_means_and_intervals_are_over_runs() -> None:
    one = [section("kl", Series("2-MF", [1, 2, 3], [0.1, 0.5, 9.0], [1.0, 1.0, 1.0]), mean=0.2, other=None)]
    two = [section("kl", Series("2-MF", [1, 2], [0.3, 0.5], [1.0, 1.0]), mean=0.4, other=1.0)]
    (found,) = means_over([one, two])
    (line,) = found.series
    assert (line.label, line.x) == ("2-MF", [1, 2]) and line.y == pytest.approx([0.2, 0.5])
    assert line.half_width == pytest.approx(
        [student_quantile(2) * 0.1, 0.0]
    )  # the deviation of 0.1 and 0.3, over sqrt(2)
    assert found.figures == pytest.approx({"mean": 0.3, "mean ±": student_quantile(2) * 0.1})
    assert found.explains == "What is shown. Means over 2 runs with their 95 % interval."


def test_what_a_run_lacks_is_left_out() -> None:
    one = [
        section("kl", Series("a", ["x"], [1.0]), Series("b", ["x"], [1.0])),
        section("gone", Series("a", [1], [1.0])),
    ]
    two = [section("kl", Series("b", ["x"], [None]), Series("c", ["x"], [1.0]))]
    (found,) = means_over([one, two])
    assert [(line.label, line.x, line.y) for line in found.series] == [("b", [], [])]
