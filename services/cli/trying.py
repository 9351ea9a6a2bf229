"""`threadline try`: one's own mail or events on timelines, on a temporary folder, and the page to open."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console

from services.cli.importing import AccountOption, Import, OwnOption, check_account, history, own_addresses
from services.cli.temporary import free_port, on_a_temporary_folder
from services.cli.traffic.client import told_by
from services.ingest.importers.kinds import Kind, looks_like
from shared.errors import SetupError

SETTLE_S = 900.0
"""How long the last event may take to its timeline."""
LOOKED_AT = 50
MOST_PAGES = 100
PAGE = 200


def try_(
    path: Annotated[Path, typer.Argument(exists=True, help="An mbox, a maildir, .eml mail or CloudEvents as .jsonl.")],
    port: Annotated[int | None, typer.Option(min=0, help="Port to listen on; default 8080, or a free one.")] = None,
    account: AccountOption = "import",
    own: OwnOption = None,
    once: Annotated[bool, typer.Option("--once", help="End with 0 once everything is on its timeline.")] = False,
) -> None:
    """Start Threadline on a temporary folder, import PATH, and print the page to open. Ctrl-C removes everything."""
    check_account(account)
    ours = own_addresses(own)
    kind = kind_of(path)
    asyncio.run(_Trial(kind, path, account, ours, once).run(port if port is not None else free_port()))


def kind_of(path: Path) -> Kind:
    """Guess what kind of history `path` is, by its beginning and its name. Raises SetupError."""
    try:
        found = looks_like(path)
        if found is not None:
            return found
        if path.is_dir() or path.suffix.lower() == ".eml":
            return Kind.EML
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return Kind.JSONL
        if not path.stat().st_size:
            return Kind.MBOX
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from error
    raise SetupError(f"{path} is no mbox, maildir, .eml or .jsonl: `threadline import` takes the kind by name")


class _Trial:
    """One trial."""

    def __init__(self, kind: Kind, path: Path, account: str, own: tuple[str, ...], once: bool) -> None:
        self.kind, self.path, self.account, self.own, self.once = kind, path, account, own, once
        self.console = Console(highlight=False)

    async def run(self, port: int) -> None:
        """Start, import, show, and remove everything at the end. Raises SetupError."""
        await on_a_temporary_folder("threadline-try-", port, self._course)

    async def _course(self, url: str, key: str) -> None:
        say = self.console.print
        say(f"Threadline runs at {url}. Importing {self.path} ({self.kind}) …", soft_wrap=True, markup=False)
        with history(self.kind, self.path, self.account, self.own) as found:
            job = Import(found, url, key)
            await job.run()
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, trust_env=False) as client:
            refused = f"; {job.faults} could not be, as named above" if job.faults else ""
            say(f"{job.taken} of {job.read} imported in {job.seconds:.1f} s{refused}.")
            if not self.once:
                self._print_pages(url, key)
            await _settled(client, job.last[-LOOKED_AT:])
            say(f"Everything is on its timeline: {await _customers(client)} customers.")
        if not self.once:
            say("Ctrl-C ends it and removes everything.")
            await asyncio.Event().wait()

    def _print_pages(self, url: str, key: str) -> None:
        say = self.console.print
        say("\n[bold]Open this page[/] (the part after # signs you in and never reaches the server):")
        say(f"  {url}/console#key={key}", soft_wrap=True, markup=False)
        say(f"\nThe numbers: {url}/ops#key={key}\n", soft_wrap=True, markup=False)


async def _settled(client: httpx.AsyncClient, events: list[tuple[str, str]]) -> None:
    """Wait until `events` are on their timelines or in quarantine. Raises SetupError."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SETTLE_S
    for source, event_id in events:
        while (await told_by(client, "/v1/events/status", source=source, id=event_id))["status"] == "accepted":
            if loop.time() > end_s:
                raise SetupError(f"the import was not on the timelines after {SETTLE_S:.0f} s")
            await asyncio.sleep(0.05)


async def _customers(client: httpx.AsyncClient) -> str:
    """Return how many customers there are, as a number to print."""
    count, cursor = 0, ""
    for _ in itertools.repeat(None, MOST_PAGES):
        page = await told_by(client, "/v1/customers", limit=str(PAGE), **({"cursor": cursor} if cursor else {}))
        count += len(page["customers"])
        cursor = page["next"]
        if not cursor:
            return str(count)
    return f"more than {count}"
