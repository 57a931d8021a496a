"""One event loop in a thread of its own, for coroutines that wait while other work goes on."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any


def submit(coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
    """Start a coroutine beside those that run already."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop())


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the life of the process: a client that a coroutine opens belongs to its loop."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="diffpo coroutines", daemon=True).start()
    return loop
