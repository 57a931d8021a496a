"""What a report is made of: folders and files on disk, told apart by what is in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from diffpo.config import TrainConfig, suggest
from diffpo.evaluation.evaluate import Evaluation
from diffpo.evaluation.figures import training_figure
from diffpo.files.folder import json_rows
from diffpo.files.places import named, shipped_files
from diffpo.files.recipe import find_training, read_json
from diffpo.lab.analysis.sections import Section, surrogate_name
from diffpo.lab.report.figures import FIGURES
from diffpo.lab.study.plan import BASE
from diffpo.lab.study.tables import check_summary, rich_table
from diffpo.training.metrics import Metrics, read_metrics
from diffpo.view.drawing import Picture
from diffpo.view.notebook import as_html, facts_table

if TYPE_CHECKING:
    import pandas

SUMMARY = "summary.json"
"""A study's summary among its runs."""
EDGE = 10
"""A run's first and last 1 / EDGE of its steps are compared."""


@dataclass(frozen=True)
class Analysis:
    """What `diffpo analyze` wrote (docs/analysis.md)."""

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

    @property
    def facts(self) -> dict[str, str]:
        """What a run trained, and where reward, accuracy and calls went."""
        facts: dict[str, str] = {"steps": str(len(self.metrics))}
        if config := self.config:
            clamp = config.objective.importance_clamp
            facts["task"] = config.task.name
            facts["learns"] = {"joint": "denoiser and sampler", "model": "denoiser", "sampler": "sampler"}[config.train]
            facts["surrogate"] = surrogate_name(config.objective.surrogate)
            facts["importance weights"] = f"C = {clamp:g}" if clamp else "off"
            facts["rollouts"] = config.rollout.sampler
        edge = max(1, len(self.metrics) // EDGE)
        span = f"first and last {edge} steps" if edge > 1 else "first and last step"
        for metric, label, scale, digits in (
            ("reward", "reward", 1, 2),
            ("accuracy", "accuracy %", 100, 1),
            ("nfe", "denoiser calls", 1, 1),
            ("loss", "loss", 1, 3),
        ):
            steps = self.metrics[:edge], self.metrics[-edge:]
            ends = [[value for step in end if (value := step.get(metric)) is not None] for end in steps]
            if all(ends):
                facts[f"{label}, {span}"] = " → ".join(f"{scale * fmean(end):.{digits}f}" for end in ends)
        return facts

    def __repr__(self) -> str:
        return f"Run({self.name}; {'; '.join(f'{name}: {value}' for name, value in self.facts.items())})"

    def _repr_html_(self) -> str:
        picture = self.plot() if self.metrics else None
        return as_html(facts_table({"run": self.name} | self.facts), picture=picture)

    def plot(self) -> Picture:
        """Its metrics over its steps (`evaluation.figures.training_figure`)."""
        return training_figure(self.metrics)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a step, a column a metric (docs/metrics.md); what was not finite is missing."""
        import pandas

        frame = pandas.DataFrame(list(self.metrics))
        return frame.set_index("step") if len(frame) else frame


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

    def __repr__(self) -> str:
        found = self.summary
        return (
            f"StudyResult({found['name']}: {', '.join(arm['label'] for arm in found['arms'].values())}; "
            f"{len(found['seeds'])} seeds, {found['num_prompts']:,} prompts)"
        )

    def _repr_html_(self) -> str:
        return as_html(rich_table(self.summary), picture=self.plot())

    def plot(self, figure: Literal["frontier", "differences", "cost", "thresholds"] = "frontier") -> Picture:
        """One of the report's pictures (docs/studies.md). ValueError if what was measured holds nothing for it."""
        return FIGURES[figure](self.summary)

    def to_pandas(self) -> pandas.DataFrame:
        """A row an arm and metric: its mean over the seeds with its intervals, and its difference from the baseline."""
        import pandas

        rows = []
        for name, arm in self.summary["arms"].items():
            for metric, value in arm["metrics"].items():
                versus = {f"difference_{key}": entry for key, entry in arm["versus"].get(metric, {}).items()}
                rows.append({"arm": name, "label": arm["label"], "metric": metric, **value, **versus})
        return pandas.DataFrame(rows)


@dataclass(frozen=True)
class Sources:
    """Everything that the named paths hold."""

    studies: Sequence[StudyResult] = ()
    runs: Sequence[Run] = ()
    evaluations: Mapping[str, Measured] = field(default_factory=dict)


def read_sources(paths: Sequence[str]) -> Sources:
    """Studies (a summary, or the folder of a study), runs and evaluations (folders, or folders of them) by path.

    NAME=PATH gives one a name, a study its title. ValueError names a path that holds none of them.
    """
    studies, runs, evaluations = dict[str, StudyResult](), dict[str, Run](), dict[str, Measured]()
    for entry in paths:
        name, place = named(entry)
        path = Path(place)
        if study := _study(path):
            title = name or study.summary["title"]
            _add(studies, title, replace(study, summary={**study.summary, "title": title}))
            continue
        if not path.is_dir():
            what = f"no summary of a study; for a run or an evaluation name its folder, {path.parent}"
            raise ValueError(f"{place}: {what if path.is_file() else 'no such file or folder'}")
        if any(path.glob("*/seed_*/cell.json")):
            raise ValueError(f"{place}: a study that is not finished: diffpo study goes on with it; or name runs in it")
        trained, measured = _holding(path, "metrics.jsonl", name), _holding(path, "evaluation.json", name)
        if not trained and not measured:
            raise ValueError(f"{place}: no run (metrics.jsonl), evaluation (evaluation.json) or study in it")
        for label, folder in trained.items():
            _add(runs, label, _run(folder, label))
        for label, folder in measured.items():
            _add(evaluations, label, _measured(folder))
    return Sources([*studies.values()], [*runs.values()], evaluations)


def _add(known: dict[str, Any], name: str, found: StudyResult | Run | Measured) -> None:
    if name in known:
        raise ValueError(f"{name}: named twice; give each a name of its own, NAME=PATH")
    known[name] = found


def read_run(folder: str | Path) -> Run:
    """The run in a folder; ValueError if there is none."""
    folder = Path(folder)
    if not (folder / "metrics.jsonl").is_file():
        raise ValueError(f"{folder}: no run (metrics.jsonl) in it")
    return _run(folder, folder.resolve().name)


def read_study(name: str | Path) -> StudyResult:
    """What a study found: a summary, the folder of a study, or the name of one that ships; ValueError lists those."""
    if found := _study(Path(name)):
        return found
    shipped = shipped_files("studies/results/*.json")
    raise ValueError(f"{name}: no summary of a study{suggest(Path(name).stem, shipped)}")


def _study(path: Path) -> StudyResult | None:
    """The study that a summary, or the folder of a study, holds, whose file this is, or whose summary ships under this
    name.
    """
    if path.suffix == ".toml":
        path = path.parent / "results" / f"{path.stem}.json"
    if not path.exists() and path.parent in (Path(), Path("studies/results")):  # no summary of the user's own
        path = shipped_files("studies/results/*.json").get(path.stem, path)
    file = path / SUMMARY if path.is_dir() else path
    if not file.is_file() or "arms" not in (summary := read_json(file)):
        return None
    check_summary(file, summary)
    return StudyResult(summary, _runs_of_arms(summary, _home(summary, file)))


def _home(summary: Mapping[str, Any], file: Path) -> Path:
    """Where the runs are: beside a summary of this name, or where studies go if the very same summary is there."""
    usual = Path("runs/studies", summary["name"])
    same = (usual / SUMMARY).is_file() and read_json(usual / SUMMARY) == summary
    return file.parent if file.name == SUMMARY or not same else usual


def _runs_of_arms(summary: Mapping[str, Any], folder: Path) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for arm, values in summary["arms"].items():
        for seed in summary["seeds"]:
            place = folder / arm / f"seed_{seed}" / "run"
            if arm != BASE and (place / "metrics.jsonl").is_file():
                found.setdefault(arm, []).append(_run(place, f"{values['label']}, seed {seed}"))
    return found


def _holding(path: Path, file: str, name: str) -> dict[str, Path]:
    """The folder and those below that hold `file`, the oldest first; not checkpoints, nor points of cells.

    Each under `name`, or else the folder's own, and the way down to it.
    """
    found, head = dict[str, Path](), name or path.resolve().name
    for place in sorted(path.rglob(file), key=lambda place: (place.stat().st_mtime_ns, place)):
        below = place.parent.relative_to(path)
        if not {"checkpoints", "points"} & {*below.parts}:
            found[f"{head}/{below.as_posix()}" if below.parts else head] = place.parent
    return found


def _run(folder: Path, name: str) -> Run:
    config = folder / "config.json"
    settings = read_json(config) if config.is_file() else {}
    files = [file for place in (folder, folder / "policy") for file in sorted(place.glob("analysis*.json"))]
    return Run(name, folder, settings, read_metrics(folder / "metrics.jsonl"), tuple(map(_analysis, files)))


def _analysis(file: Path) -> Analysis:
    values = read_json(file)
    try:
        sections = [Section.of(entry) for entry in values["sections"]]
        return Analysis(values["command"], values["origin"]["commit"], sections)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file}: not what diffpo analyze writes ({error}); make it again, or remove it") from None


def _measured(folder: Path) -> Measured:
    gammas: dict[str, list[float]] = {}
    try:
        for answer in json_rows(folder / "completions.jsonl"):
            if answer["sampler"] == "learned" and answer["gamma"] is not None:
                gammas.setdefault(answer["level"], []).append(answer["gamma"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: evaluated by another version ({error}): make it again, diffpo eval") from None
    return Measured(Evaluation.load(folder), gammas)
