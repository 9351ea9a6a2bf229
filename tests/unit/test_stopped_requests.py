"""What a stop cuts off is told to come again."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from shared.telemetry import HttpMetrics
from shared.web import Guard


async def test_a_request_that_a_stop_cuts_off_is_answered_503() -> None:
    began = asyncio.Event()
    sent: list[Any] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    guard = Guard(endless, limits={}, metrics=HttpMetrics(CollectorRegistry()))
    scope = {"type": "http", "method": "POST", "path": "/v1/events", "headers": []}
    request = asyncio.create_task(guard(scope, receive, send))
    await began.wait()
    request.cancel()
    await request
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after") in dict(start["headers"])
    assert "stopped" in orjson.loads(body["body"])["detail"]
