"""What the tasks for chat models share: d1's protocol, rows in epochs, graders or the user's own rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from types import MappingProxyType

from diffpo.config import TaskConfig
from diffpo.grading.d1_rewards import PREFILL
from diffpo.grading.tasks import GRADED
from diffpo.rewards.calls import Rewards
from diffpo.rewards.functions import load_rewards
from diffpo.tasks.base import Split, Task, TinyTask
from diffpo.tasks.data import Row, Source, read_rows
from diffpo.tasks.stream import check_split, stable_key
from diffpo.types import Prompt, Verdict

NUM_TEST = 256
"""Test prompts of a task whose prompts are generated, as many as d1 has."""
BOX = r"\boxed{...}"
"""The form of an answer in a box."""
GEN_LENGTH = 256
"""d1 trains at 256 tokens and evaluates at 128, 256 and 512."""


def answer_form(answer: str) -> str:
    """The form of a completion, in the words of every prompt; `answer` stands for what goes between the last tags."""
    return (
        "Write your reply in exactly this form:\n"
        f"<reasoning>\n(your thoughts, step by step)\n</reasoning>\n<answer>\n{answer}\n</answer>"
    )


def message(ask: str, form: str, problem: str, /, **columns: object) -> Prompt:
    """A prompt of one message: what is asked, the form of the answer, and the problem."""
    return Prompt("", f"{ask}\n{answer_form(form)}\n\n{problem}", columns=columns, prefill=PREFILL)


def solved_form(thoughts: str, answer: str) -> str:
    """A completion in that form, behind its PREFILL."""
    return f"\n{thoughts}\n</reasoning>\n<answer>\n{answer}\n</answer>"


def check_fit(task: Task, tiny: bool) -> None:
    """ValueError where a chat model meets a task of tiny (character-level) models, or the reverse."""
    if isinstance(task, TinyTask) and not tiny:
        raise ValueError(
            f"{task.name} is a task for tiny character-level models: name one for this model with task.name "
            "(gsm8k, math500, countdown_cd3, sudoku_4x4, reasoning_gym:NAME, or task.data and task.reward)"
        )
    if tiny and isinstance(task, ChatTask) and not task.for_any_model:
        raise ValueError(
            f"{task.name} is a task for chat models, and this is a tiny character-level one: name one for it with "
            "task.name (tiny_sudoku, tiny_countdown, tiny_arithmetic, tiny_steps)"
        )


class ChatTask:
    """A task whose prompts are one user message each. A subclass gives prompts and, but for own rewards, a grader."""

    gen_length = GEN_LENGTH
    for_any_model = False
    """Whether a tiny model may meet it too."""
    has_verdict = True
    """Whether `verify` knows what is right without rewards."""

    def __init__(self, config: TaskConfig) -> None:
        self.name, self.config = config.name, config
        verify = self.verify if self.has_verdict else None
        self.rewards: Rewards | None = load_rewards(config.reward, verify) if config.reward else None

    def __repr__(self) -> str:
        given = {name: value for name, value in vars(self.config).items() if value != getattr(TaskConfig, name)}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1: train ones without end, test ones as far as they go."""
        raise NotImplementedError

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """The grader's verdict by the rules of the config."""
        task = GRADED[self.name]
        graded = {"strict": task.strict, "d1": task.d1}[self.config.rules](prompt.columns, completion)
        return Verdict(graded.correct, graded.reward, graded.parts, answer=graded.answer)


class RowTask(ChatTask):
    """A task whose prompts come from rows: a data set of the hub, or files of the same columns."""

    columns: str
    """What a row must have, for messages."""
    default: Mapping[Split, Source] = MappingProxyType({})
    """Where the rows come from that the config does not name."""

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        self._rows: dict[Split, list[Prompt]] = {}

    def read(self, row: Row) -> Prompt | None:
        """A row's prompt, without id and place; None to leave the row out, ValueError for a bad one."""
        raise NotImplementedError

    def side(self, split: Split) -> Split:
        """The split whose knob names the rows of `split`."""
        return split

    def source(self, split: Split) -> Source:
        """Where the rows of a split come from."""
        side = self.side(split)
        given = {"train": self.config.data, "test": self.config.test_data}[side]
        return Source.parse(given, side) if given else self.default[side]

    def rows(self, split: Split) -> list[Prompt]:
        """All prompts of a split, in the order of its rows; read once."""
        check_split(split)
        if split not in self._rows:
            knob = {"train": "task.data", "test": "task.test_data"}[self.side(split)]
            read = [(row, self.read(row)) for row in read_rows(self.source(split), self.columns, knob)]
            found = [replace(prompt, place=row.place) for row, prompt in read if prompt is not None]
            if self.rewards is not None:
                # a reward function reads the columns of all rows: None where one lacks it
                names = dict.fromkeys(name for prompt in found for name in prompt.columns)
                found = [replace(prompt, columns=names | {**prompt.columns}) for prompt in found]
                self.rewards.check(found)
            chosen = self.choose(split, found)
            if not chosen:
                raise ValueError(
                    f"{self.source(split)}: none of its rows can be used for {split}: a row has {self.columns}; "
                    "training rows that are test rows as well are left out"
                )
            self._rows[split] = [
                replace(prompt, id=f"{self.config.name}-{split}-{index}") for index, prompt in enumerate(chosen)
            ]
        return self._rows[split]

    def has_rows(self, split: Split) -> bool:
        """Whether the split's prompts come from rows; where they do not they are generated."""
        given = {"train": self.config.data, "test": self.config.test_data}[self.side(split)]
        return bool(given) or split in self.default

    def fit(self, split: Split, num_tokens: Callable[[Prompt], int], max_length: int, gen_length: int) -> int:
        """Leave out the prompts for which the model has no room beside a canvas of `gen_length`, where task.overlong
        says so; returns how many.

        ValueError names the first row that is too long, or that `num_tokens` raises ValueError for.
        """
        kept, room = [], max_length - gen_length
        for prompt in self.rows(split):
            try:
                length = num_tokens(prompt)
            except ValueError as error:
                raise ValueError(f"{prompt.place}: {error}") from None
            if length <= room:
                kept.append(prompt)
            elif self.config.overlong == "error":
                raise ValueError(
                    f"{prompt.place}: a prompt of {length} tokens, where the model's {max_length} and a completion of "
                    f"{gen_length} leave room for {room}: shorten it, lower rollout.gen_length, or leave such rows out "
                    "(task.overlong = drop)"
                )
        if not kept:
            raise ValueError(f"{self.source(split)}: every prompt is longer than the {room} tokens there is room for")
        num_dropped = len(self._rows[split]) - len(kept)
        self._rows[split] = kept
        return num_dropped

    def choose(self, split: Split, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """The prompts of a source that belong to the split."""
        return prompts

    def draw(self, split: Split, index: int) -> Prompt:
        """Prompt `index` of a split that is generated, without its id."""
        raise NotImplementedError

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Test rows in their order, as far as they go; training rows in epochs, each a seeded shuffle of all rows.

        The id of a training prompt is its place in the endless stream, so that epochs draw other random numbers; what
        files are called changes neither it nor the order. Of a split without rows the prompts are drawn; NUM_TEST of
        them are for tests.
        """
        check_split(split)
        if not self.has_rows(split):
            stop = start + num if split == "train" else min(start + num, NUM_TEST)
            drawn = ((index, self.draw(split, index)) for index in range(start, stop))
            return [replace(prompt, id=f"{self.config.name}-{split}-{index}") for index, prompt in drawn]
        rows = self.rows(split)
        if split == "test":
            return rows[start : start + num]
        places = [divmod(index, len(rows)) for index in range(start, start + num)]
        orders = {epoch: self._order(epoch, len(rows)) for epoch in {epoch for epoch, _ in places}}
        return [
            replace(rows[orders[epoch][place]], id=f"{self.config.name}-train-{start + offset}")
            for offset, (epoch, place) in enumerate(places)
        ]

    def _order(self, epoch: int, num_rows: int) -> list[int]:
        order = list(range(num_rows))
        Random(stable_key(self.config.name, self.config.seed, "epoch", epoch)).shuffle(order)
        return order
