"""What outgoing webhooks tell Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.conversation.webhooks.deliveries import Settled
from services.conversation.webhooks.retrying import Answer


class WebhookMetrics:
    """Attempts of this process, and what waits in the database."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._attempts = Counter(
            "threadline_webhook_attempts",
            "Attempts to deliver, by outcome: delivered, failed (to be tried again), dead (the last one failed), gone "
            "(answered 410: the endpoint was disabled).",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("delivered", "failed", "dead", "gone"):
            self._attempts.labels(outcome)  # from zero: an increase from nothing is none to Prometheus
        self._seconds = Histogram(
            "threadline_webhook_attempt_seconds",
            "From the look-up of the endpoint's name to its whole answer, in seconds.",
            registry=registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0),
        )
        self._gauges = {
            name: Gauge(f"threadline_webhook_{metric}", meaning, registry=registry)
            for name, metric, meaning in (
                ("pending", "pending", "Deliveries that wait, at all endpoints."),
                ("dead", "dead_letters", "Dead letters that are kept, of all endpoints."),
                (
                    "oldest_due_s",
                    "oldest_due_seconds",
                    "For how long the oldest delivery that is due has waited, in seconds, at enabled endpoints.",
                ),
                ("disabled", "disabled_endpoints", "Endpoints that are disabled, by somebody or by answering 410."),
            )
        }

    def count(self, answer: Answer, settled: Settled) -> None:
        """Count one attempt."""
        outcome = "gone" if settled.gone else {"d": "delivered", "x": "dead"}.get(settled.state, "failed")
        self._attempts.labels(outcome).inc()
        self._seconds.observe(answer.duration_ms / 1000)

    def show(self, backlog: Mapping[str, Any]) -> None:
        """Show the backlog as it is in the database."""
        for name, gauge in self._gauges.items():
            gauge.set(backlog[name])
