"""`threadline import`: history of one's own, with its own times, through the API.

Ids follow from what is imported, so repeating an import, also one that was interrupted, changes nothing that is there
already.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import httpx
import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from services.cli.printing import safe, shortened
from services.cli.simulate import check
from services.cli.traffic.client import Client, SendingFailed, Together, problem
from services.ingest.importers import files, jsonl, kinds, mbox
from services.ingest.importers.events import CannotImport, Made, line_event, mail_account, mail_event
from services.ingest.importers.kinds import Kind
from services.ingest.importers.pieces import NotReadable, Piece
from shared.errors import SetupError
from shared.handles import own_address

BATCH_EVENTS = 500
BATCH_BYTES = 2 * 1024 * 1024
IN_FLIGHT = 3
LONGEST_ACCOUNT = 200
AGAIN = ": run it again for the rest, nothing is doubled"
_ITEM = re.compile(r"#/(\d+)(/.*)?")


OwnOption = Annotated[
    list[str] | None,
    typer.Option(help="An address of yours; may be repeated. Mail from it was sent by an agent.", show_default=False),
]
AccountOption = Annotated[str, typer.Option(help="The account A of the source /email_raw/A that mail belongs to.")]


def import_(
    kind: Annotated[Kind, typer.Argument(help="mbox file, maildir, .eml file or folder, or CloudEvents a line each.")],
    path: Annotated[Path, typer.Argument(exists=True, help="The file or folder.")],
    url: Annotated[str, typer.Option(help="Where Threadline answers.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(envvar="THREADLINE_KEY", help="A key with the scope events:write.")] = "",
    account: AccountOption = "import",
    own: OwnOption = None,
) -> None:
    """Load history with its own times. Safe to repeat and to interrupt; what cannot be imported is listed on stdout."""
    if not key:
        raise typer.BadParameter("no key: give --key or THREADLINE_KEY", param_hint="--key")
    check_account(account)
    with history(kind, path, account, own_addresses(own)) as found:
        job = Import(found, url, key)
        try:
            asyncio.run(job.run())
        except KeyboardInterrupt:
            raise SetupError(f"stopped after {job.taken} events{AGAIN}") from None
    print(f"{job.taken} of {job.read} imported in {job.seconds:.1f} s ({job.taken / max(job.seconds, 0.001):.0f}/s)")
    if job.faults:
        raise SetupError(f"{job.faults} of {job.read} could not be imported; stdout names each")


def check_account(account: str) -> None:
    """Raise BadParameter where an account of this name could not exist."""
    if not account or not account.isprintable() or len(account) > LONGEST_ACCOUNT:
        hint = f"1 to {LONGEST_ACCOUNT} printable characters"
        raise typer.BadParameter(hint, param_hint="--account")


def own_addresses(given: list[str] | None) -> tuple[str, ...]:
    """Return the addresses that --own gave. Raises BadParameter where one is more than an address."""
    try:
        return tuple(own_address(one) for one in given or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--own") from error


@dataclass(frozen=True, slots=True)
class History:
    """What is to be imported: its pieces, how far `done` of the last will be, and how one becomes an event."""

    pieces: Iterator[Piece]
    total: int
    event: Callable[[Piece], Made]
    """Raises CannotImport."""


@contextmanager
def history(kind: Kind, path: Path, account: str, own: tuple[str, ...]) -> Iterator[History]:
    """Open the history at `path`. Raises SetupError where it, also later, cannot be read or is of another kind."""
    belongs_to = mail_account(account, own)

    def of_mail(piece: Piece) -> Made:
        return mail_event(piece, belongs_to, datetime.now(UTC))

    try:
        kinds.check(kind, path)
        if kind in (Kind.MAILDIR, Kind.EML):
            found = _in_maildir(path) if kind is Kind.MAILDIR else files.of_eml(path)
            yield History(files.read(found, path), len(found), of_mail)
            return
        with path.open("rb", buffering=1024 * 1024) as file:
            pieces = mbox.read(file) if kind is Kind.MBOX else jsonl.read(file)
            yield History(pieces, path.stat().st_size, of_mail if kind is Kind.MBOX else line_event)
    except NotReadable as error:
        raise SetupError(f"{path}: {error}") from error
    except OSError as error:
        raise SetupError(f"{path} cannot be read: {error.strerror or error}") from error


def _in_maildir(path: Path) -> list[Path]:
    left_out = [safe(box.name) for box in files.maildirs(path) if box != path and files.is_unwanted(box)]
    if left_out:
        print(f"left out: {', '.join(left_out)}; name one of them as PATH to import it", file=sys.stderr)
    return files.in_maildir(path)


class Import:
    """One import: what was read and taken so far, and what could not be."""

    def __init__(self, found: History, url: str, key: str) -> None:
        self._found, self._url, self._key = found, url, key
        self.read = self.taken = self.faults = 0
        self.seconds = 0.0
        self.last: list[tuple[str, str]] = []
        """Source and id of the events that were taken last."""

    async def run(self) -> None:
        """Post everything. Raises SetupError where it cannot go on; what was taken until then stays."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            async with Client.open(self._url, self._key) as client:
                await check(client)
                await self.post_all(client)
        except SendingFailed as error:
            raise SetupError(f"{error}; {self.taken} events were taken{AGAIN}") from error
        finally:
            self.seconds = loop.time() - began_s

    async def post_all(self, client: Client) -> None:
        """Post everything by `client`, and show how far it is. Raises SendingFailed."""
        with _progress() as bar:
            task = bar.add_task("reading", total=self._found.total, taken=0)

            def told(done: int) -> None:
                bar.update(task, completed=done, taken=self.taken)

            batches = self._batches(told)
            async with Together() as together:
                for _ in range(IN_FLIGHT):
                    together.start(self._work(client, batches))
            told(self._found.total)

    async def _work(self, client: Client, batches: Iterator[list[tuple[str, Made]]]) -> None:
        for batch in batches:
            await self._post(client, [(place, await self._with_files(client, place, made)) for place, made in batch])

    async def _with_files(self, client: Client, place: str, made: Made) -> bytes:
        """Send the files of an event that have to be kept first; return the event, which names them."""
        if not made.files:
            return made.event
        event = orjson.loads(made.event)
        for file in made.files:
            named = event["data"]["attachments"][file.place]
            name, media = named.get("name"), named.get("media_type")
            answer = await client.send_file(event["source"], event["id"], file.place, file.content, name, media)
            if answer.status_code == 201:
                named["url"] = answer.json()["url"]
            else:
                name = name or "without a name"
                self._tell(place, f"the bytes of its attachment {name} are left out: {problem(answer)}")
        return orjson.dumps(event)

    async def _post(self, client: Client, batch: list[tuple[str, bytes]]) -> None:
        """Post a batch; what of it is refused is left out and reported."""
        while batch:
            answer = await client.send(b"[" + b",".join(event for _, event in batch) + b"]")
            if answer.status_code == 202:
                self.taken += len(batch)
                self.last = [(one["source"], one["id"]) for one in answer.json()["accepted"]]
                return
            bad = refused(answer)
            if not bad or max(bad) >= len(batch):
                raise SendingFailed(f"{client.url} refused a batch of {len(batch)} events: {problem(answer)}")
            for number, why in sorted(bad.items()):
                self._fault(batch[number][0], why)
            batch = [item for number, item in enumerate(batch) if number not in bad]

    def _batches(self, told: Callable[[int], None]) -> Iterator[list[tuple[str, Made]]]:
        """Yield (place, event) lists that fit into one request."""
        batch: list[tuple[str, Made]] = []
        size_bytes = 0
        for piece in self._found.pieces:
            self.read += 1
            try:
                if piece.fault is not None:
                    raise CannotImport(piece.fault)
                made = self._found.event(piece)
            except CannotImport as error:
                self._fault(piece.place, str(error))
                continue
            # Files that go by themselves count too: they are in memory as well.
            more_bytes = len(made.event) + 1 + sum(len(file.content) for file in made.files)
            if batch and (len(batch) >= BATCH_EVENTS or size_bytes + more_bytes > BATCH_BYTES):
                yield batch
                told(piece.done)
                batch, size_bytes = [], 0
            batch.append((piece.place, made))
            size_bytes += more_bytes
        if batch:
            yield batch

    def _fault(self, place: str, why: str) -> None:
        self.faults += 1
        self._tell(place, why)

    def _tell(self, place: str, what: str) -> None:
        print(f"{safe(place)}: {shortened(safe(what), 300)}")


def refused(answer: httpx.Response) -> dict[int, str]:
    """Return the items of a batch that an answer refuses, by number, each with what is wrong with it."""
    if answer.status_code != 422:
        return {}
    try:
        errors = answer.json()["errors"]
        found = [(_ITEM.fullmatch(error["pointer"]), error["detail"]) for error in errors]
    except (ValueError, KeyError, TypeError):
        return {}
    return {int(match[1]): f"{match[2] or 'the event'} {detail}" for match, detail in found if match}


def _progress() -> Progress:
    """Return the progress bar, on stderr; where stdout is a terminal too, its lines come above the bar."""
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
        TextColumn("{task.fields[taken]} taken"), TimeRemainingColumn(),
        console=Console(stderr=True), disable=not sys.stderr.isatty(), redirect_stdout=sys.stdout.isatty(),
    )  # fmt: skip
