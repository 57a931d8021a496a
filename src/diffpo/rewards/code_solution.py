"""The process of a solution: bounded in time, memory and files, without a network; it never sees the tests.

`python -m diffpo.rewards.code_solution call` reads the code from stdin and answers for what it defines (`code_wire`);
with `main` in place of `call` it runs the program once for each input of a folder. `code_tests` and `code` start it and
kill it.
Python's audit hooks keep out accidents and cheats, not an attacker who knows Python's insides.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import runpy
import socket
import subprocess
import sys
import sysconfig
from typing import Any

from diffpo.processes.limits import end_with_parent, limit
from diffpo.rewards.code_wire import Peer

FORBIDDEN = (
    *("socket.", "subprocess.", "ctypes.", "gc.", "pty.spawn", "sys.addaudithook", "os.exec", "os.fork", "os.forkpty"),
    *("os.posix_spawn", "os.spawn", "os.system", "os.kill", "os.killpg", "signal.pthread_kill", "os.chdir", "os.chown"),
    *("os.symlink", "os.link", "os.setxattr", "syslog.", "webbrowser.", "urllib.", "ftplib.", "smtplib.", "http."),
)
"""Python's audit events that end a call; an audit hook cannot be taken off."""
READING = ("open", "os.listdir", "os.scandir")
PATHS = (*READING, "os.remove", "os.rmdir", "os.mkdir", "os.rename", "os.chmod", "os.truncate")
"""Audit events whose first argument is a file; that of renaming names two."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
MAX_FILES = 64
"""Files that a program may write, each of at most 1 MiB."""
DEVICES = ("/dev/null", "/dev/urandom", "/dev/random")


def confine(seconds: int, memory: int) -> None:
    """Bound CPU seconds, bytes of memory and of a file, open files; leave the network and end with the parent."""
    for name, bound in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 2**20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        limit(name, bound)
    end_with_parent()
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the audit hook forbids sockets in any case
        ctypes.CDLL(None).unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER | CLONE_NEWNET


def forbid(folder: str) -> None:
    """Raise PermissionError in a program that reaches beyond Python's own files and its folder."""
    own = folder + os.sep
    installed = {*sys.path, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()} - {""}
    written: set[str] = set()
    readable = (own, *(os.path.realpath(p) + os.sep for p in installed), "/usr/", "/lib", "/etc/", *DEVICES)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "socket.__new__" and args[1] == socket.AF_UNIX:
            return  # asyncio's loop wakes itself by a pair of them; to connect or to bind one is another event
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is forbidden here")
        if event in PATHS:
            writes = event not in READING or (event == "open" and bool(args[2] & WRITING))
            for path in args[: 2 if event == "os.rename" else 1]:
                if not isinstance(path, int) and path != "/dev/stdin":
                    check(os.path.realpath(os.fsdecode(path if path is not None else ".")), writes)

    def check(path: str, writes: bool) -> None:
        if not (path + os.sep).startswith((own, "/dev/null/") if writes else readable):
            raise PermissionError(f"{path}: files are read from Python's folders, written in the working folder only")
        if writes:
            written.add(path)
        if len(written) > MAX_FILES:
            raise PermissionError(f"{path}: no more than {MAX_FILES} files are written")

    # Those who use it have imported it; what could start a process goes.
    sys.modules["_posixsubprocess"] = subprocess._fork_exec = None  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    sys.addaudithook(hook)


def fork_for_each(runs: str, number: int) -> bool:
    """Fork a process for each input, one after the other, and print the exit status of each; True in such a process.

    Its stdin and stdout are files, 0.in and 0.out: the size of files is bounded, and programs ask how long stdin is.
    """
    for index in range(number):
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        for descriptor, end, mode in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY | os.O_CREAT)):
            file = os.open(f"{runs}/{index}.{end}", mode, 0o600)
            os.dup2(file, descriptor)
            os.close(file)
        end_with_parent()
        return True
    return False


def main() -> None:
    settings = json.loads(os.environ.pop("DIFFPO_LIMITS"))
    folder = os.path.realpath(os.getcwd())
    confine(settings["seconds"], settings["memory"])
    if sys.argv[1] == "main":
        if not fork_for_each(sys.argv[2], int(sys.argv[3])):
            return
        sys.argv = ["program.py"]
        forbid(folder)
        runpy.run_path("program.py", run_name="__main__")
        return
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    peer = Peer(source, sink, lambda target, name: True)
    forbid(folder)

    def load(code: str) -> dict[str, Any]:
        """What the code defines."""
        with open("program.py", "w", encoding="utf-8") as file:
            file.write(code)
        found = runpy.run_path("program.py", run_name="solution")
        return {name: value for name, value in found.items() if not name.startswith("__")}

    peer.own.append(load)
    with contextlib.suppress(EOFError, BrokenPipeError):
        peer.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
