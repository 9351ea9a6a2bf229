"""What ingest tells Prometheus about itself: throughput, how long durability took, what was refused and why."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class IngestMetrics:
    """All metrics of the ingest service."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter(
            "threadline_ingest_events_accepted",
            "Events acknowledged to their senders (repetitions included).",
            ("door",),
            registry=registry,
        )
        self.refused = Counter(
            "threadline_ingest_requests_refused",
            "Requests answered 4xx by ingest, by status.",
            ("door", "status"),
            registry=registry,
        )
        self.forged = Counter(
            "threadline_ingest_webhooks_forged",
            "Webhook deliveries without proof that they come from their provider, by provider. Nothing else is kept.",
            ("provider",),
            registry=registry,
        )
        self.quarantined = Counter(
            "threadline_ingest_webhooks_quarantined",
            "Parts of genuine webhook deliveries that could not be understood and were kept, by provider.",
            ("provider",),
            registry=registry,
        )
        self.append_seconds = Histogram(
            "threadline_ingest_append_seconds",
            "From validated events in hand to the log's word that it has them durably, in seconds per request.",
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
        )
        self.blobs = Counter(
            "threadline_ingest_blobs",
            "Events whose data was too large for a record and went to the database.",
            registry=registry,
        )
        self.attachments = Counter(
            "threadline_ingest_attachments", "Files of events that went to the database.", registry=registry
        )
        self.held_bytes = Gauge(
            "threadline_ingest_held_bytes", "Bytes of request bodies being taken now.", registry=registry
        )
