"""`threadline demo`: Threadline on a temporary folder, days of lifelike traffic, and the pages to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from secrets import token_urlsafe
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.console import Console

from services.cli.simulate import Run
from services.cli.temporary import free_port, on_a_temporary_folder
from services.cli.traffic.client import SendingFailed, problem, told_by
from services.cli.traffic.mix import Mix
from services.cli.traffic.people import person
from services.cli.traffic.world import World
from shared.errors import SetupError

SETTLE_S = 180.0
SAMPLE = 20
"""How many of the last posted events are waited for before the pages are shown."""

SHOWN_KPIS = ("messages_received", "messages_sent", "conversations_opened", "first_reply_time", "csat_ratio")


def demo(
    port: Annotated[int | None, typer.Option(min=0, help="Port to listen on; default 8080, or a free one.")] = None,
    customers: Annotated[int, typer.Option(min=1, help="How many people the history has.")] = 250,
    days: Annotated[float, typer.Option(min=0.1, help="Days of history.")] = 7,
    rate: Annotated[float, typer.Option(min=0.1, help="Live events per second.")] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same people.")] = 1,
    duration: Annotated[
        float | None, typer.Option(min=0, help="Seconds of live traffic; default until Ctrl-C.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End with 0 once customers and KPIs were seen.")] = False,
) -> None:
    """Start Threadline on a temporary folder, fill it with lifelike traffic, and print the pages to open."""
    now = datetime.now(UTC).timestamp()
    world = World(seed, customers, now - days * 86_400, now)
    asyncio.run(_Demo(world, port, rate, 0.0 if once else duration).show())


class _Demo:
    """One demonstration."""

    def __init__(self, world: World, port: int | None, rate: float, duration: float | None) -> None:
        self.world, self.rate, self.duration = world, rate, duration
        self.port = port if port is not None else free_port()
        self.console = Console(highlight=False)

    async def show(self) -> None:
        """Show everything, then clean up, however it ends. Raises SetupError."""
        try:
            await on_a_temporary_folder("threadline-demo-", self.port, self._course)
        except SendingFailed as error:
            raise SetupError(str(error)) from error

    async def _course(self, url: str, key: str) -> None:
        say = self.console.print
        say(f"Threadline runs at {url}. Posting {self.world.customers} people's last days …")
        history = Run(self.world, url, key, 500, None, None, None)
        await history.post()
        say(f"{history.posted} events posted in {history.seconds:.1f} s ({history.posted / history.seconds:.0f}/s).")
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False
        ) as client:
            await self._all_there(client, history)
            best = await self._best_customers(client)
            self._print_pages(url, key, await _chat(client), best)
            if self.duration == 0:
                return
            say(
                "\nLive traffic goes on"
                + (f" for {self.duration:g} s." if self.duration else "; Ctrl-C ends it and removes everything.")
            )
            now = datetime.now(UTC).timestamp()
            live = Run(World(self.world.seed + 1, 0, now, now, Mix()), url, key, 100, self.rate, self.duration, None)
            showing = asyncio.create_task(self._show_kpis(client))
            try:
                await live.post(quiet=True)
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)

    async def _all_there(self, client: httpx.AsyncClient, history: Run) -> None:
        """Wait until what was posted is on timelines and counted. Raises SetupError."""
        last = list(history.sent)[-SAMPLE:]
        messages = sum(event.type == "threadline.message.received" for event in history.sent.values())
        with self.console.status("waiting until all of it is on timelines and counted"):
            for source, name in last:
                there = partial(self._on_timeline, client, source, name)
                await self._until(there, f"{name} is on no timeline")
            await self._until(partial(self._counted, client, messages), "messages_received is not complete")

    async def _on_timeline(self, client: httpx.AsyncClient, source: str, name: str) -> bool:
        answer = await client.get("/v1/events/status", params={"source": source, "id": name})
        return answer.status_code == 200 and answer.json()["status"] == "on_timeline"

    async def _counted(self, client: httpx.AsyncClient, messages: int) -> bool:
        value, _ = await self._kpi(client, "messages_received")
        return value is not None and value >= messages

    async def _until(self, condition: Callable[[], Awaitable[bool]], fault: str) -> None:
        end = asyncio.get_running_loop().time() + SETTLE_S
        while not await condition():
            if asyncio.get_running_loop().time() > end:
                raise SetupError(f"after {SETTLE_S:.0f} s {fault}")
            await asyncio.sleep(0.2)

    async def _best_customers(self, client: httpx.AsyncClient) -> Sequence[dict[str, Any]]:
        """Return the customers that were seen on most channels."""
        people = (person(self.world.seed, number, self.world.mix) for number in range(self.world.customers))
        found: list[dict[str, Any]] = []
        for who in sorted(people, key=lambda one: -len(one.channels))[:40]:
            found += (await told_by(client, "/v1/customers", handle=f"crm:{who.crm}"))["customers"]
        return sorted(found, key=lambda one: -len(one["channels"]))[:5]

    async def _kpi(self, client: httpx.AsyncClient, name: str) -> tuple[float | None, str]:
        """Return the value over the demo's whole span, and its unit."""
        start, end = datetime.fromtimestamp(self.world.start, UTC), datetime.now(UTC) + timedelta(minutes=1)
        answer = await told_by(client, f"/v1/kpis/{name}", start=start.isoformat(), end=end.isoformat())
        return answer["total"]["value"], answer["unit"]

    async def _show_kpis(self, client: httpx.AsyncClient) -> None:
        """Keep a line of KPIs up to date: rewritten on a terminal, printed anew each minute elsewhere."""
        terminal = self.console.is_terminal
        while True:
            line = "   ".join([f"{name} {_number(*await self._kpi(client, name))}" for name in SHOWN_KPIS])
            if terminal:
                self.console.print(line, end="\r")
            else:
                print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)
            await asyncio.sleep(2 if terminal else 60)

    def _print_pages(self, url: str, key: str, chat: str, best: Sequence[dict[str, Any]]) -> None:
        say = self.console.print
        say("\n[bold]Open these pages[/] (the part after # signs you in and never reaches the server):")
        say(f"  every customer on one line   {url}/console#key={key}", soft_wrap=True)
        say(f"  the numbers                  {url}/ops#key={key}", soft_wrap=True)
        say(f"  chat as a visitor            {url}{chat}", soft_wrap=True)
        say("\nCustomers seen over several channels:")
        for one in best:
            channels = ", ".join(one["channels"])
            say(
                f"  {one['name'] or 'nameless'} ({channels})\n    {url}/console#key={key}&customer={quote(one['id'])}",
                soft_wrap=True,
            )
        say(f"\nThe key, for calls of your own: {key}", soft_wrap=True)


async def _chat(client: httpx.AsyncClient) -> str:
    """Set up a chat account; return the path of its page. What is written there is a customer's. Raises SetupError."""
    answer = await client.put("/v1/channels/chat/demo", json={"secrets": [token_urlsafe(32)]})
    if answer.status_code != 200:
        raise SetupError(f"the chat cannot be set up: {problem(answer)}")
    return f"/chat/{answer.json()['webhook_path'].rpartition('/')[2]}"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    if unit == "1":
        return f"{value:.1%}"
    if unit == "s":
        return f"{value / 3600:.1f} h" if value >= 3600 else f"{value / 60:.1f} min"
    return f"{value:,.0f}"
