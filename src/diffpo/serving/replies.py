"""What clients get: OpenAI's objects, with each completion's calls, threshold and version of the weights."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffpo.rollout.engine import Committed
from diffpo.serving.answer import BROKEN, Transcript
from diffpo.serving.asking import Served

DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


@dataclass(frozen=True, eq=False)
class Reply:
    """How one request is answered: whole, or in chunks."""

    served: Served
    answers: Sequence[Transcript]
    seed: int
    prompt_tokens: int
    logprobs: bool
    chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
            "seed": self.seed,
        }

    @property
    def usage(self) -> dict[str, int]:
        completion = sum(answer.settled for answer in self.answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "denoiser_calls": sum(answer.denoiser_calls for answer in self.answers),
        }

    def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        choices = []
        for index, answer in enumerate(self.answers):
            said = {"message": {"role": "assistant", "content": answer.text}} if self.chat else {"text": answer.text}
            choices.append({"index": index, **said, "logprobs": self._logprobs(answer), **_ending(answer)})
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage}

    # --- in chunks -------------------------------------------------------------------------------------------------

    def _chunk(self, *choices: Mapping[str, Any], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event({**self._head(kind), "choices": choices, **more})

    def opening(self) -> list[bytes]:
        """Chats begin by saying who speaks."""
        said = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self._chunk({"index": index, **said}) for index in range(len(self.answers))] if self.chat else []

    def change(self, index: int) -> list[bytes]:
        """What has become certain of an answer, if anything."""
        answer = self.answers[index]
        text = answer.delta()
        if not (text or answer.over):
            return []
        logprobs = self._logprobs(answer)
        said = {"delta": {"content": text} if text else {}} if self.chat else {"text": text}
        ending = _ending(answer) if answer.over else {"finish_reason": None}
        return [self._chunk({"index": index, **said, "logprobs": logprobs, **ending})]

    def given(self) -> list[bytes]:
        """What stands on canvases from the start, as if a call 0 had committed it."""
        each = [[at for at, token in enumerate(answer.tokens) if token >= 0] for answer in self.answers]
        return [
            self._seen(index, 0, places, [self.answers[index].tokens[at] for at in places], [1.0] * len(places))
            for index, places in enumerate(each)
            if places
        ]

    def unmasking(self, index: int, call: Committed) -> bytes:
        """What a call committed, settled or not: positions on the canvas, their tokens' texts, and how sure it was."""
        columns = (call.positions, call.tokens, call.max_probs)
        return self._seen(index, call.call, *(column.tolist() for column in columns))

    def _seen(self, index: int, call: int, places: list[int], tokens: list[int], certain: list[float]) -> bytes:
        seen = {
            "index": index,
            "call": call,
            "positions": places,
            "tokens": list(map(self.served.policy.tokenizer.piece, tokens)),
            "confidence": [round(share, 4) for share in certain],
            "canvas": len(self.answers[index].tokens),
        }
        return self._chunk(unmasking=seen)

    def closing(self, usage: bool) -> list[bytes]:
        return [*([self._chunk(usage=self.usage)] if usage else []), DONE]

    def _logprobs(self, answer: Transcript) -> dict[str, Any] | None:
        """Of the tokens that were not told before."""
        if not self.logprobs:
            return None
        tokens = answer.told()
        if self.chat:
            content = [
                {
                    "token": token.text,
                    "logprob": token.logprob,
                    "bytes": None if BROKEN in token.text else list(token.text.encode()),  # of whole texts
                    "top_logprobs": [],
                    "call": token.call,
                }
                for token in tokens
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": None,
            "text_offset": [token.start for token in tokens],
            "calls": [token.call for token in tokens],
        }


def _ending(answer: Transcript) -> dict[str, Any]:
    return {
        "finish_reason": answer.finish_reason,
        "denoiser_calls": answer.denoiser_calls,
        "gamma": answer.gamma,
        "version": answer.version,
    }
