"""A run killed with SIGKILL and resumed ends as the run that was never killed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from kill_and_resume import kill_and_resume


def test_killed_at_random_moments_and_resumed(tmp_path: Path) -> None:
    lines = kill_and_resume(tmp_path, kills=2)
    assert all(line.endswith("identical") for line in lines), "\n".join(lines)
