"""An unmasking on the terminal, call by call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from diffpo.config import RolloutConfig
from diffpo.models.policy import Policy
from diffpo.rollout.engine import Committed, Event, Finished
from diffpo.rollout.judging import judge_one
from diffpo.rollout.local import canvas_ids, canvas_length, stream
from diffpo.tasks.base import Task
from diffpo.tasks.chat import check_fit
from diffpo.types import Completion, Messages, Prompt, Verdict

MASK = "░"
PALETTE = ("#4c8dd6", "#2aa198", "#5fa84e", "#b58900", "#d9742b", "#d1507f", "#8f6fd1", "#7d8a99")
"""Colours of the calls, over again after the last; legible on dark and on light."""
GIVEN = -1
"""In the place of a call, of what stands on the canvas from the start."""
GRID_COLUMNS = {"tiny_sudoku": 4}
"""Cells in a row, for tasks whose canvas is a grid."""


def clues(prompt: Prompt, length: int) -> tuple[bool, ...]:
    """Which cells of a puzzle of this length are not blank; none where the prompt is no puzzle."""
    puzzle = str(prompt.columns.get("puzzle", ""))
    return tuple(cell != "0" for cell in puzzle) if len(puzzle) == length else (False,) * length


class LiveUnmasking:
    """Shows a canvas after each denoiser call, while it is used as a context: ids that are given, None for a mask.

    Masks are dim, what is given is plain, tokens just committed stand out, older ones keep the colour of their call.
    Each call stays on screen for `delay` seconds. `decode` gives the text of one token, `columns` cells make a row.
    Where the output is no terminal it prints a line a call, without delay. `transient` clears the screen of it at the
    end.
    """

    def __init__(
        self,
        prompt: str,
        decode: Callable[[int], str],
        canvas: Sequence[int | None],
        delay: float,
        columns: int | None,
        console: Console,
        transient: bool = False,
    ) -> None:
        self.prompt, self.decode, self.delay, self.columns, self.console = prompt, decode, delay, columns, console
        self.tokens = [0 if token is None else token for token in canvas]
        self.committed_at = [0 if token is None else GIVEN for token in canvas]
        """Of each position the token, and the call that committed it; 0 for a mask."""
        self.live = Live(console=console, auto_refresh=False, transient=transient) if console.is_terminal else None

    def __enter__(self) -> LiveUnmasking:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def show(self, event: Committed) -> None:
        """Show what a call committed."""
        for position, token in zip(event.positions.tolist(), event.tokens.tolist(), strict=True):
            self.tokens[position], self.committed_at[position] = token, event.call
        if self.live:
            self.live.update(self.frame(event.call), refresh=True)
            time.sleep(self.delay)
        else:
            line = Text(f"call {event.call:>3}  ").append_text(self._canvas(event.call, mask="_", end=" "))
            self.console.print(line, soft_wrap=True)

    def frame(self, call: int) -> RenderableType:
        """What the terminal shows after `call`."""
        num_new = sum(at == call for at in self.committed_at)
        left = self.committed_at.count(0)
        header = Text(self.prompt, "bold").append(f"   call {call}: +{num_new}, {left} left", "dim not bold")
        return Group(header, Text(), self._canvas(call, mask=MASK, end="\n"), Text())

    def _canvas(self, call: int, mask: str, end: str) -> Text:
        """Tokens in the colours of their calls; `end` closes a row of a grid."""
        canvas = Text()
        for index, (token, at) in enumerate(zip(self.tokens, self.committed_at, strict=True)):
            text = self.decode(token).replace("\n", "↵") if at else mask
            colour = PALETTE[(at - 1) % len(PALETTE)]
            style = {0: "dim", GIVEN: "", call: f"bold reverse {colour}"}.get(at, colour)
            canvas.append(text, style)
            if self.columns and (index + 1) % self.columns == 0:
                canvas.append(end)
            elif self.columns and self.live:
                canvas.append(" ")
        canvas.rstrip()
        return canvas

    def summary(self, completion: Completion, verdict: Verdict | None = None) -> None:
        """Print the answer and what it took."""
        line = Text("answer  ").append(completion.text, "bold").append("   " + "   ".join(completion.took))
        if verdict:
            line.append("   ").append(*(("right", "bold green") if verdict.correct else ("wrong", "bold red")))
        self.console.print(line, soft_wrap=True)


def show_unmasking(
    policy: Policy, task: Task | None, prompt: Prompt, rollout: RolloutConfig, seed: int = 0, delay: float = 0.3
) -> Completion:
    """Answer `prompt` before the user's eyes; a prompt of the task, which has its columns, is judged as well.

    Canvas length and grid are the task's; where neither task nor rollout says, the canvas is `default_length` long.
    """
    if task:
        check_fit(task, policy.is_tiny)
    console = Console()
    if not console.is_terminal:
        console.print(Text(f"prompt    {prompt.text}"), soft_wrap=True)
    columns = GRID_COLUMNS.get(task.name) if task else None
    canvas = _canvas_of(policy, rollout, task.gen_length if task else None)
    with LiveUnmasking(prompt.text, _decoder(policy), canvas, delay, columns, console) as live:
        completion = _watch(stream(policy, prompt, rollout, len(canvas), seed), live)
    verdict = judge_one(task, prompt, completion.text, completion) if task and prompt.columns else None
    live.summary(completion, verdict)
    return completion


def show_turn(
    policy: Policy, messages: Messages, rollout: RolloutConfig, seed: int = 0, delay: float = 0.0
) -> Completion:
    """Answer a conversation before the user's eyes; what stays on screen is the answer and what it took."""
    console = Console()
    canvas = _canvas_of(policy, rollout)
    with LiveUnmasking("", _decoder(policy), canvas, delay, None, console, transient=True) as live:
        events = stream(policy, messages, rollout, len(canvas), seed)
        completion = _watch(events, live if console.is_terminal else None)
    console.print(Text(completion.text), soft_wrap=True)
    console.print(Text("   ".join(completion.took), "dim"))
    return completion


def _watch(events: Iterable[Event], live: LiveUnmasking | None) -> Completion:
    """The completion of an answer, shown as it comes about."""
    for event in events:
        if isinstance(event, Finished):
            return event.completion
        if live:
            live.show(event)
    raise AssertionError("an answer that begins ends")


def _canvas_of(policy: Policy, rollout: RolloutConfig, otherwise: int | None = None) -> list[int | None]:
    """What stands on it from the start, None for a mask; its length as `canvas_length` has it."""
    given = [None if token == policy.mask_id else token for token in canvas_ids(policy, rollout)]
    return given or [None] * canvas_length(policy, rollout, otherwise)


def _decoder(policy: Policy) -> Callable[[int], str]:
    return lambda token: policy.tokenizer.piece(token) or "·"  # EOS, end of turn
