"""What the server counts, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
CALLS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one server; what ends a completion is counted by `ended`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.waiting = Gauge("diffpo_waiting", "Completions that wait for a slot", registry=registry)
        self.slots = Gauge("diffpo_slots_in_use", "Completions that are decoded", registry=registry)
        self.version = Gauge("diffpo_weights_version", "Updates that the weights have been through", registry=registry)
        self.calls = Counter("diffpo_denoiser_calls", "Denoiser calls, of all rows together", registry=registry)
        self._tokens = Counter("diffpo_tokens", "Tokens of completions, to the end of each", registry=registry)
        self._saved = Counter(
            "diffpo_calls_saved", "Tokens less calls of completions with a learned threshold", registry=registry
        )
        self._ended = Counter("diffpo_completions", "Completions, by finish reason", ["reason"], registry=registry)
        self.answered = Counter(
            "diffpo_requests", "Requests, by path and status", ["path", "status"], registry=registry
        )
        self.wait = Histogram("diffpo_wait_seconds", "From request to slot", registry=registry, buckets=SECONDS)
        self.first_block = Histogram(
            "diffpo_first_block_seconds", "From request to its first whole block", registry=registry, buckets=SECONDS
        )
        self._latency = Histogram(
            "diffpo_completion_seconds", "From request to the end of a completion", registry=registry, buckets=SECONDS
        )
        self._nfe = Histogram("diffpo_nfe", "Denoiser calls a completion", registry=registry, buckets=CALLS)

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
