"""A run killed with SIGKILL and resumed ends as the run that was never killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from kill_and_resume import kill_and_resume


@pytest.mark.parametrize("lag", [0, 2])
def test_killed_at_random_moments_and_resumed(tmp_path: Path, lag: int) -> None:
    lines = kill_and_resume(tmp_path, kills=1, seed=lag, lag=lag)
    assert all(line.endswith("identical") for line in lines), "\n".join(lines)
