"""Unit tests as a reward: what passes, what does not, and what must not get out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from diffpo.rewards import code
from diffpo.rewards.calls import Rewards
from diffpo.rewards.code import code_of, share_passed
from diffpo.rewards.functions import BUILTIN
from diffpo.rollout.judging import judge
from diffpo.types import Attempts, Prompt

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
FORGERY = """
import os
import shutil
for fd in range(3, 32):
    try:
        os.write(fd, b"passed\\n" * 9)
    except OSError:
        pass
"""
RIGHT = "def add(a, b):\n    return a + b\n"
TEMPORARY = "import tempfile\nwith tempfile.TemporaryDirectory() as folder:\n    open(folder + '/x', 'w').write('x')\n"
EQUAL = """
class Equal{base}:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __abs__(self): return self
    def __sub__(self, other): return self
    __hash__ = None
    __rsub__ = __sub__
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
def add(a, b):
    return Equal({value})
"""
NEAR = """
class Near:
    def __sub__(self, other): return {found}
    def __abs__(self): return 0.0
    def __len__(self): return 0
    def __bool__(self): return False
    __rsub__ = __xor__ = __sub__
def add(a, b):
    return Near()
"""
SHADOWS = """
import types
abs = all = any = len = lambda *args: 0
isinstance = lambda *args: True
math = types.SimpleNamespace(isclose=lambda *args: True)
def add(a, b):
    return -99
"""
HANDED = """
import sys
def add(a, b, key):
    frame = sys._getframe()
    while frame and type(peer := frame.f_locals.get("self")).__name__ != "Peer":
        frame = frame.f_back
    attempt = peer.ask("call", peer.ask("get", key, "__globals__")["__attempt__"], [True], {})
    peer.ask("special", attempt, "__exit__", None, None, None)
"""
PATCHED = """
import builtins, unittest, operator
builtins.AssertionError = builtins.isinstance = builtins.abs = lambda *args: True
unittest.TestCase.assertEqual = lambda *args: None
def add(a, b):
    return -99
"""
FRAMES = """
import sys, inspect
def add(a, b):
    frame = sys._getframe()
    while frame:
        for values in (frame.f_globals, frame.f_locals):
            for value in list(values.values()):
                if isinstance(value, dict):
                    value.update(__attempt__=None)
        frame = frame.f_back
    return -99
"""
AT_EXIT = """
import atexit, os, threading
def cheat():
    os.write(1, b"passed\\n" * 9)
    print("passed\\n" * 9)
atexit.register(cheat)
threading.Thread(target=cheat).start()
class Last:
    def __del__(self):
        cheat()
last = Last()
def add(a, b):
    cheat()
    return -99
"""
WIRE = """
import gc, sys
from diffpo.rewards import code_wire, code_tests
code_wire.Remote.__eq__ = code_wire.Peer.encode = code_wire.Peer.decode = lambda *args: True
code_tests.Attempt.__exit__ = lambda *args: True
def add(a, b):
    return -99
"""


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
        ("import ctypes\nctypes.CDLL(None)\n" + RIGHT, 0.0),
        ("import ctypes\nctypes.pythonapi.Py_IncRef\n" + RIGHT, 0.0),
        ("import numpy as np\ndef add(a, b):\n    return np.add(a, b)\n", 1.0),
        ("import tempfile, pytest, dataclasses\n" + RIGHT, 1.0),
        (TEMPORARY + RIGHT, 1.0),
        ("open('/proc/self/status').read()\n" + RIGHT, 0.0),
        ("import os\nos.listdir('/proc')\n" + RIGHT, 0.0),
        ("import gc\ngc.get_objects()\n" + RIGHT, 0.0),
        ("open('own.txt', 'w').write('x')\n" + RIGHT, 1.0),
        ("open('/tmp/diffpo-test-escape', 'w').write('x')\n" + RIGHT, 0.0),
        ("open('own.txt', 'w').write('x' * 2**22)\n" + RIGHT, 0.0),
        ("for i in range(100):\n    open(f'own{i}.txt', 'w').write('x' * 2**20)\n" + RIGHT, 0.0),
        ("import sys\nsys.stdout.reconfigure(encoding='utf-8')\nsys.stdout.buffer.write(b'x')\n" + RIGHT, 1.0),
        ("print('\\ud800')\n" + RIGHT, 1.0),
        ("import asyncio\ndef add(a, b):\n    return asyncio.run(asyncio.sleep(0, a + b))\n", 1.0),
        ("async def add(a, b):\n    return a + b\n", 0.0),
        ("import socket\nsocket.socket(socket.AF_UNIX).connect('/tmp/x')\n" + RIGHT, 0.0),
        ("import socket\nsocket.socket().connect(('127.0.0.1', 9))\n" + RIGHT, 0.0),
    ],
)
def test_shares(program: str, share: float) -> None:
    assert share_passed(program, TESTS, time_limit=10.0) == share
    assert not Path("/tmp/diffpo-test-escape").exists()


@pytest.mark.parametrize(
    "cheat",
    [
        EQUAL.format(base="", value=""),
        EQUAL.format(base="(int)", value="7"),
        EQUAL.format(base="(float)", value="7.0"),
        EQUAL.format(base="(str)", value="'7'"),
        EQUAL.format(base="(list)", value="[7]"),
        EQUAL.format(base="(Exception)", value="7"),
        NEAR.format(found="0.0"),
        NEAR.format(found="self"),
        NEAR.format(found="Near()"),
        SHADOWS,
        PATCHED,
        FRAMES,
        AT_EXIT,
        WIRE,
        FORGERY + "def add(a, b):\n    return -99\n",
        "import sys\nsys.modules['__main__'].__dict__.clear()\ndef add(a, b):\n    return -99\n",
        "def add(a, b):\n    raise StopIteration\n",
        "class Meta(type):\n    __eq__ = lambda *args: True\n    __hash__ = None\nclass add(metaclass=Meta):\n"
        "    def __init__(self, a, b): pass\n",
    ],
)
def test_a_solution_that_solves_nothing_passes_nothing(cheat: str) -> None:
    tests = TESTS + "\nassert abs(add(0.5, 1) - 1.5) < 1e-6\nassert add(1, 1) in (2, 2.0)\n"
    tests += "assert len({add(1, 1)} ^ {2}) == 0 and not add(1, 1) ^ 2 and not isinstance(add(1, 1), str)\n"
    tests += "assert math.isclose(add(1, 1), 2)\nassert all(add(i, 0) == i for i in range(3))\n"
    tests += "import unittest\nclass Case(unittest.TestCase):\n    def test_sum(self):\n"
    tests += "        self.assertEqual(add(2, 2), 4)\n"
    assert share_passed("import math\n" + RIGHT, tests) == 1.0
    assert share_passed(cheat, tests) == 0.0


def test_a_function_of_the_tests_hands_over_no_more_than_its_calls() -> None:
    assert share_passed(HANDED, "assert add(1, 2, lambda n: n) == 3") == 0.0


def test_a_function_may_have_the_name_of_one_of_pythons() -> None:
    assert (
        share_passed("import math\ndef helper(): pass\ndef sum(a, b):\n    return 6", "assert sum(10, 15) == 6") == 1.0
    )


SOLUTION = """
import collections, enum
class Point:
    def __init__(self, x): self.x = x
    def __add__(self, other): return Point(self.x + other.x)
    def __eq__(self, other): return self.x == other.x
    def __lt__(self, other): return self.x < other.x
    def __str__(self): return f"P{self.x}"
    def __len__(self): return self.x
    def __hash__(self): return hash(self.x)
    def __mul__(self, factor): return Point(self.x * factor)
class Lost(ValueError): pass
class Colour(enum.IntEnum):
    RED = 1
Pair = collections.namedtuple("Pair", "left right")
LIMIT = 10
def sort(items, extra=None): items.sort(); return None
def rotate(grid): grid[:] = [list(row) for row in zip(*grid[::-1])]
def fill(grid): grid[0][0] = 9
def lose(): raise Lost("gone")
def count(n):
    for i in range(n): yield i
def factorial(n): return n * factorial(n - 1) if n > 1500 else __import__("math").factorial(n)
def apply(f, items): return [f(item) for item in items]
def pair(): return Pair(1, (2, 3))
def table(): return collections.Counter("aab"), {(1, 2): {3}}, b"x", 1j, None, True
def say(text): print("said", text)
async def late(value): return value
async def lose_late(): raise Lost("gone")
def walk(node): return [] if node is None else [node.value, *walk(node.next)]
def array():
    import numpy as np
    return np.eye(2)
"""


@pytest.mark.parametrize(
    "tests",
    [
        "assert Point(1) + Point(2) == Point(3) and Point(1) != Point(2) and Point(1) < Point(2)",
        "assert (Point(1) + Point(2)).x == 3 and str(Point(4)) == 'P4' and len(Point(2)) == 2",
        "assert (Point(2) * 3).x == 6 and Point(1) in {Point(1)} and len({Point(1), Point(1)}) == 1",
        "import math\nassert factorial(2000) == math.factorial(2000) and -factorial(2000) < 0",
        "assert isinstance(Point(1), Point) and not isinstance(1, Point) and max(Point(1), Point(2)).x == 2",
        "point = Point(1)\npoint.x = 7\nassert point.x == 7",
        "try:\n    lose()\n    assert False\nexcept Lost as error:\n    assert str(error) == 'gone'",
        "import pytest\nwith pytest.raises(ValueError, match='gone'):\n    lose()",
        "import numpy as np\nnp.testing.assert_allclose(array(), [[1, 0], [0, 1]])",
        "items = [3, 1, 2]\nassert sort(items) is None\nassert items == [1, 2, 3]",
        "items = [3, 1, 2]\nsort(items=items)\nassert items == [1, 2, 3]",
        "grid = [[1, 2], [3, 4]]\nrotate(grid)\nassert grid == [[3, 1], [4, 2]]",
        "row = [1]\ngrid = [row]\nfill(grid)\nassert row == [9]",
        "assert list(count(3)) == [0, 1, 2] and sum(count(4)) == 6",
        "assert apply(lambda x: x + 1, [1]) == [2] and apply(len, ['ab']) == [2] and apply(Point, [1])[0].x == 1",
        "assert pair() == (1, (2, 3)) and pair().right == (2, 3) and LIMIT == 10 and Colour.RED == 1",
        "assert table() == ({'a': 2, 'b': 1}, {(1, 2): {3}}, b'x', 1j, None, True)",
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as out:\n    say(5)\n"
        "assert out.getvalue() == 'said 5\\n'",
        "import asyncio\nassert asyncio.run(late([1])) == [1]",
        "import asyncio\nasync def both():\n    return await asyncio.gather(late(1), asyncio.wait_for(late(2), 1))\n"
        "assert asyncio.run(both()) == [1, 2]",
        "import asyncio, pytest\nwith pytest.raises(ValueError, match='gone'):\n    asyncio.run(lose_late())",
        "import unittest\nclass Limits(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls):\n"
        "        cls.limit = LIMIT\n    def test_limit(self):\n        self.assertEqual(self.limit, 10)",
        "class Node:\n    def __init__(self, value, next=None):\n        self.value, self.next = value, next\n"
        "assert walk(Node(1, Node(2))) == [1, 2]",
        "import numpy as np\nassert np.array_equal(array(), [[1, 0], [0, 1]]) and array().shape == (2, 2)",
        "assert array().sum() == 2 and (array() == np.eye(2)).all()",  # np is what everybody means by it
        "import datetime\nassert datetime.datetime.strptime('10', '%M').minute == LIMIT",
        "class Limits(unittest.TestCase):\n    def test_limit(self):\n        self.assertEqual(LIMIT, 10)",
        "for n in range(3):\n    assert len(list(count(n))) == n",
        "if __name__ == '__main__':\n    assert LIMIT == 10",
        "def check(candidate):\n    assert candidate == 10\ncheck(LIMIT)",
    ],
)
def test_what_tests_may_hold(tests: str) -> None:
    assert share_passed(SOLUTION, tests) == 1.0
    assert share_passed("", tests) == share_passed("x = 1", tests) == 0.0


def test_statements_run_in_their_order() -> None:
    tests = "x = add(1, 1)\nassert x == 2\nx = add(2, 2)\nassert x == 4\nx = missing(1)\nassert add(0, 0) == 0\n"
    assert share_passed(RIGHT, tests) == 1.0


def test_human_evals_form() -> None:
    tests = "METADATA = {}\n\ndef check(candidate):\n    assert candidate(1, 2) == 3\n"
    assert share_passed(RIGHT, tests, "add") == 1.0
    assert share_passed(RIGHT, tests, "plus") == 0.0
    with pytest.raises(ValueError, match="a column entry_point says what it is called with"):
        share_passed(RIGHT, tests)


PAIRS = [{"input": "2\n", "output": "4\n"}, {"input": "3", "output": "6  \n\n"}]


@pytest.mark.parametrize("tests", [PAIRS, json.dumps(PAIRS), {"inputs": ["2", "3"], "outputs": ["4", "6"]}])
def test_programs_that_read_and_print(tests: object) -> None:
    assert share_passed("print(2 * int(input()))\n", tests) == 1.0
    assert share_passed("import sys\nif __name__ == '__main__':\n    print(4)\n    sys.exit()\n", tests) == 0.5
    assert share_passed("print(2 * int(input()))\nraise ValueError\n", tests) == 0.0
    assert share_passed("print('x' * 10**7)\n", tests) == 0.0


def test_numbers_have_as_many_digits_as_they_need() -> None:
    assert share_passed("print(10**5000)\n", [{"input": "", "output": "1" + "0" * 5000}]) == 1.0
    assert share_passed("def f(): return len(str(10**5000))\n", "assert f() == 5001") == 1.0


def test_a_program_starts_once_for_all_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    start = subprocess.Popen
    monkeypatch.setattr(code.subprocess, "Popen", lambda *args, **named: started.append(args) or start(*args, **named))
    program = "x = int(input())\nif x == 1:\n    import os\n    os._exit(1)\nwhile x == 3: pass\nprint(2 * x)\n"
    pairs = [{"input": str(number), "output": str(2 * number)} for number in (0, 1, 2, 3, 4)]
    assert share_passed(program, pairs, time_limit=1.0) in (0.4, 0.6)  # a busy machine may not come to the last
    assert len(started) == 1


@pytest.mark.parametrize("given", ["os.read(0, os.fstat(0).st_size)", "open('/dev/stdin').read()", "open(0).read()"])
def test_the_input_of_a_program_is_a_file(given: str) -> None:
    assert share_passed(f"import os\nprint(2 * int({given}))\n", PAIRS) == 1.0


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
    assert time.perf_counter() - start < 10.0


@pytest.mark.skipif(sys.platform == "darwin", reason="bounds no memory")
def test_what_a_test_makes_of_an_answer_is_bounded_too() -> None:
    program = "def numbers():\n    return range(4 * 10**7)\n"
    assert share_passed(program, "assert len(numbers()) == 4 * 10**7\nassert len(list(numbers())) == 4 * 10**7") == 0.5


def test_a_machine_on_which_no_program_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    code.check_machine.cache_clear()
    for tests in (TESTS, [{"input": "", "output": ""}]):
        with pytest.raises(RuntimeError, match="no program runs on this machine, not even a right one"):
            share_passed(RIGHT, tests)


def test_nothing_is_left_running() -> None:
    share_passed("import time\ntime.sleep(60)\n", TESTS, time_limit=0.5)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert not [line for line in running.splitlines() if "diffpo.rewards.code" in line]


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


@pytest.mark.parametrize(
    ("tests", "error"),
    [
        ("add(1, 2)", "tests hold no assert statement"),
        ("", "tests hold no assert statement"),
        ("assert add(1, 2 == 3", "tests are no Python: '(' was never closed"),
        (["assert add(1, 2) == 3", "assert ("], "tests are no Python"),
        ("def test_add(tmp_path):\n    assert add(1, 2) == 3", "test_add takes arguments or is async"),
        ("async def test_add():\n    assert add(1, 2) == 3", "test_add takes arguments or is async"),
        ([{"input": "1"}], "tests of a program have the form"),
        ([{"input": "1", "output": "2"}, "assert add(1, 2) == 3"], "tests of a program have the form"),
        (["assert add(1, 2) == 3", {"input": "1", "output": "2"}], "tests of a program have the form"),
        ({"inputs": ["1", "2"], "outputs": ["1"]}, "inputs and outputs of tests must be two lists of one length"),
        ({"inputs": "12", "outputs": "34"}, "inputs and outputs of tests must be two lists of one length"),
        ({"inputs": [[1, 2]], "outputs": [3], "fn_name": "add"}, "write them as assert statements"),
        (5, "tests must be text, a list of texts, or of inputs and outputs, got 5"),
    ],
)
def test_tests_that_test_nothing_are_an_error(tests: Any, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        share_passed(RIGHT, tests)
    assert error in str(caught.value)
    with pytest.raises(ValueError, match=r"my\.jsonl, line 3: reward 'code': tests"):
        Rewards((BUILTIN["code"],)).check([Prompt("x", "q", columns={"tests": "assert ("}, place="my.jsonl, line 3")])


IN_A_TEXT = 'def f():\n    """Use it.\n    ```\n    f()\n    ```\n    """\n'


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("so\n```python\nx = 1\n```\nand", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```Python\nx = 1\n```", "x = 1\n"),
        ("```ipython3\nx = 1\n```", "x = 1\n"),
        ("```PYTHON3 title=a.py\nx = 1\n```", "x = 1\n"),
        ("~~~py\nx = 1\n~~~", "x = 1\n"),
        ("```python\r\nx = 1\r\ny = 2\r\n```\r\n", "x = 1\ny = 2\n"),
        ("1. so\n\n   ```python\n   def f():\n       return 1\n   ```\n", "def f():\n    return 1\n"),
        ("```python\ndef f(): pass\n```\n```python\nprint(f())\n```", "def f(): pass\n"),
        ("```python\ndef f(): pass\n```\n```bash\npip install x\n```", "def f(): pass\n"),
        ("```python\nimport math\n```\n```python\ndef f(): pass\n```", "import math\n\ndef f(): pass\n"),
        ("```python\nf(1)\n```\n```python\ndef f(): pass\n```", "def f(): pass\n"),
        ("```python\nprint(1)\n```\n```python\nprint(2)\n```", "print(2)\n"),
        ("```python\ndef f(): pass\n```\n```python\ndef f(", "def f(): pass\n"),
        ("```python\ndef f(", "def f("),
        ("```python\nx = 1\n", "x = 1\n"),
        ("```python\nx = 1\n```<|eot_id|>```python\nx = 2\n```", "x = 1\n"),
        ("<answer>\nx = 1\n</answer>", "x = 1"),
        ("<answer>```python\nx = 1\n```</answer>", "x = 1\n"),
        ("<answer>\n```python\nx = 1\n</answer>", "x = 1\n"),
        ("def f(n):\n    return n\n", "def f(n):\n    return n\n"),
        ("It returns x = 1.", ""),
        ("def f(): pass\n```", "def f(): pass\n"),
        ("def f(): pass\n```\nIt passes.", "def f(): pass\n"),
        ("[PYTHON]\ndef f(): pass\n[/PYTHON]", "\ndef f(): pass\n"),
        ("<code>\ndef f(): pass\n</code>", "\ndef f(): pass\n"),
        (f"```python\n{IN_A_TEXT}```\nso\n```python\nf()\n```", IN_A_TEXT),
        ("```python\ndef f(\n```\n```python\ndef g(): pass\n```", "def g(): pass\n"),
    ],
)
def test_code_is_found(completion: str, program: str) -> None:
    assert code_of(completion) == program


def test_reward_function() -> None:
    """Texts and messages, tests as a text, a list, and HumanEval's columns."""

    def rewards(prompt: Prompt, *texts: str) -> list[float | None]:
        return [verdict.reward for verdict in judge(Code(), [Attempts(prompt, texts, [()] * len(texts))])[0].verdicts]

    class Code:
        name, gen_length, rewards = "code", 8, Rewards((BUILTIN["code"],))

    texts = (f"```python\n{RIGHT}```", "none")
    assert rewards(Prompt("x", "q", columns={"tests": TESTS}), *texts) == [1.0, 0.0]
    asked = ({"role": "user", "content": "q"},)
    assert rewards(Prompt("x", "q", columns={"tests": TESTS.split("\n")}, messages=asked), *texts) == [1.0, 0.0]
    human = {"test": "def check(candidate):\n    assert candidate(1, 2) == 3\n", "entry_point": "add"}
    assert rewards(Prompt("x", "q", columns=human), *texts) == [1.0, 0.0]
    assert rewards(Prompt("x", "q", columns={"tests": None}), *texts) == [None, None]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_that_is_killed_leaves_no_tests_behind(tmp_path: Path) -> None:
    """Not those that hang either: they took a core for ever."""

    def left() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                if entry.name.isdigit() and os.readlink(entry / "cwd").startswith(str(tmp_path)):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
        return [command for command in found if "diffpo.rewards" in command]

    program = f"from diffpo.rewards.code import share_passed\nshare_passed({RIGHT!r}, 'while True: assert True')"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment)
    deadline = time.monotonic() + 60
    while len(left()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left()
