"""The house rules that a machine can check: floors, budgets, docstrings, and calls that have no place in src."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "diffpo"
MODULES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in MODULES.items()}

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60

UNSAFE_CALLS = {"eval", "exec", "torch.load"}  # model.eval() is another thing
UNSAFE_MODULES = {"pickle", "dill", "cloudpickle", "shelve"}
GLOBAL_SEEDS = {
    "set_seed",
    "manual_seed",
    "torch.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
    "random.seed",
    "np.random.seed",
    "numpy.random.seed",
}


def calls(names: set[str]) -> list[str]:
    """Where src calls one of the dotted `names`."""
    return [
        f"{name}:{node.lineno} {ast.unparse(node.func)}()"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names
    ]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every absolute import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module.partition(".")[0]


def report(offenders: list[str]) -> str:
    return "\n" + "\n".join(offenders)


def test_files_are_short() -> None:
    lengths = {name: len(text.splitlines()) for name, text in MODULES.items()}
    offenders = [
        f"{name}: {lines} lines > {MAX_FILE_LINES}" for name, lines in lengths.items() if lines > MAX_FILE_LINES
    ]
    assert not offenders, report(offenders)


def test_functions_are_short() -> None:
    offenders = [
        f"{name}:{node.lineno} {node.name}: {lines} lines > {MAX_FUNCTION_LINES}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not offenders, report(offenders)


def test_modules_say_what_they_are() -> None:
    offenders = [f"{name}: no docstring" for name, tree in TREES.items() if not ast.get_docstring(tree)]
    assert not offenders, report(offenders)


def test_nothing_is_evaluated_or_unpickled() -> None:
    offenders = calls(UNSAFE_CALLS) + [
        f"{name}:{line} imports {module}"
        for name, tree in TREES.items()
        for line, module in imports(tree)
        if module in UNSAFE_MODULES
    ]
    assert not offenders, report(offenders)


def test_no_global_seed_is_set() -> None:
    offenders = calls(GLOBAL_SEEDS)
    assert not offenders, report(offenders)


def test_what_an_object_is_is_asked_by_its_type() -> None:
    offenders = calls({"hasattr"})
    assert not offenders, report(offenders)


def test_messages_name_settings_rather_than_flags() -> None:
    """What is said below the command line is read in Python too: `output`, or a whole command, but no bare --output."""
    offenders = [
        f"{name}:{node.lineno} {found[0]}"
        for name, tree in TREES.items()
        if "/cli/" not in name
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
        if (found := re.search(r"^(?!.*\b(?:diffpo|hf|launch)\b).*(?<![\w-])--[a-z][\w-]*", node.value, re.MULTILINE))
    ]
    assert not offenders, report(offenders)


def test_imports_are_declared() -> None:
    """Every third-party package that src imports is a dependency or an extra that users can ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (needs for extra, needs in project["optional-dependencies"].items() if extra != "dev")
    declared = {
        re.match(r"[\w-]+", need)[0].replace("-", "_") for needs in (project["dependencies"], *extras) for need in needs
    }
    offenders = [
        f"{name}:{line} imports {module}"
        for name, tree in TREES.items()
        for line, module in imports(tree)
        if module not in declared | {"diffpo"} | sys.stdlib_module_names
    ]
    assert not offenders, report(offenders)


def test_imports_go_down() -> None:
    """import-linter's contracts in pyproject.toml."""
    lint = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_cli_imports_no_torch() -> None:
    """`diffpo --help` answers at once."""
    check = "import sys, diffpo.cli; sys.exit(bool({'torch', 'scipy', 'matplotlib'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
