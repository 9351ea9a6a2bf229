"""The HTTP client of the simulation: batches in flight, pacing, and patience with 429, 503 and lost connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import httpx
import orjson

from services.cli.traffic.events import Event
from services.cli.traffic.world import cloudevent
from shared.errors import SetupError

BATCH_TYPE = "application/cloudevents-batch+json"
PATIENCE_S = 60.0
LONGEST_NAME = 200
Acknowledged = Callable[[Sequence[Event]], None]


class SendingFailed(Exception):
    """The service did not take the traffic; the message is for the person at the terminal."""


class Client:
    """Posts events to one Threadline. Sending again is safe, so whatever was not acknowledged is sent again."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self.http, self.url = http, url.rstrip("/")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, key: str) -> AsyncIterator[Client]:
        """Open a client for `url` with `key`."""
        async with httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"}, timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False
        ) as http:
            yield cls(http, url)

    async def get(self, path: str) -> httpx.Response:
        """GET `path`, patiently. Raises SendingFailed."""
        return await self._patiently("GET", path)

    async def put(self, path: str, body: object) -> httpx.Response:
        """PUT `body` as JSON, patiently. Raises SendingFailed."""
        return await self._patiently("PUT", path, orjson.dumps(body), "application/json")

    async def post(self, events: Sequence[Event]) -> None:
        """Post `events` in one batch; returns once they are acknowledged. Raises SendingFailed."""
        answer = await self.send(orjson.dumps([cloudevent(event) for event in events]))
        if answer.status_code != 202:
            raise SendingFailed(f"{self.url} refused a batch of {len(events)} events: {problem(answer)}")

    async def send(self, batch: bytes) -> httpx.Response:
        """Post one batch as it stands, patiently, and return what is answered. Raises SendingFailed."""
        return await self._patiently("POST", "/v1/events", batch, BATCH_TYPE)

    async def send_file(
        self, source: str, id: str, place: int, content: bytes, name: str | None, media: str | None
    ) -> httpx.Response:
        """Send a file of an event that is posted afterwards, patiently, and return what is answered.

        Raises SendingFailed.
        """
        # The end of a name tells what it is; a URL is no place for all of a long one.
        given = {"source": source, "id": id, "place": place, **({"name": name[-LONGEST_NAME:]} if name else {})}
        header = media if media and media.isascii() and media.isprintable() else "application/octet-stream"
        return await self._patiently("POST", f"/v1/events/attachments?{urlencode(given)}", content, header)

    async def post_all(
        self, events: Iterable[Event], acknowledged: Acknowledged, batch: int = 500, in_flight: int = 4
    ) -> None:
        """Post `events` in order, `batch` a request, at most `in_flight` under way. Raises SendingFailed."""
        batches = in_batches(events, batch)

        async def work() -> None:
            for some in batches:
                await self.post(some)
                acknowledged(some)

        async with Together() as together:
            for _ in range(in_flight):
                together.start(work())

    async def _patiently(
        self, method: str, path: str, body: bytes | None = None, media: str | None = None
    ) -> httpx.Response:
        loop, headers = asyncio.get_running_loop(), {"Content-Type": media} if media else {}
        end, pause = loop.time() + PATIENCE_S, 0.2
        while True:
            try:
                answer = await self.http.request(method, self.url + path, content=body, headers=headers)
                if answer.status_code not in (429, 503):
                    return answer
                why, asked = problem(answer), answer.headers.get("Retry-After", "")
                wait = min(10.0, float(asked)) if asked.isdigit() else pause
            except httpx.TransportError as error:
                why, wait = f"{type(error).__name__} {error}".strip(), pause
            if loop.time() + wait > end:
                raise SendingFailed(f"{self.url} did not answer for {PATIENCE_S:.0f} s: {why}")
            await asyncio.sleep(wait)
            pause = min(5.0, pause * 2)


class Together:
    """A group of tasks that fail together, raising the first failure itself rather than a group of failures."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Together:
        return self

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Start one coroutine."""
        self._tasks.append(asyncio.create_task(work))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


def in_batches(events: Iterable[Event], size: int) -> Iterator[list[Event]]:
    """Cut `events` into lists of `size`; safe to share between tasks of one loop."""
    some: list[Event] = []
    for event in events:
        some.append(event)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some


async def told_by(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    """Return what a GET answers. Raises SetupError where it is not 200."""
    answer = await client.get(path, params=query)
    if answer.status_code != 200:
        raise SetupError(f"{path}: {problem(answer)}")
    return answer.json()


def problem(answer: httpx.Response) -> str:
    """Say in one line what an answer complains about."""
    try:
        body = answer.json()
        first = (body.get("errors") or [{}])[0]
        where = f" ({first['pointer']}: {first.get('detail', '')})" if "pointer" in first else ""
        return f"{answer.status_code} {body.get('title', '')} {body.get('detail') or ''}{where}".strip()
    except (ValueError, AttributeError, TypeError):
        return f"{answer.status_code} {answer.text[:120]}".strip()
