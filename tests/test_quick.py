"""`make quick` finds the tests of what changed."""

from __future__ import annotations

import pytest
from quick import ALWAYS, ROOT, TESTS, guards_of

MODULES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "src/diffpo").rglob("*.py"))]


def names_of(*changed: str) -> set[str]:
    return {str(path.relative_to(TESTS)) for path in guards_of(changed)} - {*ALWAYS}


@pytest.mark.parametrize(
    ("changed", "some"),
    [
        ("src/diffpo/training/update.py", "training/test_update.py"),
        ("src/diffpo/planning/memory.py", "planning/test_plan.py"),
        ("src/diffpo/lab/study/cell.py", "lab/study/test_cell.py"),
        ("src/diffpo/functional/random.py", "functional/test_random.py"),
        ("src/diffpo/cli/planning.py", "test_cli.py"),
        ("src/diffpo/view/canvas.py", "view/test_canvas.py"),
        ("tests/losses/test_spg.py", "losses/test_spg.py"),
        ("docs/python.md", "test_docs.py"),
        ("README.md", "test_docs.py"),
        ("recipes/rl_loop.py", "training/test_rl_loop.py"),
        ("recipes/sudoku_tiny.toml", "training/test_recipes.py"),
        ("studies/clamp.toml", "lab/study/test_plan.py"),
        ("deploy/compose.cuda.yaml", "serving/test_containers.py"),
    ],
)
def test_what_changed_is_tested(changed: str, some: str) -> None:
    assert some in names_of(changed)


def test_every_module_has_tests_near_it() -> None:
    assert [path for path in MODULES if "__main__" not in path and not names_of(path)] == []


def test_what_no_test_guards_is_left_to_those_that_always_run() -> None:
    assert names_of("LICENSE", "tests/helpers.py", "tests/test_gone.py") == set()
