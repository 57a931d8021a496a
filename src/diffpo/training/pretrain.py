"""Masked-diffusion pre-training of a tiny model on a task's solved examples (LLaDA, arXiv 2502.09992)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from diffpo.config import PretrainConfig
from diffpo.functional.masking import forward_process, nelbo, stratified_times
from diffpo.functional.random import fold, make_key, uniform
from diffpo.models.likelihood import score_tokens
from diffpo.models.policy import Policy, create_policy
from diffpo.models.transformer import pack
from diffpo.progress import Progress
from diffpo.recipe import to_json
from diffpo.tasks import load_task
from diffpo.tasks.base import Task


def pretrain(config: PretrainConfig, quiet: bool = False) -> Policy:
    """Train a fresh tiny model by the NELBO and save it to config.output."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    task = load_task(config.task)
    policy = create_policy(task.alphabet, config.model, config.seed)
    prompts, lengths, answers = solved_examples(policy, task, config)
    optimizer = torch.optim.AdamW(policy.denoiser.parameters(), config.learning_rate, betas=(0.9, 0.99))
    seed = torch.tensor(make_key(config.seed, "pretrain"))
    with Progress("pre-train", config.steps, quiet) as progress:
        for step in range(config.steps):
            key = fold(seed, step)
            lottery = uniform(fold(key, torch.arange(config.batch_size), 0))
            rows = (lottery * len(answers)).long()
            loss = nelbo_loss(policy, prompts[rows], lengths[rows], answers[rows], key, config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.denoiser.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * _learning_rate_factor(config, step)
            optimizer.step()
            progress.advance(nelbo=loss.item())
    output = Path(config.output)
    policy.save_pretrained(output)
    (output / "pretrain.json").write_text(to_json(config) + "\n")
    return policy


def _learning_rate_factor(config: PretrainConfig, step: int) -> float:
    length = config.schedule_steps or config.steps
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / length)))


def solved_examples(policy: Policy, task: Task, config: PretrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded prompts [E, S], their lengths [E], and answers padded with EOS to the canvas [E, L].

    `label_noise` of the symbols that a prompt leaves open are replaced by random ones of the answer's symbols.
    """
    examples = task.prompts("train", config.num_examples)
    encoded = [torch.tensor(policy.tokenizer.encode(prompt.text)) for prompt in examples]
    answers = torch.full((len(examples), task.gen_length), policy.eos_id)
    free = torch.zeros(answers.shape, dtype=torch.bool)
    for row, prompt in enumerate(examples):
        ids = policy.tokenizer.encode(task.solution(prompt))
        answers[row, : len(ids)] = torch.tensor(ids)
        free[row, list(task.open_positions(prompt))] = True
    symbols = answers[free].unique()
    key = fold(torch.tensor(make_key(config.seed, "noise")), torch.arange(answers.numel()).view(answers.shape))
    noisy = free & (uniform(fold(key, 0)) < config.label_noise)
    replacement = symbols[(uniform(fold(key, 1)) * len(symbols)).long()]
    lengths = torch.tensor([len(ids) for ids in encoded])
    padded = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)
    return padded, lengths, torch.where(noisy, replacement, answers)


def nelbo_loss(
    policy: Policy, prompts: Tensor, lengths: Tensor, answers: Tensor, key: Tensor, config: PretrainConfig
) -> Tensor:
    """Mean NELBO a canvas position (nats) of one batch; prompts stay unmasked, or nearly (prompt_mask_prob)."""
    rows, canvas = answers.shape
    times = stratified_times(uniform(fold(key, torch.arange(rows), 1)), config.min_time)
    lottery = uniform(fold(key, torch.arange(rows * canvas).view(rows, canvas), 2))
    masked = forward_process(times, lottery, torch.ones_like(answers, dtype=torch.bool))
    if config.prompt_mask_prob:
        row_lottery = uniform(fold(key, torch.arange(rows), 3))[:, None] < 0.2
        token_lottery = uniform(fold(key, torch.arange(prompts.numel()).view(prompts.shape), 4))
        prompts = prompts.masked_fill(row_lottery & (token_lottery < config.prompt_mask_prob), policy.mask_id)
    place = lengths[:, None] + torch.arange(canvas)
    sequences = torch.nn.functional.pad(prompts, (0, canvas))
    sequences = sequences.scatter(1, place, answers.masked_fill(masked, policy.mask_id))
    ids, packing = pack(sequences, lengths + canvas)
    hidden = policy.denoiser(ids, packing)
    at_row, at = masked.nonzero(as_tuple=True)
    index = packing.starts[at_row] + (lengths[at_row] + at - policy.denoiser.config.shift).clamp_min(0)
    scores = score_tokens(policy, hidden[index], answers[at_row, at], 1.0)
    logprobs = torch.zeros(answers.shape).index_put((at_row, at), scores)
    return nelbo(logprobs, masked, times).mean() / canvas
