"""A receiver of webhooks on this machine: a real HTTP server that verifies what comes and answers as it is told."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks.webhooks import Webhook

HANG = "hang"
HELD = "held"


@dataclass(frozen=True)
class Delivery:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def entry(self) -> Any:
        return self.json["data"]["entry"]


Reply = int | str | tuple[int, dict[str, str]]
"""A status, a status with headers, HANG, or HELD: what `answer` says once `released` is set."""


@dataclass
class Receiver:
    """`answer` decides for each delivery; what got a 2xx is `taken`, everything that came is `seen`."""

    port: int = 0
    scheme: str = "http"
    answer: Callable[[Delivery], Reply] = lambda _: 204
    seen: list[Delivery] = field(default_factory=list)
    taken: list[Delivery] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: int = 0
    most_at_once: int = 0

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def texts(self) -> list[str]:
        return [delivery.entry["text"] for delivery in self.taken]

    def verified_by(self, secret: str) -> list[Any]:
        """Return the bodies taken; fails where one is not signed with `secret`."""
        return [Webhook(secret).verify(delivery.body, delivery.headers) for delivery in self.taken]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and await self._one(head.decode(), reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        delivery = Delivery(first.split(" ")[1], headers, body)
        self.seen.append(delivery)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            reply = self.answer(delivery)
            if reply in (HANG, HELD):
                await self.released.wait()
                if reply == HANG:
                    return False
                reply = self.answer(delivery)
        finally:
            self.at_once -= 1
        status, given = reply if isinstance(reply, tuple) else (int(reply), {})
        if 200 <= status < 300:
            self.taken.append(delivery)
        told = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{told}\r\n".encode())
        await writer.drain()
        return True


@asynccontextmanager
async def receiving(port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a receiver on 127.0.0.1."""
    receiver = Receiver(scheme="https" if tls else "http")
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.close()
