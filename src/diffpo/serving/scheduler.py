"""Continuous batching: one thread owns the engines, and rows of many clients join and leave between denoiser calls.

The event loop's side submits and cancels rows; the thread admits them from a fair queue to free slots, makes a call,
and tells each row what it did. What a row becomes is a function of its request alone (`diffpo.rollout.engine`), so
neither the queue nor its batch mates show in an answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakSet

from diffpo.models.policy import Policy
from diffpo.rollout.engine import Committed, Engine, Finished
from diffpo.serving.errors import ApiError
from diffpo.serving.metrics import Metrics
from diffpo.types import Request

LONGEST_RETRY = 60
"""Seconds after which a client that was sent away may come again, at most."""

log = logging.getLogger("diffpo.serving")


@dataclass(frozen=True, eq=False)
class Failed:
    """The call that a row was in raised."""

    error: Exception


Told = Committed | Failed


@dataclass(eq=False)
class Row:
    """A completion that somebody waits for."""

    client: str
    policy: Policy
    request: Request
    hear: Callable[[Told], None]
    """Called in the event loop with what each call commits."""
    cancelled: bool = False
    since: float = field(default_factory=time.monotonic)


News = tuple[Row, Told]


class FairQueue:
    """Rows that wait. Clients take turns, a row each; the rows of one client keep their order."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Row]] = {}  # the client whose turn it is first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def push(self, row: Row) -> None:
        self._lines.setdefault(row.client, deque()).append(row)
        self._length += 1

    def pop(self) -> Row:
        client, line = next(iter(self._lines.items()))
        row = line.popleft()
        del self._lines[client]
        if line:
            self._lines[client] = line  # at the end
        self._length -= 1
        return row

    def remove(self, rows: Iterable[Row]) -> None:
        """Take out those of `rows` that wait."""
        gone = set(rows)
        for client in {row.client for row in gone} & self._lines.keys():
            left = deque(row for row in self._lines[client] if row not in gone)
            self._length -= len(self._lines[client]) - len(left)
            self._lines[client] = left
            if not left:
                del self._lines[client]


class Scheduler:
    """Decodes at most `num_slots` rows at a time, of any policies; rows of one policy share their calls."""

    def __init__(self, num_slots: int, max_waiting: int, metrics: Metrics) -> None:
        self.num_slots, self.max_waiting, self.metrics = num_slots, max_waiting, metrics
        self._wake = threading.Condition()  # guards what follows
        self._waiting = FairQueue()
        self._orders: list[Callable[[], None]] = []
        self._stopping = False
        self._engines: dict[Policy, Engine] = {}  # the thread's own, as what follows
        self._rows: dict[tuple[Policy, int], Row] = {}  # by ticket
        self._retired: WeakSet[Policy] = WeakSet()
        self._seconds = 0.0  # that a row is in a slot, on average
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="diffpo-engine", daemon=True)
        metrics.waiting.set_function(lambda: len(self._waiting))
        metrics.slots.set_function(lambda: len(self._rows))

    # --- the event loop's side -------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= self.max_waiting

    def start(self) -> None:
        """Have rows told in the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the call that it is in; what is not over then is not heard of again."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def submit(self, rows: Sequence[Row]) -> None:
        """Queue all of `rows`; ApiError 429 if the queue is full."""
        with self._wake:
            if self.full:
                due = len(self._waiting) * self._seconds / self.num_slots
                wait = min(LONGEST_RETRY, 1 + math.ceil(due))
                said = f"{self.max_waiting} completions wait already: come again in {wait} s"
                raise ApiError(429, said, code="queue_full", headers={"Retry-After": str(wait)})
            for row in rows:
                self._waiting.push(row)
            self._wake.notify()

    def cancel(self, rows: Sequence[Row]) -> None:
        """Forget rows, whether they wait or are decoded; they leave before the next call."""
        for row in rows:
            row.cancelled = True
        with self._wake:
            self._waiting.remove(rows)
            self._orders.append(lambda: self._leave(rows))
            self._wake.notify()

    def between_calls(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Do `work` in the thread, between two calls; the future has its end or what it raised."""
        assert self._loop
        loop, done = self._loop, self._loop.create_future()

        def order() -> None:
            try:
                work()
            except Exception as error:  # whoever asked for it hears of it
                loop.call_soon_threadsafe(done.set_exception, error)
            else:
                loop.call_soon_threadsafe(done.set_result, None)

        with self._wake:
            self._orders.append(order)
            self._wake.notify()
        return done

    # --- the thread's side -----------------------------------------------------------------------------------------

    def engine(self, policy: Policy) -> Engine:
        """The engine of a policy; only for work between calls."""
        if policy not in self._engines:
            self._engines[policy] = Engine(policy, self.num_slots, stream=True)
        return self._engines[policy]

    def retire(self, policy: Policy) -> None:
        """Let go of a policy once its rows are over; only for work between calls."""
        self._retired.add(policy)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._orders or self._waiting or self._rows)
                if self._stopping:
                    return
                orders, self._orders = self._orders, []
                free = self.num_slots - len(self._rows)
                coming = [self._waiting.pop() for _ in range(min(free, len(self._waiting)))]
            for order in orders:
                order()
            news: list[News] = [(row, error) for row in coming if not row.cancelled and (error := self._admit(row))]
            for policy, engine in list(self._engines.items()):
                if engine.busy:
                    news += self._step(policy, engine)
                elif policy in self._retired:
                    del self._engines[policy]
            assert self._loop
            if news:
                self._loop.call_soon_threadsafe(_tell, news)

    def _admit(self, row: Row) -> Failed | None:
        try:
            ticket = self.engine(row.policy).submit(row.request)
        except ValueError as error:
            return Failed(error)
        self._rows[row.policy, ticket] = row
        self.metrics.wait.observe(time.monotonic() - row.since)
        row.since = time.monotonic()
        return None

    def _step(self, policy: Policy, engine: Engine) -> list[News]:
        """One call, and what to tell of it."""
        try:
            events = engine.step()
        except Exception as error:  # of the model: its rows are told, and the next begin in a fresh engine
            log.exception("a denoiser call failed")
            del self._engines[policy]
            return [(self._rows.pop(key), Failed(error)) for key in list(self._rows) if key[0] is policy]
        self.metrics.calls.inc()
        news = list[News]()
        for event in events:
            row = self._rows.get((policy, event.ticket))
            if row and isinstance(event, Finished):
                del self._rows[policy, event.ticket]
                self._seconds += 0.1 * (time.monotonic() - row.since - self._seconds)
            elif row and isinstance(event, Committed):
                news.append((row, event))
        return news

    def _leave(self, rows: Sequence[Row]) -> None:
        gone = set(rows)
        for policy, ticket in [key for key, row in self._rows.items() if row in gone]:
            self._engines[policy].cancel(ticket)
            del self._rows[policy, ticket]


def _tell(news: Sequence[News]) -> None:
    for row, event in news:
        if not row.cancelled:
            row.hear(event)
