"""The docs say what is: functions, tests, metrics, alarms, knobs and links named there exist; README's code runs."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from types import ModuleType

import pytest

import diffpo
import diffpo.functional
import diffpo.losses
import diffpo.surrogates
from diffpo.config import ModelConfig, ObjectiveConfig, OptimConfig, SftConfig, TaskConfig, ThresholdConfig, TrainConfig
from diffpo.config.objective import LOSSES, SURROGATES
from diffpo.config.rollout import SAMPLER_RULES
from diffpo.losses import load_loss
from diffpo.serving.metrics import Metrics
from diffpo.serving.schema import ChatRequest, CompletionRequest
from diffpo.surrogates import load_surrogate
from diffpo.tasks.tiny_sudoku import TinySudoku
from diffpo.training.loop import train
from diffpo.training.metrics import ALARMS, read_metrics
from diffpo.training.sft import fine_tune
from diffpo.types import Prompt, Verdict

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]}
SECTIONS = {
    name: kind
    for config in (SftConfig, TrainConfig)
    for name, kind in typing.get_type_hints(config).items()
    if dataclasses.is_dataclass(kind)
}


def rows(text: str) -> Iterator[list[str]]:
    """Cells of every line of every table, but for headers and rules."""
    lines = text.splitlines()
    for line, following in itertools.pairwise([*lines, ""]):
        if line.startswith("|") and not line.startswith("| ---") and not following.startswith("| ---"):
            yield [cell.strip() for cell in line.strip()[1:-1].split("|")]


def quoted(text: str) -> list[str]:
    """What stands in `backticks`."""
    return re.findall(r"`([^`\n]+)`", text)


# --- equations.md ------------------------------------------------------------------------------------------------


def load_script(name: str) -> ModuleType:
    """A script of benchmarks/, imported."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def functions_and_tests() -> tuple[list[str], list[str]]:
    table = list(rows(PAGES["equations.md"]))
    assert table and all(len(row) == 3 and quoted(row[1]) and quoted(row[2]) for row in table)
    return [name for row in table for name in quoted(row[1])], [name for row in table for name in quoted(row[2])]


def test_every_function_of_the_equations_exists() -> None:
    for name in functions_and_tests()[0]:
        assert callable(named(name)), name


def test_every_equation_has_a_row() -> None:
    named = set(functions_and_tests()[0])
    for package in (diffpo.functional, diffpo.surrogates, diffpo.losses):
        for info in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            for name, value in inspect.getmembers(module, inspect.isfunction):
                if value.__module__ == module.__name__ and not name.startswith("_"):
                    assert f"{module.__name__}.{name}".removeprefix("diffpo.") in named


def names_of_tests(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES)
def test_every_test_that_is_named_exists(page: str) -> None:
    for name in quoted(PAGES[page]):
        path, _, test = name.partition("::")
        if path.startswith("tests/") and path.endswith(".py"):
            assert (ROOT / path).is_file() and (not test or test in names_of_tests(ROOT / path)), name


# --- metrics.md --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every metric of tiny runs that have everything: both learn, a KL term, evaluations; and of a fine-tuning."""

    class Varied(TinySudoku):
        """Completions of a prompt that are equally wrong earn differently, so that there is something to learn."""

        def verify(self, prompt: Prompt, completion: str) -> Verdict:
            return replace(super().verify(prompt, completion), reward=float(len(set(completion))))

    folder = tmp_path_factory.mktemp("run")
    shape = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)
    task = TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2))  # some answers are right: a head learns
    optim = OptimConfig(learning_rate=6e-3)
    start = SftConfig(output=f"{folder}/start", task=task, steps=120, optim=optim, num_examples=2000, shape=shape)
    fine_tune(start, quiet=True)
    config = TrainConfig(
        model=start.output,
        output=f"{folder}/run",
        steps=2,
        prompts_per_step=8,
        num_generations=2,
        eval_every=2,
        objective=ObjectiveConfig(num_iterations=1, beta=0.1),
        threshold=ThresholdConfig(delay_steps=1),
    )
    train(replace(config, eval=replace(config.eval, num_prompts=8)), task=Varied(task), quiet=True)
    head = {"sampler_head": "bernoulli", "threshold": ThresholdConfig(), "rollout": replace(config.rollout, lag=1)}
    train(replace(config, output=f"{folder}/bernoulli", steps=1, eval_every=0, **head), task=Varied(task), quiet=True)
    rows = folder / "rows.jsonl"
    rows.write_text('{"prompt": "01=", "completion": "2"}\n')
    sft = SftConfig(model=start.output, data=str(rows), eval_data=str(rows), output=f"{folder}/sft", steps=1)
    fine_tune(replace(sft, batch_size=2), quiet=True)
    runs = (folder / name / "metrics.jsonl" for name in ("run", "bernoulli", "sft"))
    return set().union(*(step for run in runs for step in read_metrics(run)))


def documented() -> dict[str, str]:
    """Metric to the last cell of its row: its alarm. Patterns are written out for the parts and levels of Sudoku."""
    text, found = PAGES["metrics.md"].partition("## What a healthy run looks like")[0], {}
    for first, *_, alarm in rows(text):
        for pattern in quoted(first):
            for level, part in itertools.product(("easy", "hard"), ("correct", "blanks")):
                found[pattern.format(level=level, part=part)] = alarm
    return found


def test_metrics_logged_and_documented_are_the_same(logged: set[str]) -> None:
    assert logged - documented().keys() == set(), "logged, but not in docs/metrics.md"
    assert documented().keys() - logged == set(), "in docs/metrics.md, but not logged"


def test_every_alarm_is_documented_with_its_knobs() -> None:
    alarms = {metric: alarm for metric, alarm in documented().items() if alarm}
    assert alarms.keys() == {alarm.metric for alarm in ALARMS}
    for alarm in ALARMS:
        assert set(quoted(alarms[alarm.metric])) == set(re.findall(r"\b[a-z]+\.[a-z_]+\b", alarm.advice)), alarm.metric


def test_thresholds_of_the_alarms_are_as_documented() -> None:
    for alarm in ALARMS:
        found = re.match(r"(at|above|below) ([\d.]+):", documented()[alarm.metric])
        assert found, alarm.metric
        edge, step = float(found[2]), 1e-6 if found[1] != "below" else -1e-6
        assert alarm.rings(edge + step) and not alarm.rings(edge - step), alarm.metric


# --- every page --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_every_knob_that_is_named_exists(page: str) -> None:
    for section, knob in re.findall(r"`(?:--)?([a-z]+)\.([a-z_-]+)(?= = |`)", PAGES[page]):
        if section in SECTIONS:
            assert knob.replace("-", "_") in typing.get_type_hints(SECTIONS[section]), f"{section}.{knob}"


def test_every_surrogate_and_loss_is_listed_with_its_knobs() -> None:
    listed = set(quoted(PAGES["algorithm.md"].split("all of them, at their defaults:")[1].split("## ")[0]))
    made = [load_surrogate(name) for name in SURROGATES], [load_loss(name) for name in LOSSES]
    for name, value in zip([*SURROGATES, *LOSSES], itertools.chain(*made), strict=True):
        knobs = ",".join(f"{knob}={setting}" for knob, setting in vars(value).items())
        assert f"{name}:{knobs}".rstrip(":") in listed, name


@pytest.mark.parametrize("page", ["algorithm.md", "rollouts.md"])
def test_every_rule_is_listed(page: str) -> None:
    listed = {name.partition(":")[0] for row in rows(PAGES[page]) for name in quoted(row[0])}
    assert SAMPLER_RULES.keys() - listed == set()


def test_what_clients_may_send_and_what_the_server_counts_is_documented() -> None:
    named = set(quoted(PAGES["serving.md"]))
    fields = {*ChatRequest.model_fields, *CompletionRequest.model_fields}
    assert fields - named == set()
    counted = {line.split()[2] for line in Metrics().text.decode().splitlines() if line.startswith("# TYPE")}
    assert {name for name in counted if not name.endswith("_created")} - named == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_project_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README.md" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[page]):
        assert "://" in target or (folder / target).exists(), target


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    def pages(entry: dict[str, typing.Any] | list[typing.Any] | str) -> list[str]:
        parts = entry.values() if isinstance(entry, dict) else entry
        return [entry] if isinstance(entry, str) else [page for part in parts for page in pages(part)]

    named = pages(tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"])
    assert sorted(page for page in named if "/" not in page) == sorted(PAGES.keys() - {"README.md"})
    subjects = [row[0] for row in rows(PAGES["python.md"].split("## All names")[1])]
    files = [f"reference/{subject.replace(' ', '_')}.md" for subject in subjects]
    assert [page for page in named if "/" in page] == files


def test_the_map_of_the_house_has_the_floors_that_the_linter_holds() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    whole, lab = (
        [
            re.findall(r"\w+", floor)
            for contract in contracts
            for floor in contract.get("layers", ())
            if home in contract["containers"]
        ]
        for home in ("diffpo", "diffpo.lab")
    )
    lines = PAGES["design.md"].split("## ")[1].splitlines()
    for indent, floors in ((6, whole), (8, lab)):
        rooms = [
            line.split()[0].rstrip("/").removesuffix(".py") for line in lines if re.match(rf" {{{indent}}}[a-z]", line)
        ]
        assert sorted(rooms, key=[room for floor in floors for room in floor].index) == rooms


def test_the_walks_pass_what_is_there() -> None:
    section = PAGES["design.md"].split("## Two walks")[1].split("\n## ")[0]
    names = [name for name in quoted(section) if "." in name]
    assert len(names) > 40 and len(re.findall(r"^\d+\. ", section, re.MULTILINE)) == 20
    for name in names:
        assert named(name), name


def named(name: str) -> object:
    """What a name below diffpo is, such as "training.loop.train"."""
    parts = name.split(".")
    files = [path for n in range(1, len(parts)) if (path := module_of(parts[:n]))]
    return reduce(getattr, parts[len(files) :], importlib.import_module(".".join(["diffpo", *parts[: len(files)]])))


def module_of(parts: list[str]) -> Path | None:
    """The file or folder of a module below diffpo, if it is one."""
    path = ROOT.joinpath("src/diffpo", *parts)
    return next((found for found in (path / "__init__.py", path.with_suffix(".py")) if found.is_file()), None)


def program_of(page: str) -> str:
    """The page's blocks one after the other, with fewer steps, examples and test prompts."""
    program = "\n".join(re.findall(r"^```python\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL))
    program = program.replace('output="runs/start")', 'output="runs/start", steps=1, num_examples=64)')
    program = re.sub(r"\bsteps=\d+", "steps=1", program)
    program = re.sub(r"\bnum_prompts=\d+", "num_prompts=4", program)
    return program.replace("SftConfig(", "SftConfig(num_examples=64, ")


@pytest.mark.parametrize("page", ["README.md", "python.md"])
def test_python_of_the_pages_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text(program_of(page))
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_public_name_is_listed() -> None:
    listed = quoted(PAGES["python.md"].split("## All names")[1])
    assert sorted(set(listed) - {"diffpo"}) == diffpo.__all__


def test_the_benchmarks_are_those_of_the_json() -> None:
    """docs/benchmarks.md holds what `diffpo bench` wrote."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert load_script("write_docs").written(text) == text


def test_the_picture_of_findings_says_what_the_page_says() -> None:
    """Every difference in docs/images/findings.svg stands in docs/results.md too."""
    script, text = load_script("findings"), (ROOT / "docs" / "results.md").read_text()
    picture = (ROOT / "docs" / "images" / "findings.svg").read_text()
    for finding in itertools.chain(*script.FINDINGS.values()):
        value = script.found(finding)
        said = f"{value.mean:+.1f} ± {value.half_width:.1f}"
        assert said.removeprefix("+") in text, finding
        assert said in picture, finding
