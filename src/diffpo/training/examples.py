"""Prompts and completions to learn from: rows of a data set, or solved examples of a task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from diffpo.config import SftConfig
from diffpo.functional.random import fold, make_key, uniform
from diffpo.models.hub_tokenizer import THINK
from diffpo.models.policy import Policy
from diffpo.tasks.base import PretrainingTask, SolvedTask
from diffpo.tasks.conversations import read_example
from diffpo.tasks.data import Source, read_rows
from diffpo.view.progress import counted

CANVAS_MULTIPLE = 32
Encoded = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Where a row stands, and the ids of its prompt and of its completion."""


@dataclass(frozen=True, eq=False)
class Examples:
    """E prompts and the canvases that answer them, right-padded, on the CPU."""

    prompts: Tensor  # [E, S]
    prompt_lengths: Tensor  # [E]
    canvases: Tensor  # [E, L] the completion, then EOS
    canvas_lengths: Tensor  # [E]
    num_cut: int = 0
    """Completions that were too long and lost their end."""
    num_dropped: int = 0
    """Rows whose prompt was too long."""
    num_empty: int = 0
    """Completions without a text."""
    num_full: int = 0
    """Completions behind which the canvas has no room for an EOS."""

    def __len__(self) -> int:
        return len(self.prompts)

    def doubts(self, of: str = "") -> list[str]:
        """What they give to think about, a line each; `of` says of which, where they are not those that are learned."""
        dropped = counted(
            self.num_dropped,
            f"row{of} is left out: its prompt is too long",
            f"rows{of} are left out: their prompts are too long",
        )
        mend = "raise gen_length or max_length"
        empty = f"{self.num_empty} of {len(self)} completions{of} are empty"
        lines = {
            f"{self.num_cut} of {len(self)} completions{of} are cut: {mend}": self.num_cut,
            f"{self.num_full} of {len(self)} completions{of} fill their canvas and learn no end: {mend}": self.num_full,
            dropped: self.num_dropped,
            empty if of else f"{empty}: it learns to say nothing": self.num_empty,
        }
        return [line for line, count in lines.items() if count]


def pretraining_examples(policy: Policy, task: PretrainingTask, config: SftConfig) -> Examples:
    """A tiny task's prompts with right answers, canvases as long as the task's.

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


def read_examples(data: str | Path, policy: Policy, config: SftConfig) -> Examples:
    """The rows of a file or a data set of the hub, as `diffpo.tasks` reads them, with their answers.

    A prompt of plain text is one user message where there is a chat template. ValueError names the row that does not
    fit.
    """
    source, tokenizer = Source.parse(str(data), "train"), policy.tokenizer

    def encoded() -> Iterator[Encoded]:
        for row in read_rows(source, "prompt and completion, or messages", "data"):
            try:
                example = read_example(row, answered=True)
                chats = not isinstance(example.prompt, str) or (config.chat_template and tokenizer.chats)
                prompt = policy.encode(example.prompt, example.prefill, chats)
                if not example.prefill and (example.completion or "").lstrip().startswith(THINK):
                    _check_open(prompt, policy.encode(example.prompt, THINK, chats))
                turn_end = tokenizer.end_of_turn if chats else ()  # of the assistant, where there are turns
                yield row.place, prompt, (*tokenizer.encode(example.completion or ""), *turn_end)
            except ValueError as error:
                raise ValueError(str(error) if row.place in str(error) else f"{row.place}: {error}") from None

    return _examples(encoded(), policy, config, str(source))


def _check_open(prompt: tuple[int, ...], opened: tuple[int, ...]) -> None:
    """ValueError where a prompt has closed its thoughts, unlike the one that an answer `opened`."""
    if opened[: len(prompt)] != prompt:
        raise ValueError(
            f"the model's chat template closes the thoughts before an answer that begins with {THINK}: put {THINK} "
            "into the row's column prefill, or give the checkpoint a chat_template.jinja that leaves them open"
        )


def solved_examples(policy: Policy, task: SolvedTask, config: SftConfig) -> Examples:
    """A chat task's prompts with their solutions. ValueError names a prompt that has none, or is too long."""
    turn_end = policy.tokenizer.end_of_turn if config.chat_template and policy.tokenizer.chats else ()
    encoded = (
        (
            prompt.place or prompt.id,
            policy.encode(prompt.asked, prompt.prefill, config.chat_template),
            (*policy.tokenizer.encode(task.solution(prompt)), *turn_end),
        )
        for prompt in task.prompts("train", config.num_examples)
    )
    return _examples(encoded, policy, config, task.name)


def _examples(encoded: Iterable[Encoded], policy: Policy, config: SftConfig, source: str) -> Examples:
    """Canvases that hold the completions, filled up with EOS; too long rows are cut, left out or refused."""
    longest = policy.denoiser.config.max_length
    max_length = min(config.max_length or longest, longest)
    prompts, canvases, num_cut, num_dropped, num_empty, num_full = [], [], 0, 0, 0, 0
    for place, prompt, completion in encoded:
        room = max_length - len(prompt)
        if room < 1 and config.overlong == "drop":
            num_dropped += 1
            continue
        if room < 1:
            raise ValueError(
                f"{place}: a prompt of {len(prompt)} tokens leaves no room within {max_length} (overlong = drop "
                "leaves such rows out)"
            )
        size = config.gen_length or -(-(len(completion) + 1) // CANVAS_MULTIPLE) * CANVAS_MULTIPLE
        size = min(size, room)
        num_cut += len(completion) > size
        num_full += len(completion) == size
        # long ones, which say something, are not decoded; an end of turn has a few tokens
        num_empty += len(completion) < 8 and not policy.tokenizer.decode(completion).strip()
        prompts.append(torch.tensor(prompt, dtype=torch.int64))
        canvases.append(torch.tensor([*completion[:size], *[policy.eos_id] * (size - len(completion))]))
    if not prompts:
        raise ValueError(f"{source}: no row whose prompt leaves room within {max_length} tokens")
    return Examples(
        pad_sequence(prompts, batch_first=True),
        torch.tensor([len(prompt) for prompt in prompts]),
        pad_sequence(canvases, batch_first=True, padding_value=policy.eos_id),
        torch.tensor([len(canvas) for canvas in canvases]),
        num_cut,
        num_dropped,
        num_empty,
        num_full,
    )
