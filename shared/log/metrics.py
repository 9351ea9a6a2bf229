"""What the consumers of a process tell Prometheus. One object per process; every metric with unit and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

BATCH_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind a partition is: records not done, and the age of the oldest of them in seconds."""

    records: int
    seconds: float


class LogMetrics:
    """Metrics of consumers, by consumer group and topic."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("group", "topic")
        self._shown: dict[tuple[str, str], set[int]] = {}
        self.records = Counter(
            "threadline_log_records_processed", "Records done, committed with their state.", labels, registry=registry
        )
        self.quarantined = Counter(
            "threadline_log_records_quarantined", "Records put into quarantine.", labels, registry=registry
        )
        self.batches = Histogram(
            "threadline_log_batch_seconds",
            "From the first record of a batch in hand to its commit, in seconds.",
            labels,
            registry=registry,
            buckets=BATCH_BUCKETS_S,
        )
        self.retries = Counter(
            "threadline_log_retries", "Batches tried again after a passing failure.", labels, registry=registry
        )
        self.fenced = Counter(
            "threadline_log_fenced", "Batches let go because another member had done them.", labels, registry=registry
        )
        self.lag_records = Gauge(
            "threadline_log_lag_records",
            "Records between the group's stored offset and the end, of partitions this process owns.",
            (*labels, "partition"),
            registry=registry,
        )
        self.lag_seconds = Gauge(
            "threadline_log_lag_seconds",
            "Age in seconds of the oldest record not done, of partitions this process owns; 0 when all is done.",
            (*labels, "partition"),
            registry=registry,
        )

    def show_lag(self, group: str, topic: str, lag: Mapping[int, Lag]) -> None:
        """Show the lag of the partitions owned now, and forget those that were given away."""
        for key in self._shown.get((group, topic), set()) - lag.keys():
            self.lag_records.remove(group, topic, str(key))
            self.lag_seconds.remove(group, topic, str(key))
        for partition, behind in lag.items():
            self.lag_records.labels(group, topic, str(partition)).set(behind.records)
            self.lag_seconds.labels(group, topic, str(partition)).set(behind.seconds)
        self._shown[group, topic] = set(lag)
