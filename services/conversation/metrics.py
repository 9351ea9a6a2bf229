"""What the conversation service counts of itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.conversation.update import Outcome


class ConversationMetrics:
    """Counters of events by what became of them, what is outstanding of changed policies, and what is set aside."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "threadline_conversation_events",
            "Events taken from the log, by outcome: new, repeated (known already), conflict (other content under a "
            "known id), copy (another event of a mail that has its entry), moved (stored entries that were placed "
            "elsewhere), aside (their decision is a large one, so the lane takes them and counts them again).",
            ["outcome"],
            registry=registry,
        )

        self._outstanding = Gauge(
            "threadline_conversation_policy_outstanding",
            "Handles and sessions, of all tenants, that are still decided under an identity policy before the one in "
            "force.",
            registry=registry,
        )

        self._aside = Gauge(
            "threadline_conversation_lane_events",
            "Events, of all tenants, that are set aside because their decision is a large one, and not decided yet.",
            registry=registry,
        )
        self._oldest_aside = Gauge(
            "threadline_conversation_lane_oldest_seconds",
            "For how long the oldest of them has been set aside, in seconds; 0 where there is none.",
            registry=registry,
        )

    def show_outstanding(self, leaves: int) -> None:
        """Show how much of changed policies is still to be carried out."""
        self._outstanding.set(leaves)

    def show_aside(self, events: int, oldest_s: float) -> None:
        """Show how much is set aside, and for how long the oldest has been."""
        self._aside.set(events)
        self._oldest_aside.set(oldest_s)

    def count(self, outcome: Outcome) -> None:
        """Count what a batch did. A batch that is rolled back and tried again counts again."""
        self._events.labels("new").inc(outcome.new)
        self._events.labels("repeated").inc(outcome.repeated)
        self._events.labels("conflict").inc(outcome.conflicts)
        self._events.labels("copy").inc(outcome.copies)
        self._events.labels("moved").inc(outcome.moved)
        self._events.labels("aside").inc(len(outcome.aside))


class LedgerMetrics:
    """What the database says about what was accepted, of all tenants. Every process shows the same."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.quarantined = Gauge(
            "threadline_quarantine_records",
            "Records held in quarantine now, until somebody retries or drops them.",
            registry=registry,
        )
        self.gaps = Gauge(
            "threadline_ledger_gaps",
            "Accepted events that a look at samples of the log found on no timeline, not in quarantine and not erased, "
            "and that are nowhere still. Anything but 0 is a loss.",
            registry=registry,
        )
        self.checked = Counter(
            "threadline_ledger_checked_events", "Accepted events that those looks looked up.", registry=registry
        )
