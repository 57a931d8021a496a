"""Where the seconds of a step go."""

from __future__ import annotations

import time
from collections.abc import Mapping

REST = "rest"
"""Of an evaluation, and of a checkpoint of the step before."""


class Clock:
    """Wall-clock seconds of the step under way, by phase; `spent` are those of before it was saved."""

    def __init__(self, spent: Mapping[str, float]) -> None:
        self._spent, self._phase, self._since = dict(spent), REST, time.perf_counter()

    def enter(self, phase: str) -> None:
        """From now on seconds are of this phase."""
        now = time.perf_counter()
        self._spent[self._phase] = self._spent.get(self._phase, 0.0) + now - self._since
        self._phase, self._since = phase, now

    def read(self) -> dict[str, float]:
        """Seconds by phase up to now."""
        self.enter(self._phase)
        return dict(self._spent)

    def restart(self) -> None:
        """The next step begins."""
        self._spent, self._phase, self._since = {}, REST, time.perf_counter()
