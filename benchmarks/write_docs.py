"""Write what `diffpo bench` measured into docs/benchmarks.md, and draw docs/images/growth.svg.

python benchmarks/write_docs.py

Reads benchmarks/results: published.json, growth.json, and the gpu_*.json that there are. Text between the page's marks
is written by this command alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffpo.lab.bench.growth import GrowthPoint, growth_figure
from diffpo.view.drawing import save_figure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
NOT_RUN = "**It has not been run: no card was at hand.** The same code runs at a tiny size on a CPU in the tests.\n"

Rows = Sequence[dict[str, Any]]


def cell(row: dict[str, Any], who: str) -> str:
    if f"{who}_bytes" in row:
        return f"{row[f'{who}_bytes'] / 2**20:.0f} MiB"
    value = row[f"{who}_seconds"]
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def published(rows: Rows) -> str:
    """A row a comparison, a line below of where the figures are from."""
    lines = ["| ours against | ours | plain | ratio | target |", "| --- | ---: | ---: | ---: | ---: |"]
    for row in rows:
        mark = "" if row["ratio"] >= row["target"] else " (missed)"
        ratio, target = f"{row['ratio']:.2f}{mark}", f">= {row['target']:g}"
        lines.append(f"| {row['name']} | {cell(row, 'ours')} | {cell(row, 'plain')} | {ratio} | {target} |")
    first, commits = rows[0], " and ".join(dict.fromkeys(row["commit"] for row in rows))
    machine = f"{first['cores']} cores of an {first['cpu']}"
    return "\n".join(lines) + f"\n\nCommit {commits}, {machine}, torch {first['torch']}.\n"


def gpu(results: Sequence[Rows]) -> str:
    """A table a card: a row a figure, with its goal; what failed says so."""
    return "\n".join(map(card, results)) if results else NOT_RUN


def card(rows: Rows) -> str:
    first = rows[0]
    lines = [f"{first['gpu']}, commit {first['commit']}, torch {first['torch']}, CUDA {first['cuda']}:\n"]
    lines += ["| part | figure | measured | goal |", "| --- | --- | ---: | ---: |"]
    for row in rows:
        unit, value = row.get("unit", ""), row["value"]
        measured = f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
        goals = (f"{sign} {row[key]:g} {unit}" for sign, key in ((">=", "at_least"), ("<=", "at_most")) if key in row)
        mark = "" if row["reached"] else " (missed)"
        shown = f"**{row['failed']}**" if "failed" in row else measured.strip() + mark
        lines.append(f"| {row['part']} | {row['name']} | {shown} | {''.join(goals).strip()} |")
    return "\n".join(lines) + "\n"


def fill(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    return re.sub(f"{start}.*?{end}", lambda _: f"{start}\n\n{text}\n{end}", page, flags=re.DOTALL)


def written(page: str) -> str:
    """The page with the figures of benchmarks/results."""
    page = fill(page, "published", published(json.loads((RESULTS / "published.json").read_text())))
    return fill(page, "gpu", gpu([json.loads(path.read_text()) for path in sorted(RESULTS.glob("gpu_*.json"))]))


def growth() -> dict[str, list[GrowthPoint]]:
    """The points of growth.json by axis."""
    points: dict[str, list[GrowthPoint]] = {}
    for row in json.loads((RESULTS / "growth.json").read_text()):
        points.setdefault(row["axis"], []).append(GrowthPoint(row["size"], row["seconds"], row["flops"]))
    return points


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
    save_figure(growth_figure(growth()), ROOT / "docs" / "images" / "growth.svg")
