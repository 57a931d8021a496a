"""The paths of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from diffpo.config import ServeConfig
from diffpo.models.policy import Policy
from diffpo.serving.asking import Served
from diffpo.serving.errors import answer_errors
from diffpo.serving.gate import Gate, read_keys
from diffpo.serving.service import Service
from diffpo.serving.weights import follow

PAGE = Path(__file__).with_name("playground.html")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
"""What the page may load: itself, and this server's answers."""


def create_app(policy: Policy, name: str, config: ServeConfig) -> FastAPI:
    """The server of a policy, called `name` unless the config says so, as an ASGI app.

    ValueError if it cannot answer as the config says, or its keys cannot be had.
    """
    service = Service(Served(config.name or name, policy, config.rollout, config.max_length), config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.scheduler.start()
        following = asyncio.create_task(follow(service, Path(config.follow))) if config.follow else None
        try:
            yield
        finally:
            if following:
                following.cancel()
            await run_in_threadpool(service.scheduler.stop)

    app = FastAPI(title="diffpo", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    _add_paths(app, service)
    answer_errors(app)
    app.add_middleware(Gate, read_keys(config), config.max_body, service.metrics)
    if config.cors:
        app.add_middleware(CORSMiddleware, allow_origins=config.cors, allow_methods=["*"], allow_headers=["*"])
    return app


def _add_paths(app: FastAPI, service: Service) -> None:
    app.post("/v1/chat/completions", response_class=JSONResponse)(service.chat_completions)
    app.post("/v1/completions", response_class=JSONResponse)(service.completions)
    app.post("/v1/load_lora_adapter")(service.load_adapter)
    app.post("/v1/unload_lora_adapter")(service.unload_adapter)
    app.post("/tokenize")(service.tokenize)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [service.described(served) for served in service.models.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return service.described(service.find(name))

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Response:
        """Whether the engine's thread lives."""
        alive = service.scheduler.alive
        return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)

    @app.head("/ready", include_in_schema=False)
    @app.get("/ready")
    async def ready() -> Response:
        """Whether a request would be taken now."""
        able = service.scheduler.alive and not service.scheduler.full
        return JSONResponse({"status": "ready" if able else "busy"}, 200 if able else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """What Prometheus scrapes."""
        return Response(service.metrics.text, media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def playground() -> Response:
        """The page to ask and to watch."""
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)

    @app.get("/examples")
    def examples() -> dict[str, list[str]]:
        """Prompts of the task that the model was trained on, if it is at hand."""
        return {"prompts": service.examples()}
