"""What a report is made of: folders and files on disk, told apart by what is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffpo.analysis.sections import Section, Series
from diffpo.config import TrainConfig
from diffpo.evaluation.evaluate import Evaluation
from diffpo.recipe import find_training
from diffpo.study.plan import BASE, shipped_studies
from diffpo.training.metrics import Metrics, read_metrics

SUMMARY = "summary.json"
"""A study's summary among its runs."""
NEEDED = ("name", "title", "question", "command", "origin", "commits", "seeds", "baseline", "columns", "num_prompts")
NEEDED += ("equal_forwards", "num_cells", "cell_seconds", "arms")


@dataclass(frozen=True)
class Analysis:
    """What `diffpo analyze` wrote (docs/analysis.md)."""

    title: str
    command: str
    commit: str
    sections: Sequence[Section]


@dataclass(frozen=True)
class Run:
    """A training run."""

    name: str
    folder: Path
    settings: Mapping[str, Any]
    """Its config.json."""
    metrics: Sequence[Metrics]
    analyses: Sequence[Analysis] = ()
    """Every analysis*.json in the folder."""

    @cached_property
    def config(self) -> TrainConfig | None:
        """None for fine-tuning and pre-training."""
        return find_training(self.folder)[0]

    @property
    def has_policy(self) -> bool:
        """Whether it can be asked for examples."""
        return self.config is not None and (self.folder / "policy").is_dir()


@dataclass(frozen=True)
class Measured:
    """An evaluation with the thresholds that a learned sampler chose, by level."""

    evaluation: Evaluation
    gammas: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class StudyResult:
    """A study's summary, and its runs where they are there."""

    summary: Mapping[str, Any]
    runs: Mapping[str, Sequence[Run]]
    """By arm, in the order of the seeds; the starts are not among them."""


@dataclass(frozen=True)
class Sources:
    """Everything that the named paths hold."""

    studies: Sequence[StudyResult] = ()
    runs: Sequence[Run] = ()
    evaluations: Mapping[str, Measured] = field(default_factory=dict)


def read_sources(paths: Sequence[str]) -> Sources:
    """Studies (a summary, or the folder of a study), runs and evaluations (folders, or folders of them) by path.

    NAME=PATH gives a run or an evaluation a name. ValueError names a path that holds none of them.
    """
    studies: list[StudyResult] = []
    runs: list[Run] = []
    evaluations: dict[str, Measured] = {}
    for entry in paths:
        name, _, place = entry.rpartition("=")
        path = Path(place)
        if not path.exists():  # the name of a study whose summary ships
            path = shipped_studies("results/*.json").get(path.stem, path)
        if study := _study(path):
            studies.append(study)
            continue
        if not path.is_dir():
            raise ValueError(f"{place}: {'no summary of a study' if path.is_file() else 'no such file or folder'}")
        if any(path.glob("*/seed_*/cell.json")):
            raise ValueError(f"{place}: a study that is not finished: diffpo study goes on with it; or name runs in it")
        own = {_named(name, path, folder): folder for folder in _holding(path, "metrics.jsonl")}
        found = {_named(name, path, folder): folder for folder in _holding(path, "evaluation.json")}
        if not own and not found:
            raise ValueError(f"{place}: no run (metrics.jsonl), evaluation (evaluation.json) or study in it")
        if twice := [*({*own} & {run.name for run in runs}), *({*found} & {*evaluations})]:
            raise ValueError(f"{twice[0]}: named twice; give each a name of its own, NAME=PATH")
        runs += [_run(folder, label) for label, folder in own.items()]
        evaluations |= {label: _measured(folder) for label, folder in found.items()}
    return Sources(studies, runs, evaluations)


def _study(path: Path) -> StudyResult | None:
    """The study that a summary, or the folder of a study, holds."""
    file = path / SUMMARY if path.is_dir() else path
    if not file.is_file() or not isinstance(summary := _read(file), dict) or "arms" not in summary:
        return None
    if missing := [name for name in NEEDED if name not in summary]:
        raise ValueError(f"{file}: a summary without {', '.join(missing)}: make it again with diffpo study")
    return StudyResult(summary, _runs_of_arms(summary, _home(summary, file)))


def _home(summary: Mapping[str, Any], file: Path) -> Path:
    """Where the runs are: beside a summary of this name, or where studies go if the very same summary is there."""
    usual = Path("runs/studies", summary["name"])
    same = (usual / SUMMARY).is_file() and _read(usual / SUMMARY) == summary
    return file.parent if file.name == SUMMARY or not same else usual


def _runs_of_arms(summary: Mapping[str, Any], folder: Path) -> dict[str, list[Run]]:
    found = {}
    for arm, values in summary["arms"].items():
        places = {seed: folder / arm / f"seed_{seed}" / "run" for seed in summary["seeds"] if arm != BASE}
        there = {seed: place for seed, place in places.items() if (place / "metrics.jsonl").is_file()}
        if there:
            found[arm] = [_run(place, f"{values['label']}, seed {seed}") for seed, place in there.items()]
    return found


def _holding(path: Path, file: str) -> list[Path]:
    """The folder and those below that hold `file`, the oldest first; not checkpoints, nor points of cells."""
    found = [place.parent for place in sorted(path.rglob(file), key=lambda place: (place.stat().st_mtime_ns, place))]
    return [folder for folder in found if not {"checkpoints", "points"} & {*folder.relative_to(path).parts}]


def _named(name: str, path: Path, folder: Path) -> str:
    """What a folder found below `path` is called: the name given, or the folder's own, and the way down to it."""
    below = folder.relative_to(path).as_posix()
    head = name or path.resolve().name
    return head if below == "." else f"{head}/{below}"


def _run(folder: Path, name: str) -> Run:
    config = folder / "config.json"
    return Run(
        name,
        folder,
        _read(config) if config.is_file() else {},
        read_metrics(folder / "metrics.jsonl"),
        tuple(
            _analysis(file) for place in (folder, folder / "policy") for file in sorted(place.glob("analysis*.json"))
        ),
    )


def _analysis(file: Path) -> Analysis:
    values = _read(file)
    try:
        sections = [
            Section(**(entry | {"series": [Series(**series) for series in entry["series"]]}))
            for entry in values["sections"]
        ]
        return Analysis(values["title"], values["command"], values["origin"]["commit"], sections)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: not what diffpo analyze writes ({error}); make it again, or remove it") from None


def _measured(folder: Path) -> Measured:
    gammas: dict[str, list[float]] = {}
    log = folder / "completions.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else ():
        answer = json.loads(line)
        if answer.get("sampler") == "learned" and answer["gamma"] is not None:
            gammas.setdefault(answer["level"], []).append(answer["gamma"])
    try:
        return Measured(Evaluation.load(folder), gammas)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder}/evaluation.json: of another version ({error}): make it again, diffpo eval"
        ) from None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
