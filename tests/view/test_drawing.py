"""Pictures say which line is whose, whatever the number of series and the length of their names."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from evaluation.measured import evaluation

from diffpo.evaluation.figures import frontier_figure
from diffpo.lab.analysis.sections import Section, Series
from diffpo.lab.analysis.show import _draw_lines
from diffpo.view.drawing import COLOURS, keep_within, legend_above, new_figure, save_figure, styles


@pytest.mark.parametrize("count", [1, 2, 8, 9, 12, 24])
def test_no_two_series_look_alike(count: int) -> None:
    looks = styles(count)
    assert len({(look.colour, look.dash) for look in looks}) == len(looks) == count
    assert all(a.marker != b.marker for a, b in itertools.pairwise(looks))  # neighbours without colour


@pytest.mark.parametrize("labels", [["a", "b"], ["joint: learning rate 1.5e-4, epsilon 0.2"] * 12, ["x" * 60, "$y"]])
def test_every_name_of_a_legend_is_on_the_canvas(labels: list[str]) -> None:
    figure = new_figure((8.4, 5.0))
    legend_above(figure, [look.handle(label) for look, label in zip(styles(len(labels)), labels, strict=True)])
    figure.add_subplot().plot([0, 1], [0, 1])
    figure.canvas.draw()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == labels
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height


def test_a_learned_sampler_is_labelled_in_its_own_policys_colour(tmp_path: Path) -> None:
    """Also where the last policy has none."""
    path = tmp_path / "frontier.svg"
    save_figure(frontier_figure({"ours": evaluation(0.1), "base": evaluation(learned=False)}), path)
    label = re.search(r"<text[^>]*>learned</text>", path.read_text())
    assert label and COLOURS[0] in label[0]


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "frontier.png").mkdir()
    with pytest.raises(OSError, match=r"/frontier\.png: could not be written"):
        save_figure(new_figure((1, 1)), tmp_path / "frontier.png")


def test_an_interval_ends_where_its_quantity_must() -> None:
    section = Section("kl_by_call", "", "", "call", "KL", [Series("MF", [1, 2], [0.1, 0.5], [0.4, 0.1])])
    axes = new_figure((4, 3)).add_subplot()
    _draw_lines(axes, section, styles(1))
    assert axes.collections[0].get_paths()[0].vertices[:, 1].min() == 0.0


def test_an_axis_ends_where_its_values_must() -> None:
    axes = new_figure((4, 3)).add_subplot()
    axes.plot([0, 1], [0, 0])  # matplotlib would go from -0.05 to 0.05
    keep_within(axes, 0, 100)
    assert -0.01 < axes.get_ylim()[0] <= 0 and np.isclose(axes.get_ylim()[1], 0.055, atol=0.01)
