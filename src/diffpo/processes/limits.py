"""What a process may use, as far as its system can bound that: for processes that run what nobody has read."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1


def limit(name: int, bound: int) -> None:
    """Bound what `name` (`resource.RLIMIT_...`) counts, or leave it where a lower bound already holds.

    macOS takes none of address space: there the time limit alone ends what grows.
    """
    if name == resource.RLIMIT_AS and sys.platform == "darwin":
        return
    held = (other for other in resource.getrlimit(name) if other != resource.RLIM_INFINITY)
    bound = min((bound, *held))
    resource.setrlimit(name, (bound, bound))


def end_with_parent() -> None:
    """Be killed when the parent ends, however it does; a fork does not inherit this."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the group is killed in any case
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
