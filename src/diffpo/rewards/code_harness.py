"""Runs a program and its tests in a process of its own; `code_reward` starts this file and kills it.

Standard library alone: `python -I code_harness.py FD` reads {"code", "tests", "token", limits} from stdin, and writes a
line "TOKEN INDEX" to the pipe FD for each test that passes. The program has no network, starts no process, writes no
file outside its folder, and is bounded in time, memory and file size. This keeps out accidents and cheats, not an
attacker who knows Python's insides: run untrusted models in a container as well.
"""

from __future__ import annotations

import ast
import json
import os
import resource
import runpy
import sys
from typing import Any

FORBIDDEN = (
    *(
        "socket.",
        "subprocess.",
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "os.kill",
    ),
    *("os.killpg", "os.setsid", "pty.spawn", "ctypes.", "os.remove", "os.rename", "os.rmdir", "os.chmod", "os.chown"),
    *("os.symlink", "os.link", "shutil.", "sys.addaudithook", "gc.", "os.chdir"),
)
"""Python's audit events that end a test; an audit hook cannot be taken off."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def program(code: str, tests: str) -> tuple[str, list[str]]:
    """The code with each test as a function behind it, and the names of those, in order.

    Tests are assert statements, and functions whose name begins with "test"; the rest of `tests` is their set-up.
    """
    body = ast.parse(code).body
    names: list[str] = []
    for statement in ast.parse(tests).body:
        if isinstance(statement, ast.Assert):
            name = f"__test_{len(names)}"
            body.append(ast.parse(f"def {name}():\n    pass").body[0])
            body[-1].body = [statement]  # pyright: ignore[reportAttributeAccessIssue]
            names.append(name)
        else:
            body.append(statement)
            if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test"):
                names.append(statement.name)
    return ast.unparse(ast.Module(body, [])), names


def limit(seconds: int, memory: int) -> None:
    """Bound CPU seconds, bytes of memory, bytes of a file, and open files; leave the network where Linux lets us."""
    for name, bound in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 2**20),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (bound, bound))
    try:
        import ctypes

        ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET
    except (OSError, AttributeError, ImportError):
        pass  # the audit hook forbids sockets in any case


def forbid(folder: str) -> None:
    """Raise PermissionError in a program that reaches beyond its folder."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN) or (event == "import" and args[0] in ("ctypes", "_ctypes", "_posixsubprocess")):
            raise PermissionError(f"{event} is forbidden here")
        if event == "open" and args[2] & WRITING and not os.path.abspath(str(args[0])).startswith(folder + os.sep):
            raise PermissionError("files are written in the working folder only")

    for name in [name for name in sys.modules if name.partition(".")[0] in ("ctypes", "_ctypes")]:
        del sys.modules[name]
    sys.addaudithook(hook)


def main() -> None:
    pipe, request, folder = int(sys.argv[1]), json.loads(sys.stdin.read()), os.getcwd()
    write, token, leave = os.write, request["token"], os._exit
    limit(request["seconds"], request["memory"])
    try:
        source, names = program(request["code"], request["tests"])
        with open("program.py", "w") as file:
            file.write(source)
        forbid(folder)
        found = runpy.run_path("program.py", run_name="solution")
    except BaseException:  # SystemExit too: a program that leaves has failed
        leave(1)
    for index, name in enumerate(names):
        try:
            found[name]()
        except BaseException:
            continue
        write(pipe, f"{token} {index}\n".encode())
    leave(0)


if __name__ == "__main__":
    main()
