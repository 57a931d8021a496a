"""What clients send: OpenAI's fields, and beside them, flat in the body, those of a diffusion model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from diffpo.config import suggest

MAX_CHOICES = 128
"""Completions of one request."""
MIN_TEMPERATURE = 0.01
"""Below it logits overflow; 0 is greedy."""

REFUSED: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "top_p": ("nucleus sampling would change the recorded log-probabilities: leave it out, or 1", (1,)),
    "top_k": ("name an unmasking rule instead: sampler 'top_k:1' commits the surest position of a call", (-1, 0)),
    "min_p": ("not supported: leave it out, or 0", (0,)),
    "repetition_penalty": ("positions are filled in any order: leave it out, or 1", (1,)),
    "length_penalty": ("not supported: leave it out, or 1", (1,)),
    "use_beam_search": ("not supported: leave it out, or false", (False,)),
    "min_tokens": ("not supported: leave it out, or 0", (0,)),
    "ignore_eos": ("an answer ends at its EOS: leave it out, or false", (False,)),
    "stop_token_ids": ("name texts, by stop: leave it out", ([],)),
    "include_stop_str_in_output": ("a stop is no part of the text: leave it out, or false", (False,)),
    "skip_special_tokens": ("special tokens have no text: leave it out, or true", (True,)),
    "add_generation_prompt": ("an answer follows: leave it out, or true", (True,)),
    "modalities": ("answers are text: leave it out, or ['text']", (["text"],)),
    "tool_calls": ("tool calls are not supported: leave it out", ([],)),
    "tool_call_id": ("tool calls are not supported: leave it out", ()),
    "image_url": ("only text is read: leave this part out", ()),
    "input_audio": ("only text is read: leave this part out", ()),
    "file": ("only text is read: leave this part out", ()),
    "presence_penalty": ("positions are filled in any order, so no text comes before: leave it out, or 0", (0,)),
    "frequency_penalty": ("positions are filled in any order, so no text comes before: leave it out, or 0", (0,)),
    "logit_bias": ("not supported: leave it out", ({},)),
    "response_format": (
        "constrained decoding is not supported: leave it out, or {'type': 'text'}",
        ({"type": "text"},),
    ),
    "tools": ("tool calls are not supported: leave it out", ([],)),
    "tool_choice": ("tool calls are not supported: leave it out, or 'none'", ("none", "auto")),
    "functions": ("tool calls are not supported: leave it out", ([],)),
    "function_call": ("tool calls are not supported: leave it out, or 'none'", ("none", "auto")),
    "top_logprobs": ("only the log-probability of the token that was drawn is kept: leave it out, or 0", (0,)),
    "echo": ("not supported: leave it out, or false", (False,)),
    "best_of": ("not supported: ask for n completions", (1,)),
}
"""Fields of OpenAI's that are understood and not done: the mend, and values that ask for nothing; null is another."""


class Body(BaseModel):
    """A JSON object of known fields, whose values are of the kinds that they say."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    ignored: ClassVar[frozenset[str]] = frozenset()
    """Fields that change no answer, whatever they hold."""

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        """Without what asks for nothing; an error names the first field that is not known, and the nearest that is."""
        if not isinstance(values, dict):
            return values
        asked = {name: value for name, value in values.items() if not cls._is_idle(name, value)}
        for name in asked:
            if name not in cls.model_fields:
                whole = name.encode("utf-8", "replace").decode()  # JSON may hold halves of characters
                mend = REFUSED[name][0] if name in REFUSED else f"no such field{suggest(whole, cls.model_fields)}"
                raise _wrong(whole, mend)
        return asked

    @classmethod
    def _is_idle(cls, name: str, value: Any) -> bool:
        absent = value is None and name not in cls.model_fields
        return absent or name in cls.ignored or (name in REFUSED and value in REFUSED[name][1])


class StreamOptions(Body):
    include_usage: bool | None = None
    """A last chunk with the usage."""
    include_unmasking: bool | None = None
    """A chunk for what each denoiser call commits."""


class Asked(Body):
    """What chats and plain completions have in common."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        ["user", "metadata", "store", "safety_identifier", "service_tier", "prompt_cache_key", "parallel_tool_calls"]
    )

    model: str | None = None
    """One of /v1/models; left out: the first."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The canvas: positions that are filled. Left out: as the model was trained to answer."""
    canvas: str | None = None
    """Text of the answer, with {N} where N tokens are to be filled in."""
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    sampler: str | None = None
    """Unmasking rule, as `rollout.sampler`: learned, entropy_bound:GAMMA, confidence:P, top_k:K, margin:K, ..."""
    entropy_bound: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Short for sampler entropy_bound:GAMMA, in nats."""
    steps: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """Short for sampler steps:S: denoiser calls for the canvas."""
    block_length: Annotated[int, Field(ge=1)] | None = None
    """Positions of the blocks that are filled left to right; at most the canvas."""
    cache: Literal["auto", "none", "exact", "prefix", "dual"] | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Asked:
        if self.temperature is not None and 0 < self.temperature < MIN_TEMPERATURE:
            raise _wrong("temperature", f"must be 0, which is greedy, or at least {MIN_TEMPERATURE}")
        if self.stream_options and not self.stream:
            raise _wrong("stream_options", "does nothing without stream: leave it out")
        if any(not text for text in self.stops):
            raise _wrong("stop", "an empty text stands everywhere: leave it out")
        rules = [name for name in ("sampler", "entropy_bound", "steps") if getattr(self, name) is not None]
        if len(rules) > 1:
            raise _wrong(rules[1], f"an unmasking rule, and {rules[0]} names another: leave one of them out")
        return self

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    ignored: ClassVar[frozenset[str]] = frozenset(["name", "refusal", "annotations", "audio"])

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Asked):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """Another name of max_tokens."""
    logprobs: bool | None = None

    @model_validator(mode="after")
    def _one_length(self) -> ChatRequest:
        if self.max_tokens and self.max_completion_tokens:
            raise _wrong("max_completion_tokens", "another name of max_tokens, which is given: leave one of them out")
        self.max_tokens = self.max_tokens or self.max_completion_tokens
        return self


class CompletionRequest(Asked):
    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    """What follows the canvas: the model sees both sides, and fills in between."""
    logprobs: int | None = None
    """0: of each token that was drawn."""

    @model_validator(mode="after")
    def _drawn_alone(self) -> CompletionRequest:
        if self.logprobs:
            raise _wrong("logprobs", "only the log-probability of the token that was drawn is kept: give 0 for it")
        return self


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_text(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise _wrong("prompt", "give one of prompt and messages")
        return self


class LoadAdapter(Body):
    lora_name: Annotated[str, Field(min_length=1)]
    lora_path: str
    """Folder below the server's `adapter_root`."""


class UnloadAdapter(Body):
    lora_name: str


def _wrong(name: str, why: str) -> PydanticCustomError:
    """An error of one field among those of an object."""
    return PydanticCustomError("wrong_field", "{why}", {"name": name, "why": why})
