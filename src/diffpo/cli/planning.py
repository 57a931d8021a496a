"""The command that says what a run will need: plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console
from rich.table import Column, Table

from diffpo.cli.flags import FLAT, Recipe
from diffpo.cli.training import show_inputs
from diffpo.config import SftConfig, TrainConfig
from diffpo.config.idle import Idle, Knobs
from diffpo.files.record import with_task
from diffpo.planning.gpus import GPUS, find_gpu
from diffpo.view.notebook import numeric
from diffpo.view.progress import count, counted, short
from diffpo.view.terminal import show

if TYPE_CHECKING:
    from diffpo.planning import plan as planning
    from diffpo.planning.changes import Change
    from diffpo.planning.cluster import Split

GIB = 2**30


@dataclass(frozen=True)
class Plan(Knobs):
    """Say what a run will need before it runs: memory by part, forward passes, days, disk, what to change first."""

    recipe: Recipe = ""
    config: Annotated[TrainConfig, FLAT] = field(default_factory=TrainConfig)
    gpu: Annotated[str, tyro.conf.arg(help=f"What it is to run on: {', '.join(GPUS)}.")] = "h100"
    num_gpus: int = 1  # GPUs that train together
    fsdp: bool = False
    """Shard what learns over the GPUs (recipes/accelerate/fsdp2.yaml) rather than copy it to each."""
    mfu: float = 0.35  # share of the GPU's peak arithmetic that is assumed to be reached
    nfe: float | None = None
    """Denoiser calls a completion takes. None: what the sampler's rule says, or half the canvas."""
    prompt_length: int | None = None
    """Tokens of a prompt, the longest. None: the task's of a tiny task; else 200, or what the model has room for."""
    sweep: int = 0
    """GPUs up to which the fastest split into rollout workers and training is simulated; 0 for none."""
    picture: str = ""
    """File, .svg or .png, for a picture of the sweep."""
    nfe_of: str = ""
    """Run whose completions say how many calls they take, for the simulation. Empty: a guess around nfe."""
    json: bool = False
    """Print JSON rather than tables."""

    def idle(self) -> Idle:
        alone = not (self.sweep or self.config.rollout.workers) and "without rollout.workers or sweep"
        return {
            "fsdp": self.num_gpus == 1 and not self.sweep and "on one GPU",
            "nfe_of": alone,
            "picture": self.sweep < 2 and "without sweep",
        }

    def run(self) -> None:
        from diffpo.planning import plan as planning
        from diffpo.planning.changes import changes, roomy_gpu
        from diffpo.planning.cluster import splits_of

        if self.sweep < 0 or self.sweep == 1:
            raise ValueError(f"--sweep must be >= 2, a GPU that makes rollouts and one that trains, got {self.sweep}")
        cluster = planning.Cluster(find_gpu(self.gpu), self.num_gpus, self.fsdp, self.mfu, self.nfe, self.prompt_length)
        config = with_task(self.config)
        start = planning.find_start(config)
        plan = planning.plan(config, start, cluster)
        mends = changes(plan, start)
        show_inputs(self.config)
        splits, assumed = [], ""
        if isinstance(config, TrainConfig) and (config.rollout.workers or self.sweep):
            splits, assumed = splits_of(config, start, cluster, self.sweep, self.nfe_of)
        if self.picture:
            from diffpo.planning.picture import sweep_figure
            from diffpo.view.drawing import save_figure

            save_figure(sweep_figure(splits[bool(config.rollout.workers) :]), self.picture)
        beside = splits[0] if splits and config.rollout.workers else None
        if self.json:
            found = [{**asdict(split), "bound": split.bound} for split in splits]
            print(json.dumps(_plain(plan, mends, beside) | {"splits": found}, indent=2))
        else:
            _show(plan)
            _show_splits(splits, assumed)
            print(_verdict(plan, mends, roomy_gpu(plan.peak.bytes), beside))


@dataclass(frozen=True)
class PlanSft(Plan):
    """Say what `diffpo sft` will need before it runs: memory by part, forward passes, days, disk, what to change."""

    config: Annotated[SftConfig, FLAT] = field(default_factory=SftConfig)  # type: ignore[assignment]

    def idle(self) -> Idle:
        return {
            "fsdp": self.num_gpus == 1 and "on one GPU",
            "nfe sweep picture nfe_of": "in fine-tuning, which makes no rollouts",
        }


def _show(plan: planning.Plan) -> None:
    from diffpo.planning.memory import PARTS

    console = Console(highlight=False)
    console.print(_heading(plan), plan.heading, sep="\n", soft_wrap=True, markup=False)
    phases = (phase.name.replace(" log-probs", "\nlog-probs") for phase in plan.phases)
    table = _table("memory at each phase's peak", "GiB on each GPU", *numeric(*phases))
    for part in PARTS:
        sizes = [phase.parts[part] / GIB for phase in plan.phases]
        if any(sizes):
            table.add_row(part, *(f"{size:.2f}" if size else "" for size in sizes))
    table.add_row("all", *(f"{phase.bytes / GIB:.2f}" for phase in plan.phases), style="bold")
    print()
    show(table)
    heads = numeric("rows forward", "tokens a GPU", "PFLOP a GPU", "seconds")
    table = _table("work of a step", "phase", *heads)
    for phase in plan.phases:
        work = (f"{phase.forwards:,.0f}", f"{phase.tokens:,.0f}", f"{phase.flops / 1e15:,.4g}")
        table.add_row(phase.name, *(work if phase.flops else ("",) * 3), short(phase.seconds, 2))
    forwards = sum(phase.forwards for phase in plan.phases)
    table.add_row("all", f"{forwards:,.0f}", "", "", short(plan.seconds, 2), style="bold")
    print()
    show(table)
    print()
    console.print(_disk(plan), soft_wrap=True, markup=False)
    for line in plan.assumed:
        console.print(f"assumed: {line}", soft_wrap=True, markup=False)


def _show_splits(splits: Sequence[Split], assumed: str) -> None:
    """Rollout workers beside GPUs that train, as simulated."""
    if not splits:
        return

    console = Console(highlight=False)
    title = f"rollouts beside updates, rollout.lag = {splits[0].lag}, simulated"
    heads = numeric("workers", "training", "s a step", "workers idle", "training idle", "together")
    table = _table(title, "GPUs", *heads, "bound by")
    for split in splits:
        counts = map(str, (split.total, split.workers, split.trainers))
        idle = (f"{share:.0%}" for share in (split.idle_workers, split.idle_trainers))
        bound = split.bound if split.fits else f"{split.bound}; training does not fit"
        table.add_row(*counts, short(split.seconds, 2), *idle, short(split.together, 2), bound)
    print()
    show(table)
    print()
    console.print(f"assumed: {assumed}", soft_wrap=True, markup=False)


def _disk(plan: planning.Plan) -> str:
    """What the run will leave on disk."""
    size = {name: _size(value) for name, value in plan.disk.items()}
    merged = f"; diffpo export --merge {size['export']}" if plan.model.learns != "nothing" else ""
    best = ", the best one as much" if plan.disk["best"] else ""
    return (
        f"disk: {size['checkpoints']} in {plan.config.output}/checkpoints ({plan.config.keep_checkpoints} kept and one "
        f"being written, {size['checkpoint']} each), the policy {size['policy']}{best}{merged}"
    )


def _table(title: str, *heads: str | Column) -> Table:
    return Table(*heads, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))


def _heading(plan: planning.Plan) -> str:
    """What is trained."""
    model = plan.model
    learns = {
        "all": "all learn",
        "adapters": f"{count(model.in_adapters)} more learn (LoRA, rank {model.rank})",
        "nothing": "only the sampler head learns",
    }[model.learns]
    return f"{plan.config.model or 'fresh weights'}: {count(model.in_all)} parameters, {learns}"


def _size(value: float) -> str:
    return f"{value / GIB:.3g} GiB" if value >= GIB / 10 else f"{value / 2**20:.3g} MiB"


def _span(days: float) -> str:
    """A time as people say it."""
    for name, size in (("days", 1.0), ("hours", 1 / 24), ("minutes", 1 / 1440)):
        if days >= size:
            return f"{days / size:.3g} {name}"
    return "less than a minute"


def _verdict(plan: planning.Plan, changes: Sequence[Change], larger: str | None, beside: Split | None) -> str:
    """One line: whether it fits and how long it takes, `beside` workers if there are some, or what to change first."""
    peak, cluster, gpu = plan.peak, plan.cluster, plan.cluster.gpu
    number = "one" if cluster.num_gpus == 1 else f"each of {cluster.num_gpus}"
    need = f"{peak.bytes / GIB:.1f} of {gpu.memory:g} GiB ({peak.name}) on {number} {gpu.label}"
    need += ", sharded" if cluster.shards else ""
    if plan.fits:
        seconds, workers = (
            (beside.seconds, f" beside {counted(beside.workers, 'worker')}") if beside else (plan.seconds, "")
        )
        days = _span(plan.days * seconds / plan.seconds)
        return f"fits: {need}; {short(seconds, 2)} s a step{workers}, {days} for {counted(plan.config.steps, 'step')}"
    if not changes:
        mend = f"take a larger GPU: {larger}" if larger else "no GPU of the table is enough"
        return f"does not fit: {need}; {mend}"
    last = changes[-1].plan
    steps = ", then ".join(f"{change.what} ({change.plan.peak.bytes / GIB:.1f} GiB)" for change in changes)
    mended = "then it does" if beside else f"{short(last.seconds, 2)} s a step"  # workers were timed as they are
    lost = "and still it does not: take a larger GPU or a shorter canvas"
    return f"does not fit: {need}; first change {steps}: {mended if last.fits else lost}"


def _plain(plan: planning.Plan, changes: Sequence[Change], beside: Split | None) -> dict[str, Any]:
    """Bytes, seconds and counts, for programs."""

    def outcome(plan: planning.Plan) -> dict[str, Any]:
        timed = {} if beside else {"seconds_per_step": plan.seconds}
        return {"fits": plan.fits, "peak_bytes": plan.peak.bytes, **timed}

    seconds = beside.seconds if beside else plan.seconds
    return {
        "model": plan.config.model,
        "gpu": plan.cluster.gpu.label,
        "num_gpus": plan.cluster.num_gpus,
        **outcome(plan),
        "seconds_per_step": seconds,
        "days": plan.days * seconds / plan.seconds,
        "disk_bytes": dict(plan.disk),
        "phases": {
            phase.name: {name: getattr(phase, name) for name in ("bytes", "parts", "forwards", "flops", "seconds")}
            for phase in plan.phases
        },
        "changes": [{"what": change.what, **outcome(change.plan)} for change in changes],
        "assumed": list(plan.assumed),
    }
