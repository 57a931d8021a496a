"""Tables for the terminal, and how objects show themselves in a notebook: the same, and a picture, as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from diffpo.view.drawing import Picture

PRINTED = '<pre style="line-height: normal; overflow-x: auto"><code style="font-family: monospace">{code}</code></pre>'
WIDTH = 100
"""Columns of the text, where a terminal would have its own."""
PIXELS = 80
"""Pixels of the page to an inch of the picture."""


def as_html(*parts: RenderableType, picture: Picture | None = None) -> str:
    """What rich prints to the terminal, in its colours, and the picture below."""
    console = Console(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False)
    console.print(*parts, sep="\n")
    html = console.export_html(code_format=PRINTED, inline_styles=True)
    if picture is None:
        return html
    data, width = base64.b64encode(picture._repr_png_()).decode(), round(PIXELS * picture.get_figwidth())
    return f'{html}\n<img style="max-width: 100%" width="{width}" src="data:image/png;base64,{data}">'


def numeric(*heads: str) -> list[Column]:
    """Columns of numbers, which stand to the right."""
    return [Column(head, justify="right") for head in heads]


def facts_table(facts: Mapping[str, str]) -> Table:
    """A row a fact: its name and what it is."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(Text(name), Text(value))
    return table
