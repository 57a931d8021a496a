"""Draw the pictures of the docs anew from committed results: `python benchmarks/draw_docs.py`.

The demo's own (frontier, training, unmasking) come from `make demo`, the benchmarks' growth from write_docs.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from findings import findings_figure
from samplers import TASKS, draw

from diffpo.lab.analysis.sections import Section
from diffpo.lab.analysis.show import section_figure
from diffpo.lab.report.figures import differences_figure
from diffpo.view.drawing import save_figure

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def sections(path: Path) -> dict[str, Section]:
    """An analysis' sections by name."""
    return {entry["name"]: Section.of(entry) for entry in json.loads(path.read_text())["sections"]}


def main() -> None:
    save_figure(findings_figure(), IMAGES / "findings.svg")
    for study in ("clamp", "sensitivity"):
        summary = json.loads((ROOT / "studies" / "results" / f"{study}.json").read_text())
        save_figure(differences_figure(summary), IMAGES / f"{study}.svg")
    analysis = sections(ROOT / "benchmarks" / "results" / "analysis_joint.json")
    for name in ("kl_by_call", "gamma_commits"):
        save_figure(section_figure(analysis[name]), IMAGES / f"{name}.svg")
    arithmetic = sections(ROOT / "benchmarks" / "results" / "analysis_arithmetic.json")
    save_figure(section_figure(arithmetic["kl_by_call"]), IMAGES / "kl_by_call_arithmetic.svg")
    measured = json.loads((ROOT / "benchmarks" / "results" / "samplers.json").read_text())["measured"]
    seen = next(iter(TASKS))
    arms = {"before training": measured[f"base: {seen}"], "after joint training": measured[f"joint: {seen}"]}
    draw(arms, IMAGES / "samplers.png")


if __name__ == "__main__":
    main()
