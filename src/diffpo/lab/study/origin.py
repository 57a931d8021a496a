"""Where figures come from: the commit, the machine, the versions."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from diffpo import __version__
from diffpo.files.places import PACKAGE


def origin(device: str = "cpu") -> dict[str, str | int]:
    """What a reader needs to judge and repeat a measurement. The commit is "" where diffpo is no checkout."""
    found = {
        "commit": commit(),
        "version": __version__,
        "cpu": _cpu(),
        "cores": num_cores(),
        "torch": version("torch"),
        "python": platform.python_version(),
    }
    return found | ({"gpu": torch.cuda.get_device_name(device)} if device.startswith("cuda") else {})


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def commit() -> str:
    """Short hash of the checkout that this code is in, with a + if its sources have changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(PACKAGE), *words], capture_output=True, text=True
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        tracked = git("ls-files", "--error-unmatch", "types.py")
        head = git("rev-parse", "--short", "HEAD") if tracked else ""
        return head + ("+" if head and git("status", "--porcelain", "--", ".") else "")
    except FileNotFoundError:  # no git here
        return ""


def _cpu() -> str:
    """The processor's name."""
    facts = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.*\S)", facts.read_text(), re.MULTILINE) if facts.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()
