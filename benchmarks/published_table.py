"""Print figures of `diffpo bench` as the tables of docs/benchmarks.md.

python benchmarks/published_table.py benchmarks/results/published.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def cell(row: dict[str, Any], who: str) -> str:
    if f"{who}_bytes" in row:
        return f"{row[f'{who}_bytes'] / 2**20:.0f} MiB"
    value = row[f"{who}_seconds"]
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def table(rows: list[dict[str, Any]]) -> str:
    """A row a comparison, a line below of where the figures are from."""
    lines = ["| ours against | ours | plain | ratio | target |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        mark = "" if row["ratio"] >= row["target"] else " (missed)"
        cells = (
            row["name"],
            cell(row, "ours"),
            cell(row, "plain"),
            f"{row['ratio']:.2f}{mark}",
            f">= {row['target']:g}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    first, commits = rows[0], " and ".join(dict.fromkeys(row["commit"] for row in rows))
    where = first.get("gpu", f"{first['cores']} cores of an {first['cpu']}")
    return "\n".join(lines) + f"\n\nCommit {commits}, {where}, torch {first['torch']}."


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))
