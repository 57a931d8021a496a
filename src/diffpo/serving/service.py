"""What the server does: finds the model, lets it answer, whole or in a stream, and forgets clients that are gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from diffpo.config import ServeConfig, suggest
from diffpo.serving.asking import Served, chat_ids, ids_of, prompt_ids, requests_for
from diffpo.serving.errors import ApiError
from diffpo.serving.exchange import Exchange
from diffpo.serving.metrics import Metrics
from diffpo.serving.replies import Reply, event
from diffpo.serving.scheduler import Scheduler
from diffpo.serving.schema import (
    Asked,
    ChatRequest,
    CompletionRequest,
    LoadAdapter,
    StreamOptions,
    TokenizeRequest,
    UnloadAdapter,
)
from diffpo.serving.weights import adapted
from diffpo.tasks import load_task

NUM_EXAMPLES = 12
log = logging.getLogger("diffpo.serving")
GONE = 499
"""Status of an answer that nobody is there to read."""


class Service:
    """The models of one server and the scheduler that they share.

    ValueError if an adapter of the config is no NAME=PATH, or does not fit.
    """

    def __init__(self, served: Served, config: ServeConfig) -> None:
        self.config, self.first = config, served
        self.models = {served.name: served}
        for entry in config.adapter:
            name, _, path = entry.partition("=")
            if not (name and path) or name in self.models:
                raise ValueError(f"adapter {entry}: write NAME=PATH, each name once")
            self.models[name] = adapted(served, name, Path(path))
        self.metrics = Metrics()
        self.metrics.version.set_function(lambda: served.policy.version)
        self.scheduler = Scheduler(config.rollout.num_slots, config.max_waiting, self.metrics)

    def find(self, name: str | None) -> Served:
        """The model that a request names; the first if it names none."""
        if name is None:
            return self.first
        if name not in self.models:
            raise ApiError(404, f"model: no {name!r} here{suggest(name, self.models)}", "model", "model_not_found")
        return self.models[name]

    def described(self, served: Served) -> dict[str, Any]:
        """An entry of /v1/models."""
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "diffpo",
            "max_model_len": served.max_length,
            "version": served.policy.version,
            "chat": served.policy.tokenizer.chats,
            "decoding": {
                "sampler": served.rollout.sampler,
                "temperature": served.rollout.temperature,
                "max_tokens": served.gen_length,
                "canvas": served.rollout.canvas,
                "block_length": served.rollout.block_length,
                "cache": served.rollout.cache,
            },
        }

    def examples(self) -> list[str]:
        """Test prompts of the task that the first model was trained on; none where that, or its data, is not known."""
        policy = self.first.policy
        if policy.task is None:
            return []
        try:
            return [prompt.text for prompt in load_task(policy.task).prompts("test", NUM_EXAMPLES)]
        except (ValueError, OSError) as error:  # rows or rewards that are elsewhere
            log.info("no prompts of %s: %s", policy.task.name, error)
            return []

    async def load_adapter(self, body: LoadAdapter) -> dict[str, str]:
        """Serve an adapter of a folder below the one that the server allows."""
        root, name = self.config.adapter_root, body.lora_name
        if not root:
            raise ApiError(403, "adapters are not loaded on request here: the server's adapter_root says from where")
        taken = ApiError(400, f"lora_name: {name} is served already: unload it first", "lora_name")
        if name in self.models:
            raise taken
        try:
            folder = Path(root, body.lora_path).resolve()
            if not folder.is_relative_to(Path(root).resolve()):
                raise ValueError("it must lie below the server's adapter_root")
            served = await run_in_threadpool(adapted, self.first, name, folder)
        except (ValueError, OSError) as error:
            raise ApiError(400, f"lora_path {body.lora_path!r}: {error}", "lora_path") from None
        if self.models.setdefault(name, served) is not served:  # another client was faster
            raise taken
        return {"status": "loaded", "id": name}

    async def unload_adapter(self, body: UnloadAdapter) -> dict[str, str]:
        """Take no more requests for an adapter; those that are there are answered."""
        name = body.lora_name
        if not self.config.adapter_root:
            raise ApiError(403, "adapters are not unloaded on request here: the server has no adapter_root")
        served = self.find(name)
        if served is self.first:
            raise ApiError(400, f"lora_name: {name} is the model itself", "lora_name")
        del self.models[name]
        await self.scheduler.between_calls(lambda: self.scheduler.retire(served.policy))
        return {"status": "unloaded", "id": name}

    async def tokenize(self, body: TokenizeRequest) -> dict[str, Any]:
        served = self.find(body.model)
        if body.messages is not None:
            ids = await run_in_threadpool(chat_ids, served, body.messages)
        else:
            (ids,) = await run_in_threadpool(prompt_ids, served, body.prompt or "")
        return {"count": len(ids), "max_model_len": served.max_length, "tokens": ids}

    async def chat_completions(self, body: ChatRequest, request: HttpRequest) -> Response:
        served = self.find(body.model)
        ids = await run_in_threadpool(chat_ids, served, body.messages)
        return await self._answer(request, served, body, [ids], bool(body.logprobs))

    async def completions(self, body: CompletionRequest, request: HttpRequest) -> Response:
        served = self.find(body.model)
        prompts = await run_in_threadpool(prompt_ids, served, body.prompt)
        suffix = await run_in_threadpool(ids_of, served.policy, body.suffix or "", "suffix")
        return await self._answer(request, served, body, prompts, body.logprobs is not None, suffix)

    async def _answer(
        self,
        request: HttpRequest,
        served: Served,
        asked: Asked,
        prompts: Sequence[tuple[int, ...]],
        logprobs: bool,
        suffix: tuple[int, ...] = (),
    ) -> Response:
        requests, seed = requests_for(served, asked, prompts, suffix)
        exchange = Exchange(self.scheduler, served, requests, asked.stops, request.state.client)
        seen = sum(len(ids) + len(suffix) for ids in prompts)
        reply = Reply(served, exchange.answers, seed, seen, logprobs, isinstance(asked, ChatRequest))
        if asked.stream:
            return EventStream(exchange, self._chunks(exchange, reply, asked.stream_options or StreamOptions()))
        with exchange:
            there = await unless_gone(request, exchange, self.config.timeout)
        return JSONResponse(reply.whole()) if there else Response(status_code=GONE)

    async def _chunks(self, exchange: Exchange, reply: Reply, options: StreamOptions) -> AsyncIterator[bytes]:
        for chunk in [*reply.opening(), *(reply.given() if options.include_unmasking else [])]:
            yield chunk
        try:
            async for index, call in exchange.run(self.config.timeout):
                if options.include_unmasking:
                    yield reply.unmasking(index, call)
                for chunk in reply.change(index):
                    yield chunk
        except ApiError as error:  # the status has been sent
            yield event(error.body)
            return
        for chunk in reply.closing(bool(options.include_usage)):
            yield chunk


class EventStream(StreamingResponse):
    """Server-sent events of an exchange, which ends with them, or with the client."""

    def __init__(self, exchange: Exchange, chunks: AsyncIterator[bytes]) -> None:
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self.exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.exchange:
            await super().__call__(scope, receive, send)


async def unless_gone(request: HttpRequest, exchange: Exchange, timeout: float) -> bool:
    """Wait until all answers are over, as long as the client is there; whether it still is."""

    async def run() -> None:
        async for _ in exchange.run(timeout):
            pass

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = work, _ = asyncio.create_task(run()), asyncio.create_task(watch())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
        return work.done()
    finally:
        for task in tasks:
            task.cancel()
