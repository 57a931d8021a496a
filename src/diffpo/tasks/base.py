"""What a task is: prompts, a verifier, and solved examples to pre-train a tiny model on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from diffpo.types import Prompt, Verdict

Split = Literal["train", "test"]


class Task(Protocol):
    """A source of prompts with a verdict on answers. All of it is a function of the task's config and its arguments."""

    name: str
    alphabet: str
    """Every character that a prompt or an answer can hold: the tiny model's vocabulary."""
    gen_length: int
    """Canvas length that holds every answer."""

    def prompts(self, split: Split, num: int, start: int = 0) -> list[Prompt]:
        """Prompts start..start+num-1 of an endless seeded stream; no prompt of one split occurs in the other."""
        ...

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        """Judge a completion (text before EOS). Any string whatever gets a verdict, within milliseconds."""
        ...

    def solution(self, prompt: Prompt) -> str:
        """A right answer, as pre-training shows it."""
        ...

    def open_positions(self, prompt: Prompt) -> Sequence[int]:
        """Positions of `solution(prompt)` that the prompt does not already give away; label noise falls on these."""
        ...
