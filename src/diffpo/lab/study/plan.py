"""What a study is: a question, two recipes, arms that differ in a few settings, seeds. TOML in; imports no torch."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from diffpo.config import RolloutConfig, SftConfig, TaskConfig, TrainConfig, parse_sampler, suggest
from diffpo.config.checks import bound, check
from diffpo.files.places import shipped_files
from diffpo.files.recipe import find_recipe, flatten, from_dict, load_config, read_toml

BASE = "base"
"""The arm that every study has: the policy that the others start from."""
FREE = ("model", "output", "save_every", "keep_checkpoints", "log_with", "num_threads", "load.device", "load.compile")
"""Settings that the runner sets in every cell."""


@dataclass(frozen=True)
class MeasureConfig:
    """How policies are measured: at temperature 0, on the same distinct test prompts in every arm and seed."""

    num_prompts: int = 1024  # distinct test prompts
    samplers: tuple[str, ...] = ("top_k:1", "top_k:2", "top_k:4")
    """Samplers measured when training has ended; the sampler of an arm's own rollouts is measured as well."""
    gammas: tuple[float, ...] = (0.03, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7)
    """Fixed thresholds of the accuracy-NFE frontier, measured when training has ended."""
    track: tuple[str, ...] = ("top_k:2",)  # samplers measured at every point of training
    num_points: int = 3  # points of training that are measured, evenly spaced; the last is its end
    at_nfe: tuple[float, ...] = (2.0, 4.0, 8.0)  # calls at which the frontiers are compared
    rollout: dict = field(default_factory=dict)
    """Settings of decoding that hold in every arm, where an arm's own rollouts differ: block_length, ..."""

    def __post_init__(self) -> None:
        for spec in (*self.samplers, *self.track):
            parse_sampler(spec, "measure.samplers")
        bound(self, "measure.", "num_prompts num_points", ">=", 1)
        check(all(0 <= g < inf for g in self.gammas), f"measure.gammas must be >= 0 and finite, got {self.gammas}")
        check(bool(self.samplers or self.gammas), "measure.samplers and measure.gammas are both empty")
        check(all(n >= 1 for n in self.at_nfe), f"measure.at_nfe must be >= 1, got {self.at_nfe}")
        from_dict(RolloutConfig, self.rollout, "measure.rollout.")
        for name in ("sampler", "temperature", "merge_adapters"):
            why = "does nothing: measure.samplers and gammas are measured, greedily, without merged copies"
            check(name not in self.rollout, f"measure.rollout.{name} {why}")


@dataclass(frozen=True)
class TuneConfig:
    """Settings chosen for each arm by itself, from the same values, on seeds and prompts that the study does not use.

    Every combination of values is trained once a seed; the one whose `metric` has the best mean over the seeds is
    taken, the first of equals.
    """

    values: dict = field(default_factory=dict)
    """Setting to the list of its values, as "optim.learning_rate" = [1e-4, 3e-4]. None named: nothing is tuned."""
    seeds: tuple[int, ...] = (100, 101)  # seeds of the tuning runs
    num_prompts: int = 256  # distinct test prompts that follow the study's own
    metric: str = "accuracy/top_k:2"  # what is to be largest, by its name in the summary

    def __post_init__(self) -> None:
        check(bool(self.seeds), "tune.seeds: name at least one")
        check(len({*self.seeds}) == len(self.seeds), f"tune.seeds must differ, got {[*self.seeds]}")
        bound(self, "tune.", "num_prompts", ">=", 1)


@dataclass(frozen=True)
class StudyConfig:
    """One study."""

    extends: str = ""
    """A study whose settings and arms hold where this one says nothing: the same question on another task."""
    leave_out: tuple[str, ...] = ()  # arms of the extended study that this one does without
    title: str = ""
    question: str = ""  # what the study is to answer, in one sentence
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seeds pre-training and reinforcement learning of one cell an arm; arms of one seed share their start."""
    baseline: str = BASE  # arm that the others are compared with, seed by seed; base is the start itself
    pairs: tuple[tuple[str, ...], ...] = ()  # further comparisons of two arms each, the first less the second
    pretrain: str = ""  # recipe of pre-training. Empty: arms start from the model that the training recipe names
    recipe: str = ""  # recipe of training
    sft: dict = field(default_factory=dict)  # settings over the recipe of pre-training
    train: dict = field(default_factory=dict)  # settings over the recipe of training, for every arm
    arms: tuple[dict, ...] = ()
    """Each has a name, a label and its settings over `train`; `tune` lists values of its own to tune over."""
    columns: tuple[str, ...] = ()  # metrics of the tables, by their names in the summary. None named: the usual ones
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)


@dataclass(frozen=True)
class Arm:
    """One arm: what it is called, what it changes, what its runs look like but for seed and folder."""

    name: str
    label: str
    changes: Mapping[str, Any]
    """Settings over the study's own, by dotted name."""
    config: TrainConfig
    tune: Mapping[str, tuple]
    """Values to tune over, by dotted name."""

    def tuned(self) -> Iterator[tuple[dict[str, Any], TrainConfig]]:
        """Every combination of the values with its config."""
        for values in itertools.product(*self.tune.values()):
            chosen = dict(zip(self.tune, values, strict=True))
            yield chosen, from_dict(TrainConfig, nest(chosen), base=self.config)


@dataclass(frozen=True)
class Cell:
    """One process: train, unless `train` is None, from the start that `sft` makes, and measure."""

    name: str
    """Its folder below the study's."""
    start: str
    """Name of the cell whose policy it starts from; "" for a cell that makes the start."""
    sft: SftConfig | None
    train: TrainConfig | None
    task: TaskConfig
    """What it is measured on."""
    rollout: dict
    """How it is decoded when it is measured, but for the sampler."""
    samplers: tuple[str, ...]
    """Measured at the end of training."""
    track: tuple[str, ...]
    """Measured at every point."""
    gammas: tuple[float, ...]
    num_points: int
    num_prompts: int
    skip_prompts: int
    """Distinct test prompts left out before the first that is used."""

    def settings(self) -> dict[str, Any]:
        """All that its result depends on, as plain values."""
        plain = json.loads(json.dumps(asdict(self)))
        for name in ("sft", "train"):
            if plain[name]:
                free = FREE if name == "train" else FREE[1:]  # what pre-training starts from is its recipe's
                plain[name] = nest({key: value for key, value in flatten(plain[name]).items() if key not in free})
        return plain


@dataclass(frozen=True)
class Study:
    """A study with its recipes resolved."""

    name: str
    path: Path
    config: StudyConfig
    sft: SftConfig | None
    train: TrainConfig
    arms: tuple[Arm, ...]

    def __repr__(self) -> str:
        return f"Study({self.name}: {', '.join(arm.label for arm in self.arms)}; {len(self.config.seeds)} seeds)"

    def base_cells(self) -> list[Cell]:
        """The starts: of the study's seeds, measured, and of the tuning's."""
        tuning = self.config.tune.seeds if any(arm.tune for arm in self.arms) else ()
        seeds = (*self.config.seeds, *tuning) if self.sft else self.config.seeds[:1]
        unmeasured = {"samplers": (), "track": (), "gammas": ()}
        cells = {seed: self._cell(BASE, None, seed) for seed in seeds}
        return [cell if seed in self.config.seeds else replace(cell, **unmeasured) for seed, cell in cells.items()]

    def tune_cells(self, arm: Arm) -> list[tuple[dict[str, Any], list[Cell]]]:
        """Each combination of an arm's values with its cells, one a tuning seed."""
        if not arm.tune:
            return []
        tune, skip, found = self.config.tune, self.config.measure.num_prompts, []
        for number, (values, config) in enumerate(arm.tuned()):
            cells = [self._cell(f"{arm.name}/tune_{number}", config, seed) for seed in tune.seeds]
            only = {"num_prompts": tune.num_prompts, "skip_prompts": skip, "num_points": 1, "track": ()}
            if tune.metric.partition("/")[0] in ("accuracy", "nfe", "reward"):  # of a sampler, not of the frontier
                only |= {"samplers": self._only(config, tune.metric), "gammas": ()}
            found.append((values, [replace(cell, **only) for cell in cells]))
        return found

    def _only(self, config: TrainConfig, metric: str) -> tuple[str, ...]:
        """The samplers that a metric needs: the run's own, and the one it names. ValueError if that is not measured."""
        own, named = config.rollout.sampler, f"{metric}/".split("/")[1]
        known = dict.fromkeys(("own", own, *self.config.measure.samplers))
        said = f"tune.metric {metric!r}: {named!r} is no sampler that is measured"
        check(named in known, f"{said}{suggest(named, known)}")
        return (own,) if named in ("own", own) else (own, named)

    def cells(self, arm: Arm, values: Mapping[str, Any]) -> list[Cell]:
        """The cells of an arm under the values that tuning chose, one a seed."""
        config = from_dict(TrainConfig, nest(values), base=arm.config)
        return [self._cell(arm.name, config, seed) for seed in self.config.seeds]

    def start(self, seed: int) -> str:
        """Name of the cell that arms of `seed` start from."""
        return f"{BASE}/seed_{seed if self.sft else self.config.seeds[0]}"

    def _cell(self, folder: str, train: TrainConfig | None, seed: int) -> Cell:
        measure, rollout = self.config.measure, (train or self.train).rollout
        own = [rollout.sampler] if train or rollout.sampler != "learned" else []
        rules = asdict(rollout.decoding)
        decoding = {name: value for name, value in rules.items() if name not in ("sampler", "temperature")}
        return Cell(
            name=f"{folder}/seed_{seed}",
            start=self.start(seed) if train else "",
            sft=replace(self.sft, seed=seed) if self.sft and not train else None,
            train=replace(train, seed=seed) if train else None,
            task=self.train.task,
            rollout=decoding | measure.rollout,
            samplers=tuple(dict.fromkeys((*measure.samplers, *own))),
            track=tuple(dict.fromkeys((*measure.track, *own))),
            gammas=measure.gammas,
            num_points=measure.num_points if train else 1,
            num_prompts=measure.num_prompts,
            skip_prompts=0,
        )


def find_study(name: str) -> Path:
    """The study at path `name`, or the one of that name that ships with diffpo; ValueError lists those."""
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_files("studies/*.toml")
    stem = name.removeprefix("studies/").removesuffix(".toml")
    if stem in shipped:
        return shipped[stem]
    raise ValueError(f"{name}: no such study{suggest(Path(name).stem, sorted(shipped))}")


def load_study(path: str | Path) -> Study:
    """Read a study, a file or the name of one that ships, and its recipes.

    ValueError names the file, the arm, the key and the mend.
    """
    path = find_study(str(path))
    try:
        config = from_dict(StudyConfig, _read(path))
        _check_study(config)
        sft = None
        if config.pretrain:
            sft = from_dict(SftConfig, nest(config.sft), "sft.", load_config(SftConfig, _recipe(path, config.pretrain)))
        train = load_config(TrainConfig, _recipe(path, config.recipe))
        train = from_dict(TrainConfig, nest(config.train), "train.", train)
        return Study(path.stem, path, config, sft, train, tuple(_arm(arm, config, train) for arm in config.arms))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    """The values of a study's file, over those of the study that it extends, setting by setting."""
    values = read_toml(path)
    name = str(values.get("extends", ""))
    if not name:
        return values
    beside = path.parent / f"{name}.toml"
    parent = read_toml(beside if beside.is_file() else find_study(name))
    check("extends" not in parent, f"extends {name!r}, which extends another itself: name that one")
    merged = nest(flatten(parent) | flatten(values))
    config = from_dict(StudyConfig, merged)
    names = [str(arm.get("name")) for arm in config.arms]
    for arm in config.leave_out:
        check(arm in names, f"leave_out: no arm {arm!r}{suggest(arm, names)}")
    return merged | {"arms": [arm for arm in config.arms if arm.get("name") not in config.leave_out]}


def _recipe(path: Path, name: str) -> Path:
    """A recipe beside the study, or as any other is found."""
    return path.parent / name if (path.parent / name).is_file() else find_recipe(name)


def _arm(values: Mapping[str, Any], config: StudyConfig, train: TrainConfig) -> Arm:
    own = {key: value for key, value in values.items() if key not in ("name", "label", "tune")}
    from diffpo.objective import Objective  # which imports torch

    try:
        tune = values.get("tune", config.tune.values)
        check(isinstance(tune, Mapping), f"tune takes settings, each with a list of values, got {tune!r}")
        tune = flatten(tune)
        for key, entry in tune.items():
            check(isinstance(entry, list) and bool(entry), f"tune: {key} takes a list of values, got {entry!r}")
        arm = Arm(
            name=str(values["name"]),
            label=str(values.get("label", values["name"])),
            changes=flatten(own),
            config=from_dict(TrainConfig, nest(own), base=train),
            tune={key: tuple(entry) for key, entry in tune.items()},
        )
        _check_free(own | tune)
        points = config.measure.num_points
        for _, tuned in arm.tuned():  # every value must be one that its setting takes
            Objective.of(tuned.objective)
            what = f"steps must be a multiple of measure.num_points = {points}, got {tuned.steps}"
            check(tuned.steps % points == 0, what)
    except ValueError as error:
        raise ValueError(f"arm {values['name']!r}: {error}") from None
    return arm


def _check_free(values: Mapping[str, Any]) -> None:
    for key in (*FREE, "seed"):
        check(key not in flatten(values), f"{key} is the study's to set: leave it out")


def _check_study(config: StudyConfig) -> None:
    seeds, names = list(config.seeds), [str(arm.get("name", "")) for arm in config.arms]
    check(len(seeds) >= 2, f"seeds must be two or more, or there is no interval: got {seeds}")
    check(len({*seeds}) == len(seeds), f"seeds must differ, got {seeds}")
    common = sorted({*seeds} & {*config.tune.seeds})
    check(not common, f"tune.seeds must not be seeds of the study: {common} are both")
    check(bool(config.recipe), "recipe is missing: name the recipe of training")
    check(bool(config.extends) or not config.leave_out, "leave_out does nothing without extends")
    starts = bool(config.pretrain or config.extends)  # where another is extended, sft may be that one's
    check(starts or not config.sft, "sft does nothing without pretrain: name a recipe of pre-training")
    _check_free(config.sft)
    _check_free({key: value for key, value in config.train.items() if key != "model"})
    check(bool(names), "no [[arms]]: name at least one")
    for name in names:
        check(bool(re.fullmatch(r"\w[\w.-]*", name)), f"arms: a name is letters, digits, _, - and dots, got {name!r}")
        check(name != BASE, f"arms: {BASE!r} is the start itself and always there; choose another name")
        check(names.count(name) == 1, f"arms: {name!r} is named twice")
    for pair in config.pairs:
        check(len(pair) == len({*pair}) == 2, f"pairs: two arms each, the first less the second, got {[*pair]}")
    for name in (config.baseline, *itertools.chain(*config.pairs)):
        check(name in (BASE, *names), f"no arm {name!r}{suggest(name, [BASE, *names])}")


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`: {"optim.learning_rate": 1} is {"optim": {"learning_rate": 1}}."""
    tables: dict[str, Any] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        table = tables
        for part in path:
            table = table.setdefault(part, {})
            check(isinstance(table, dict), f"{key}: {part} is given as a value and as a table")
        if isinstance(value, Mapping):
            table.setdefault(last, {}).update(nest(value))
        else:
            table[last] = value
    return tables
