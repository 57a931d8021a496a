"""The share of unit tests that a completion's code passes, run in a process that is killed when its time is up."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffpo.grading.answers import MAX_TEXT, end_of_turn, final_answer

TIME_LIMIT = 5.0
"""Seconds that the tests of a completion may take together."""
MEMORY_LIMIT = 2**30
"""Bytes of address space."""
MAX_REPORT = 2**16
"""Bytes of results that are read; what a program prints is not kept."""
HARNESS = Path(__file__).with_name("code_harness.py")

_FENCE = re.compile(r"```[ ]*(?:python|py)?[0-9.]*[ ]*\n(.*?)(?:```|\Z)", re.DOTALL)


def code_of(completion: str) -> str:
    """The last block between ``` fences, else the answer, else ""."""
    text = end_of_turn(completion)[-MAX_TEXT:]
    blocks = [block for block in _FENCE.findall(text) if block.strip()]
    return blocks[-1] if blocks else final_answer(text) or ""


def share_passed(code: str, tests: str, time_limit: float = TIME_LIMIT, memory_limit: int = MEMORY_LIMIT) -> float:
    """The share of the tests that the code passes; 0 for code that leaves, hangs, or is no Python.

    `tests` holds assert statements and functions called test...; ValueError if it holds neither.
    """
    count = len(re.findall(r"^(?:assert\b|def test)", tests, re.MULTILINE))
    if not count:
        raise ValueError(f"tests hold no assert statement and no function test...: {tests[:60]!r}")
    if not code.strip():
        return 0.0
    token = secrets.token_hex(16)
    limits = {"seconds": max(1, round(time_limit)), "memory": memory_limit}
    request = json.dumps({"code": code, "tests": tests, "token": token, **limits})
    report = _run(request, time_limit)
    passed = {line for line in report.splitlines() if line.startswith(token + " ")}
    return min(1.0, len(passed) / count)


def _run(request: str, time_limit: float) -> str:
    """What the harness reports within the time limit; its process group is killed in any case."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        with tempfile.TemporaryDirectory(prefix="diffpo-code-") as folder:
            process = subprocess.Popen(
                [sys.executable, "-I", "-B", str(HARNESS), str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=os.path.realpath(folder),
                env={"PATH": os.defpath},
                pass_fds=[writing],
                start_new_session=True,
            )
            try:
                with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
                    process.communicate(request.encode("utf-8", "replace"), timeout=time_limit)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        with contextlib.suppress(BlockingIOError):
            return os.read(reading, MAX_REPORT).decode(errors="replace")
        return ""
    finally:
        os.close(reading)
        os.close(writing)


def code(prompts: Sequence[Any], completions: Sequence[str], tests: Sequence[Any]) -> list[float]:
    """TRL-style reward: the share of the row's `tests`, a text or a list of texts, that the code passes."""
    joined = ("\n".join(test) if isinstance(test, list | tuple) else str(test) for test in tests)
    return [share_passed(code_of(completion), test) for completion, test in zip(completions, joined, strict=True)]
