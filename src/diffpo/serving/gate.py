"""What every request passes before it is read: keys, the size of its body, the time its body may take."""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffpo.config import ServeConfig
from diffpo.serving.errors import ApiError
from diffpo.serving.metrics import Metrics

OPEN = {"/", "/health", "/ready", "/metrics"}
"""Paths that want no key."""
BODY_SECONDS = 30
"""That a body may take to arrive."""


def read_keys(config: ServeConfig) -> list[str]:
    """The keys that are accepted; none if none are asked for. ValueError if their file has none, or is no text."""
    keys = [config.api_key.strip()] if config.api_key else []
    if config.api_key_file:
        try:
            lines = map(str.strip, Path(config.api_key_file).read_text("utf-8-sig").splitlines())
        except UnicodeDecodeError:
            raise ValueError(f"{config.api_key_file}: no UTF-8: save it as that") from None
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(f"{config.api_key_file}: no key in it, one a line")
        keys += found
    return keys


class Gate:
    """ASGI middleware. It names the client, by key or by address, in `request.state.client`, and counts answers."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], max_body: int, metrics: Metrics) -> None:
        self.app, self.max_body, self.metrics = app, max_body, metrics
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = scope.get("route")
                self.metrics.answered.labels(route.path if route else "other", str(message["status"])).inc()
            await send(message)

        try:
            scope.setdefault("state", {})["client"] = self._client(scope)
            body = await self._body(scope, receive)
        except ApiError as error:
            await error.response(scope, receive, counted)
            return

        async def again() -> Message:
            return body.pop(0) if body else await receive()

        await self.app(scope, again, counted)

    def _client(self, scope: Scope) -> str:
        if not self.keys or scope["path"] in OPEN:
            return scope["client"][0] if scope.get("client") else ""
        sent = re.sub(rb"(?i)^bearer\s", b"", dict(scope["headers"]).get(b"authorization", b"")).strip()
        # every key is compared, and each in constant time: how long it takes says nothing
        matches = [hmac.compare_digest(sent, key) for key in self.keys]
        if not any(matches):
            said = "no such API key: send Authorization: Bearer KEY"
            raise ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return f"key {matches.index(True)}"

    async def _body(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages of the whole body, or the word that the client is gone."""
        headers, size, messages, more = dict(scope["headers"]), 0, list[Message](), True
        said = headers.get(b"content-length", b"")
        large = ApiError(413, f"a body may have {self.max_body} bytes at most", code="body_too_large")
        if b"expect" in headers and said.isdigit() and int(said) > self.max_body:
            raise large  # to a client that asks before it sends
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while more:  # to its end, kept or not: a connection closed before has an error in the answer's place
                    message = await receive()
                    size, more = size + len(message.get("body", b"")), message.get("more_body", False)
                    if size <= self.max_body:
                        messages.append(message)
        except TimeoutError:
            late = ApiError(408, f"the body took more than {BODY_SECONDS} s to arrive", code="timeout")
            raise (large if size > self.max_body else late) from None
        if size > self.max_body:
            raise large
        return messages
