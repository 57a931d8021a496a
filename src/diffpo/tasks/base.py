"""What a task is: prompts with a verifier or reward functions, and solutions to learn from where it knows any."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from diffpo.rewards.calls import Rewards
from diffpo.types import Prompt, Verdict

if TYPE_CHECKING:
    from diffpo.tasks.stream import Dial

Split = Literal["train", "test"]


class Task(Protocol):
    """A source of prompts with a verdict on answers. All of it is a function of the task's config and its arguments.

    One of your own is a subclass that is made of a `TaskConfig` (docs/extend.md).
    """

    name: str
    gen_length: int
    """Canvas length that holds every answer."""

    @property
    def rewards(self) -> Rewards | None:
        """Functions that judge the completions of a prompt together, in place of `verify`; None for none."""
        return None

    @abstractmethod
    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1 of the split's seeded stream; no prompt of one split occurs in the other.

        The training stream has no end. A test set may: then there are fewer, or none.
        """
        ...

    @abstractmethod
    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Judge a completion: its text before EOS, without the prompt's prefill. Called from any thread.

        Any string whatever gets a verdict, within milliseconds where no program is run for it. A reward of None leaves
        the completion out.
        """
        ...


@runtime_checkable
class SolvedTask(Task, Protocol):
    """A task that knows right answers, to fine-tune on."""

    @abstractmethod
    def solution(self, prompt: Prompt) -> str:
        """A right completion, without the prompt's prefill. ValueError names a row that has none."""
        ...


class PretrainingTask(SolvedTask, Protocol):
    """The same for a tiny model to be pre-trained on."""

    alphabet: str
    """Every character that a prompt or an answer can hold: the tiny model's vocabulary."""

    def open_positions(self, prompt: Prompt) -> Sequence[int]:
        """Positions of `solution(prompt)` that the prompt does not already give away; label noise falls on these."""
        return range(len(self.solution(prompt)))


class TinyTask(PretrainingTask):
    """A task that ships for tiny models: raw prompts over a small alphabet, each drawn by itself."""

    dial: Dial

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dial})"

    @abstractmethod
    def draw(self, split: Split, index: int) -> Prompt:
        """Prompt `index` of the split."""
        ...

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1 of an endless stream."""
        return [self.draw(split, index) for index in range(start, start + num)]

    def solution(self, prompt: Prompt) -> str:
        """The one that was drawn with the prompt."""
        return str(prompt.columns["solution"])
