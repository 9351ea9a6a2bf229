"""What ingest is compared with: the least route that makes one posted body durable. No key, no checks, no identity.

`python -m bench._bare_ingest --database URL` appends with the log that Threadline uses; with `--kafka HOST:PORT` it
sends with aiokafka alone (idempotent, acks=all, lz4). Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import asyncpg
import orjson
import uvicorn
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from fastapi import FastAPI, Request, Response

from shared.log.postgres import postgres_log
from shared.log.protocol import Outgoing

TOPIC = "bare.v1"

Append = Callable[[Sequence[tuple[bytes, bytes]]], Awaitable[object]]


def bare_app(append: Append) -> FastAPI:
    """Return an app with one route: parse the body, append it, answer 202."""
    app = FastAPI()

    @app.post("/v1/events")
    async def take(request: Request) -> Response:
        event = orjson.loads(await request.body())
        events = event if isinstance(event, list) else [event]
        await append([(each["id"].encode(), orjson.dumps(each)) for each in events])
        return Response(b"{}", 202, media_type="application/json")

    return app


async def kafka_append(kafka: str, stack: AsyncExitStack) -> Append:
    """Return an append over a bare aiokafka producer."""
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka, enable_idempotence=True, acks="all", compression_type="lz4", linger_ms=0
    )
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(f"threadline.{TOPIC}", num_partitions=8, replication_factor=1)])
    await admin.close()
    await producer.start()
    stack.push_async_callback(producer.stop)

    async def append(records: Sequence[tuple[bytes, bytes]]) -> object:
        return await asyncio.gather(
            *[await producer.send(f"threadline.{TOPIC}", value, key=key) for key, value in records]
        )

    return append


async def postgres_append(database: str, stack: AsyncExitStack) -> Append:
    """Return an append over the PostgreSQL log."""
    pool = await stack.enter_async_context(asyncpg.create_pool(database, min_size=4, max_size=16))
    log = await stack.enter_async_context(postgres_log(pool, retention=None))

    async def append(records: Sequence[tuple[bytes, bytes]]) -> object:
        return await log.append(TOPIC, [Outgoing(key, value) for key, value in records])

    return append


async def main(database: str, kafka: str | None) -> None:
    """Serve until the process is ended."""
    async with AsyncExitStack() as stack:
        append = await (kafka_append(kafka, stack) if kafka else postgres_append(database, stack))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(
            bare_app(append), http="httptools", lifespan="off", log_level="warning", access_log=False
        )
        await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", required=True)
    parser.add_argument("--kafka")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.database, arguments.kafka))
