"""Tables in a terminal of any width."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDE = 10_000


def show(*tables: Table) -> None:
    """Print tables whose figures are whole: a terminal too narrow for them breaks lines, where rich would cut cells."""
    console = Console()
    options = console.options.update(width=WIDE)
    for table in tables:
        for column in table.columns:
            if column.no_wrap or column.justify == "right":
                cells = [column.header, *column.cells]
                column.min_width = max(Measurement.get(console, options, cell).maximum for cell in cells)
        least = Measurement.get(console, options, table).minimum
        (console if least <= console.width else Console(width=least)).print(table)
