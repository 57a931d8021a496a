"""The completions of one HTTP request, from their place in the queue to their ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from diffpo.rollout.engine import Committed
from diffpo.serving.answer import Transcript
from diffpo.serving.asking import Served
from diffpo.serving.errors import ApiError
from diffpo.serving.scheduler import Failed, Row, Scheduler, Told
from diffpo.types import Request


class Exchange:
    """Queues its rows, or raises ApiError 429 if there is no room; a context that cancels on exit what is not over.

    So an answer that nobody waits for any more, because its client is gone, costs no further call.
    """

    def __init__(
        self, scheduler: Scheduler, served: Served, requests: Sequence[Request], stops: Sequence[str], client: str
    ) -> None:
        self.scheduler, self.served = scheduler, served
        self.answers = [Transcript(served.policy, request, stops) for request in requests]
        self._news: asyncio.Queue[tuple[int, Told]] = asyncio.Queue()
        self._rows = [
            Row(client, served.policy, request, lambda event, index=index: self._news.put_nowait((index, event)))
            for index, request in enumerate(requests)
        ]
        self._left = len(requests)
        self._began = time.monotonic()
        self._in_first_block = set(range(len(requests)))
        scheduler.submit(self._rows)

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:
            self.scheduler.cancel(self._rows)

    async def run(self, timeout: float) -> AsyncIterator[tuple[int, Committed]]:
        """The index of an answer that has changed, and the call that changed it, until all answers are over.

        ApiError if they are not within `timeout` seconds, or if the model fails.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        while self._left:
            try:
                async with asyncio.timeout_at(deadline):
                    index, event = await self._news.get()
            except TimeoutError:
                said = f"not done within {timeout:g} s, the server's limit: ask for fewer tokens or completions"
                raise ApiError(408, said, code="timeout") from None
            answer = self.answers[index]
            if answer.over:
                continue  # what was on its way when it was
            if isinstance(event, Failed):
                raise ApiError(500, f"the model failed: {event.error}", code="model_failed")
            answer.take(event)
            self._count(index, answer)
            if answer.over:
                self._left -= 1
                self.scheduler.cancel([self._rows[index]])  # a stop may have come before its end
            yield index, event

    def _count(self, index: int, answer: Transcript) -> None:
        metrics, seconds = self.scheduler.metrics, time.monotonic() - self._began
        if index in self._in_first_block and (answer.over or answer.settled >= answer.request.block_length):
            self._in_first_block.remove(index)
            metrics.first_block.observe(seconds)
        if answer.over:
            learned = answer.request.sampler.rule == "learned"
            metrics.ended(seconds, answer.finish_reason, answer.settled, answer.denoiser_calls, learned)
