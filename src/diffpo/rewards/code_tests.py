"""The process of the tests: it runs them against a solution in another process, and compares the values itself.

`python -m diffpo.rewards.code_tests` reads {"code", "tests", "entry_point"} from stdin and writes a line for each test
that passes. What a solution does to its own process, to builtins or to its output reaches no test: see `code_wire`.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import importlib
import json
import os
import resource
import subprocess
import sys
import types
from typing import Any, BinaryIO, cast

from diffpo.processes.limits import end_with_parent, limit
from diffpo.rewards.code_wire import SPECIAL, Peer, Remote

PR_SET_DUMPABLE = 4
MODULES = {name: name for name in sys.stdlib_module_names} | {"np": "numpy", "numpy": "numpy"}
COMPOUND = (ast.For, ast.While, ast.With, ast.If, ast.Try)


def plan(tests: str, entry_point: str = "") -> tuple[ast.Module, int]:
    """A program that makes each test one attempt, and their number; ValueError for no test, or one that cannot be run.

    Tests are assert statements and calls of assert_...; loops and the like with one of them or pytest.raises in them;
    functions called test...; methods test... of a unittest.TestCase; calls of a function of the tests that asserts, and
    HumanEval's check(candidate).
    """
    try:
        statements = ast.parse(tests.replace("\r\n", "\n")).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"tests are no Python: {error}") from None
    body: list[ast.stmt] = []
    set_up: list[str] = []
    calls: list[str] = []
    checks: dict[str, ast.FunctionDef] = {}
    count = 0
    for statement in _flat(statements):
        counted = False
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and statement.name.startswith("test"):
            if isinstance(statement, ast.AsyncFunctionDef) or _required(statement):
                raise ValueError(f"{statement.name} takes arguments or is async: tests are plain functions without any")
            calls.append(f"{statement.name}()")
        elif isinstance(statement, ast.FunctionDef) and _asserts(statement):
            checks[statement.name] = statement
        elif isinstance(statement, ast.ClassDef) and any(ast.unparse(b).endswith("TestCase") for b in statement.bases):
            names = [s.name for s in statement.body if isinstance(s, ast.FunctionDef) and s.name.startswith("test")]
            calls += [f"{statement.name}({name!r}).debug()" for name in names]
            set_up.append(f"{statement.name}.setUpClass()")
        elif isinstance(statement, ast.Assert) or (isinstance(statement, COMPOUND) and _asserts(statement)):
            counted = True
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            counted = _asserts(statement) or ast.unparse(statement.value.func) in checks
        plain = isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
        body.append(statement if plain else _wrap(statement, counted))
        count += counted
    if (check := checks.get("check")) and not (count or calls):
        if not entry_point:
            raise ValueError(f"tests define {check.name}(...): a column entry_point says what it is called with")
        calls.append(f"check({entry_point})")
    if not (count or calls):
        raise ValueError(f"tests hold no assert statement and no function test...: {tests[:60]!r}")
    body += [_wrap(ast.parse(call).body[0], counted=False) for call in set_up]
    body += [_wrap(ast.parse(call).body[0], counted=True) for call in calls]
    return ast.fix_missing_locations(ast.Module(body, [])), count + len(calls)


def _flat(statements: list[ast.stmt]) -> list[ast.stmt]:
    """Statements with those under `if __name__ == "__main__"` in its place."""
    flat = []
    for statement in statements:
        main = isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"
        flat += cast(ast.If, statement).body if main else [statement]
    return flat


def _asserts(statement: ast.AST) -> bool:
    """Whether it holds an assert statement, or a call such as assert_allclose(...) or pytest.raises(...)."""
    calls = (ast.unparse(node.func) for node in ast.walk(statement) if isinstance(node, ast.Call))
    names = (name.rpartition(".")[2] for name in calls)
    found = any(name == "raises" or name.startswith("assert") for name in names)
    return found or any(isinstance(node, ast.Assert) for node in ast.walk(statement))


def _required(function: ast.FunctionDef) -> bool:
    arguments = function.args
    return len(arguments.posonlyargs + arguments.args) > len(arguments.defaults) or None in arguments.kw_defaults


def _wrap(statement: ast.stmt, counted: bool) -> ast.stmt:
    """`with __attempt__(counted): statement`."""
    wrapped = ast.parse(f"with __attempt__({counted}):\n    pass").body[0]
    cast(ast.With, wrapped).body = [statement]
    return wrapped


class Attempt:
    """A statement whose error ends it alone; where it is `counted` and has none, a line is written."""

    def __init__(self, counted: bool, sink: BinaryIO) -> None:
        self.counted, self.sink = counted, sink

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if self.counted and kind is None:
            self.sink.write(b"passed\n")
            self.sink.flush()
        return True


def handed_over(target: Any, name: str) -> bool:
    """What a solution may do to an object that a test gives it: use its public attributes if its class is a test's.

    No other name with underscores than those of operators: by __globals__ a function would hand over this process.
    """
    if name in (*SPECIAL, "__name__", "__doc__"):
        return not isinstance(target, type | types.ModuleType)
    return type(target).__module__ == "tests" and not name.startswith("_")


def scope_of(program: ast.Module, names: dict[str, Any]) -> dict[str, Any]:
    """Whom the tests mean by a name: the solution, but the module by `math.` or `np.`, imported or not.

    A name of Python's own is the solution's only if it is all that the tests use of it: `sum` in `sum(2, 3) == 5`, but
    not `abs` in `abs(f(2) - 1.5) < 1e-6`.
    """
    nodes = list(ast.walk(program))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.asname or node.name.partition(".")[0] for node in nodes if isinstance(node, ast.alias)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used = {node.id for node in nodes if isinstance(node, ast.Name)} - bound
    dotted = {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    modules = dotted & used & MODULES.keys()
    others = names.keys() - vars(builtins).keys()
    kept = others if used & others - modules else names.keys()
    return {
        **{name: names[name] for name in kept},
        **{name: importlib.import_module(MODULES[name]) for name in modules},
    }


def main() -> None:
    request = json.loads(sys.stdin.read())
    end_with_parent()  # tests may hang as well, and a run that is killed can end nobody
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0)  # so that the solution, of the same user, cannot read this memory
    memory = json.loads(os.environ["DIFFPO_LIMITS"])["memory"]
    limit(resource.RLIMIT_AS, memory)  # sorted(range(10**9)) is made here
    sink = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    program, _ = plan(request["tests"], request["entry_point"])
    solution = subprocess.Popen(
        [sys.executable, "-s", "-P", "-B", "-m", "diffpo.rewards.code_solution", "call"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    peer = Peer(cast(BinaryIO, solution.stdout), cast(BinaryIO, solution.stdin), handed_over)
    try:
        names = peer.ask("call", Remote(peer, 0), [request["code"]], {})
        scope = {**scope_of(program, names), "__name__": "tests", "__attempt__": lambda counted: Attempt(counted, sink)}
        scope["__builtins__"] = builtins  # modules in C import others by way of the scope that called them
        types.FunctionType(compile(program, "tests", "exec"), scope)()
    finally:
        solution.kill()


if __name__ == "__main__":
    main()
