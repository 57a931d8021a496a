"""One completion as it comes about: the text of the settled prefix, which is never taken back, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diffpo.models.policy import Policy
from diffpo.models.threshold import ThresholdHead
from diffpo.rollout.engine import Committed
from diffpo.rollout.slots import ends_from
from diffpo.types import Request

BROKEN = "�"
"""What a tokenizer decodes an incomplete character to."""


class Token(NamedTuple):
    text: str
    start: int
    """Character of the completion's text at which it begins."""
    logprob: float
    call: int


class Transcript:
    """The completion of `request`, as far as it is known; it is over at an EOS, end of turn, stop, or the canvas's end.

    Positions are committed in any order. What stands left of the first mask is settled, and its text only grows.
    """

    def __init__(self, policy: Policy, request: Request, stops: Sequence[str]) -> None:
        self.policy, self.request, self.stops = policy, request, stops
        length, given = request.gen_length, request.canvas_ids or (policy.mask_id,) * request.gen_length
        self.tokens = [-1 if token == policy.mask_id else token for token in given]
        self.logprobs, self.calls = [0.0] * length, [0] * length
        """Of each position; token -1 of a mask, call 0 of what no call has committed."""
        self.settled = 0
        """Positions left of the first mask; those of the completion once it is over."""
        self.text = ""
        """Of the settled positions, up to where it ends."""
        self.denoiser_calls = 0
        self.version = 0
        """Of the weights that made the last call."""
        self.finish_reason = ""
        """stop or length; empty until it is over."""
        self._said = self._told = 0  # characters, tokens
        self._gammas = 0.0  # summed over calls
        self._ends, self._behind = policy.tokenizer.stops, ends_from(request, policy.mask_id)

    @property
    def over(self) -> bool:
        return bool(self.finish_reason)

    @property
    def gamma(self) -> float | None:
        """The threshold, where there is one; of one that each call chooses, the mean."""
        if self.request.sampler.rule == "learned" and isinstance(self.policy.sampler_head, ThresholdHead):
            return self._gammas / max(1, self.denoiser_calls)
        return self.request.sampler.value if self.request.sampler.rule == "entropy_bound" else None

    def take(self, event: Committed) -> None:
        """Learn what a call committed."""
        self.version, self.denoiser_calls = event.version, event.call
        self._gammas += event.gamma
        # the token of a greedy row is the likeliest: its own probability is 1, the model's is told
        certain = event.logprobs if self.request.temperature else event.max_probs.log()
        columns = (event.positions, event.tokens, certain.clamp_max(0.0))
        for at, token, logprob in zip(*(column.tolist() for column in columns), strict=True):
            self.tokens[at], self.logprobs[at], self.calls[at] = token, logprob, event.call
        before = self.settled
        while self.settled < len(self.tokens) and self.tokens[self.settled] >= 0 and not self.over:
            self.finish_reason = "stop" if self._is_end(self.settled) else ""
            self.settled += 1
        if self.settled > before:
            self.text = self._text(self.settled)
            if any(stop in self.text for stop in self.stops):
                self._stop(before)
        if self.settled == len(self.tokens) and not self.over:
            self.finish_reason = "length"

    def _stop(self, before: int) -> None:
        """End at the first stop, as if the positions since `before` had settled one by one: tokens behind it are none
        of the completion's."""
        for end in range(before + 1, self.settled + 1):
            text = self._text(end)
            if found := [at for stop in self.stops if (at := text.find(stop)) >= 0]:
                self.text, self.settled, self.finish_reason = text[: min(found)], end, "stop"
                return

    def _is_end(self, at: int) -> bool:
        """Whether the token there ends the completion: none does before the last that is given."""
        return at >= self._behind and self.tokens[at] in self._ends

    def _text(self, end: int) -> str:
        """Of the tokens up to there."""
        heard = [token for at, token in enumerate(self.tokens[:end]) if self._is_end(at) or token not in self._ends]
        return self.policy.tokenizer.decode(heard)

    def delta(self) -> str:
        """The text that has become certain since the last time.

        An incomplete character waits for its rest, and what may be the beginning of a stop for what follows.
        """
        end = len(self.text)
        if not self.over:
            end = len(self.text.rstrip(BROKEN))
            end -= max((overlap(self.text[:end], stop) for stop in self.stops), default=0)
        start, self._said = self._said, max(self._said, end)
        return self.text[start : self._said]

    def told(self) -> list[Token]:
        """The tokens of the text so far that were not told before; those of its end, or of a stop, have no text."""
        found = list[Token]()
        for at in range(self._told, self.settled):
            start = len(self._text(at).rstrip(BROKEN))
            if self._is_end(at) or start >= (len(self.text) if self.over else self._said):
                break
            found.append(Token(self.policy.tokenizer.piece(self.tokens[at]), start, self.logprobs[at], self.calls[at]))
        self._told += len(found)
        return found


def overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop`, but not all of it, that `text` ends with."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
