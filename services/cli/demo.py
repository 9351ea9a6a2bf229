"""`threadline demo`: Threadline on a temporary folder, days of lifelike traffic, and the pages to look at."""

from __future__ import annotations

import asyncio
import ctypes
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer
from rich.console import Console

from services.cli.simulate import Run
from services.cli.traffic.client import SendingFailed, problem
from services.cli.traffic.mix import Mix
from services.cli.traffic.people import person
from services.cli.traffic.world import World
from shared import directory
from shared.errors import SetupError

READY_S = 90.0
SETTLE_S = 60.0
FAVOURITE_PORT = 8080
SHOWN_KPIS = ("messages_received", "messages_sent", "conversations_opened", "first_reply_time", "csat_ratio")
PR_SET_PDEATHSIG = 1


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
        self.port = port if port is not None else _free_port()
        self.console = Console(highlight=False)

    async def show(self) -> None:
        """Show everything, then clean up, however it ends. Raises SetupError."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        folder = directory.temporary("threadline-demo-")
        try:
            async with _running(folder, self.port) as (url, server):
                key = (folder / directory.ADMIN_KEY_FILE).read_text().strip()
                await _either(self._course(url, key), stop, server)
        except SendingFailed as error:
            raise SetupError(str(error)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _course(self, url: str, key: str) -> None:
        say = self.console.print
        say(f"Threadline runs at {url}. Posting {self.world.customers} people's last days …")
        history = Run(self.world, url, key, 500, None, None, None)
        await history.post()
        say(f"{history.posted} events posted in {history.seconds:.1f} s ({history.posted / history.seconds:.0f}/s).")
        async with httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False
        ) as client:
            best = await self._best_customers(client)
            await self._seen_kpis(client)
            self._print_pages(url, key, best)
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

    async def _best_customers(self, client: httpx.AsyncClient) -> Sequence[dict[str, Any]]:
        """Wait until the people are there; return those with most channels."""
        many = sorted(
            (person(self.world.seed, number, self.world.mix) for number in range(self.world.customers)),
            key=lambda who: -len(who.channels),
        )
        end = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            found = []
            for who in many[:40]:
                answer = await _get(client, "/v1/customers", handle=f"crm:{who.crm}")
                found += answer["customers"]
            several = [one for one in found if len(one["channels"]) > 1]
            if len(several) >= min(3, len(many)):
                return sorted(several, key=lambda one: -len(one["channels"]))[:5]
            if asyncio.get_running_loop().time() > end:
                raise SetupError(f"no customer with several channels appeared within {SETTLE_S:.0f} s")
            await asyncio.sleep(0.3)

    async def _seen_kpis(self, client: httpx.AsyncClient) -> None:
        end = asyncio.get_running_loop().time() + SETTLE_S
        while not (await self._kpi(client, "messages_received")):
            if asyncio.get_running_loop().time() > end:
                raise SetupError(f"no KPI had a value within {SETTLE_S:.0f} s")
            await asyncio.sleep(0.3)

    async def _kpi(self, client: httpx.AsyncClient, name: str) -> float | None:
        now = datetime.now(UTC)
        start = now - timedelta(seconds=self.world.end - self.world.start)
        answer = await _get(
            client, f"/v1/kpis/{name}", start=start.isoformat(), end=(now + timedelta(minutes=1)).isoformat()
        )
        value: float | None = answer["total"]["value"]
        return value

    async def _show_kpis(self, client: httpx.AsyncClient) -> None:
        """Keep a line of KPIs up to date: rewritten on a terminal, printed anew each minute elsewhere."""
        terminal = self.console.is_terminal
        while True:
            values = [(name, await self._kpi(client, name)) for name in SHOWN_KPIS]
            line = "   ".join(f"{name} {_number(value)}" for name, value in values)
            if terminal:
                self.console.print(line, end="\r")
            else:
                print(f"{datetime.now(UTC):%H:%M:%S} {line}", flush=True)
            await asyncio.sleep(2 if terminal else 60)

    def _print_pages(self, url: str, key: str, best: Sequence[dict[str, Any]]) -> None:
        say = self.console.print
        say("\n[bold]Open these pages[/] (the part after # signs you in and never reaches the server):")
        say(f"  every customer on one line   {url}/console#key={key}", soft_wrap=True)
        say(f"  the numbers                  {url}/ops#key={key}", soft_wrap=True)
        say("\nCustomers seen over several channels:")
        for one in best:
            channels = ", ".join(one["channels"])
            say(
                f"  {one['name'] or 'nameless'} ({channels})\n    {url}/console#key={key}&customer={quote(one['id'])}",
                soft_wrap=True,
            )
        say(f"\nThe key, for calls of your own: {key}", soft_wrap=True)


async def _either(course: Any, stop: asyncio.Event, server: asyncio.subprocess.Process) -> None:
    """Run `course` until it ends, a signal comes, or the server ends (which is a failure)."""
    running, stopping, ending = (
        asyncio.ensure_future(course),
        asyncio.create_task(stop.wait()),
        asyncio.create_task(server.wait()),
    )
    try:
        await asyncio.wait({running, stopping, ending}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        elif ending.done() and not stop.is_set():
            raise SetupError(f"`threadline up` ended with exit code {ending.result()}")
    finally:
        for task in (running, stopping, ending):
            task.cancel()
        await asyncio.gather(running, stopping, ending, return_exceptions=True)


@asynccontextmanager
async def _running(folder: Path, port: int) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Run `threadline up` on `folder` as a child that dies with us. Raises SetupError where it does not start."""
    told = folder / "up.log"
    with told.open("wb") as out:
        server = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.cli.main", "up", "--data", str(folder), "--port", str(port),
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_die_with_parent, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        await _ready(url, server, told)
        yield url, server
    finally:
        if server.returncode is None:
            server.terminate()
            try:
                await asyncio.wait_for(server.wait(), 20)
            except TimeoutError:
                server.kill()
                await server.wait()


async def _ready(url: str, server: asyncio.subprocess.Process, told: Path) -> None:
    end = asyncio.get_running_loop().time() + READY_S
    async with httpx.AsyncClient(trust_env=False) as client:
        while asyncio.get_running_loop().time() < end:
            if server.returncode is not None:
                raise SetupError(f"`threadline up` did not start: {_last_line(told)}")
            try:
                if (await client.get(f"{url}/readyz", timeout=2)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)
    raise SetupError(f"`threadline up` was not ready after {READY_S:.0f} s: {_last_line(told)}")


def _last_line(told: Path) -> str:
    lines = told.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _die_with_parent() -> None:
    """Let the kernel end this child when its parent is killed (Linux; elsewhere nothing happens)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def _get(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await client.get(path, params=query)
    if answer.status_code != 200:
        raise SetupError(f"{path}: {problem(answer)}")
    return answer.json()


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


def _free_port() -> int:
    for wanted in (FAVOURITE_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", wanted))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SetupError("no free port to listen on")
