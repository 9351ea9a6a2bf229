"""`threadline simulate`: lifelike omnichannel traffic over HTTP, seeded, with its truth written down."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from services.cli.traffic.client import Client, SendingFailed, problem
from services.cli.traffic.events import Event
from services.cli.traffic.mix import Mix, described
from services.cli.traffic.truth import truth
from services.cli.traffic.world import Courier, Going, World, deliveries

TICK_S = 0.05


def simulate(
    url: Annotated[str, typer.Option(help="Where Threadline answers.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="THREADLINE_KEY", help="A key with the scope events:write.")] = "",
    customers: Annotated[
        int | None, typer.Option(min=0, help="How many people there are (history: 200; live: no limit).")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.1, help="Events per second, happening now. Without it: the past, as fast as possible."),
    ] = None,
    duration: Annotated[float | None, typer.Option(min=0, help="Seconds after which to stop.")] = None,
    days: Annotated[float | None, typer.Option(min=0, help="Days of history (28, or 0 with --rate).")] = None,
    seed: Annotated[int, typer.Option(help="Same seed and same --end: same events.")] = 1,
    end: Annotated[datetime | None, typer.Option(help="The instant (UTC) at which history ends; default now.")] = None,
    truth_file: Annotated[Path | None, typer.Option("--truth", help="Where to write who is who.")] = None,
    tenant: Annotated[str, typer.Option(help="The key's tenant, as the truth names it.")] = "default",
    agents: Annotated[int, typer.Option(min=4, help="How many agents answer.")] = 24,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Events per request.")] = 500,
    mix: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, a figure of the mix; may be repeated.")] = None,
    show_mix: Annotated[bool, typer.Option("--show-mix", help="Print the figures of the mix and end.")] = False,
) -> None:
    """Post lifelike omnichannel traffic: people with several handles, chats that go on by mail and phone, agents."""
    if show_mix:
        print_mix()
        return
    if not key:
        _fail("no key: give --key or THREADLINE_KEY", code=2)
    try:
        chosen = Mix().change(mix or ())
    except ValueError as error:
        _fail(str(error), code=2)
    now = end.replace(tzinfo=end.tzinfo or UTC) if end else datetime.now(UTC).replace(microsecond=0)
    span = days if days is not None else (0.0 if rate else 28.0)
    people = customers if customers is not None else 200
    world = World(
        seed, people if span else 0, now.timestamp() - span * 86_400, now.timestamp(), chosen, agents
    )  # fmt: skip
    run = Run(world, url, key, batch, rate, duration, customers)
    try:
        asyncio.run(run.post())
    except (SendingFailed, KeyboardInterrupt) as error:
        run.stopped = str(error) or "interrupted"
    finally:
        # What was acknowledged is true whether or not the rest was.
        if truth_file:
            write_truth(truth_file, run.sent, tenant, seed)
    if run.stopped:
        _fail(run.stopped)
    Console(stderr=True).print(f"{run.posted} events posted ({len(run.sent)} different) in {run.seconds:.1f} s")


MOST_AHEAD = 500_000
"""Most events begun and still to come, about 1 kB each: a matter goes on for hours or days after its first event."""


class Run:
    """One run of the simulation, and what was acknowledged so far."""

    def __init__(
        self,
        world: World,
        url: str,
        key: str,
        batch: int,
        rate: float | None,
        duration: float | None,
        people: int | None,
    ) -> None:
        self.world, self.url, self.key, self.batch = world, url, key, batch
        self.rate, self.duration, self.people = rate, duration, people
        self.sent: dict[tuple[str, str], Event] = {}
        self.posted, self.seconds, self.stopped = 0, 0.0, ""

    async def post(self, quiet: bool = False) -> None:
        """Post the history, then what happens now. Raises SendingFailed."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with Client.open(self.url, self.key) as client:
            await check(client)
            with progress(quiet) as bar:
                if self.world.end > self.world.start:
                    await self._history(client, bar)
                if self.rate:
                    await self._live(client, bar, self.rate)
        self.seconds = loop.time() - began

    async def _history(self, client: Client, bar: Progress) -> None:
        task = bar.add_task("history", total=None)
        events = deliveries(self.world)
        if self.duration is not None and not self.rate:
            events = _until(events, asyncio.get_running_loop().time() + self.duration)
        await client.post_all(events, lambda some: self._acknowledged(some, bar, task), self.batch)
        bar.update(task, total=self.posted)

    async def _live(self, client: Client, bar: Progress, rate: float) -> None:
        task = bar.add_task("live", total=round(rate * self.duration) if self.duration else None)
        going, courier = (
            Going(self.world, self.people if not self.world.customers else None),
            Courier(self.world.seed + 1, self.world.mix),
        )
        loop, allowance = asyncio.get_running_loop(), 0.0
        last = began = loop.time()
        while self.duration is None or last - began < self.duration:
            now = datetime.now(UTC).timestamp()
            while allowance >= 1:
                event = going.due(now)
                if event is None:
                    # Events have whole milliseconds: somebody new must have begun a moment ago to be heard now.
                    if len(going.waiting) > MOST_AHEAD or not going.begin(now - 0.01):
                        break
                    event = going.due(now)
                if event is None:
                    break
                courier.take(event)
                allowance -= 1
            arrived = list(courier.arrived(now))
            for start in range(0, len(arrived), self.batch):
                some = arrived[start : start + self.batch]
                await client.post(some)
                self._acknowledged(some, bar, task)
            await asyncio.sleep(TICK_S)
            allowance = min(rate * 2, allowance + (loop.time() - last) * rate)
            last = loop.time()

    def _acknowledged(self, events: Sequence[Event], bar: Progress, task: object) -> None:
        for event in events:
            self.sent.setdefault((event.source, event.id), event)
        self.posted += len(events)
        bar.update(task, advance=len(events))  # type: ignore[arg-type]


def _until(events: Iterator[Event], end: float) -> Iterator[Event]:
    loop = asyncio.get_running_loop()
    for event in events:
        if loop.time() >= end:
            return
        yield event


async def check(client: Client) -> None:
    """Find out with one request whether the key may post. Raises SendingFailed."""
    try:
        answer = await client.http.post(
            client.url + "/v1/events",
            content=b"[]",
            headers={"Content-Type": "application/cloudevents-batch+json"},
        )
    except httpx.InvalidURL as error:
        raise SendingFailed(f"{client.url} is no address: {error}") from error
    except httpx.TransportError as error:
        raise SendingFailed(f"nothing answers at {client.url}: {error or type(error).__name__}") from error
    if answer.status_code not in (202, 429, 503):
        raise SendingFailed(f"{client.url} does not take events with this key: {problem(answer)}")


def write_truth(path: Path, sent: dict[tuple[str, str], Event], tenant: str, seed: int) -> None:
    """Write who is who and which conversation is which among the acknowledged events."""
    path.write_bytes(orjson.dumps(truth(sent.values(), tenant, seed), option=orjson.OPT_INDENT_2))


def progress(quiet: bool = False) -> Progress:
    """Return the progress bar of this command, on stderr."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), disable=quiet or not sys.stderr.isatty(),
    )  # fmt: skip


def print_mix() -> None:
    """Print every figure of the mix with its default and meaning."""
    table = Table("name", "default", "meaning")
    for name, default, meaning in described():
        table.add_row(name, f"{default:g}", meaning)
    Console().print(table)


def _fail(message: str, code: int = 1) -> None:
    typer.echo(f"threadline simulate: {message}", err=True)
    raise typer.Exit(code)
