"""A connection that tests cut: a TCP proxy in this process, between a page and a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Line:
    """A proxy on `port`. While `cut`, nobody gets through; while `one_way`, answers get lost."""

    port: int
    cut: bool = False
    one_way: bool = False
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def break_off(self) -> None:
        """Cut the line: what is open is reset, what is new is refused."""
        self.cut = True
        self.hang_up()

    def hang_up(self) -> None:
        """Break what is open; new connections get through."""
        for writer in self.writers:
            writer.transport.abort()


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    """Open a line to a port of this machine."""
    line = Line(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if line.cut:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
        ends = {writer, there_writer}
        line.writers |= ends
        try:
            await asyncio.gather(
                _pass_on(reader, there_writer, line, answers=False), _pass_on(there_reader, writer, line, answers=True)
            )
        finally:
            line.writers -= ends
            for end in ends:
                end.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    line.port = server.sockets[0].getsockname()[1]
    try:
        yield line
    finally:
        line.break_off()
        server.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line, *, answers: bool) -> None:
    try:
        while chunk := await reader.read(65_536):
            if answers and line.one_way:
                continue
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        return
    finally:
        writer.transport.abort()
