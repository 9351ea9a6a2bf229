"""Errors of Threadline, as one tree.

ThreadlineError
├── Retryable            may succeed later: back off, keep the order
│   ├── LogUnavailable       the log cannot be reached or did not acknowledge in time
│   └── DatabaseUnavailable  the database cannot be reached or gave up
├── Rejected             never will work: quarantine, with the reason
│   └── RecordTooLarge       the log refuses a record of this size
├── Fenced               another member owns the partition now: roll back and let go
├── LogTruncated         the log no longer holds the next offset: stop, never skip silently
├── SetupError           the process cannot start or a command cannot do its work: one line for the person there
└── Problem              an answer to a caller (RFC 9457), see shared/problems.py

Anything that is not in this tree is a bug: stop, commit nothing.
"""

from __future__ import annotations


class ThreadlineError(Exception):
    """Base of everything that Threadline raises on purpose."""


class Retryable(ThreadlineError):
    """It failed now and may succeed later."""


class LogUnavailable(Retryable):
    """The log cannot be reached, or it did not acknowledge in time."""


class DatabaseUnavailable(Retryable):
    """The database cannot be reached, or it gave up on us (restart, failover, time-out)."""


class Rejected(ThreadlineError):
    """It will never work; `reason` is a short sentence for the person who reads the quarantine."""

    def __init__(
        self, reason: str, *, tenant: str | None = None, source: str | None = None, event_id: str | None = None
    ) -> None:
        """`tenant`, `source` and `event_id` say whose event it is, as far as it is known."""
        super().__init__(reason)
        self.reason = reason
        self.tenant = tenant
        self.source = source
        self.event_id = event_id


class RecordTooLarge(Rejected):
    """The record is larger than the log takes."""


class Fenced(ThreadlineError):
    """The stored offset is not the one this member read from: another member owns the partition."""


class LogTruncated(ThreadlineError):
    """The log begins after the next offset to read: records are gone that were never processed."""


class SetupError(ThreadlineError):
    """A command cannot start or go on; the message is one line for the person at the terminal: what and what to do."""
