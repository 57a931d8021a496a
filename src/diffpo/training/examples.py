"""Prompts and completions to learn from: rows of a JSONL, or solved examples of a task."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffpo.config import SftConfig
from diffpo.functional.random import fold, make_key, uniform
from diffpo.models.policy import Policy
from diffpo.tasks.base import SolvedTask

CANVAS_MULTIPLE = 32


@dataclass(frozen=True, eq=False)
class Examples:
    """E prompts and the canvases that answer them, right-padded, on the CPU."""

    prompts: Tensor  # [E, S]
    prompt_lengths: Tensor  # [E]
    canvases: Tensor  # [E, L] the completion, then EOS
    canvas_lengths: Tensor  # [E]
    num_cut: int = 0
    """Completions that were too long and lost their end."""

    def __len__(self) -> int:
        return len(self.prompts)


def solved_examples(policy: Policy, task: SolvedTask, config: SftConfig) -> Examples:
    """A task's prompts with right answers, canvases as long as the task's.

    `label_noise` of the symbols that a prompt leaves open are replaced by random ones of the answers' symbols.
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
    canvas_lengths = torch.full_like(lengths, task.gen_length)
    canvases = torch.where(noisy, replacement, answers)
    return Examples(pad_sequence(encoded, batch_first=True), lengths, canvases, canvas_lengths)


def read_examples(path: str | Path, policy: Policy, config: SftConfig) -> Examples:
    """The rows of a JSONL: {"prompt": text or messages, "completion": text}, or {"messages": [..., assistant]}.

    A prompt of plain text is one user message where there is a chat template. ValueError names file and line of a row
    that does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file (a JSONL with prompt and completion in each row)")
    max_length = min(config.max_length or policy.denoiser.config.max_length, policy.denoiser.config.max_length)
    prompts, canvases, num_cut = [], [], 0
    with path.open() as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                prompt, completion = _encode(json.loads(line), policy, config)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
            room = max_length - len(prompt)
            if room < 1:
                raise ValueError(
                    f"{path}:{number}: a prompt of {len(prompt)} tokens leaves no room within {max_length}"
                )
            size = config.gen_length or -(-(len(completion) + 1) // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
            size = min(size, room)
            num_cut += len(completion) > size
            prompts.append(torch.tensor(prompt, dtype=torch.int64))
            canvases.append(torch.tensor([*completion[:size], *[policy.eos_id] * (size - len(completion))]))
    if not prompts:
        raise ValueError(f"{path}: no row in it")
    return Examples(
        pad_sequence(prompts, batch_first=True),
        torch.tensor([len(prompt) for prompt in prompts]),
        pad_sequence(canvases, batch_first=True, padding_value=policy.eos_id),
        torch.tensor([len(canvas) for canvas in canvases]),
        num_cut,
    )


def _encode(row: Any, policy: Policy, config: SftConfig) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of a row's prompt and completion; ValueError says what the row should hold."""
    wanted = 'a row holds {"prompt": ..., "completion": ...} or {"messages": [...]}'
    if not isinstance(row, dict):
        raise ValueError(f"{wanted}, got {type(row).__name__}")
    tokenizer = policy.tokenizer
    if "messages" in row:
        messages = _messages(row["messages"])
        if not messages or messages[-1]["role"] != "assistant":
            raise ValueError("the last message must be the assistant's")
        prompt, completion = tokenizer.chat(messages[:-1]), messages[-1]["content"]
        return prompt, (*tokenizer.encode(completion), *tokenizer.end_of_turn)
    if lost := [key for key in ("prompt", "completion") if key not in row]:
        raise ValueError(f"{wanted}, but this one lacks {' and '.join(lost)}")
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(completion, str):
        raise ValueError(f"completion must be text, got {type(completion).__name__}")
    chats = not isinstance(prompt, str) or (config.chat_template and tokenizer.chats)
    turn_end = tokenizer.end_of_turn if chats else ()
    encoded = tokenizer.chat(_messages(prompt)) if not isinstance(prompt, str) else policy.encode(prompt, chat=chats)
    return encoded, (*tokenizer.encode(completion), *turn_end)


def _messages(value: Any) -> Sequence[Mapping[str, str]]:
    fits = isinstance(value, list) and all(
        isinstance(message, dict) and {"role", "content"} <= message.keys() and isinstance(message["content"], str)
        for message in value
    )
    if not fits:
        raise ValueError('messages must be a list of {"role": ..., "content": text}')
    return value
