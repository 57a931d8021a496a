"""The public face: its names are pinned, each is there, and none is loaded before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import diffpo

NAMES = [
    "AnalysisConfig",
    "Answer",
    "Batch",
    "BernoulliConfig",
    "BernoulliHead",
    "Committed",
    "Completion",
    "Cost",
    "Engine",
    "EvalConfig",
    "Evaluation",
    "Finished",
    "Latents",
    "Lines",
    "LoadConfig",
    "LoraConfig",
    "Loss",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimConfig",
    "Point",
    "Policy",
    "PretrainingTask",
    "Prompt",
    "Request",
    "Rollout",
    "RolloutConfig",
    "RolloutGroup",
    "Rule",
    "Sampler",
    "Seen",
    "SftConfig",
    "SolvedTask",
    "Surrogate",
    "Task",
    "TaskConfig",
    "ThresholdConfig",
    "ThresholdHead",
    "Tracker",
    "TrainConfig",
    "TrainState",
    "Verdict",
    "World",
    "analyze",
    "collect",
    "comparison_table",
    "create_policy",
    "evaluate",
    "export",
    "fine_tune",
    "frontier_figure",
    "generate",
    "inspect",
    "load_config",
    "load_policy",
    "load_task",
    "log_likelihoods",
    "masked_latents",
    "prepare",
    "read_run",
    "read_study",
    "sample",
    "stream",
    "train",
    "update",
]


def test_exported_names() -> None:
    assert diffpo.__all__ == NAMES
    assert dir(diffpo) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there(name: str) -> None:
    assert getattr(diffpo, name).__name__ == name
    assert getattr(diffpo, name).__doc__


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING are those of the lazy table."""
    blocks = [node for node in ast.parse(Path(diffpo.__file__).read_text()).body if isinstance(node, ast.If)]
    (block,) = (node for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING")
    imported = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == diffpo._HOME_OF


def test_no_public_name_has_two_homes() -> None:
    """A name of the public face means one thing in all of src."""
    homes: dict[str, list[str]] = {name: [] for name in NAMES}
    for path in Path(diffpo.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in homes:
                homes[node.name].append(path.name)
    assert {name: found for name, found in homes.items() if len(found) != 1} == {}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'diffpo' has no attribute 'trian'"):
        getattr(diffpo, "trian")  # noqa: B009 - pyright knows that there is none


def test_importing_diffpo_loads_no_torch() -> None:
    check = "import sys, diffpo; diffpo.TrainConfig(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0
