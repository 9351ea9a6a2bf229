"""`threadline webhooks`: endpoints outside that are told what happens on timelines.

On the database, as `channels` is: it works before the first start, beside a running Threadline (which follows within
seconds), and without a key on the command line. What may be stored is checked as the API does.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from services.cli.main import new_app
from services.cli.platform import DataOption, on_database, quiet_settings
from services.cli.printing import print_table, safe, shortened
from services.conversation.routes.parameters import instant
from services.conversation.routes.webhooks import NAME_FORM, EndpointSettings
from services.conversation.webhooks.addresses import checked_url, networks
from services.conversation.webhooks.endpoints import (
    MAX_OVERLAP_S,
    OVERLAP_S,
    Endpoint,
    Endpoints,
    Given,
    NoSuchEndpoint,
    NotDead,
)
from services.conversation.webhooks.events import Wanted
from services.conversation.webhooks.metrics import WebhookMetrics
from services.conversation.webhooks.retrying import judge
from services.conversation.webhooks.sender import Sender, SenderSettings
from services.conversation.webhooks.signing import checked_secret
from services.conversation.webhooks.transport import open_transport
from shared.clock import SystemClock
from shared.database.engine import open_pool
from shared.database.migrate import migrate
from shared.errors import SetupError
from shared.events import rfc3339
from shared.keys import check_tenant
from shared.settings import Settings

T = TypeVar("T")

app = new_app(no_args_is_help=True, help="Outgoing webhooks: endpoints, their secrets and dead letters.")

Name = Annotated[str, typer.Argument(help="The endpoint's name, chosen by you.")]
SecretFile = Annotated[
    str | None, typer.Option(help="A file with the secret (whsec_…), `-` for stdin; without it one is made.")
]
TenantOption = Annotated[str, typer.Option(help="Whose endpoint it is.")]
Patterns = Annotated[list[str] | None, typer.Option(help="A text or pattern such as '/email/*'; may be repeated.")]


@app.command("list")
def list_(tenant: TenantOption = "default", data: DataOption = None) -> None:
    """List a tenant's endpoints and how they do. Secrets are never shown."""

    async def work(endpoints: Endpoints) -> list[Endpoint]:
        return await endpoints.of(tenant)

    found = _with_endpoints(_settings(data), work)
    if not found:
        return
    rows = [
        (one.name, _state(one), str(one.pending), str(one.dead), one.url, shortened(safe(one.last_error or "-"), 80))
        for one in found
    ]
    print_table([("NAME", "STATE", "PENDING", "DEAD", "URL", "LAST ERROR"), *rows])


@app.command()
def put(
    name: Name,
    url: Annotated[str, typer.Argument(help="Where to post, https://…")],
    event: Annotated[list[str] | None, typer.Option(help="A type or pattern; may be repeated; none is all.")] = None,
    channel: Patterns = None,
    source: Patterns = None,
    max_age: Annotated[int | None, typer.Option(help="Seconds; what happened longer before is not told.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Let everything wait.")] = False,
    secret_file: SecretFile = None,
    tenant: TenantOption = "default",
    data: DataOption = None,
) -> None:
    """Store an endpoint, new or changed. A secret that is made for it is printed once, alone on stdout."""
    _check(name, tenant)
    settings = _settings(data)
    given = {
        "url": url, "event_types": event, "channels": channel, "sources": source, "max_age_s": max_age,
        "enabled": not disabled, "secret": _secret_in(secret_file),
    }  # fmt: skip
    try:
        checked = EndpointSettings.model_validate(given)
        checked_url(checked.url, networks(settings.webhook_allowed_networks))
    except ValidationError as error:
        told = "; ".join(f"{fault['loc'][0] if fault['loc'] else ''} {fault['msg']}" for fault in error.errors())
        raise typer.BadParameter(told) from None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="URL") from error
    wanted = Wanted(checked.event_types, checked.channels, checked.sources, checked.max_age_s)

    async def work(endpoints: Endpoints) -> str | None:
        _, made = await endpoints.put(tenant, name, Given(checked.url, wanted, checked.enabled, checked.secret))
        return made

    if (made := _with_endpoints(settings, work)) is not None:
        print(made)


@app.command()
def delete(name: Name, tenant: TenantOption = "default", data: DataOption = None) -> None:
    """Delete an endpoint and all that waits for it."""

    async def work(endpoints: Endpoints) -> None:
        await endpoints.delete(tenant, name)

    _with_endpoints(_settings(data), work)
    print(f"deleted {name}")


@app.command()
def test(name: Name, tenant: TenantOption = "default", data: DataOption = None) -> None:
    """Post a signed test event from here and say what came of it."""
    settings = _settings(data)

    async def work(endpoints: Endpoints) -> str:
        endpoint = await endpoints.find(tenant, name)
        allowed = networks(settings.webhook_allowed_networks)
        async with open_transport(allowed, settings.webhook_timeout_s) as transport:
            sending = SenderSettings(settings.webhook_timeout_s, settings.webhook_retention_s)
            metrics = WebhookMetrics(CollectorRegistry())
            sender = Sender(endpoints.pool, endpoints, transport, SystemClock(), metrics, sending)
            _, answer = await sender.test(endpoint)
        verdict = judge(answer)
        if not verdict.delivered:
            raise SetupError(f"{endpoint.url} did not take it after {answer.duration_ms} ms: {verdict.reason}")
        return f"ok: {endpoint.url} answered {answer.status} after {answer.duration_ms} ms"

    print(_with_endpoints(settings, work))


@app.command()
def rotate(
    name: Name,
    overlap: Annotated[int, typer.Option(min=0, max=MAX_OVERLAP_S, help="Seconds for which both sign.")] = OVERLAP_S,
    secret_file: SecretFile = None,
    tenant: TenantOption = "default",
    data: DataOption = None,
) -> None:
    """Let a new secret sign, beside the former one for a while. The new one is printed once, alone on stdout."""
    given = _secret_in(secret_file)
    try:
        secret = checked_secret(given) if given is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--secret-file") from None

    async def work(endpoints: Endpoints) -> tuple[str, datetime]:
        return await endpoints.rotate(tenant, name, secret, overlap)

    new, until = _with_endpoints(_settings(data), work)
    print(new)
    print(f"the former secret signs too until {rfc3339(until)}", file=sys.stderr)


@app.command()
def dead(
    name: Name,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest first.")] = 100,
    tenant: TenantOption = "default",
    data: DataOption = None,
) -> None:
    """List dead letters: what was tried for days and not taken. `retry` sends them again, until they are forgotten."""

    async def work(endpoints: Endpoints) -> list[Mapping[str, Any]]:
        endpoint = await endpoints.find(tenant, name)
        return await endpoints.deliveries(endpoint, "x", None, limit)

    found = _with_endpoints(_settings(data), work)
    if not found:
        return
    rows = [
        (one["webhook_id"], one["type"], rfc3339(one["settled_at"]), shortened(safe(one["last_error"] or "-"), 80))
        for one in found
    ]
    print_table([("WEBHOOK-ID", "TYPE", "GIVEN UP", "LAST ERROR"), *rows])


@app.command()
def retry(
    name: Name,
    ids: Annotated[list[str] | None, typer.Argument(help="webhook-ids of dead letters.")] = None,
    since: Annotated[str | None, typer.Option(help="RFC 3339: all that died then or later.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All dead letters of the endpoint.")] = False,
    tenant: TenantOption = "default",
    data: DataOption = None,
) -> None:
    """Send dead letters again, with all their attempts before them."""
    if sum((bool(ids), since is not None, all_)) != 1:
        raise typer.BadParameter("give ids, --since or --all")
    try:
        after = datetime.min.replace(tzinfo=UTC) if all_ else instant(since) if since is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from error

    async def work(endpoints: Endpoints) -> int:
        return await endpoints.replay(await endpoints.find(tenant, name), ids or None, after)

    print(f"{_with_endpoints(_settings(data), work)} to be sent again")


def _state(endpoint: Endpoint) -> str:
    if not endpoint.enabled:
        return "disabled"
    return f"failing ({endpoint.failures})" if endpoint.failures else "enabled"


def _check(name: str, tenant: str) -> None:
    if not NAME_FORM.fullmatch(name):
        raise typer.BadParameter("letters, digits, dots, dashes and underscores, at most 100", param_hint="NAME")
    try:
        check_tenant(tenant)
    except SetupError as error:
        raise typer.BadParameter(str(error), param_hint="--tenant") from error


def _secret_in(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        return (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the secret in {file} cannot be read: {error}") from error


def _settings(data: Path | None) -> Settings:
    settings = quiet_settings(data)
    try:
        networks(settings.webhook_allowed_networks)
    except ValueError as error:
        raise SetupError(f"THREADLINE_WEBHOOK_ALLOWED_NETWORKS: {error}") from None
    return settings


def _with_endpoints(settings: Settings, work: Callable[[Endpoints], Awaitable[T]]) -> T:
    async def run(sealed: Settings) -> T:
        await migrate(sealed.dsn())
        async with AsyncExitStack() as stack:
            pool = await stack.enter_async_context(open_pool(sealed, sealed.dsn(), name="threadline webhooks"))
            try:
                return await work(Endpoints(pool, sealed.secret(), SystemClock()))
            except NoSuchEndpoint:
                raise SetupError(
                    "the tenant has no webhook endpoint of this name; `webhooks list` shows them"
                ) from None
            except NotDead as error:
                raise SetupError(f"{error} is no dead letter of this endpoint; nothing was sent") from None

    return on_database(settings, "webhooks", run)
