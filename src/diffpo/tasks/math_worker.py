"""math-verify in a process of its own, for the rare reference that our reader does not know: an integral, a floor.

math-verify guards itself by signals, which work in a main thread only and do not stop sympy in C; here the process is
killed when its time is up, whatever thread asks. `python -m diffpo.tasks.math_worker` is that process.
"""

from __future__ import annotations

import atexit
import json
import queue
import re
import subprocess
import sys
import threading
from typing import IO, Any

TIME_LIMIT = 2.0
"""Seconds that a comparison may take."""
START_LIMIT = 60.0
"""Seconds until the process has imported sympy."""
MEMORY_LIMIT = 4 * 2**30
"""Bytes of address space."""
MAX_LENGTH = 160
"""Characters of an expression that is sent."""

_TOWER = re.compile(r"\^\s*(?:\{[^{}]*[\^!]|\{?\s*-?\s*[0-9]{4,})|[0-9]{4,}\s*\}?\s*!|!\s*!|\*\*")
"""Powers of powers, exponents of four digits, and factorials of such: not worth the process's time."""


def is_tame(text: str) -> bool:
    """Whether `text` is short, closed, in ASCII and without towers of powers."""
    closed = all(text.count(left) == text.count(right) for left, right in ("{}", "()", "[]")) or "\\left" in text
    return 0 < len(text) <= MAX_LENGTH and text.isascii() and closed and not _TOWER.search(text)


class MathWorker:
    """The process, started when first asked and again after it was killed; one comparison at a time."""

    def __init__(self, time_limit: float = TIME_LIMIT) -> None:
        self.time_limit = time_limit
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str] = queue.Queue()

    def same(self, answer: str, truth: str) -> bool:
        """math-verify's verdict; False where an expression is not tame, or none comes within the time limit."""
        if not (is_tame(answer) and is_tame(truth)):
            return False
        with self.lock:
            process = self.process if self.process and self.process.poll() is None else self._start()
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps([answer, truth]) + "\n")
                process.stdin.flush()
                return self.answers.get(timeout=self.time_limit) == "true"
            except (OSError, queue.Empty):
                self._stop()
                return False

    def _start(self) -> subprocess.Popen[str]:
        self._stop()
        self.answers = queue.Queue()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diffpo.tasks.math_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        threading.Thread(target=_drain, args=(self.process.stdout, self.answers), daemon=True).start()
        try:
            self.answers.get(timeout=START_LIMIT)
        except queue.Empty:
            self._stop()
            raise RuntimeError(f"math-verify did not start within {START_LIMIT:.0f} s: is sympy installed?") from None
        return self.process

    def close(self) -> None:
        """End the process; the next comparison starts another."""
        with self.lock:
            self._stop()

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _drain(lines: IO[str], answers: queue.Queue[str]) -> None:
    try:
        for line in lines:
            answers.put(line.strip())
    except ValueError:
        pass  # closed while it was read: the process was stopped


WORKER = MathWorker()
atexit.register(WORKER.close)


def serve() -> None:
    """Answer comparisons, a line of JSON each, until the input ends."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    logging.disable()
    import math_verify

    untimed: Any = {"parsing_timeout": None}
    print("ready", flush=True)
    for line in sys.stdin:
        answer, truth = json.loads(line)
        try:
            expected, given = (math_verify.parse(f"\\boxed{{{text}}}", **untimed) for text in (truth, answer))
            same = bool(math_verify.verify(expected, given, timeout_seconds=None))
        except Exception:  # whatever sympy raises, it is no match
            same = False
        print(json.dumps(same), flush=True)


if __name__ == "__main__":
    serve()
