"""Python processes that answer requests, each killed when one takes too long: for what cannot be trusted to end.

A worker is two processes: one imports what is needed and watches, a fork of it does the work. Unlike signals, killing
works from any thread and stops code that never returns to Python, and a new fork is there within milliseconds.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import IO, Any

START_LIMIT = 120.0
"""Seconds until a process has imported what it needs."""
PATIENCE = 4.0
"""A time limit is of CPU time, so that a busy machine does not decide; so many times as long may a request sleep."""
GRACE = 10.0
"""Seconds beyond that after which the watching process itself counts as lost."""
MAX_WORKERS = 8


class Worker:
    """`python -m module`, which calls `serve`; started when first asked and again if lost; one request at a time."""

    def __init__(self, module: str, time_limit: float) -> None:
        self.module, self.time_limit = module, time_limit
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()
        atexit.register(self.close)

    def ask(self, request: object, time_limit: float | None = None) -> Any:
        """The answer to a request, both as JSON has them; None where there is none within the limit of CPU time."""
        time_limit = time_limit or self.time_limit
        with self.lock:
            answer = None
            try:
                process = self.process if self.process and self.process.poll() is None else self._start()
                assert process.stdin is not None
                process.stdin.write(json.dumps([time_limit, request]) + "\n")
                process.stdin.flush()
                answer = self.answers.get(timeout=PATIENCE * time_limit + GRACE)
            except (OSError, queue.Empty):
                pass
            finally:
                if answer is None:  # also after Ctrl-C: the next request would get this one's answer
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
            start_new_session=True,  # so that it is killed with its fork
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},  # the same answers in every process
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
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class Pool:
    """As many workers of one module as there are cores, for callers in several threads; each starts when needed."""

    def __init__(self, module: str, time_limit: float) -> None:
        self.size = min(MAX_WORKERS, os.cpu_count() or 1)
        self.idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        for _ in range(self.size):
            self.idle.put(Worker(module, time_limit))

    def ask(self, request: object, time_limit: float | None = None) -> Any:
        """The answer of the first worker that is free; None where there is none within the time limit."""
        worker = self.idle.get()
        try:
            return worker.ask(request, time_limit)
        finally:
            self.idle.put(worker)


def _drain(lines: IO[str], answers: queue.Queue[str | None]) -> None:
    """Hand on what a process writes; None at its end."""
    try:
        for line in lines:
            answers.put(line)
    except (ValueError, OSError):
        pass  # closed while it was read: the process was stopped
    answers.put(None)


# --- in the process ----------------------------------------------------------------------------------------------


def serve(answer: Callable[[Any], Any], memory_limit: int) -> None:
    """Be such a process: answer lines of JSON until the input ends, null for what raises or does not end in time.

    `memory_limit` in bytes of address space. What is printed meanwhile goes nowhere.
    """
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        print("true", file=replies, flush=True)
        fork: _Fork | None = None
        for line in sys.stdin:
            time_limit, _ = json.loads(line)
            fork = fork or _Fork(answer, memory_limit)
            reply = fork.ask(line, PATIENCE * time_limit)
            if reply is None:
                fork.kill()
                fork = None
            print(reply or "null", file=replies, flush=True)
        if fork:
            fork.kill()


class _Fork:
    """A copy of this process that answers requests."""

    def __init__(self, answer: Callable[[Any], Any], memory_limit: int) -> None:
        (ours, self.requests), (self.replies, theirs) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
            os.close(self.requests)
            os.close(self.replies)
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            _answer_lines(answer, ours, theirs)
            os._exit(0)
        os.close(ours)
        os.close(theirs)

    def ask(self, request: str, time_limit: float) -> str | None:
        """A line for a line; None if the fork dies, as it does when its CPU time is up, or does not answer in time."""
        reply, deadline = b"", time.monotonic() + time_limit
        try:
            os.write(self.requests, request.encode())
            while not reply.endswith(b"\n"):
                ready, _, _ = select.select([self.replies], [], [], max(0.0, deadline - time.monotonic()))
                read = os.read(self.replies, 1 << 16) if ready else b""
                if not read:
                    return None
                reply += read
        except OSError:
            return None
        return reply.decode().strip()

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.requests)
        os.close(self.replies)


def _answer_lines(answer: Callable[[Any], Any], source: int, target: int) -> None:
    with os.fdopen(source) as requests, os.fdopen(target, "w") as replies:
        for line in requests:
            time_limit, request = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, time_limit)  # its signal ends the process
            try:
                reply = json.dumps(answer(request))
            except (Exception, SystemExit):
                reply = "null"
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(reply, file=replies, flush=True)
