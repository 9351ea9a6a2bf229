"""CPU time of one delivery in each channel adapter: proof, parsing, events. No network, no database.

The deliveries are the recorded ones of the contract suite, all kinds of a provider in turn. The base is what reading
the same bytes as one posted CloudEvent costs (parsing and validation of an event of the same size).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import orjson

from bench.report import Row, show
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import RawRequest, receive
from services.ingest.reading import read_json
from services.ingest.validation import validate
from tests.contract.adapters.providers import NOW, PROVIDERS, Provider
from tests.contract.adapters.recorded import recorded

SECONDS = 0.3
"""CPU seconds to measure each provider for."""


def rows() -> Sequence[Row]:
    """Return microseconds per delivery, by provider."""
    requests: dict[str, list[RawRequest]] = defaultdict(list)
    for record in recorded():
        requests[record.provider.name].append(record.provider.sign(record.signing, record.provider.secrets[0]))
    return [_row(PROVIDERS[name], given) for name, given in requests.items()]


def _row(provider: Provider, requests: list[RawRequest]) -> Row:
    adapter, account = ADAPTERS[provider.name], provider.account()

    def take() -> None:
        for request in requests:
            receive(adapter, request, account)

    size = sum(len(request.body) for request in requests) // len(requests)
    event = orjson.dumps(_posted(size))

    def post() -> None:
        validate(read_json(event), "t1", NOW)

    cost_us = _cpu_us(take) / len(requests)
    return Row(f"{provider.name}: a delivery", cost_us, "µs", "a posted CloudEvent of that size", _cpu_us(post))


def _posted(size_bytes: int) -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": "e1",
        "source": "/bench",
        "type": "threadline.message.received",
        "time": "2026-03-03T09:58:00Z",
        "data": {"channel": "chat", "contact_id": "c1", "text": "a" * size_bytes},
    }


def _cpu_us(work: Callable[[], None]) -> float:
    work()
    count, started = 0, time.process_time()
    while time.process_time() - started < SECONDS:
        work()
        count += 1
    return (time.process_time() - started) / count * 1e6


if __name__ == "__main__":
    show(rows())
