"""What a run is and what it reads, in a few lines before its first step."""

from __future__ import annotations

import torch

from diffpo.config import SftConfig, TaskConfig, TrainConfig
from diffpo.files.places import find_policy
from diffpo.files.recipe import read_json
from diffpo.models.device import is_slow_in_half
from diffpo.models.heads import open_network
from diffpo.models.policy import Policy
from diffpo.models.source import find_source
from diffpo.models.weights import locate
from diffpo.objective import open_objective
from diffpo.processes.world import World
from diffpo.rollout.rules import load_rule
from diffpo.tasks import load_task
from diffpo.tasks.base import Task
from diffpo.tasks.chat import RowTask
from diffpo.tasks.conversations import read_example
from diffpo.tasks.data import Source, read_rows
from diffpo.training.state import learning_rate_factor
from diffpo.types import Sampler
from diffpo.view.progress import count, counted


def banner(config: TrainConfig | SftConfig, policy: Policy, world: World, data: str) -> list[str]:
    """Model, what learns, where, data, steps, output."""
    learn = sum(p.numel() for p in policy.denoiser.parameters() if p.requires_grad)
    delay = config.head.delay_steps if isinstance(config, TrainConfig) and config.train != "model" else None
    what = {
        "all weights": learn and not policy.adapter,
        f"{count(learn)} of adapters": learn and policy.adapter,
        f"the sampler head{f' from step {delay} on' if delay else ''}": delay is not None,
    }
    weights = policy.denoiser.head.weight
    products = policy.denoiser.compute_dtype or weights.dtype
    dtype = str(weights.dtype).removeprefix("torch.")
    if products != weights.dtype:
        dtype += f", products in {str(products).removeprefix('torch.')}"
    if products == torch.bfloat16 and is_slow_in_half(world.device):
        dtype += ": load.dtype = float32 is some ten times as fast on this CPU, in more memory"
    card = f" ({torch.cuda.get_device_name(world.device)})" if world.device.type == "cuda" else ""
    ranks = f", {world.num_ranks} processes, {'sharded' if world.shards else 'each with the whole model'}"
    return [
        f"model   {config.model or 'fresh weights'}: {count(policy.num_parameters)} parameters; "
        f"what learns: {' and '.join(name for name, learns in what.items() if learns)}",
        f"where   {world.device}{card}, {dtype}{ranks if world.num_ranks > 1 else ''}",
        f"data    {data}",
        f"steps   {config.steps}, each of {_step(config)}{_rate(config)}",
        f"output  {config.output}",
        *_blocks(config, policy),
    ]


def _blocks(config: TrainConfig | SftConfig, policy: Policy) -> list[str]:
    """That rollouts are decoded in other blocks than those of the model's attention."""
    own = policy.denoiser.config.block_length
    asked = config.rollout.block_length if isinstance(config, TrainConfig) else None
    if not own or asked in (None, own):
        return []
    return [f"attention is in blocks of {asked} (rollout.block_length): the model's own have {own}"]


def _rate(config: TrainConfig | SftConfig) -> str:
    """That the denoiser's learning rate comes to 0 before the run comes to its end, or never comes to its peak."""
    if isinstance(config, TrainConfig) and config.train == "sampler":
        return ""
    last, warmup = learning_rate_factor(config, config.steps - 1), config.optim.warmup_steps
    if not last:
        first = max(config.schedule_steps or 0, warmup + 1)
        return f"; the denoiser's learning rate is 0 from step {first} on (schedule_steps)"
    if config.steps < warmup:
        return f"; the denoiser's learning rate rises to {last:.0%} of its peak (optim.warmup_steps = {warmup})"
    return ""


def _step(config: TrainConfig | SftConfig) -> str:
    if isinstance(config, SftConfig):
        return counted(config.batch_size, "row")
    times = counted(config.objective.num_iterations, "update")
    workers, lag = config.rollout.workers, config.rollout.lag
    where = f"; rollouts on {counted(workers, 'worker')}" if workers else ""
    when = f"; rollouts by the policy {counted(lag, 'step')} before" if lag else ""
    return f"{counted(config.prompts_per_step, 'prompt')} x {config.num_generations} completions, {times}{where}{when}"


def check_named(task: TaskConfig, model: str) -> None:
    """ValueError where no task is named, before weights are read; a model that is not there comes first."""
    if not task.name:
        find_source(model, weights=False)
        load_task(task)


def open_task(task: Task, config: TrainConfig) -> str:
    """Read the rows that training will, before any weight is read; returns what was found."""
    judge = f"rewards {', '.join(config.task.reward)}" if config.task.reward else "its own verdicts"
    if not (isinstance(task, RowTask) and task.has_rows("train")):
        task.prompts("train", 1)
        return f"{task.name}, generated; {judge}"
    found = f"{task.name}: {counted(len(task.rows('train')), 'prompt')}"
    if config.eval_every or config.task.test_data:
        found += f", {len(task.rows('test')):,} to test on"
    return f"{found}; {judge}"


def open_own(config: TrainConfig) -> list[str]:
    """The objective, and the user's own unmasking rules and head, found before any weight is read: a line each."""
    open_objective(config)
    own = [spec for spec in dict.fromkeys((config.rollout.sampler, *config.eval.samplers)) if ".py:" in spec]
    for spec in own:
        load_rule(Sampler.parse(spec))
    open_network(config.head)
    return [f"rule    {spec}" for spec in own] + [f"head    {config.head.network}"] * bool(config.head.network)


def open_inputs(config: TrainConfig | SftConfig) -> list[str]:
    """What the data, rewards, rules and adapter that a config names hold, found before any weight is read.

    ValueError names what cannot be opened, with the line of a row that cannot be read.
    """
    lines = []
    if isinstance(config, SftConfig):
        for name in filter(None, (config.data, config.eval_data)):
            rows = read_rows(Source.parse(name, "train"), "prompt and completion, or messages", "data")
            for row in rows:
                read_example(row, answered=True)
            lines.append(f"data    {name}: {counted(len(rows), 'row')}")
    elif config.task.name == "own" and not (config.task.data and config.task.reward):
        lines.append("data    not named yet: it takes task.data, rows with a prompt, and task.reward, functions")
    elif config.task.data or config.task.test_data or config.task.reward or ".py:" in config.task.name:
        lines.append(f"data    {open_task(load_task(config.task), config)}")
    if isinstance(config, TrainConfig):
        lines += open_own(config)
    if config.load.adapter:
        found = read_json(find_policy(locate(config.load.adapter))[0] / "adapter_config.json")
        lines.append(f"adapter {config.load.adapter}: rank {found.get('r')}, of {found.get('base_model_name_or_path')}")
    return lines
