"""What the lag of a run has done to its importance weights: the runs of `diffpo study staleness`, arm by arm.

    diffpo study staleness
    python benchmarks/staleness_ages.py [runs/studies/staleness]

A row an arm, of the steps at which rollouts had their full age: the mean over seeds of each metric with its 95 %
interval (Student's t). docs/metrics.md says what the metrics are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table

from diffpo.lab.study.statistics import statistic
from diffpo.training.metrics import read_metrics

METRICS = ("importance/ess", "importance/clamped", "importance/kl", "replay/changed")


def means(metrics: Path) -> dict[str, float]:
    """The metrics of a run over its steps of the greatest age; those that its version of diffpo logged."""
    rows = read_metrics(metrics)
    oldest = max(row["age"] for row in rows)
    known = ((name, [row[name] for row in rows if row["age"] == oldest and name in row]) for name in METRICS)
    return {name: fmean(values) for name, values in known if values}


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/studies/staleness")
    table = Table("arm", "seeds", *METRICS)
    for arm in sorted(path.name for path in folder.glob("lag*")):
        runs = [
            means(result.parent / "run/metrics.jsonl") for result in sorted(folder.glob(f"{arm}/seed_*/result.json"))
        ]
        found = [statistic([run.get(name) for run in runs]) for name in METRICS]
        table.add_row(arm, f"{len(runs)}", *(f"{it.mean:.3f} ± {it.half_width:.3f}" if it else "-" for it in found))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
