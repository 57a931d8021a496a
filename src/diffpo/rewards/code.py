"""The share of tests that a completion's code passes, run in processes that are killed when their time is up."""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from diffpo.files.places import PACKAGE
from diffpo.grading.answers import MAX_TEXT, end_of_turn, final_answer
from diffpo.rewards.code_tests import plan

TIME_LIMIT = 5.0
"""Seconds that the tests of a completion may take together."""
MEMORY_LIMIT = 2**30
"""Bytes of address space of the solution, and of its tests: what they make of its values may be large."""
START_TIME = 2.0
"""Seconds beside that for the processes to start."""

_FENCE = re.compile(r"^(?:[ \t]|</?\w+>)*(```+|~~~+)[ \t]*([\w+.-]*)[^\n]*\n", re.MULTILINE)
"""Where a block begins, which may stand beside a tag: <answer>```python."""
_UNFENCED = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_TAG = re.compile(r"^[ \t]*(?:\[/?PYTHON\]|</?(?:code|python)>)[ \t]*$", re.MULTILINE | re.IGNORECASE)
MAX_INNER = 8
"""Fences in the texts of a completion's programs that are looked over."""
_PYTHON = re.compile(r"(?:i?python|py)?[0-9.]*", re.IGNORECASE)
_DEFINITIONS = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign)


def code_of(completion: str) -> str:
    """The program in a completion: its last block of Python between fences, else its answer, else all of it.

    Blocks behind the last that defines a function or class show how it is used and are left out; blocks before it that
    hold nothing but definitions go along. A block that is cut off, and no Python, counts where there is no other; what
    stands before a fence that was never opened goes before it.
    """
    text = end_of_turn(completion)[-MAX_TEXT:].replace("\r\n", "\n")
    blocks = [block for block in _blocks(text) if block.strip()]
    parsed = [(block, body) for block in blocks if (body := _parse(block)) is not None]
    if not parsed:
        answer = "" if blocks else final_answer(text)
        unfenced = _TAG.sub("", _UNFENCED.split(text, maxsplit=1)[0])
        return answer or (unfenced if _parse(unfenced) else "".join(blocks[-1:]))
    defining = [index for index, (_, body) in enumerate(parsed) if any(isinstance(s, _DEFINITIONS[2:5]) for s in body)]
    last = defining[-1] if defining else len(parsed) - 1
    before = [block for block, body in parsed[:last] if all(isinstance(s, _DEFINITIONS) for s in body)]
    return "\n".join([*before, parsed[last][0]])


def _blocks(text: str) -> Iterator[str]:
    """The blocks of Python between fences. A fence within a text of the program, its docstring, ends none."""
    at = inner = 0
    while opened := _FENCE.search(text, at):
        close = re.compile(rf"^[ \t]*(?:{opened[1]}[ \t]*(?:$|<)|</answer>)|\Z", re.MULTILINE)
        ends = close.finditer(text, opened.end())
        first = end = next(ends)
        is_python = _PYTHON.fullmatch(opened[2])
        while is_python and _parse(textwrap.dedent(text[opened.end() : end.start()])) is None:
            end = next(ends, None) if inner < MAX_INNER else None
            inner += 1
            if end is None:
                end = first
                break
        if is_python:
            yield textwrap.dedent(text[opened.end() : end.start()])
        at = end.end()


def _parse(block: str) -> list[ast.stmt] | None:
    with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        return ast.parse(block).body


def read_tests(tests: Any, entry_point: Any = None) -> list[tuple[str, str]] | str:
    """Tests as a column has them: the text of a program, or pairs of what goes in by stdin and comes out by stdout.

    A text or a list of texts; a list of {"input", "output"}; {"inputs": [...], "outputs": [...]}; any of these in JSON.
    ValueError says what is wrong with others.
    """
    if isinstance(tests, str) and tests.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError):
            tests = json.loads(tests)
    if isinstance(tests, Mapping) and {"inputs", "outputs"} <= tests.keys():
        if tests.get("fn_name"):
            raise ValueError("tests that name a function (fn_name): write them as assert statements")
        inputs, outputs = tests["inputs"], tests["outputs"]
        if not (isinstance(inputs, list) and isinstance(outputs, list) and len(inputs) == len(outputs)):
            raise ValueError("inputs and outputs of tests must be two lists of one length")
        tests = [{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)]
    if isinstance(tests, Sequence) and not isinstance(tests, str) and any(isinstance(test, Mapping) for test in tests):
        if not all(isinstance(t, Mapping) and {type(t.get("input")), type(t.get("output"))} == {str} for t in tests):
            raise ValueError('tests of a program have the form {"input": text, "output": text}')
        return [(test["input"], test["output"]) for test in tests]
    if isinstance(tests, list | tuple) and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    if not isinstance(tests, str):
        raise ValueError(f"tests must be text, a list of texts, or of inputs and outputs, got {tests!r:.60}")
    plan(tests, str(entry_point or ""))
    return tests


def share_passed(code: str, tests: Any, entry_point: str | None = None, time_limit: float = TIME_LIMIT) -> float:
    """The share of the tests that the code passes; 0 for code that leaves, hangs, or is no Python.

    ValueError for tests that `read_tests` does not read, RuntimeError where no program runs.
    """
    read = read_tests(tests, entry_point)
    if not code.strip() or "\x00" in code:
        return 0.0
    check_machine()
    code = code.encode("utf-8", "replace").decode()
    deadline = time.monotonic() + time_limit + START_TIME
    with tempfile.TemporaryDirectory(prefix="diffpo-code-") as folder:
        run = functools.partial(_run, folder=folder, deadline=deadline, seconds=time_limit)
        if isinstance(read, str):
            request = json.dumps({"code": code, "tests": read, "entry_point": entry_point or ""})
            return run("code_tests", request).count("passed\n") / plan(read, entry_point or "")[1]
        Path(folder, "program.py").write_text(code, encoding="utf-8")
        with tempfile.TemporaryDirectory(prefix="diffpo-runs-") as runs:
            for index, (given, _) in enumerate(read):
                Path(runs, f"{index}.in").write_bytes(given.encode("utf-8", "replace"))
            left = run("code_solution", "", "main", runs, str(len(read))).splitlines()
            printed = [Path(runs, f"{index}.out").read_text("utf-8", "replace") for index in range(len(left))]
        ended = zip(left, printed, read, strict=False)  # those that the time was enough for
        return sum(exit == "0" and _words(text) == _words(wanted) for exit, text, (_, wanted) in ended) / len(read)


@functools.cache
def check_machine() -> None:
    """RuntimeError where not even a right program passes its test: Python, or a limit, is not as it should be."""
    request = json.dumps({"code": "def one(): return 1", "tests": "assert one() == 1", "entry_point": ""})
    with tempfile.TemporaryDirectory(prefix="diffpo-code-") as folder:
        deadline = time.monotonic() + 60
        run = functools.partial(_run, folder=folder, deadline=deadline, seconds=TIME_LIMIT, errors=True)
        # of no program first: its process says why it cannot be confined, which that of the tests does not hear
        said = run("code_solution", "", "main", folder, "0") or run("code_tests", request)
    if said != "passed\n":
        why = (said.splitlines() or ["no word of why"])[-1]
        raise RuntimeError(f"reward code: no program runs on this machine, not even a right one: {why}")


def _words(text: str) -> list[list[str]]:
    """The words of each line, empty lines left out."""
    return [words for line in text.splitlines() if (words := line.split())]


def _run(
    module: str, given: str, *arguments: str, folder: str, deadline: float, seconds: float, errors: bool = False
) -> str:
    """The output of a process until the deadline, with its errors if asked for; all its group is killed in any case."""
    limits = json.dumps({"seconds": max(1, round(seconds)), "memory": MEMORY_LIMIT})
    environment = {
        **{"PATH": os.defpath, "HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0", "DIFFPO_LIMITS": limits},
        **{"PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "utf-8", "PYTHONINTMAXSTRDIGITS": "0"},
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output:
        source.write(given.encode("utf-8", "replace"))
        source.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", "-B", "-m", f"diffpo.rewards.{module}", *arguments],
            stdin=source,
            stdout=output,
            stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
            cwd=os.path.realpath(folder),
            env=environment,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read().decode(errors="replace")


@functools.cache
def pool() -> ThreadPoolExecutor:
    """Threads that wait for processes: as many as there are cores for each rank of this machine."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // ranks), "code")
