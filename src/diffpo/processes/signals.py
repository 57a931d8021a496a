"""By what a process is told to stop: Ctrl-C, a scheduler, a terminal that is closed."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKED = (signal.SIGTERM, signal.SIGHUP)
"""What a scheduler and a closed terminal send; Python has a meaning for Ctrl-C, SIGINT, alone."""


@contextmanager
def on_stop(handler: Callable[[int, FrameType | None], Any], *numbers: int) -> Iterator[None]:
    """Have `handler` called on these signals, in the main thread; a SIGHUP that is ignored, by nohup say, stays so."""

    def stop(number: int, frame: FrameType | None) -> None:
        _let_go_of_the_terminal()
        handler(number, frame)

    if threading.current_thread() is not threading.main_thread():
        numbers = ()
    elif signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        numbers = tuple(number for number in numbers if number != signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def _let_go_of_the_terminal() -> None:
    """Write to one that is gone no more: each word would be an error, and end what is to be saved."""
    for handle in (1, 2):
        if stat.S_ISCHR(os.fstat(handle).st_mode) and not os.isatty(handle):
            with open(os.devnull, "wb") as null:
                os.dup2(null.fileno(), handle)
