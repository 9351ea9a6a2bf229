"""`threadline channels`: whose webhooks are taken, and what is wrong with one that does not arrive.

On the database rather than over HTTP: like `keys` it works before the first start, beside a running Threadline (which
sees a change within two seconds), and without a key on the command line. What may be stored is checked as the API does.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
from pydantic import ValidationError

from services.cli.diagnosing import findings
from services.cli.knocking import knocked
from services.cli.main import new_app
from services.cli.platform import DataOption, on_database, quiet_settings
from services.cli.printing import print_table, safe
from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import Account, Delivery, Forged, Headers, RawRequest, receive
from services.ingest.channel_routes import MAX_ACCOUNT_CHARACTERS, ChannelSettings
from services.ingest.channels import Channel, Channels
from services.ingest.published_keys import KeysUnavailable, PublishedKeys, fetch_over_https
from services.ingest.validation import faults_of
from services.ingest.webhooks import events_of
from shared import directory
from shared.database.engine import open_pool, translated
from shared.database.migrate import migrate
from shared.errors import SetupError
from shared.events import rfc3339
from shared.keys import check_tenant
from shared.settings import Settings
from shared.timestamps import read_rfc3339

T = TypeVar("T")

app = new_app()

Provider = Annotated[str, typer.Argument(help=f"One of {', '.join(ADAPTERS)}.")]
AccountName = Annotated[str, typer.Argument(help="The account's name in sources and handles, chosen by you.")]
TenantOption = Annotated[str, typer.Option(help="Whose account it is.")]


@app.callback(invoke_without_command=True)
def accounts(context: typer.Context, tenant: TenantOption = "default", data: DataOption = None) -> None:
    """Channel accounts: list (also without a word), put, delete, and find out what is wrong with one."""
    if context.invoked_subcommand is None:
        list_(tenant, data)
    elif data is not None or tenant != "default":
        word = context.invoked_subcommand
        raise typer.BadParameter(f"write the options behind the command: threadline channels {word} …")


@app.command("list")
def list_(tenant: TenantOption = "default", data: DataOption = None) -> None:
    """List a tenant's accounts with their URLs. Secrets are never shown, only how many are active."""
    settings = quiet_settings(data)

    async def work(channels: Channels) -> list[Channel]:
        return await channels.list(tenant)

    found = _with_channels(settings, work)
    if not found:
        return
    rows = [
        (
            channel.account.provider, safe(channel.account.account), str(len(channel.account.secrets)),
            channel.account.default_region or "-", url_of(channel, settings),
        )
        for channel in found
    ]  # fmt: skip
    print_table([("PROVIDER", "ACCOUNT", "SECRETS", "REGION", "URL"), *rows])


@app.command()
def put(
    provider: Provider,
    account: AccountName,
    secret: Annotated[list[str] | None, typer.Option(help="What proves a delivery; may be repeated.")] = None,
    secrets_file: Annotated[
        str | None, typer.Option(help="A file with one secret a line, `-` for stdin: kept out of the process list.")
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="The URL the provider was given, behind a proxy.")] = None,
    own: Annotated[list[str] | None, typer.Option(help="An address of your own; may be repeated.")] = None,
    region: Annotated[str | None, typer.Option(help="Country of numbers without country code, such as NL.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE of this provider, VALUE as JSON or text.")
    ] = None,
    tenant: TenantOption = "default",
    data: DataOption = None,
) -> None:
    """Store an account, new or changed, and print its URL, alone on stdout. The URL stays when the account changes."""
    _check(provider, account, tenant)
    given = {
        "secrets": [*(secret or ()), *_secrets_in(secrets_file)],
        "public_url": public_url,
        "own_addresses": own,
        "default_region": region,
        "options": dict(_option(one) for one in option or ()),
    }
    try:
        checked = ChannelSettings.model_validate(given)
    except ValidationError as error:
        told = "; ".join(f"{fault.pointer.lstrip('/')} {fault.detail}" for fault in faults_of(error, given))
        raise typer.BadParameter(told) from error
    stored = Account(
        tenant, provider, account, tuple(checked.secrets), checked.public_url, tuple(checked.own_addresses or ()),
        checked.default_region, checked.options.given() if checked.options else {},
    )  # fmt: skip
    settings = quiet_settings(data)

    async def work(channels: Channels) -> Channel:
        return await channels.put(stored)

    print(url_of(_with_channels(settings, work), settings))


@app.command()
def delete(provider: Provider, account: AccountName, tenant: TenantOption = "default", data: DataOption = None) -> None:
    """Take no more deliveries for an account; its URL is never given again. What was received stays."""

    async def work(channels: Channels) -> bool:
        return await channels.delete(tenant, provider, account)

    if not _with_channels(quiet_settings(data), work):
        raise SetupError(f"tenant {tenant} has no account {provider}/{account}")
    print(f"deleted {provider}/{account}")


@app.command()
def test(
    provider: Provider,
    account: AccountName,
    body: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A recorded delivery's body.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="'Name: value' of the delivery; may be repeated.")] = None,
    query: Annotated[str, typer.Option(help="The delivery's query string.")] = "",
    method: Annotated[str, typer.Option(help="The delivery's method.")] = "POST",
    at: Annotated[str | None, typer.Option(help="When it was received, RFC 3339; default now.")] = None,
    url: Annotated[str | None, typer.Option(help="Knock here; default the public URL, else this machine's.")] = None,
    tenant: TenantOption = "default",
    data: DataOption = None,
) -> None:
    """Say what is wrong with an account, and what to do. Nothing is kept.

    Without a delivery, knock at its URL: with one that proves nothing, which must be refused, with the provider's
    handshake, and with one signed by the newest secret. With --body (or --query for a handshake), read a recorded
    delivery as a real one would be: its proof, its events, what is not understood; of a refusal, why.
    """
    settings = quiet_settings(data)
    received_at = datetime.now(UTC) if at is None else _instant(at)
    others: list[Account] = []

    async def work(channels: Channels) -> Channel:
        known = [one for one in await channels.list(tenant) if one.account.provider == provider]
        others.extend(one.account for one in known)
        found = next((one for one in known if one.account.account == account), None)
        if found is None or provider not in ADAPTERS:
            names = ", ".join(safe(one.account.account) for one in known) or "none"
            raise SetupError(f"tenant {tenant} has no account {provider}/{account}; of {provider} it has: {names}")
        return found

    channel = _with_channels(settings, work)
    if body is None and not query:
        target = url or channel.account.public_url or url_of(channel, settings)
        print(*knocked(target, channel.account, received_at), sep="\n")
        return
    raw = body.read_bytes() if body is not None else b""
    headers = Headers(_header(one) for one in header or ())
    request = RawRequest(method.upper(), channel.path, query, headers, raw, received_at)
    faults = _print_delivery(request, asyncio.run(_with_keys(request, channel.account)), others)
    if faults:
        raise SetupError("; ".join(faults))


async def _with_keys(request: RawRequest, account: Account) -> Account:
    try:
        return await PublishedKeys(fetch_over_https).completed(ADAPTERS[account.provider], request, account)
    except KeysUnavailable as error:
        raise SetupError(f"the provider's keys are needed and {error}; a real delivery is answered 503 now") from error


def _print_delivery(request: RawRequest, account: Account, others: Sequence[Account]) -> list[str]:
    """Print what a delivery would become; return what is wrong with it."""
    try:
        delivery: Delivery = receive(ADAPTERS[account.provider], request, account)
    except Forged as error:
        why = [] if request.method == "GET" else findings(request, account, others)
        return [f"refused as not proven ({error.status}): {error.detail}", *why]
    if delivery.answer.status >= 400:
        return [f"refused ({delivery.answer.status}): {safe(delivery.answer.body.decode(errors='replace'))}"]
    events, broken = events_of(delivery.events, account, request.received_at)
    print(f"proven; answered {delivery.answer.status}; {len(events)} events")
    for event, _ in events:
        print(f"  {rfc3339(event.occurred_at)} {event.type} {safe(event.id)}")
    return [f"not understood: {part.reason} ({part.dedupe_key})" for part in (*delivery.quarantined, *broken)]


def _instant(given: str) -> datetime:
    try:
        return read_rfc3339(given)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--at") from error


def url_of(channel: Channel, settings: Settings) -> str:
    """Return the URL of the account's webhook: as the settings say, where Threadline runs now, or will by them."""
    running = directory.served_at(settings.data.expanduser())
    return (settings.public_url or running or f"http://{settings.host}:{settings.port}").rstrip("/") + channel.path


def _check(provider: str, account: str, tenant: str) -> None:
    if provider not in ADAPTERS:
        raise typer.BadParameter(f"one of {', '.join(ADAPTERS)}", param_hint="PROVIDER")
    if not account or not account.isprintable() or len(account) > MAX_ACCOUNT_CHARACTERS:
        raise typer.BadParameter(f"1 to {MAX_ACCOUNT_CHARACTERS} printable characters", param_hint="ACCOUNT")
    try:
        check_tenant(tenant)
    except SetupError as error:
        raise typer.BadParameter(str(error), param_hint="--tenant") from error


def _secrets_in(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the secrets in {file} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _option(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{given!r} is not NAME=VALUE", param_hint="--option")
    try:
        return name, orjson.loads(value)
    except orjson.JSONDecodeError:
        return name, value


def _header(given: str) -> tuple[str, str]:
    name, colon, value = given.partition(":")
    if not name or not colon:
        raise typer.BadParameter(f"{given!r} is not 'Name: value'", param_hint="--header")
    return name.strip(), value.strip()


def _with_channels(settings: Settings, work: Callable[[Channels], Awaitable[T]]) -> T:
    async def run(sealed: Settings) -> T:
        await migrate(sealed.dsn())
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(open_pool(sealed, sealed.dsn(), name="threadline channels"))
            with translated():
                return await work(Channels(pool, sealed.secret()))

    return on_database(settings, "channels", run)
