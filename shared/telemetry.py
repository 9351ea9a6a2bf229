"""What a process tells about itself: log lines without secrets, and the metrics of its HTTP side.

Metrics of the log's consumers are in shared/log/metrics.py, those of a service beside it. Each has its unit in its
name (`_seconds`, `_bytes`, or a count) and its meaning in its help text; `catalogue` lists them all.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from traceback import extract_tb
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

HTTP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

FRAMES = 12
"""So many of an error's innermost frames are told."""

_SECRETS = (
    (re.compile(r"\btls?_[A-Za-z0-9_-]{16,}"), "tl_***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(\w+://[^\s:/@]*):[^\s@]*@"), r"\1:***@"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), "whsec_***"),
)
_SECRET_NAMES = re.compile(r"(?i)(secret|password|token|authorization|cookie|api_?key|^key$)")


def without_secrets(text: str) -> str:
    """Return `text` with keys, credentials and passwords in addresses blotted out."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _blot(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if _SECRET_NAMES.search(name):
            event[name] = "***"
        elif isinstance(value, str):
            event[name] = without_secrets(value)
    return event


def frames_of(error: BaseException) -> list[str]:
    """Return where an error was raised, the innermost last."""
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(error.__traceback__)][-FRAMES:]


def _kind_and_frames(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Tell of an error, ours or a library's, its kind and place: its text may quote what a customer wrote."""
    given = event.pop("exc_info", None)
    error = sys.exc_info()[1] if given is True else given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["kind"], event["frames"] = type(error).__name__, frames_of(error)
    return event


def configure_logging(level: str = "info", *, json_lines: bool = True) -> None:
    """Send every log line of the process to stderr, as JSON or (at a terminal) as text. Safe to call again."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.stdlib.PositionalArgumentsFormatter(),
        _kind_and_frames,
        _blot,
    ]
    last = structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=False)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiokafka", "httpx", "httpcore", "asyncio", "alembic", "uvicorn", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def logger(name: str = "threadline") -> Any:
    """Return a logger: `logger().info("what happened", field=value)`."""
    return structlog.stdlib.get_logger(name)


class HttpMetrics:
    """What the HTTP side of a process tells Prometheus, by method, route template and status class."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "threadline_http_request_seconds",
            "From the first byte of a request in hand to the last byte of its answer, in seconds.",
            ("method", "route", "status"),
            registry=registry,
            buckets=HTTP_BUCKETS_S,
        )
        self.refused = Counter(
            "threadline_http_refused",
            "Requests refused because of their key: 401 none or not good, 403 without the scope.",
            ("status",),
            registry=registry,
        )


def catalogue(registry: CollectorRegistry) -> list[dict[str, str]]:
    """Return every metric of `registry`: name, type, meaning."""
    return [
        {"name": family.name, "type": family.type, "meaning": family.documentation} for family in registry.collect()
    ]
