"""A Python process that answers requests, and is killed when one takes too long: for what cannot be trusted to end.

Unlike signals, killing works from any thread and stops code that never returns to Python.
"""

from __future__ import annotations

import atexit
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

START_LIMIT = 120.0
"""Seconds until a process has imported what it needs."""


class Worker:
    """`python -m module`, started when first asked and again after it was killed; one request at a time."""

    def __init__(self, module: str, time_limit: float) -> None:
        self.module, self.time_limit = module, time_limit
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()
        atexit.register(self.close)

    def __deepcopy__(self, memo: dict[int, Any]) -> Worker:
        return self  # a process is not copied

    def ask(self, request: object) -> Any:
        """The answer to a request, both as JSON has them; None where there is none within the time limit."""
        with self.lock:
            try:
                process = self.process if self.process and self.process.poll() is None else self._start()
                assert process.stdin is not None
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer = self.answers.get(timeout=self.time_limit)
            except (OSError, queue.Empty):
                answer = None
            if answer is None:
                self._stop()
            return None if answer is None else json.loads(answer)

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self.lock:
            self._stop()

    def _start(self) -> subprocess.Popen[str]:
        self._stop()
        self.answers = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        threading.Thread(target=_drain, args=(self.process.stdout, self.answers), daemon=True).start()
        try:
            ready = self.answers.get(timeout=START_LIMIT)
        except queue.Empty:
            ready = None
        if ready is None:
            self._stop()
            raise RuntimeError(f"{self.module} does not start: run `python -m {self.module}` to see why")
        return self.process

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _drain(lines: IO[str], answers: queue.Queue[str | None]) -> None:
    """Hand on what a process writes; None at its end."""
    try:
        for line in lines:
            answers.put(line)
    except (ValueError, OSError):
        pass  # closed while it was read: the process was stopped
    answers.put(None)


def serve(answer: Callable[[Any], Any], memory_limit: int) -> None:
    """Be such a process: answer lines of JSON until the input ends, null for whatever raises.

    `memory_limit` in bytes of address space. What is printed meanwhile goes nowhere.
    """
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        print("true", file=replies, flush=True)
        for line in sys.stdin:
            try:
                reply = json.dumps(answer(json.loads(line)))
            except (Exception, SystemExit):
                reply = "null"
            print(reply, file=replies, flush=True)
