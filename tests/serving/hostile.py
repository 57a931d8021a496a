"""Wild requests: fields of the schema with values right, nearly right and absurd, and bodies that are none."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx2

SECONDS = 20
"""That an answer may take."""
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize")
OTHERS = ("/", "/v1/models", "/v1/models/tiny", "/v1/models/..%2f..%2fetc", "/health", "/metrics", "/v1", "/nope", "//")
TEXTS = (
    *(
        "",
        "0",
        "012",
        "01234560",
        "x",
        "0" * 60,
        "0" * 3000,
        "\x00",
        "é",
        "<|mask|>",
        "{{7*7}}",
        "../../etc/passwd",
        "\ud800",
    ),
    *(
        "learned",
        "top_k:1",
        "entropy_bound:0.3",
        "steps:8",
        "random:2",
        "margin:1e9",
        "confidence:nan",
        "a.py:B:1",
        "prefix",
    ),
)
NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    16,
    60,
    64,
    65,
    128,
    129,
    2**31,
    2**63,
    -(2**63),
    10**40,
    0.5,
    1e-9,
    1.5,
    -0.0,
    1e308,
    1e-320,
)
WORDS = ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000)
"""Numbers that JSON does not have, or that are too large."""
SENSIBLE: dict[str, tuple[Any, ...]] = {
    "model": ("tiny",),
    "prompt": ("012", "3", ["0", "1"], [0, 1, 2], [[0], [1, 2]]),
    "messages": ([{"role": "user", "content": "012"}], [{"role": "user", "content": [{"type": "text", "text": "0"}]}]),
    "suffix": ("0", "12"),
    "max_tokens": (1, 4, 8, 30),
    "canvas": ("{4}", "0{2}1{3}", "{1}23", "{0}", "{999999999}", "x{1}", "{50}"),
    "n": (1, 2, 5),
    "stop": ("3", ["1", "20"]),
    "seed": (0, 7),
    "temperature": (0, 0.7, 2),
    "stream": (True, False),
    "stream_options": ({"include_usage": True}, {"include_unmasking": True}),
    "sampler": ("learned", "top_k:2", "random:1"),
    "entropy_bound": (0, 0.4),
    "steps": (2, 8),
    "block_length": (1, 4, 99),
    "cache": ("none", "prefix", "dual"),
    "logprobs": (0, True),
    "top_p": (1, 0.9),
    "response_format": ({"type": "text"}, {"type": "json_object"}),
    "user": ("me",),
}


@dataclass(frozen=True)
class Hostile:
    """One request; `leaves` is the number of lines after which a client of a stream goes away."""

    method: str
    path: str
    body: bytes
    kind: str = "application/json"
    leaves: int | None = None


def value(random: Random, depth: int = 0) -> Any:
    """Anything that JSON can say, and some that it cannot."""
    made = [
        lambda: random.choice(TEXTS),
        lambda: random.choice(NUMBERS),
        lambda: random.choice((True, False, None)),
        lambda: [value(random, depth + 1) for _ in range(random.randrange(4))] if depth < 4 else [],
        lambda: (
            {random.choice(TEXTS): value(random, depth + 1) for _ in range(random.randrange(3))} if depth < 4 else {}
        ),
        lambda: {"role": "user", "content": random.choice(TEXTS)},
    ]
    return random.choice(made)()


def body(random: Random, path: str) -> dict[str, Any]:
    """The fields that a path needs, and some others, each sensible or not."""
    needed = ["messages"] if path == "/v1/chat/completions" else ["prompt"]
    names = [*needed, *random.sample(list(SENSIBLE), random.randrange(6))]
    made = {name: random.choice(SENSIBLE[name]) if random.random() < 0.85 else value(random) for name in names}
    if random.random() < 0.1:
        made[random.choice(TEXTS)] = value(random)
    if random.random() < 0.05:
        made.pop(random.choice(needed), None)
    return made


def requests(count: int, random: Random) -> Iterator[Hostile]:
    for _ in range(count):
        path = random.choice(PATHS)
        text = json.dumps(body(random, path))
        leaves = random.randrange(4) if random.random() < 0.3 else None
        match random.randrange(20):
            case 0:  # a body cut off
                yield Hostile("POST", path, text.encode()[: random.randrange(len(text))])
            case 1:  # bytes changed
                broken = bytearray(text.encode())
                for _ in range(random.randint(1, 5)):
                    broken[random.randrange(len(broken))] = random.randrange(256)
                yield Hostile("POST", path, bytes(broken), leaves=leaves)
            case 2:
                wrong = random.choice(
                    ("text/plain", "application/x-www-form-urlencoded", "", "application/json; charset=x")
                )
                yield Hostile("POST", path, text.encode(), wrong)
            case 3:
                nest = random.choice((b"[", b'{"messages":', b'{"prompt":['))
                yield Hostile("POST", path, nest * random.randint(1, 20_000))
            case 4:
                word = random.choice(WORDS)
                yield Hostile("POST", path, f'{{"prompt": "0", "{random.choice(list(SENSIBLE))}": {word}}}'.encode())
            case 5:
                method = random.choice(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"))
                yield Hostile(method, random.choice((*PATHS, *OTHERS)), b"")
            case _:
                yield Hostile("POST", path, text.encode(), leaves=leaves)


def complaint(client: httpx2.Client, asked: Hostile) -> str:
    """What is wrong with how a request is answered; "" if nothing is."""
    began = time.perf_counter()
    headers = {"Content-Type": asked.kind}
    with client.stream(asked.method, asked.path, content=asked.body, headers=headers) as answer:
        text = ""
        for line, _ in zip(answer.iter_lines(), range(asked.leaves or 10**9), strict=False):
            text += line
        if asked.leaves is not None:
            return "" if answer.status_code < 500 else f"status {answer.status_code}"
    if time.perf_counter() - began > SECONDS:
        return f"took {time.perf_counter() - began:.0f} s"
    if answer.status_code >= 500:
        return f"status {answer.status_code}: {text}"
    if answer.status_code >= 400 and not json.loads(text)["error"]["message"]:
        return f"no error object: {text}"
    return ""
