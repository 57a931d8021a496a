"""How long two threads take, alone and beside a busy process, by how long they wait for each other awake (libgomp).

python benchmarks/threads.py        a Markdown table: seconds, the least of three, each way in a process of its own
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch

COUNT = [sys.executable, "-c", "while True: pass"]
"""What keeps a core busy; in a session of its own, as another program is."""
WAYS = {
    "libgomp's own, 300,000 turns": {"OMP_NUM_THREADS": "2"},
    "5,000 turns, diffpo's": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "5000"},
    "asleep at once": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def work() -> dict[str, Callable[[], object]]:
    """What is timed: many small products, as a tiny model makes them, and fewer that are larger."""
    small, wide = torch.randn(64, 64), torch.randn(512, 512)
    return {
        "2,000 products of 64 x 64": lambda: [torch.relu(small @ small) for _ in range(2000)],
        "100 products of 512 x 512": lambda: [torch.relu(wide @ wide) for _ in range(100)],
    }


def measure() -> None:
    """Print the least seconds of three of each work."""
    for go in work().values():
        taken = []
        for _ in range(4):  # the first warms up
            start = time.perf_counter()
            go()
            taken.append(time.perf_counter() - start)
        print(min(taken[1:]))


def main() -> None:
    """Time every way alone and beside one process that does nothing but count."""
    names = list(work())
    print(f"| waiting | {' | '.join(f'{name}, {place}' for place in ('alone', 'beside') for name in names)} |")
    print("|" + " --- |" * (1 + 2 * len(names)))
    cells: dict[str, list[str]] = {way: [] for way in WAYS}
    for beside in (False, True):
        counting = [subprocess.Popen(COUNT, start_new_session=True)] if beside else []
        for way, settings in WAYS.items():
            command = [sys.executable, __file__, "--measure"]
            done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
            cells[way] += [f"{float(line):.2f}" for line in done.stdout.split()]
        for process in counting:
            process.kill()
    for way, row in cells.items():
        print(f"| {way} | {' | '.join(row)} |")


if __name__ == "__main__":
    measure() if "--measure" in sys.argv else main()
