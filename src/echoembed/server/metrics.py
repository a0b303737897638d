"""The metrics of ``/metrics``, in Prometheus's format: no texts, no keys, and no labels that a client chooses."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FILL = (0.1, 0.25, 0.5, 0.75, 0.9, 1, 2)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests answered.", ("route", "status"))
        self.texts = self._counter("texts", "Texts embedded, by template.", ("kind",))
        self.tokens = self._counter("tokens", "Tokens of prompts that the model read for answered requests.")
        self.truncated_texts = self._counter("truncated_texts", "Texts that were cut because truncation was asked for.")
        self.truncated_tokens = self._counter("truncated_tokens", "Tokens of text that were cut off.")
        self.cancelled_tokens = self._counter("cancelled_tokens", "Tokens not computed because the client had gone.")
        self.model_seconds = self._counter("model_seconds", "Seconds the model has run.")
        self.model_tokens = self._counter("model_tokens", "Tokens the model has run on.")
        self.latency = self._histogram("request_seconds", "From headers to the last byte.", _SECONDS, ("route",))
        self.waited = self._histogram("queue_seconds", "From the queue to the model.", _SECONDS)
        self.fill = self._histogram("pack_fill", "Tokens of a pack, as a share of what it takes.", _FILL)
        self.queue_tokens = self._gauge("queue_tokens", "Tokens that wait for the model.")
        self.queue_requests = self._gauge("queue_requests", "Requests that wait for the model.")
        self.held_bytes = self._gauge("held_bytes", "Bytes of bodies and answers in memory.")
        self.in_flight = self._gauge("in_flight_requests", "Requests that were accepted and are not answered yet.")
        self.up = self._gauge("up", "Whether the model can run and new requests are taken.")

    def pack(self, tokens: int, seconds: float, size: int) -> None:
        """Count a pack that the model has run."""
        self.model_seconds.inc(seconds)
        self.model_tokens.inc(tokens)
        self.fill.observe(tokens / size)

    def text(self) -> bytes:
        """Return the metrics as text."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help_: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"echoembed_{name}", help_, labels, registry=self.registry)

    def _gauge(self, name: str, help_: str) -> Gauge:
        return Gauge(f"echoembed_{name}", help_, registry=self.registry)

    def _histogram(self, name: str, help_: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(f"echoembed_{name}", help_, labels, buckets=buckets, registry=self.registry)
