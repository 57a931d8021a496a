"""Pictures for a page with a light and a dark face: an SVG whose colours are the page's."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from diffpo.view.drawing import Picture, save_figure

DARK = {
    "#24292f": "#e6edf3",
    "#8b949e": "#8b949e",
    "#eaeef2": "#2b3138",
    "#ffffff": "#12161b",
    "#0b7285": "#39b5cc",
    "#d9480f": "#ff8a4c",
    "#5f3dc4": "#a48bfa",
    "#2b8a3e": "#56c46d",
    "#c2255c": "#f4719b",
    "#e8a200": "#f2bd3e",
    "#1971c2": "#62aef5",
    "#0ca678": "#3fd6a4",
    "#c92a2a": "#ff7b7b",
}
"""Colour of a picture on white to that on the dark page; others stay as they are."""

POINT = 1.5
"""Pixels of the page to a point of the picture, where the page is wide enough."""
SMALLEST = 0.95
"""The same where it is not: on a narrow screen a picture is scrolled."""


def variables() -> tuple[str, str]:
    """The declarations of the colours for a style sheet, light and dark."""
    light = "".join(f"--{_name(colour)}: {colour}; " for colour in DARK)
    return light, "".join(f"--{_name(colour)}: {dark}; " for colour, dark in DARK.items())


def inline(picture: Picture, label: str, folder: Path | None = None, name: str = "figure") -> str:
    """The picture as SVG to put into a page; in `folder` it stays as NAME.svg and NAME.png."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(folder or scratch) / f"{name}.svg"
        save_figure(picture, path)
        if folder:
            save_figure(picture, path.with_suffix(".png"))
        text = path.read_text()
    head, rest = text[text.index("<svg") :].split(">", 1)
    (box, width) = re.findall(r'(viewBox="0 0 ([\d.]+) [\d.]+")', head)[0]
    rest = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", rest, flags=re.DOTALL)
    rest = re.sub(r"<[^>]*>", lambda found: _of_page(found[0], name), rest)
    # so that letters are of one size in all pictures, and never too small to read
    style = f"max-width:{POINT * float(width):.0f}px;min-width:{SMALLEST * float(width):.0f}px"
    return f'<svg class="figure" style="{style}" role="img" aria-label="{label}" {box}>{rest}'


def _of_page(tag: str, name: str) -> str:
    """A tag with ids of its own picture among the page's, and the page's colours."""
    tag = re.sub(r'(?<=\bid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", tag)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{_name(found[0])})" if found[0] in DARK else found[0], tag)


def _name(colour: str) -> str:
    return f"c{colour[1:]}"
