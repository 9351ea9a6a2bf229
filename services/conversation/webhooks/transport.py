"""One POST to a place outside: looked up, every address judged, the judged one connected to, nobody followed anywhere.

The look-up and the connection are one step (`GuardedNetwork`), so a name that leads elsewhere a moment later gains
nothing: what was judged is what is called.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

import httpcore

from services.conversation.webhooks.addresses import Network, refusal
from services.conversation.webhooks.retrying import Answer, retry_after_s

READ_AT_MOST_BYTES = 65_536
BODY_AT_MOST_S = 2.0
"""How long what an answer says beyond its status is waited for."""
EXCERPT_CHARACTERS = 500
LOOK_UPS_AT_ONCE = 256
"""A silent name server keeps a thread for each of its names, for long; these are not the threads of the process."""
CONNECT_S = 3.0
"""How long one of several addresses is tried: one that is silent must not keep from those that would answer."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → addresses. Raises OSError where the name is not known."""


class Refused(Exception):
    """An address that is not called; the message says why, without the address."""


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to names whose every address is allowed, and to those addresses only."""

    def __init__(self, resolve: Resolve, refuse: Callable[[str], str | None]) -> None:
        self._resolve = resolve
        self._refuse = refuse
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect. Raises Refused, httpcore.ConnectError."""
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("its name is not known") from error
        for address in addresses:
            if (reason := self._refuse(address)) is not None:
                raise Refused(reason)
        failed: Exception = httpcore.ConnectError("its name has no address")
        each_s = timeout if len(addresses) == 1 else CONNECT_S
        for address in addresses:
            try:
                return await self._network.connect_tcp(address, port, each_s, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed


class Transport:
    """Posts, with connections kept for the next delivery to the same place. Use `open_transport`."""

    def __init__(
        self, resolve: Resolve, allowed: Sequence[Network], timeout_s: float, trusted: ssl.SSLContext | None = None
    ) -> None:
        """`allowed` are networks that may be reached although they are not outside; `timeout_s` lasts until the status.

        `trusted` says which certificates are; without it those that browsers trust.
        """
        self.timeout_s = timeout_s
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=trusted,
                max_connections=None,
                max_keepalive_connections=100,
                keepalive_expiry=15.0,
                network_backend=GuardedNetwork(resolve, _refuser(allowed, cleartext=scheme == "http")),
            )
            for scheme in ("https", "http")
        }

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post `body` and return what came of it. Never raises for what is the other side's doing."""
        begin = monotonic()

        def elapsed_ms() -> int:
            return round((monotonic() - begin) * 1000)

        def answer(error: str) -> Answer:
            return Answer(None, error, duration_ms=elapsed_ms())

        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                status, after_s, text = await self._exchange(url, headers, body, limit)
        except Refused as error:
            return answer(f"not called: {error}")
        except (TimeoutError, httpcore.TimeoutException):
            return answer(f"no answer within {self.timeout_s:g} s")
        except httpcore.ConnectError as error:
            return answer(f"cannot be reached: {_words(error)}")
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol, OSError) as error:
            return answer(f"the connection broke: {type(error).__name__}")
        except UnicodeError:
            return answer("not called: its host name cannot be written in DNS")
        return Answer(status, None, after_s, text, elapsed_ms())

    async def _exchange(
        self, url: str, headers: Mapping[str, str], body: bytes, limit: asyncio.Timeout
    ) -> tuple[int, float | None, str]:
        pool = self._pools[url.partition(":")[0].lower()]
        async with pool.stream("POST", url, headers=list(headers.items()), content=body) as response:
            limit.reschedule(None)  # the status is here: no body behind it has anything sent again
            given = {name.lower(): value for name, value in response.headers}
            header = given.get(b"retry-after", b"").decode("latin-1")
            read = await self._beginning_of(response)
            text = read[: EXCERPT_CHARACTERS * 4].decode(errors="replace").replace("\0", "\ufffd")
            return response.status, retry_after_s(header, datetime.now(UTC)), text[:EXCERPT_CHARACTERS]

    async def _beginning_of(self, response: httpcore.Response) -> bytes:
        """Return what there is to show of an answer's body, which may be endless, silent or cut off.

        What is not read is left where it is, with its connection.
        """
        read = bytearray()
        with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError):
            async with asyncio.timeout(min(BODY_AT_MOST_S, self.timeout_s)):
                async for chunk in response.aiter_stream():
                    read += chunk
                    if len(read) > READ_AT_MOST_BYTES:
                        break
        return bytes(read)

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()


def _refuser(allowed: Sequence[Network], *, cleartext: bool) -> Callable[[str], str | None]:
    return lambda address: refusal(address, allowed, cleartext=cleartext)


def _words(error: Exception) -> str:
    """Say what went wrong with a connection, without addresses."""
    text = str(error)
    for sign, words in (
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not valid for this name"),
        ("its name", text),
        ("SSL", "it does not speak TLS as it should"),
    ):
        if sign in text:
            return words
    return "nothing takes the connection"


@asynccontextmanager
async def open_transport(
    allowed: Sequence[Network],
    timeout_s: float,
    resolve: Resolve | None = None,
    trusted: ssl.SSLContext | None = None,
) -> AsyncIterator[Transport]:
    """Yield a transport that looks names up as the machine does, or with `resolve`."""
    threads = ThreadPoolExecutor(LOOK_UPS_AT_ONCE, thread_name_prefix="webhook-names")
    transport = Transport(resolve or _resolver(threads), allowed, timeout_s, trusted)
    try:
        yield transport
    finally:
        await transport.close()
        threads.shutdown(wait=False, cancel_futures=True)


def _resolver(threads: ThreadPoolExecutor) -> Resolve:
    def look_up(host: str, port: int) -> Sequence[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    asked: dict[tuple[str, int], asyncio.Future[Sequence[str]]] = {}

    def answered(key: tuple[str, int], found: asyncio.Future[Sequence[str]]) -> None:
        del asked[key]
        if not found.cancelled():
            found.exception()  # nobody may be waiting any more

    async def resolve(host: str, port: int) -> Sequence[str]:
        # Whoever asks for a name that is being looked up waits for the same answer, so that one name keeps one thread.
        key = host, port
        if key not in asked:
            asked[key] = asyncio.get_running_loop().run_in_executor(threads, look_up, host, port)
            asked[key].add_done_callback(partial(answered, key))
        return await asyncio.shield(asked[key])

    return resolve
