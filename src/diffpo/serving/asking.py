"""From what a client asks to the engine's requests; what the policy cannot do is refused by the name of the field."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from diffpo.config import SAMPLER_RULES, RolloutConfig, parse_sampler, suggest
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.rollout.checks import check_request
from diffpo.rollout.local import canvas_length, check_decoding, request_for
from diffpo.serving.errors import ApiError
from diffpo.serving.schema import MAX_CHOICES, Asked, Message
from diffpo.types import Request, Sampler

MOST = 1e6
"""What a rule's number may be at most: beyond, it means nothing."""


@dataclass(eq=False)
class Served:
    """A policy under the name by which requests ask for it, and how it answers unless they say otherwise."""

    name: str
    policy: Policy
    rollout: RolloutConfig
    limit: int | None = None
    """Tokens of a prompt and its canvas, where fewer than the model can hold are allowed."""
    created: int = field(default_factory=lambda: int(time.time()))
    fingerprint: str | None = field(init=False)
    """Of the weights that it was loaded with: the same wherever they lie."""

    def __post_init__(self) -> None:
        """ValueError if a request that says nothing of its decoding could not be answered."""
        check_decoding(self.policy, self.rollout, self.gen_length)
        if self.gen_length >= self.max_length:
            raise ValueError(
                f"max_length = {self.limit} leaves a canvas of {self.gen_length} tokens no prompt: raise it, or lower "
                "rollout.gen_length"
            )
        source = self.policy.source  # read now: its folder may be gone, or hold other weights, by the first request
        self.fingerprint = source.fingerprint()[:16] if source else None

    @property
    def max_length(self) -> int:
        most = self.policy.denoiser.config.max_length
        return min(most, self.limit or most)

    @property
    def gen_length(self) -> int:
        return canvas_length(self.policy, self.rollout)


def chat_ids(served: Served, messages: Sequence[Message]) -> tuple[int, ...]:
    """The conversation under the model's template. One that has none takes a single message, as plain text."""
    plain = [message.plain for message in messages]
    tokenizer = served.policy.tokenizer
    if not tokenizer.chats and (len(plain) > 1 or plain[0]["role"] != "user"):
        what = "has no chat template: send a single user message, or use /v1/completions"
        raise ApiError(400, f"messages: {served.name} {what}", "messages")
    try:
        return served.policy.encode(plain if tokenizer.chats else plain[0]["content"])
    except ValueError as error:
        raise ApiError(400, f"messages: {error}", "messages") from None


def prompt_ids(
    served: Served, prompt: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
) -> list[tuple[int, ...]]:
    """Each prompt as ids: texts as they stand, or ids of the model's vocabulary, none of them the mask."""
    prompts = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
    if not prompts:
        raise ApiError(400, "prompt: an empty list", "prompt")
    return [ids_of(served.policy, each, "prompt") for each in prompts]  # type: ignore[arg-type]


def ids_of(policy: Policy, prompt: str | Sequence[int], name: str) -> tuple[int, ...]:
    """One of them, or a suffix, in the field of this name."""
    if isinstance(prompt, str):
        try:
            return policy.tokenizer.encode(prompt)
        except ValueError as error:
            raise ApiError(400, f"{name}: {error}", name) from None
    wrong = [token for token in prompt if not 0 <= token < policy.tokenizer.vocab_size or token == policy.mask_id]
    if wrong:
        most = policy.tokenizer.vocab_size - 1
        raise ApiError(400, f"{name}: no token {wrong[0]}: ids are 0 to {most}, but for the mask's", name)
    return tuple(prompt)


def requests_for(
    served: Served, asked: Asked, prompts: Sequence[tuple[int, ...]], suffix: tuple[int, ...] = ()
) -> tuple[list[Request], int]:
    """n requests a prompt, in order, and the seed of their random numbers.

    Completion i has the key that `diffpo.sample` gives to prompt i of a list, so the same seed gives the same tokens.
    """
    count = len(prompts) * (asked.n or 1)
    if count > MAX_CHOICES:
        raise ApiError(400, f"n: {count} completions are asked for, at most {MAX_CHOICES} can be", "n")
    try:
        config = _decoding(served, asked)
        gen_length = canvas_length(served.policy, config)
    except ValueError as error:
        raise ApiError(400, str(error).removeprefix("rollout."), "canvas") from None
    longest = max(map(len, prompts)) + len(suffix)
    if longest + gen_length > served.max_length:
        what = "prompt and a suffix" if suffix else "prompt"
        name = "canvas" if asked.canvas else "max_tokens"
        said = f"{name}: a {what} of {longest} tokens and a canvas of {gen_length} exceed {served.max_length}"
        raise ApiError(400, f"{said}: shorten the prompt or {name}", name, "context_length_exceeded")
    seed = secrets.randbits(48) if asked.seed is None else asked.seed
    rule = next((name for name in ("steps", "entropy_bound", "sampler") if getattr(asked, name) is not None), "sampler")
    try:
        plain = [request_for(served.policy, ids, config, gen_length, key=0, explore=False) for ids in prompts]
        plain = [replace(request, suffix_ids=suffix) for request in plain]
        for request in plain:
            check_request(served.policy, request)
    except ValueError as error:
        said = str(error).removeprefix("rollout.")
        named = said.split()[0].rstrip(":")
        raise ApiError(400, said, named if named in ("cache", "suffix") else rule) from None
    each = [request for request in plain for _ in range(asked.n or 1)]
    return [replace(request, key=make_key(seed, at)) for at, request in enumerate(each)], seed


def _decoding(served: Served, asked: Asked) -> RolloutConfig:
    """The server's decoding with what the request says of it. ValueError if it says no canvas."""
    if asked.canvas and asked.max_tokens:
        raise ApiError(400, "max_tokens: the canvas has a length of its own: leave one of them out", "max_tokens")
    canvas = asked.canvas or ("" if asked.max_tokens else served.rollout.canvas)
    length = None if canvas else asked.max_tokens or served.rollout.gen_length
    said = {
        "sampler": _sampler(asked),
        "temperature": asked.temperature,
        "block_length": asked.block_length,
        "cache": asked.cache,
    }
    if (asked.cache or served.rollout.cache) not in ("prefix", "dual"):
        said["cache_refresh"] = 0
    said = {name: value for name, value in said.items() if value is not None}
    return replace(served.rollout, gen_length=length, canvas=canvas, **said)


def _sampler(asked: Asked) -> str | None:
    """The rule that a request names. Those of a file's own are the server's to choose, not a client's."""
    if asked.entropy_bound is not None:
        return f"entropy_bound:{asked.entropy_bound!r}"
    if asked.steps is not None:
        return f"steps:{asked.steps}"
    spec = asked.sampler
    if spec is None:
        return None
    rule, names = spec.partition(":")[0], [*SAMPLER_RULES, "learned"]
    if rule not in names or ".py:" in spec:
        raise ApiError(400, f"sampler {spec!r}: unknown rule{suggest(rule, names)}", "sampler")
    try:
        parsed = Sampler(*parse_sampler(spec))
    except ValueError as error:
        raise ApiError(400, str(error), "sampler") from None
    if parsed.value > MOST:
        raise ApiError(400, f"sampler {spec!r}: its number may be {MOST:g} at most", "sampler")
    return spec
