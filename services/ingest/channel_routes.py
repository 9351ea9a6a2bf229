"""`/v1/channels`: set up, list and stop channel accounts. Secrets go in and never come out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
import phonenumbers
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from services.ingest import openapi
from services.ingest.adapters.base import Account, Adapter
from services.ingest.asyncapi import inlined
from services.ingest.channel_options import ChannelOptions
from services.ingest.channels import Channel, Channels
from services.ingest.reading import NotJson, fault_in_shape, read_json
from services.ingest.routes import whole_body
from services.ingest.validation import faults_of
from shared.auth import Principal, require
from shared.events import rfc3339
from shared.handles import own_address
from shared.problems import Fault, Problem, not_found
from shared.service import Platform

MAX_ACCOUNT_CHARACTERS = 200


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise PydanticCustomError("sentence", "must be an http or https URL")
    return text


def _region(text: str) -> str:
    region = text.upper()
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise PydanticCustomError("sentence", "must be a country by its two letters, such as NL")
    return region


def _own(text: str) -> str:
    try:
        return own_address(text)
    except ValueError as error:
        raise PydanticCustomError("sentence", "{why}", {"why": str(error)}) from error


Line = Annotated[str, Field(min_length=1, max_length=10_000)]


class ChannelSettings(BaseModel):
    """What an account is set up with; only `secrets` is required."""

    model_config = ConfigDict(strict=True, extra="forbid")

    secrets: list[Line] = Field(
        min_length=1, max_length=20, description="What the provider verifies with, newest first; several may be active"
    )
    public_url: Annotated[str, AfterValidator(_url), Field(max_length=2_000)] | None = Field(
        None, description="The URL that the provider was given, where a proxy stands between"
    )
    own_addresses: list[Annotated[str, AfterValidator(_own), Field(max_length=1_000)]] | None = Field(
        None, max_length=1_000, description="Addresses and numbers of yours, each alone: help@shop.example"
    )
    default_region: Annotated[str, AfterValidator(_region)] | None = Field(
        None, description="Country in which numbers without country code are read; wins over the policy's"
    )
    options: ChannelOptions | None = Field(None, description="What only this provider needs; see docs/adapters.md")


Admin = Annotated[Principal, Depends(require("admin"))]
AccountName = Annotated[str, Path(description="The account's name in `source` and handles, chosen by you")]


def add_channel_routes(
    router: APIRouter, platform: Platform, channels: Channels, adapters: Mapping[str, Adapter]
) -> None:
    """Add the routes of `/v1/channels`."""

    @router.put(
        "/v1/channels/{provider}/{account}",
        tags=["channels"],
        summary="Set up or change a channel account",
        response_class=Response,
        responses={200: openapi.response("The account and its URL", openapi.CHANNEL_URL_SCHEMA)},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": inlined(ChannelSettings.model_json_schema())}},
            }
        },
    )
    async def put(request: Request, provider: str, account: AccountName, principal: Admin) -> Response:
        """Store how deliveries of this account are recognised, and return the URL to give to the provider.

        The URL stays the same when the account is changed. Secrets are stored encrypted and never shown again.
        """
        _check_names(adapters, provider, account)
        given = _settings(await whole_body(request))
        channel = await channels.put(
            Account(
                tenant=principal.tenant,
                provider=provider,
                account=account,
                secrets=tuple(given.secrets),
                public_url=given.public_url,
                own_addresses=tuple(given.own_addresses or ()),
                default_region=given.default_region,
                options=given.options.given() if given.options else {},
            )
        )
        return _answer(_with_url(channel, platform, request))

    @router.get(
        "/v1/channels",
        tags=["channels"],
        summary="List channel accounts",
        response_class=Response,
        responses={200: openapi.response("Every account of the tenant", openapi.CHANNELS_SCHEMA)},
    )
    async def list_channels(request: Request, principal: Admin) -> Response:
        """Return every account of the tenant with its URL, without its secrets; options that look secret are masked."""
        found = await channels.list(principal.tenant)
        return _answer({"channels": [_shown(channel, platform, request) for channel in found]})

    @router.get(
        "/v1/channels/{provider}/{account}",
        tags=["channels"],
        summary="Show a channel account",
        response_class=Response,
        responses={200: openapi.response("The account", openapi.CHANNEL_SCHEMA)},
    )
    async def show(request: Request, provider: str, account: AccountName, principal: Admin) -> Response:
        """Return one account as the list shows it."""
        _check_names(adapters, provider, account)
        channel = await channels.find(principal.tenant, provider, account)
        if channel is None:
            raise not_found("channel account")
        return _answer(_shown(channel, platform, request))

    @router.delete(
        "/v1/channels/{provider}/{account}", tags=["channels"], status_code=204, summary="Stop a channel account"
    )
    async def delete(provider: str, account: AccountName, principal: Admin) -> Response:
        """Take no more deliveries for this account; its URL is never given again. What was received stays."""
        _check_names(adapters, provider, account)
        if not await channels.delete(principal.tenant, provider, account):
            raise not_found("channel account")
        return Response(status_code=204)


def _check_names(adapters: Mapping[str, Adapter], provider: str, account: str) -> None:
    if provider not in adapters:
        raise Problem(404, "Not found", f"there is no provider {provider!r}: one of {', '.join(sorted(adapters))}")
    if not account.isprintable() or len(account) > MAX_ACCOUNT_CHARACTERS:
        detail = f"must be printable and at most {MAX_ACCOUNT_CHARACTERS} characters"
        raise Problem(422, "Not valid", "the account's name cannot be used", errors=[Fault("#/path/account", detail)])


def _settings(body: bytes) -> ChannelSettings:
    try:
        given = read_json(body)
    except NotJson as error:
        raise Problem(400, "Not JSON", str(error), errors=[Fault("#", str(error))]) from error
    fault = fault_in_shape(given)
    if fault is not None:
        raise Problem(422, "Not valid", "see errors", errors=[Fault("#", fault)])
    try:
        return ChannelSettings.model_validate(given)
    except ValidationError as error:
        faults = [Fault(f"#{found.pointer}", found.detail) for found in faults_of(error, given)]
        raise Problem(422, "Not valid", "the channel account cannot be stored; see errors", errors=faults) from error


def _with_url(channel: Channel, platform: Platform, request: Request) -> dict[str, Any]:
    base = platform.settings.public_url or str(request.base_url)
    return {
        "provider": channel.account.provider,
        "account": channel.account.account,
        "webhook_url": base.rstrip("/") + channel.path,
        "webhook_path": channel.path,
    }


def _shown(channel: Channel, platform: Platform, request: Request) -> dict[str, Any]:
    account = channel.account
    return {
        **_with_url(channel, platform, request),
        "secrets": len(account.secrets),
        "public_url": account.public_url,
        "own_addresses": list(account.own_addresses),
        "default_region": account.default_region,
        "options": {name: _masked(name, value) for name, value in account.options.items()},
        "created_at": rfc3339(channel.created_at),
        "changed_at": rfc3339(channel.changed_at),
    }


def _masked(name: str, value: Any) -> Any:
    return "***" if any(word in name.lower() for word in ("token", "secret", "password", "key")) else value


def _answer(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json")
