"""`make quick`, before a commit: format, lint, types and the tests of what changed since the last one."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
SECONDS = 45
"""Longest time that tests take here."""
ALWAYS = ("test_api.py", "test_house.py")
OTHERS = {"cli": "test_cli*.py", "surrogates": "training/test_estimators.py"}
"""Rooms of src whose tests lie elsewhere than in the folder of their name."""
FOLDERS = {
    "docs": "test_docs.py",
    "recipes": "training/test_r[el]*.py",
    "studies": "lab/study/test_plan.py",
    "deploy": "serving/test_containers.py",
}
"""Folders beside src, and their tests."""


def guards_of(changed: Sequence[str]) -> list[Path]:
    """Test files that guard changed files of the project, such as "src/diffpo/training/loop.py"."""
    found = {TESTS / name for name in ALWAYS}
    for path in map(Path, changed):
        top = path.parts[0]
        if top == "src" and path.suffix == ".py":
            found |= _of_module(path)
        elif top == "tests" and path.name.startswith("test_") and (ROOT / path).is_file():
            found.add(ROOT / path)
        elif top in FOLDERS or path.suffix == ".md":
            found |= {*TESTS.glob(FOLDERS.get(top, "test_docs.py"))}
    return sorted(found)


def _of_module(path: Path) -> set[Path]:
    """Tests of the module's name, those of its room and at the top that import it; else all of its room."""
    *parents, name = path.with_suffix("").parts[1:]
    package = ".".join(parents)
    module = package if name == "__init__" else f"{package}.{name}"
    imported = re.compile(rf"(from|import) {re.escape(module)}\b|from {re.escape(package)} import .*\b{name}\b")
    room = "/".join(parents[1:])
    near = {*TESTS.glob("test_*.py"), *(TESTS / room).glob("test_*.py")}
    named = {*TESTS.glob(f"test_{name}.py")}
    if found := named | {test for test in near if imported.search(test.read_text())}:
        return found
    if room:
        return {*TESTS.glob(OTHERS.get(room, f"{room}/test_*.py"))}
    return {test for test in TESTS.rglob("test_*.py") if imported.search(test.read_text())}


def changed_files() -> list[str]:
    """Those that are not committed; where all are, those of the last commit."""
    status = _git("status", "--porcelain", "--untracked-files=all").splitlines()
    paths = [line[3:].rpartition(" -> ")[2] for line in status]
    return paths or _git("diff", "--name-only", "HEAD~1").splitlines()


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main() -> int:
    changed = changed_files()
    tests = [str(path.relative_to(ROOT)) for path in guards_of(changed)]
    sources = [path for path in changed if path.startswith("src/") and path.endswith(".py") and (ROOT / path).is_file()]
    tool = Path(sys.executable).with_name
    print("\n".join(tests), flush=True)
    for command in (
        [tool("ruff"), "format", "--check", "-q"],
        [tool("ruff"), "check", "-q"],
        [tool("pyright"), *sources] if sources else [],
    ):
        if command and (status := subprocess.run(command, cwd=ROOT).returncode):
            return status
    pytest = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-x", "-m", "not slow", *tests]
    with subprocess.Popen(pytest, cwd=ROOT) as running:
        try:
            return running.wait(SECONDS)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGINT)
    print(f"{SECONDS} s are over, and nothing has failed: make test runs them all")
    return 0


if __name__ == "__main__":
    sys.exit(main())
