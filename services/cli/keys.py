"""`threadline keys`: create, list and revoke API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer

from services.cli.main import new_app
from services.cli.platform import DataOption, reach_database
from shared import keys
from shared.database.engine import connect, translated
from shared.database.migrate import migrate
from shared.errors import SetupError
from shared.settings import Settings, load

T = TypeVar("T")

app = new_app(no_args_is_help=True, help="Create, list and revoke API keys. Works also while `threadline up` runs.")


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Whose key it is; a new tenant begins to exist here.")],
    scope: Annotated[list[str], typer.Option(help=f"What it may do, with commas: {', '.join(keys.SCOPES)}.")],
    label: Annotated[str | None, typer.Option(help="A note for `keys list`.", show_default=False)] = None,
    days: Annotated[
        float | None, typer.Option(min=0.0001, help="Days until it expires; without it, never.", show_default=False)
    ] = None,
    data: DataOption = None,
) -> None:
    """Make a key and print it, once, alone on stdout."""
    try:
        scopes = keys.check_scopes(part for given in scope for part in given.split(","))
        keys.check_tenant(tenant)
    except SetupError as error:
        raise typer.BadParameter(str(error)) from error
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None

    async def work(connection: Any) -> str:
        return await keys.create_key(connection, tenant, scopes, label=label, expires_at=expires_at)

    print(_with_database(load(data=data), work))


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.", show_default=False)] = None,
    data: DataOption = None,
) -> None:
    """List all keys by id: tenant, scopes, and until when each is good. The keys themselves are not kept."""

    async def work(connection: Any) -> list[keys.KeyRow]:
        return await keys.list_keys(connection, tenant)

    rows = [("ID", "TENANT", "SCOPES", "CREATED", "STATE", "LABEL")]
    rows += [_row(key) for key in _with_database(load(data=data), work)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it, or the key itself.")],
    data: DataOption = None,
) -> None:
    """Revoke a key: it stops working within 5 seconds, in every process."""

    async def work(connection: Any) -> object:
        return await keys.revoke_key(connection, key)

    print(f"revoked {_with_database(load(data=data), work)}")


def _row(key: keys.KeyRow) -> tuple[str, str, str, str, str, str]:
    if key.revoked_at is not None:
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z"
    elif key.expires_at is not None and key.expires_at <= datetime.now(UTC):
        state = f"expired {key.expires_at:%Y-%m-%d %H:%M}Z"
    elif key.expires_at is not None:
        state = f"until {key.expires_at:%Y-%m-%d %H:%M}Z"
    else:
        state = "good"
    created = f"{key.created_at:%Y-%m-%d %H:%M}Z"
    return str(key.key_id), key.tenant, ",".join(key.scopes), created, state, key.label or ""


def _with_database(settings: Settings, work: Callable[[Any], Awaitable[T]]) -> T:
    async def run(url: str) -> T:
        await migrate(url)
        connection = await connect(url)
        try:
            with translated():
                return await work(connection)
        finally:
            await connection.close(timeout=5)

    with reach_database(settings, "keys") as reached:
        return asyncio.run(run(reached.settings.dsn()))
