"""How a model is served over HTTP."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from diffpo.config.checks import bound, check, check_kinds
from diffpo.config.idle import Idle, Knobs
from diffpo.config.model import LoadConfig
from diffpo.config.rollout import RolloutConfig

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")
"""As browsers send it; any other would let no page in."""


@dataclass(frozen=True)
class ServeConfig(Knobs):
    """How a model is served over HTTP."""

    host: str = "127.0.0.1"  # address to listen on; 0.0.0.0 is every network that the machine is on
    port: int = 8000  # port to listen on; 0 takes a free one
    name: str = ""  # what requests call the model; empty: the last part of its own name
    max_waiting: int = 256  # completions that may wait for a slot; a request beyond is answered 429
    timeout: float = 600.0  # seconds that a request may take, its wait included
    max_length: int | None = None  # tokens of a prompt and its canvas together. None: as many as the model can hold
    max_body: int = 1_000_000  # bytes of a request's body
    api_key: str | None = None  # what clients must send as `Authorization: Bearer KEY`. None: nothing
    api_key_file: str | None = None  # file of such keys, one a line
    adapter: tuple[str, ...] = ()
    """Adapters to serve beside the model, each NAME=PATH; a request's `model` names one."""
    adapter_root: str = ""
    """Folder below which clients may load further adapters from; empty: they may not."""
    follow: str = ""  # a run whose newest weights are taken over as they come
    cors: tuple[str, ...] = ()  # origins whose pages may call the server from a browser, such as https://example.org
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0, num_slots=64))
    load: LoadConfig = field(default_factory=LoadConfig)

    def __post_init__(self) -> None:
        check_kinds(self)
        check(0 <= self.port < 65536, f"port must lie between 0 and 65535, got {self.port}")
        check(0 < self.timeout < math.inf, f"timeout must be a number of seconds > 0, got {self.timeout}")
        for name in ("api_key", "api_key_file"):  # as a variable that is not set leaves it
            said = getattr(self, name)
            check(
                said is None or said.strip(),
                f"{name} is empty, which would let everybody in: give one, or leave it out",
            )
        moves = self.follow and (self.adapter or self.adapter_root)
        check(not moves, "follow: adapters would stand on weights that change: serve them on the base they learned on")
        bound(self, "", "max_waiting max_length max_body", ">=", 1)
        for origin in self.cors:
            known = origin == "*" or ORIGIN.fullmatch(origin)
            check(
                bool(known),
                f"cors {origin!r}: write https://HOST or https://HOST:PORT, without a path or a slash behind it",
            )

    def idle(self) -> Idle:
        return {
            "rollout.merge_adapters": "outside of training",
            "rollout.chat_template": "in a server: chats go through the template, and plain completions do not",
        }
