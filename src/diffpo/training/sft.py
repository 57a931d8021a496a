"""Masked fine-tuning: the NELBO of completions given their prompts (LLaDA, arXiv 2502.09992, Eq. 3 and 5); in blocks,
the mean over masked tokens.

The same loop fine-tunes a published model on a JSONL and trains a tiny one from scratch on a task's solved examples.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffpo.config import SftConfig
from diffpo.config.checks import expect
from diffpo.files.record import anchored, with_task
from diffpo.functional.latents import Latents, cut_by_tokens, with_prompts
from diffpo.functional.masking import block_times, forward_process, mask_counts, nelbo, stratified_times
from diffpo.functional.random import fold, make_key, uniform
from diffpo.models.likelihood import score
from diffpo.models.policy import Policy, create_policy
from diffpo.processes.world import World
from diffpo.tasks import load_solved_task, load_tiny_task
from diffpo.tasks.chat import check_fit
from diffpo.training.examples import Examples, pretraining_examples, read_examples, solved_examples
from diffpo.training.metrics import Metrics
from diffpo.training.run import Run
from diffpo.training.sharding import gathered
from diffpo.training.start import load_start
from diffpo.training.state import TrainState, learning_rate_factor, optimizer_step
from diffpo.training.update import in_step
from diffpo.view.progress import counted


def fine_tune(config: SftConfig, resume: bool = False, quiet: bool = False) -> Policy:
    """Train as `config` says and return the policy; `resume` goes on from the last good checkpoint in config.output.

    Under `accelerate launch` every process calls it, and they train together.
    """
    expect(SftConfig, config, "config", "load_config(SftConfig, ...) reads a recipe")
    config = with_task(config)
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    world = World.join(config.load.device)
    with Run("fine-tune", config, world, resume, quiet) as run:
        policy, examples, held_out = start(config, world)
        run.lines += examples.doubts() + (held_out.doubts(" of eval_data") if held_out else [])
        rows = f"{config.data or config.task.name}: {counted(len(examples), 'row')}"
        rows += f", {len(held_out):,} held out" if held_out else ""
        state = run.restore(policy, rows)
        remember(policy, config)
        if config.blocks:
            policy.use_blocks(config.blocks[-1])  # also of a run that is over

        def evaluate(_: int) -> Metrics:
            assert held_out
            return {"eval/loss": mean_loss(policy, held_out, config, world)}

        if held_out:
            run.judge_start(evaluate)
        for step in range(state.step, config.steps):
            if config.blocks:
                policy.use_blocks(config.blocks[step * len(config.blocks) // config.steps])
            metrics = sft_update(state, examples, config, world)
            run.count_skipped(metrics)
            state.step = step + 1
            if held_out and (state.step % config.eval_every == 0 or state.step == config.steps):
                metrics |= run.judge(state.step, evaluate)
            run.log(step, metrics)
            run.stop_if_asked()
            if run.due(config.save_every):
                run.save()
    return policy


def start(config: SftConfig, world: World) -> tuple[Policy, Examples, Examples | None]:
    """The policy to start from, what it learns from, and what is held out."""
    if config.model:
        policy = load_start(config, world)
    else:
        policy = create_policy(load_tiny_task(config.task).alphabet, config.shape, config.seed).to(world.device)
    examples = read_examples(config.data, policy, config) if config.data else _solved(policy, config)
    return policy, examples, read_examples(config.eval_data, policy, config) if config.eval_data else None


def _solved(policy: Policy, config: SftConfig) -> Examples:
    """The solved examples of config.task."""
    task = load_solved_task(config.task)
    check_fit(task, policy.is_tiny)
    if policy.is_tiny:
        return pretraining_examples(policy, load_tiny_task(config.task), config)
    return solved_examples(policy, task, config)


def remember(policy: Policy, config: SftConfig) -> None:
    """Let the policy say what it was trained on, and that it is decoded as before, on the canvas and form of now."""
    policy.task = None if config.data else anchored(config.task)
    canvas = config.gen_length or (load_solved_task(config.task).gen_length if policy.task else None)
    default = replace(policy.decoding, temperature=1.0)
    policy.rollout = replace(policy.rollout or default, gen_length=canvas, chat_template=config.chat_template)


def sft_update(state: TrainState, examples: Examples, config: SftConfig, world: World) -> Metrics:
    """One optimiser step on one batch; returns its metrics. A non-finite gradient skips the step."""
    policy, optimizer = state.policy, state.optimizers.denoiser
    assert optimizer is not None
    key = torch.tensor(make_key(config.seed, "pretrain"))
    rows = batch_rows(examples, config, state.step)
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=world.device)
    parts = split_share(policy, examples, rows, config, world)
    for part, counts in in_step(parts, world.passes(len(parts)), lambda: torch.zeros(1, dtype=torch.int64)):
        loss = losses(policy, examples, rows, part, fold(key, state.step), config).sum() / len(rows)
        loss.backward(torch.full_like(loss, counts))  # not 0 * loss, which is NaN where the loss is
        if counts:
            total += loss.detach()
    parameters = policy.trainable()
    world.sum_gradients(parameters.values())
    rate = config.optim.learning_rate * learning_rate_factor(config, state.step)
    metrics = optimizer_step(optimizer, parameters, rate, config.optim.max_grad_norm, "model", world)
    policy.version += 1
    epochs = (state.step + 1) * len(rows) / len(examples)
    return {"loss": float(world.sum({"loss": total})["loss"]), "epochs": epochs} | metrics


@torch.no_grad()
def mean_loss(policy: Policy, examples: Examples, config: SftConfig, world: World) -> float:
    """Loss of held-out examples; their masks are the same at each evaluation, so that losses can be compared."""
    key = torch.tensor(make_key(config.seed, "held out"))
    # times rise with a row's place: one of ours, since a file's may be sorted
    rows = uniform(fold(key, torch.arange(len(examples)))).argsort(stable=True)
    total = torch.zeros((), device=world.device)
    if config.blocks:  # those of the model to be, so that losses before and after they grow can be compared
        policy.use_blocks(config.blocks[-1])
    with gathered(world, policy.denoiser):
        for part in split_share(policy, examples, rows, config, world):
            total += losses(policy, examples, rows, part, key, config, bound=True).sum()
    return float(world.sum({"loss": total})["loss"]) / len(rows)


def split_share(policy: Policy, examples: Examples, rows: Tensor, config: SftConfig, world: World) -> list[Tensor]:
    """This rank's share of a batch's `rows` (indices into it), in parts of `optim.micro_batch_tokens`."""
    share = world.share(len(rows))
    chosen = rows[share.start : share.stop]
    copies = 2 if policy.denoiser.config.block_length else 1  # behind a clean canvas stands a noised one
    sizes = (examples.prompt_lengths[chosen] + copies * examples.canvas_lengths[chosen]).tolist()
    return [share.start + torch.tensor(part) for part in cut_by_tokens(sizes, [], config.optim.micro_batch_tokens)]


def batch_rows(examples: Examples, config: SftConfig, step: int) -> Tensor:
    """The examples of a step [batch_size]: a task's are drawn at random, a file's go by in a new order every epoch."""
    places = torch.arange(config.batch_size)
    if not config.data:
        lottery = uniform(fold(torch.tensor(make_key(config.seed, "pretrain")), step, places, 0))
        return (lottery * len(examples)).long()
    places += step * config.batch_size
    epochs, places = places // len(examples), places % len(examples)
    rows = torch.empty_like(places)
    for epoch in epochs.unique().tolist():
        key = torch.tensor(make_key(config.seed, "epoch", epoch))
        order = uniform(fold(key, torch.arange(len(examples)))).argsort(stable=True)
        rows[epochs == epoch] = order[places[epochs == epoch]]
    return rows


def losses(
    policy: Policy,
    examples: Examples,
    rows: Tensor,
    part: Tensor,
    key: Tensor,
    config: SftConfig,
    bound: bool = False,
) -> Tensor:
    """Loss (nats) of the rows of a batch that `part` indexes; differentiable, [len(part)].

    It is the NELBO a canvas position. Where attention is block-causal each block has its time, and sees the clean ones
    before it; there masked tokens count alike, by their mean, unless the `bound` is asked for (docs/algorithm.md).
    Times are stratified over the batch, and masks keyed by a row's place in it: a row's loss does not depend on how
    the batch is divided. Prompts stay unmasked, or nearly (prompt_mask_prob); what follows the canvas is left out.
    """
    device, shape = policy.device, policy.denoiser.config
    chosen = rows[part]
    prompts, prompt_lengths = examples.prompts[chosen], examples.prompt_lengths[chosen]
    answers, lengths = examples.canvases[chosen], examples.canvas_lengths[chosen]
    canvas = torch.arange(answers.shape[1])
    strata, blocks = uniform(fold(key, torch.arange(len(rows)), 1)), None
    lottery, maskable = uniform(fold(key, part[:, None] * len(canvas) + canvas, 2)), canvas < lengths[:, None]
    if shape.block_length:  # of so few positions that chances would leave many without a mask
        pairs = torch.tensor([shape.blocks(length, shape.block_length) for length in prompt_lengths.tolist()])
        blocks = pairs.to(device)
        times = block_times(stratified_times(strata, 0.0)[part], pairs, lengths, len(canvas))
        masked, times = mask_counts(times, lottery, maskable, pairs, config.min_time)
    else:
        times = stratified_times(strata, config.min_time)[part][:, None].expand(answers.shape)
        masked = forward_process(times, lottery, maskable)
    if config.prompt_mask_prob:
        row_lottery = uniform(fold(key, part, 3))[:, None] < 0.2
        width = prompts.shape[1]
        token_lottery = uniform(fold(key, part[:, None] * width + torch.arange(width), 4))
        hide = row_lottery & (token_lottery < config.prompt_mask_prob)
        prompts = prompts.masked_fill(hide, policy.mask_id)
    sequences = with_prompts(prompts, prompt_lengths, answers.masked_fill(masked, policy.mask_id))
    columns = (sequences, prompt_lengths, answers, lengths, masked, times)
    sequences, prompt_lengths, answers, lengths, masked, times = (column.to(device) for column in columns)
    latents = Latents.of_rows(sequences, prompt_lengths, answers, lengths, masked, blocks)
    logprobs = score(policy, latents, 1.0)
    if shape.block_length and not bound:
        return -logprobs.sum(-1) / masked.sum(-1)
    return nelbo(logprobs, masked, times) / lengths
