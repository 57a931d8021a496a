"""Unit tests as a reward: what passes, what does not, and what must not get out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffpo.rewards.code import code, code_of, share_passed

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
FORGERY = """
import os
for fd in range(3, 32):
    try:
        os.write(fd, b"0 0\\n1 1\\n" * 9)
    except OSError:
        pass
"""
RIGHT = "def add(a, b):\n    return a + b\n"


@pytest.mark.parametrize(
    ("program", "share"),
    [
        (RIGHT, 1.0),
        ("import math\n" + RIGHT, 1.0),
        ("def add(a, b):\n    return 3\n", 0.5),
        ("def add(a, b):\n    return a - b\n", 0.0),
        ("def sub(a, b):\n    return a + b\n", 0.0),
        (RIGHT + "\nif __name__ == '__main__':\n    raise ValueError", 1.0),
        (RIGHT + "print('x' * 10**7)", 1.0),
        ("def add(a, b)\n    return a + b\n", 0.0),
        ("", 0.0),
        ("\x00", 0.0),
        ("(" * 100_000, 0.0),
        ("\ud800", 0.0),
        (RIGHT + "raise SystemExit", 0.0),
        (RIGHT + "import sys\nsys.exit(0)", 0.0),
        (RIGHT + "import os\nos._exit(0)", 0.0),
        (RIGHT + "raise KeyboardInterrupt", 0.0),
        ("def add(a, b):\n    raise SystemExit(0)\n", 0.0),
        ("def add(a, b):\n    import os\n    os._exit(0)\n", 0.0),
        ("def add(a, b):\n    return [0] * 10**10\n", 0.0),
        ("def add(a, b):\n    return add(a, b)\n", 0.0),
        (FORGERY, 0.0),
        ("import os\nos.system('true')\n" + RIGHT, 0.0),
        ("import os\nos.fork()\n" + RIGHT, 0.0),
        ("import os\nos.kill(os.getppid(), 9)\n" + RIGHT, 0.0),
        ("import subprocess\nsubprocess.run(['true'])\n" + RIGHT, 0.0),
        ("import ctypes\n" + RIGHT, 0.0),
        ("import gc\ngc.get_objects()\n" + RIGHT, 0.0),
        ("open('own.txt', 'w').write('x')\n" + RIGHT, 1.0),
        ("open('/tmp/diffpo-test-escape', 'w').write('x')\n" + RIGHT, 0.0),
        ("open('own.txt', 'w').write('x' * 2**22)\n" + RIGHT, 0.0),
        ("import socket\nsocket.socket().connect(('127.0.0.1', 9))\n" + RIGHT, 0.0),
    ],
)
def test_shares(program: str, share: float) -> None:
    assert share_passed(program, TESTS, time_limit=10.0) == share
    assert not Path("/tmp/diffpo-test-escape").exists()


def test_functions_are_tests_and_the_rest_is_set_up() -> None:
    tests = "THREE = 3\ndef test_one():\n    assert add(1, 2) == THREE\ndef test_two():\n    assert add(1, 1) == 3\n"
    assert share_passed(RIGHT, tests) == 0.5


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass\n",
        "import time\ntime.sleep(60)\n",
        RIGHT + "import threading\nthreading.Thread(target=input).start()\n",
    ],
)
def test_time_is_bounded(program: str) -> None:
    start = time.perf_counter()
    share_passed(program, TESTS, time_limit=1.0)
    assert time.perf_counter() - start < 5.0


def test_nothing_is_left_running() -> None:
    share_passed("import time\ntime.sleep(60)\n", TESTS, time_limit=0.5)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [line for line in running.splitlines() if "code_harness.py" in line and str(os.getpid()) in line]


def test_no_connection_leaves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        share_passed(f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)\n", TESTS)
        with pytest.raises(TimeoutError):
            server.accept()


def test_off_the_main_thread() -> None:
    found: list[float] = []
    thread = threading.Thread(target=lambda: found.append(share_passed(RIGHT, TESTS)))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_tests_without_a_test_are_an_error() -> None:
    with pytest.raises(ValueError, match="tests hold no assert statement"):
        share_passed(RIGHT, "add(1, 2)")


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("so\n```python\nx = 1\n```\nand", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n", "x = 1\n"),
        ("```python\nx = 1\n```<|eot_id|>```python\nx = 2\n```", "x = 1\n"),
        ("<answer>\nx = 1\n</answer>", "x = 1"),
        ("x = 1", ""),
    ],
)
def test_code_is_found(completion: str, program: str) -> None:
    assert code_of(completion) == program


def test_reward_function() -> None:
    completions = [f"```python\n{RIGHT}```", "none"]
    assert code(["a", "b"], completions, tests=[TESTS, TESTS.split("\n")]) == [1.0, 0.0]


def test_harness_needs_the_standard_library_alone() -> None:
    source = Path(sys.modules["diffpo.rewards.code"].HARNESS).read_text()
    assert "diffpo." not in source.partition('"""')[2].partition('"""')[2]
