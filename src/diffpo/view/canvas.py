"""A finished canvas to look at: tokens in the colours of the calls that committed them, as text and as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap, to_hex, to_rgb
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import MaxNLocator
from rich.text import Text

from diffpo.view.drawing import FAINT, INK, Picture, new_figure, style_axes

if TYPE_CHECKING:
    from diffpo.types import Completion

GIVEN = "#eeeeee"
"""Colour of what no call committed."""
VISIBLE = 0.1
"""Certainties that differ by less are drawn in one size to the eye."""


def shade(call: int, last: int) -> str:
    """Colour, #rrggbb, of a call (1..last): the later, the lighter."""
    return to_hex(colormaps["viridis"](0.2 + 0.75 * (call - 1) / max(1, last - 1)))


def ink_on(colour: str) -> str:
    """What can be read on a colour."""
    red, green, blue = to_rgb(colour)
    return "#ffffff" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK


def painted(completion: Completion) -> Text:
    """The answer's tokens, each on the colour of its call, then what it took and the colours of some calls."""
    text, last = Text(), completion.nfe
    calls = completion.committed_at.tolist()[: completion.length]
    for piece, call in zip(completion.pieces, calls, strict=False):
        text.append(piece.replace("\n", "↵\n") or "·", _on(shade(call, last)) if call else "")
    text.append("\n" + "   ".join((*completion.took, "calls ")))
    for call in dict.fromkeys(round(1 + (last - 1) * share / 7) for share in range(8)):
        text.append(f" {call} ", _on(shade(call, last)))
    return text


def _on(colour: str) -> str:
    """Style of text on a colour."""
    return f"{ink_on(colour)} on {colour}"


def unmasking_figure(completion: Completion, columns: int | None = None, given: Sequence[bool] = ()) -> Picture:
    """A completion's canvas, coloured by the call that committed each position, and the order beside it.

    `columns` cells make a row; `given` ones, which the prompt already gave away, have a rim. The more certain the model
    was when it committed a token, the larger the token. ValueError if the completion does not know its tokens' text.
    """
    if not completion.pieces:
        raise ValueError("a completion without the text of its tokens: those of diffpo.sample have it")
    if (columns is not None and columns < 1) or (given and len(given) != len(completion.pieces)):
        raise ValueError(
            f"columns are at least 1, and given has a value for each of {len(completion.pieces)} positions"
        )
    texts = [piece.replace("\n", "↵").strip(" ")[:12] or "·" for piece in completion.pieces]
    stretch = min(3.0, max(1.0, 0.35 * max(map(len, texts))))  # cells are this many times wider than high
    columns = columns or math.ceil(math.sqrt(2 * len(texts) / stretch))
    rows, nfe = math.ceil(len(texts) / columns), completion.nfe
    palette = ListedColormap([shade(call, nfe) for call in range(1, nfe + 1)])
    calls = [int(call) for call in completion.committed_at.tolist()]
    cell = min(0.9, 4.5 / rows, 8.0 / (columns * stretch))  # inches
    wide, width = cell * columns * stretch, max(2.4, min(4.5, 0.22 * len(texts)))
    figure = new_figure((wide + width + 1.4, max(2.6, cell * rows + 0.9)))
    grid = figure.add_gridspec(1, 2, width_ratios=[wide, width])
    canvas = figure.add_subplot(grid[0], anchor="N")
    canvas.set(xlim=(0, columns * stretch), ylim=(rows, 0), aspect="equal")
    canvas.axis("off")
    title = textwrap.shorten(completion.prompt, max(12, int(9 * wide)), placeholder="...")
    canvas.set_title(title, fontsize=12, color=INK, loc="left", family="monospace", parse_math=False)
    certainties = completion.certainties
    for index, (text, certainty) in enumerate(zip(texts, certainties, strict=True)):
        size = 72 * cell * min(0.25 + 0.3 * certainty, 1.4 * stretch * (0.4 + 0.6 * certainty) / len(text))  # points
        corner = (index % columns * stretch, index // columns)
        colour = shade(calls[index], nfe) if calls[index] else GIVEN
        _draw_cell(canvas, corner, stretch, text, colour, size, rim=any(given) and given[index])
    notes = ["larger: more certain"] if max(certainties) - min(certainties) > VISIBLE else []
    notes += ["rim: given in the prompt"] if any(given) else []
    notes += ["without a colour: given"] if 0 in calls else []
    canvas.text(0, -0.01, "; ".join(notes), transform=canvas.transAxes, va="top", fontsize=10, color=FAINT)
    order = figure.add_subplot(grid[1])
    _draw_order(order, calls, palette, size=min(11.0, 56 * width / len(texts), 180 * cell * rows / nfe))
    return figure


def _draw_order(axes: Axes, calls: Sequence[int], palette: ListedColormap, size: float) -> None:
    """The call that committed each position, first call on top; marks are `size` points wide."""
    style_axes(axes, title="order", x="position", size=11)
    made = [(place, call) for place, call in enumerate(calls, 1) if call]
    axes.scatter(*zip(*made, strict=True), c=[palette(call - 1) for _, call in made], marker="s", s=size**2)
    axes.set(xlim=(0.3, len(calls) + 0.7), ylim=(palette.N + 0.5, 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 4, 5, 10], min_n_ticks=1))
    axes.tick_params(axis="y", length=0, labelleft=False)
    scale = ScalarMappable(BoundaryNorm([call + 0.5 for call in range(palette.N + 1)], palette.N), palette)
    step = math.ceil(palette.N / 8)
    bar = axes.figure.colorbar(scale, ax=axes, pad=0.03, fraction=0.07, ticks=range(1, palette.N + 1, step))
    bar.set_label("denoiser call", fontsize=11, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=11, labelcolor=INK)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    axes.yaxis.set_major_locator(MaxNLocator(min(8, palette.N), integer=True, min_n_ticks=1))


def _draw_cell(
    axes: Axes, corner: tuple[float, float], width: float, text: str, colour: str, size: float, rim: bool
) -> None:
    """One canvas position, `width` wide and 1 high, with its text `size` points large."""
    (x, y), shape = corner, "round,pad=0,rounding_size=0.12"
    edge = {"edgecolor": INK, "linewidth": 1.8} if rim else {"linewidth": 0}
    box = FancyBboxPatch((x + 0.06, y + 0.06), width - 0.12, 0.88, boxstyle=shape, facecolor=colour, **edge)  # type: ignore[arg-type]
    axes.add_patch(box)
    axes.text(
        x + width / 2, y + 0.52, text, ha="center", va="center", color=ink_on(colour), fontsize=size, parse_math=False
    )
