"""Accuracy against denoiser calls (NFE), for any list of samplers and the frontier of fixed thresholds."""

from __future__ import annotations

import csv
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from diffpo.config import EvalConfig, RolloutConfig, TaskConfig
from diffpo.config.checks import expect, suggest
from diffpo.evaluation.answers import Answer, Asked, Point, answer, asked, points_of
from diffpo.evaluation.log import AnswerLog
from diffpo.files.folder import write_text
from diffpo.files.recipe import read_json
from diffpo.models.policy import Policy
from diffpo.processes.world import World
from diffpo.rollout.local import check_prompts
from diffpo.tasks.base import Task
from diffpo.tasks.chat import check_fit
from diffpo.view.notebook import as_html
from diffpo.view.progress import Progress, counted

if TYPE_CHECKING:
    import pandas

    from diffpo.view.drawing import Picture

SAVE_EVERY = 128
"""Answers between two writes to completions.jsonl, or as many as are decoded at once where that is more."""


@dataclass(frozen=True)
class Effort:
    """What the measuring took; not part of the result."""

    seconds: dict[str, float]
    """Wall-clock seconds by sampler, of the answers that this call made."""
    num_answers: int
    """Answers that this call made; others were there."""
    peak_memory: int
    """Bytes: of the GPU, or of the process where there is none; the main process alone."""
    device: str

    def __str__(self) -> str:
        seconds, size = sum(self.seconds.values()), self.peak_memory / 1e9
        return (
            f"{counted(self.num_answers, 'answer')} in {seconds:.1f} s, at most {size:.2f} GB of memory ({self.device})"
        )


@dataclass(frozen=True)
class Evaluation:
    """A policy measured: the samplers asked for, and the frontier of fixed thresholds, by ascending gamma."""

    task: str
    points: tuple[Point, ...]
    frontier: tuple[Point, ...] = field(default=())
    cost: Effort | None = field(default=None, compare=False)
    answers: tuple[Answer, ...] = field(default=(), compare=False)
    """Every answer, where it was just made: what is loaded has none, and completions.jsonl those of `diffpo eval`."""

    def __repr__(self) -> str:
        points = "; ".join(str(point) for point in self.points if not point.level)
        count = max((point.num_prompts for point in self.measured), default=0)
        fixed = sum(not point.level for point in self.frontier)
        return f"Evaluation({self.task}, {counted(count, 'prompt')}; {points}; {counted(fixed, 'fixed threshold')})"

    def _repr_html_(self) -> str:
        from diffpo.evaluation.tables import evaluation_tables

        return as_html(*evaluation_tables(self), picture=self.plot())

    def plot(self) -> Picture:
        """Accuracy against NFE (`evaluation.figures.frontier_figure`, which takes several)."""
        from diffpo.evaluation.figures import frontier_figure

        return frontier_figure({self.task: self})

    def to_pandas(self, answers: bool = False) -> pandas.DataFrame:
        """A row a sampler and level, as in evaluation.csv; with `answers` a row an answer.

        ValueError if there are none: of one that was loaded.
        """
        import pandas

        if answers and not self.answers:
            raise ValueError(
                "no answers in it: those of diffpo eval are rows of completions.jsonl beside the evaluation"
            )
        return pandas.DataFrame([row.row() for row in (self.answers if answers else self.measured)])

    def point(self, sampler: str, level: str = "") -> Point:
        """The measured sampler of that name; ValueError if it was not measured."""
        for point in self.measured:
            if (point.sampler, point.level) == (sampler, level):
                return point
        where = f" at level {level!r}" if level else ""
        measured = dict.fromkeys(point.sampler for point in self.measured)
        raise ValueError(f"{sampler!r} was not measured{where}{suggest(sampler, measured)}")

    @property
    def measured(self) -> tuple[Point, ...]:
        """All points, each once: a fixed threshold may be one of the samplers too."""
        return tuple(dict.fromkeys((*self.points, *self.frontier)))

    @property
    def num_samples(self) -> int:
        """Answers a prompt."""
        return max((point.num_samples for point in self.measured), default=1)

    @property
    def pareto(self) -> tuple[Point, ...]:
        """Overall points that no other point beats in both accuracy and NFE, by ascending NFE."""
        points = sorted((p for p in self.measured if not p.level), key=lambda p: (p.nfe, -p.accuracy))
        best, chosen = -1.0, []
        for point in points:
            if point.accuracy > best:
                best = point.accuracy
                chosen.append(point)
        return tuple(chosen)

    def frontier_accuracy(self, nfe: float, level: str = "") -> float:
        """Accuracy of fixed thresholds at `nfe` calls: linear between measured points, flat beyond the ends.

        Of thresholds with the same NFE the best counts. ValueError if none was measured.
        """
        points = dict(sorted((p.nfe, p.accuracy) for p in self.frontier if p.level == level))
        if not points:
            raise ValueError(f"no fixed threshold was measured at level {level!r}: name some in eval.gammas")
        return float(np.interp(nfe, list(points), list(points.values())))

    def save(self, folder: str | Path) -> None:
        """Write evaluation.json and evaluation.csv, each whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = asdict(replace(self, answers=()))
        del values["answers"]
        write_text(folder / "evaluation.json", json.dumps(values, indent=2) + "\n")
        rows = [point.row() for point in self.measured]
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(folder / "evaluation.csv", table.getvalue())

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Read what `save` wrote; ValueError names a folder that another version wrote."""
        values = read_json(Path(folder) / "evaluation.json")
        try:
            points, frontier = (tuple(map(_point, values[name])) for name in ("points", "frontier"))
            return cls(values["task"], points, frontier, Effort(**values["cost"]) if values["cost"] else None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder}: evaluated by another version ({error}): make it again, diffpo eval") from None


def _point(values: dict[str, Any]) -> Point:
    """A point from JSON, where keys are text."""
    chances: dict[str, float] = values.pop("pass_at_k", {})
    return Point(**values, pass_at_k={int(k): chance for k, chance in chances.items()})


def evaluate(
    policy: Policy,
    task: Task,
    config: EvalConfig | None = None,
    rollout: RolloutConfig | None = None,
    seed: int = 0,
    quiet: bool = False,
    log: AnswerLog | None = None,
    world: World | None = None,
) -> Evaluation:
    """Measure `policy` on test prompts: each of config.samplers, then config.gammas as fixed entropy bounds.

    `rollout` gives lengths and the entropies' temperature; its sampler and temperature are config's. None stands for
    what the policy was trained with, and measured by. Without a sampler head a learned sampler is left out, or a
    ValueError if it was asked for. Answers that `log` holds are not made again; the processes of `world` share the
    rest. The result depends on neither, nor on how many rows are decoded at once; N answers a prompt are the first N
    of more. On Ctrl-C `log` has the answers made so far.
    """
    expect(Policy, policy, "policy", "load_policy(...) gives one")
    expect(EvalConfig, config or EvalConfig(), "config", "EvalConfig(num_prompts=64), say")
    if isinstance(task, str | TaskConfig):
        raise ValueError(f"task must be a Task, got {task!r:.60}: load_task(...) gives one")
    config, rollout, world = config or policy.eval or EvalConfig(), rollout or policy.decoding, world or World()
    check_fit(task, policy.is_tiny)
    if policy.sampler_head is None and "learned" in config.samplers:
        usual = (EvalConfig.samplers, policy.eval.samplers if policy.eval else ())
        if config.samplers not in usual:
            raise ValueError("eval.samplers: learned does nothing without a sampler head, which this model lacks")
    samplers = [spec for spec in dict.fromkeys(config.samplers) if spec != "learned" or policy.sampler_head]
    fixed = [f"entropy_bound:{gamma:g}" for gamma in sorted({*config.gammas})]
    left_out = check_prompts(policy, task, ["test"], rollout)
    wanted = asked(task.prompts("test", config.num_prompts), config.num_samples)
    measured: dict[str, list[Point]] = {}
    answers: list[Answer] = []
    seconds: dict[str, float] = {}
    num_known = len(log.answers) if log else 0
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(policy.device)
    with Progress("measure", len({*samplers, *fixed}), quiet or not world.is_main, unit="sampler") as progress:
        for line in left_out:
            progress.note(line)
        for spec in dict.fromkeys((*samplers, *fixed)):
            started, own = time.perf_counter(), replace(rollout, sampler=spec, temperature=config.temperature)
            make = partial(answer, policy, task, rollout=own, seed=seed, early_exit=not config.full_canvas)
            found = _answers(make, wanted, own, log, world, progress)
            answers += found
            if num_unjudged := sum(answer.reward is None and not answer.correct for answer in found):
                progress.note(
                    f"{spec}: {num_unjudged} of {len(found)} answers have no reward (None), and count as wrong"
                )
            measured[spec] = points_of(spec, found)
            seconds[spec] = round(time.perf_counter() - started, 3)
            progress.advance(accuracy=measured[spec][0].accuracy, nfe=measured[spec][0].nfe)

    def points(specs: Sequence[str]) -> tuple[Point, ...]:
        return tuple(point for spec in specs for point in measured[spec])

    made = (len(log.answers) if log else len(wanted) * len(measured)) - num_known
    cost = Effort(seconds, made, peak_memory(policy.device), str(policy.device))
    return Evaluation(task.name, points(samplers), points(fixed), cost, tuple(answers))


def _answers(
    make: Callable[..., list[Answer]],
    wanted: Sequence[Asked],
    rollout: RolloutConfig,
    log: AnswerLog | None,
    world: World,
    progress: Progress,
) -> list[Answer]:
    """The `wanted` answers, in their order: from the log, or made now by `make`, a part by each rank."""
    keys = [(rollout.sampler, prompt.id, sample) for prompt, sample in wanted]
    known = log.find(keys) if log else {}
    missing = [pair for pair, key in zip(wanted, keys, strict=True) if key not in known]
    size = max(SAVE_EVERY, rollout.num_slots)
    keep = log.add if log and world.is_main else None
    for start in range(0, len(missing), size):
        progress.phase(f"{rollout.sampler}, {len(known)} of {len(wanted)} answers")
        part = missing[start : start + size]
        share = world.share(len(part))
        made = world.on_all(partial(make, part[share.start : share.stop], on_stop=keep))
        if keep:
            keep(made)
        known |= {(rollout.sampler, answer.id, answer.sample): answer for answer in made}
    return [known[key] for key in keys]


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that the GPU held, or this process's largest resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
