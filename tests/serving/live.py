"""A live server of a tiny policy, in a thread of the test's own process, and what talks to it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn

from diffpo.config import ServeConfig
from diffpo.models.policy import Policy
from diffpo.serving.app import create_app
from diffpo.serving.server import bind
from diffpo.serving.service import Service


@dataclass(frozen=True, eq=False)
class Live:
    """Where a server listens, and what it is made of."""

    url: str
    service: Service
    client: httpx2.Client

    def post(self, path: str, **body: Any) -> httpx2.Response:
        return self.client.post(path, json=body)

    def complete(self, prompt: str = "012", **body: Any) -> dict[str, Any]:
        """A completion that must succeed."""
        answer = self.post("/v1/completions", prompt=prompt, **body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def error(self, path: str = "/v1/completions", status: int = 400, **body: Any) -> dict[str, Any]:
        """The error that a body is answered with."""
        answer = self.post(path, **body)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"} and "\n" not in error["message"]
        return error

    def events(self, path: str = "/v1/completions", **body: Any) -> Iterator[dict[str, Any]]:
        """The chunks of a stream, which must end as OpenAI's do."""
        with self.client.stream("POST", path, json={"stream": True, **body}) as answer:
            assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in answer.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]", lines
        yield from (json.loads(line.removeprefix("data: ")) for line in lines[:-1])

    def metric(self, name: str) -> float:
        """A figure of /metrics."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine makes no call while the context lasts."""
        held, release, scheduler = threading.Event(), threading.Event(), self.service.scheduler

        def hold() -> None:
            held.set()
            release.wait(20)

        assert scheduler._loop
        scheduler._loop.call_soon_threadsafe(scheduler.between_calls, hold)
        assert held.wait(20)
        try:
            yield
        finally:
            release.set()

    def wait(self, name: str, value: float) -> None:
        """Until a figure is this."""
        for _ in range(200):
            if self.metric(name) == value:
                return
            time.sleep(0.01)
        raise AssertionError(f"{name} is {self.metric(name)}, not {value}")


@contextmanager
def serving(policy: Policy, config: ServeConfig, model: str = "tiny") -> Iterator[Live]:
    """Serve while the context lasts."""
    listener = bind("127.0.0.1", 0)
    app = create_app(policy, model, config)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        with httpx2.Client(base_url=url, timeout=20) as client:
            yield Live(url, app.state.service, client)
    finally:
        server.should_exit = True
        thread.join()
