"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
CALLS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one server; what ends a completion is counted by `ended`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        gauge, counter = partial(Gauge, registry=self.registry), partial(Counter, registry=self.registry)
        seconds = partial(Histogram, registry=self.registry, buckets=SECONDS)
        self.waiting = gauge("diffpo_waiting", "Completions that wait for a slot")
        self.slots = gauge("diffpo_slots_in_use", "Completions that are decoded")
        self.version = gauge("diffpo_weights_version", "Updates that the weights have been through")
        self.calls = counter("diffpo_denoiser_calls", "Denoiser calls, of all rows together")
        self._tokens = counter("diffpo_tokens", "Tokens of completions, to the end of each")
        self._saved = counter("diffpo_calls_saved", "Tokens less calls of completions with a learned threshold")
        self._ended = counter("diffpo_completions", "Completions, by finish reason", ["reason"])
        self.answered = counter("diffpo_requests", "Requests, by path and status", ["path", "status"])
        self.wait = seconds("diffpo_wait_seconds", "From request to slot")
        self.first_block = seconds("diffpo_first_block_seconds", "From request to its first whole block")
        self._latency = seconds("diffpo_completion_seconds", "From request to the end of a completion")
        self._nfe = Histogram("diffpo_nfe", "Denoiser calls a completion", registry=self.registry, buckets=CALLS)

    def ended(self, seconds: float, reason: str, tokens: int, calls: int, learned: bool) -> None:
        self._latency.observe(seconds)
        self._ended.labels(reason).inc()
        self._tokens.inc(tokens)
        self._nfe.observe(calls)
        if learned:
            self._saved.inc(max(0, tokens - calls))

    @property
    def text(self) -> bytes:
        return generate_latest(self.registry)
