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
from typing import Any

from diffpo.processes.limits import limit

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
        self.process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)

    def ask(self, request: object, time_limit: float | None = None) -> Any:
        """The answer to a request, both as JSON has them; None where there is none within the limit of CPU time."""
        time_limit = time_limit or self.time_limit
        with self.lock:
            answer = None
            try:
                if self.process is None or self.process.poll() is not None:
                    self._start()
                answer = self._hear(json.dumps([time_limit, request]) + "\n", PATIENCE * time_limit + GRACE)
            finally:
                if answer is None:  # also after Ctrl-C: the next request would get this one's answer
                    self._stop()
            return None if answer is None else json.loads(answer)

    def close(self) -> None:
        """End the process; the next request starts another."""
        with self.lock:
            self._stop()

    def _start(self) -> None:
        self._stop()
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that it is killed with its fork
            env={**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},  # the same answers in every process
        )
        if self._hear("", START_LIMIT) is None:
            raise RuntimeError(f"{self.module} does not start: run `python -m {self.module}` to see why")

    def _hear(self, line: str, seconds: float) -> str | None:
        """What the process answers to a line."""
        assert self.process and self.process.stdin and self.process.stdout
        return _line_for(line, self.process.stdin.fileno(), self.process.stdout.fileno(), seconds)

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


def _line_for(line: str, requests: int, replies: int, seconds: float) -> str | None:
    """What is answered to a line through two pipes; None if whoever is there dies, or does not answer in time."""
    unsent, reply, deadline = line.encode(), b"", time.monotonic() + seconds
    waiting = select.poll()  # select itself takes no handle from 1024 on
    waiting.register(replies, select.POLLIN)
    try:
        while unsent:
            unsent = unsent[os.write(requests, unsent) :]
        while not reply.endswith(b"\n"):
            ready = waiting.poll(1000 * max(0.0, deadline - time.monotonic()))
            read = os.read(replies, 1 << 16) if ready else b""
            if not read:
                return None
            reply += read
    except OSError:
        return None
    return reply.decode().strip()


# --- in the process ----------------------------------------------------------------------------------------------


def serve(answer: Callable[[Any], Any], memory_limit: int) -> None:
    """Be such a process: answer lines of JSON until the input ends, null for what raises or does not end in time.

    `memory_limit` in bytes of address space. What is printed meanwhile goes nowhere.
    """
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        fork: _Fork | None = _Fork(answer, memory_limit)  # a machine where it cannot work says so before any request
        print("true", file=replies, flush=True)
        for line in sys.stdin:
            time_limit, _ = json.loads(line)
            fork = fork or _Fork(answer, memory_limit)
            reply = _line_for(line, fork.requests, fork.replies, PATIENCE * time_limit)
            if reply is None:  # as when its CPU time is up
                fork.kill()
                fork = None
            print(reply or "null", file=replies, flush=True)
        if fork:
            fork.kill()


class _Fork:
    """A copy of this process that answers requests; RuntimeError if it does not come to that."""

    def __init__(self, answer: Callable[[Any], Any], memory_limit: int) -> None:
        (ours, self.requests), (self.replies, theirs) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                limit(resource.RLIMIT_AS, memory_limit)
                os.close(self.requests)
                os.close(self.replies)
                signal.signal(signal.SIGPROF, signal.SIG_DFL)
                _answer_lines(answer, ours, theirs)
            finally:
                os._exit(0)
        os.close(ours)
        os.close(theirs)
        if _line_for("", self.requests, self.replies, START_LIMIT) is None:
            raise RuntimeError("a process that answers does not start")

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.requests)
        os.close(self.replies)


def _answer_lines(answer: Callable[[Any], Any], source: int, target: int) -> None:
    with os.fdopen(source) as requests, os.fdopen(target, "w") as replies:
        print("true", file=replies, flush=True)
        for line in requests:
            time_limit, request = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, time_limit)  # its signal ends the process
            try:
                reply = json.dumps(answer(request))
            except (Exception, SystemExit):
                reply = "null"
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(reply, file=replies, flush=True)
