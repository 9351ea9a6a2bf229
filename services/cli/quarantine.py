"""`threadline quarantine`: what could not be understood, why, and what becomes of it. Nothing here deletes a record.

A record of a consumer goes on its topic again as it was. A delivery of a provider is read by the adapter of today. Both
come out as if they had come late, and whatever was there already stays as it is: events are known by their identity.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from services.cli.main import new_app
from services.cli.platform import DataOption, on_database, open_platform, quiet_settings
from services.cli.printing import print_table, safe, safe_lines, shortened
from shared.database.engine import transaction, translated
from shared.database.migrate import migrate
from shared.errors import SetupError
from shared.log.headers import decode_headers
from shared.log.protocol import INBOUND, TIMELINE, Outgoing
from shared.service import Platform
from shared.settings import Settings

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")

DOOR = "ingest"
"""Group of what the webhooks' adapters did not understand; other groups are consumers of the log."""

STATES = ("held", "retried", "dropped")

# In the order in which it came, without the bytes.
LIST = """
SELECT id, tenant_id, source, event_id, group_name, reason, state, quarantined_at, octet_length(value) AS size_bytes,
       clock_timestamp() - quarantined_at AS age
FROM log.quarantine
WHERE state = $1 AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR source = $3)
ORDER BY quarantined_at, "offset", id LIMIT $4
"""

COUNT = """
SELECT count(*) FROM log.quarantine
WHERE state = $1 AND ($2::text IS NULL OR tenant_id = $2) AND ($3::text IS NULL OR source = $3)
"""

HELD = """
SELECT id FROM log.quarantine
WHERE state = 'held' AND ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR source = $2)
ORDER BY quarantined_at, "offset", id
"""

ONE = """
SELECT *, clock_timestamp() AS now, clock_timestamp() - quarantined_at AS age FROM log.quarantine WHERE id = $1
"""

# With it what is held of the same event, since it would come to the same; not what fails anew after `$6`.
RETRIED = """
UPDATE log.quarantine SET state = 'retried'
WHERE state = 'held' AND (id = $1 OR (tenant_id = $2 AND source = $3 AND event_id = $4 AND group_name = $5
                                      AND quarantined_at <= $6))
"""

DROPPED = "UPDATE log.quarantine SET state = 'dropped' WHERE state = 'held' AND id = ANY ($1::uuid[])"

KNOWN = """
SELECT true FROM log.quarantine WHERE tenant_id = $1 AND source = $2 AND event_id = $3 AND group_name = $4 LIMIT 1
"""

app = new_app(no_args_is_help=True, help="What could not be understood: list it, look at it, retry it or drop it.")

Ids = Annotated[list[UUID] | None, typer.Argument(help="Ids as `quarantine list` shows them.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Everything that is held, of --tenant and --source where given.")]
TenantOption = Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)]
SourceOption = Annotated[str | None, typer.Option(help="Only from this source.", show_default=False)]


@app.command("list")
def list_(
    tenant: TenantOption = None,
    source: SourceOption = None,
    state: Annotated[str, typer.Option(help="held, retried or dropped.")] = "held",
    limit: Annotated[int, typer.Option(min=1, help="Most lines, the oldest first.")] = 200,
    data: DataOption = None,
) -> None:
    """List what is in quarantine with its reason, whose it is, where it came from and for how long."""
    if state not in STATES:
        raise typer.BadParameter(f"one of {', '.join(STATES)}", param_hint="--state")

    async def work(platform: Platform) -> tuple[Sequence[Any], int]:
        rows = await platform.pool.fetch(LIST, state, tenant, source, limit)
        return rows, await platform.pool.fetchval(COUNT, state, tenant, source)

    rows, count = _with_platform(quiet_settings(data), work)
    if rows:
        print_table([("ID", "TENANT", "SOURCE", "EVENT", "BY", "AGE", "BYTES", "REASON"), *map(_row, rows)])
    if count > len(rows):
        print(f"… and {count - len(rows)} more")


@app.command()
def show(
    record: Annotated[UUID, typer.Argument(help="The id, as `quarantine list` shows it.")],
    limit: Annotated[int, typer.Option("--bytes", min=0, help="Most bytes of the body.")] = 4_000,
    raw: Annotated[bool, typer.Option("--raw", help="Write the body alone to stdout, byte for byte.")] = False,
    data: DataOption = None,
) -> None:
    """Show one record: why it is here, where it came from, its headers and its body. What does not print is escaped."""

    async def work(platform: Platform) -> Any:
        return await _one(platform.pool, record)

    row = _with_platform(quiet_settings(data), work)
    if raw:
        sys.stdout.buffer.write(row["value"])
        return
    for name, value in _facts(row):
        print(f"{name:<12} {value}")
    body: bytes = row["value"]
    print(f"\n{safe_lines(body[:limit].decode('utf-8', 'backslashreplace'))}")
    if len(body) > limit:
        print(f"… {len(body) - limit} more bytes: --bytes or --raw shows them")


@app.command()
def retry(
    records: Ids = None, every: All = False, tenant: TenantOption = None, source: SourceOption = None,
    data: DataOption = None,
) -> None:  # fmt: skip
    """Try again, after a repair: on the timeline it comes as if it had come late. What still fails stays or returns."""
    _check_choice(records, every, tenant, source)

    async def work(platform: Platform) -> int:
        failed = 0
        for record in records or await _held(platform.pool, tenant, source):
            why = await retry_one(platform, record, required=not every)
            failed += why is not None
            print(f"{record}: {'put on its topic again' if why is None else 'still held: ' + safe(why)}")
        return failed

    failed = _with_platform(quiet_settings(data), work)
    if failed:
        raise SetupError(f"{failed} of the records above are still held")


@app.command()
def drop(
    records: Ids = None, every: All = False, tenant: TenantOption = None, source: SourceOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, it shall never be on a timeline.")] = False,
    data: DataOption = None,
) -> None:  # fmt: skip
    """Mark records as dropped: they stay on record and are not retried any more."""
    _check_choice(records, every, tenant, source)
    if not yes:
        raise typer.BadParameter("say --yes: what is dropped comes on no timeline", param_hint="--yes")

    async def work(platform: Platform) -> int:
        chosen = list(records or await _held(platform.pool, tenant, source))
        for record in records or ():
            _check_held(await _one(platform.pool, record))
        done: str = await platform.pool.execute(DROPPED, chosen)
        return int(done.split()[-1])

    print(f"{_with_platform(quiet_settings(data), work)} dropped")


def _check_choice(records: Sequence[UUID] | None, every: bool, tenant: str | None, source: str | None) -> None:
    if bool(records) == every:
        raise typer.BadParameter("either ids or --all", param_hint="RECORDS")
    if not every and (tenant or source):
        raise typer.BadParameter("--tenant and --source go with --all", param_hint="--tenant")


async def retry_one(platform: Platform, record: UUID, *, required: bool) -> str | None:
    """Put one held record on its topic again; return why that cannot be, or None.

    Done twice, or broken off in between, it does no harm: readers know events by their identity. With `required`,
    raises SetupError where nothing is held under this id. Raises LogUnavailable, DatabaseUnavailable.
    """
    row = await platform.pool.fetchrow(ONE, record)
    if row is None or row["state"] != "held":
        if required:
            _check_held(row)
        return None  # a sibling took it along
    why = await (_deliver_again(platform, row) if row["group_name"] == DOOR else _append_again(platform, row))
    if why is None:
        names = ("id", "tenant_id", "source", "event_id", "group_name", "now")
        await platform.pool.execute(RETRIED, *(row[name] for name in names))
    return why


async def _append_again(platform: Platform, row: Any) -> str | None:
    """Put the record of a consumer on its topic again, as it was."""
    topic = {platform.log.name(topic): topic for topic in (INBOUND, TIMELINE)}.get(row["topic"])
    if topic is None:
        return f"its topic {row['topic']} is not one of this log: the settings were others then"
    await platform.log.append(topic, [Outgoing(row["key"] or b"", row["value"], decode_headers(row["headers"]))])
    return None


async def _deliver_again(platform: Platform, row: Any) -> str | None:
    """Let the adapter of today read a provider's delivery, and take what it makes of it."""
    # Here, because the other commands do without twenty adapters.
    from prometheus_client import CollectorRegistry

    from services.ingest.adapters import ADAPTERS
    from services.ingest.again import account_of, read_again, request_of
    from services.ingest.channels import Channels
    from services.ingest.intake import Intake
    from services.ingest.keeping import keep
    from services.ingest.metrics import IngestMetrics

    named = account_of(row["tenant_id"], row["source"])
    channel = await Channels(platform.pool, platform.secret_key).find(named.tenant, named.provider, named.account)
    account = channel.account if channel is not None else named
    request = request_of(row["value"], row["headers"], row["quarantined_at"])
    found = read_again(ADAPTERS.get(account.provider), request, account, row["event_id"])
    if found.still is not None:
        return found.still
    async with transaction(platform.pool) as connection:
        for part in found.others:
            # What somebody dropped before is not brought back by its neighbour.
            if not await connection.fetchval(KNOWN, account.tenant, account.source, part.dedupe_key, DOOR):
                await keep(connection, part, request, account)
    unseen = IngestMetrics(CollectorRegistry())  # nobody asks a command for its metrics
    intake = Intake(platform.log, platform.pool, platform.accepted, unseen, platform.secret_key)
    await intake.accept(found.events)
    return None


async def _one(pool: asyncpg.Pool, record: UUID) -> Any:
    row = await pool.fetchrow(ONE, record)
    if row is None:
        raise SetupError(f"there is no record {record} in quarantine")
    return row


def _check_held(row: Any) -> None:
    if row is None:
        raise SetupError("there is no record with that id in quarantine")
    if row["state"] != "held":
        raise SetupError(f"the record {row['id']} is not held: it was {row['state']}")


async def _held(pool: asyncpg.Pool, tenant: str | None, source: str | None) -> list[UUID]:
    return [row["id"] for row in await pool.fetch(HELD, tenant, source)]


def _row(row: Any) -> tuple[str, ...]:
    return (
        str(row["id"]), *(shortened(safe(row[name] or "-"), 40) for name in ("tenant_id", "source", "event_id")),
        row["group_name"] or "-", age(row["age"]), str(row["size_bytes"]), shortened(safe(row["reason"]), 100),
    )  # fmt: skip


def _facts(row: Any) -> list[tuple[str, str]]:
    at: datetime = row["quarantined_at"]
    facts = [
        ("id", str(row["id"])),
        ("state", row["state"]),
        ("reason", row["reason"]),
        ("tenant", row["tenant_id"] or "-"),
        ("source", row["source"] or "-"),
        ("event", row["event_id"] or "-"),
        ("since", f"{at:%Y-%m-%d %H:%M:%S}Z ({age(row['age'])})"),
        ("by", row["group_name"] or "-"),
    ]
    if row["topic"] is not None:
        facts.append(("position", f"{row['topic']} {row['partition']}/{row['offset']}"))
    facts.append(("bytes", str(len(row["value"]))))
    facts += [("header", f"{name}: {value.decode('latin-1')}") for name, value in decode_headers(row["headers"])]
    return [(name, shortened(safe(value), 2_000)) for name, value in facts]


def age(since: timedelta) -> str:
    """Return a duration in its largest whole unit, such as `3 d` or `12 min`."""
    seconds = max(0, int(since.total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _with_platform(settings: Settings, work: Callable[[Platform], Awaitable[T]]) -> T:
    async def run(sealed: Settings) -> T:
        await migrate(sealed.dsn())
        async with AsyncExitStack() as stack:
            platform = await open_platform(sealed, stack, name="threadline quarantine")
            with translated():
                return await work(platform)

    return on_database(settings, "quarantine", run, begun=True)
