"""`/v1/webhooks/{provider}/{token}`: from a provider's request to the log, by the provider's adapter.

The answer goes out only after everything of the delivery is durable: its events in the log, what could not be
understood in the quarantine, a token that counts once in its table. A delivery that fails on the way is answered 503
and comes again; a forged one leaves nothing but a counter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic

from fastapi import APIRouter, Request, Response

from services.ingest.adapters.base import (
    Account,
    Adapter,
    Delivery,
    Draft,
    Forged,
    Headers,
    Quarantined,
    RawRequest,
    WithPublishedKeys,
    receive,
)
from services.ingest.attachments import placed
from services.ingest.channels import Channels
from services.ingest.intake import Intake
from services.ingest.keeping import Keeper
from services.ingest.limits import Pressure, SenderRates, TooMuch
from services.ingest.metrics import IngestMetrics
from services.ingest.openapi import TAKEN
from services.ingest.published_keys import KeysUnavailable, PublishedKeys
from services.ingest.reading import clean_text, cleaned, storable_id
from services.ingest.routes import straight_to, too_many, whole_body
from services.ingest.validation import InvalidEvent, check_data, encoded, is_a_time
from shared.events import InboundEvent
from shared.problems import Problem, not_found, unavailable
from shared.service import Door, Platform

MAX_BODY_BYTES = 40 * 1024 * 1024
IN_A_THREAD_BYTES = 64 * 1024
"""Larger bodies are read in a thread, so that one big mail does not hold up everybody else."""


class WebhookEndpoint:
    """Takes deliveries of all providers. One per process."""

    def __init__(
        self,
        platform: Platform,
        channels: Channels,
        adapters: Mapping[str, Adapter],
        intake: Intake,
        metrics: IngestMetrics,
        pressure: Pressure,
        keys: PublishedKeys,
    ) -> None:
        self._platform = platform
        self._keys = keys
        self._channels = channels
        self._adapters = adapters
        self._intake = intake
        self._metrics = metrics
        self._pressure = pressure
        self._keeper = Keeper(platform.pool, self._append)
        self._senders = SenderRates()
        self._with_published_keys = {
            name for name, adapter in adapters.items() if isinstance(adapter, WithPublishedKeys)
        }
        # Children are kept: looking one up by its labels costs more than counting.
        self._accepted = {name: metrics.accepted.labels(name) for name in adapters}
        self._quarantined = {name: metrics.quarantined.labels(name) for name in adapters}

    async def deliver(self, request: Request, provider: str, token: str) -> Response:
        """Take one request of a provider. Raises Problem; LogUnavailable and DatabaseUnavailable become 503."""
        channel = await self._channels.by_token(clean_text(token))
        if channel is None or channel.account.provider != provider or provider not in self._adapters:
            raise not_found("webhook")
        headers = Headers.of_asgi(request.scope["headers"])
        try:
            size_bytes = self._pressure.hold(headers.get("content-length"))
        except TooMuch as error:
            # Not 429: there are providers that throw away what is answered 4xx.
            raise unavailable(str(error)) from error
        try:
            received_at = self._platform.clock.now()
            raw = _raw_request(request, headers, await whole_body(request), received_at)
            return await self._take(raw, channel.account)
        finally:
            self._pressure.release(size_bytes)

    async def _take(self, raw: RawRequest, account: Account) -> Response:
        adapter = self._adapters[account.provider]
        if account.provider in self._with_published_keys:
            try:
                account = await self._keys.completed(adapter, raw, account)
            except KeysUnavailable as error:
                raise unavailable(f"{error}; sending it again is safe") from error
        try:
            if len(raw.body) > IN_A_THREAD_BYTES:
                delivery = await asyncio.to_thread(receive, adapter, raw, account)
            else:
                delivery = receive(adapter, raw, account)
        except Forged as error:
            self._metrics.forged.labels(account.provider).inc()
            title = "Unauthorized" if error.status == 401 else "Forbidden"
            raise Problem(error.status, title, error.detail, headers=dict(error.headers)) from error
        self._hold_to_the_rate(delivery, account)
        events, quarantined = events_of(delivery.events, account, raw.received_at)
        await self._keep(delivery, events, (*delivery.quarantined, *quarantined), raw, account)
        answer = delivery.answer
        if answer.status >= 400:
            self._metrics.refused.labels(account.provider, str(answer.status)).inc()
        return Response(answer.body, answer.status, headers=dict(answer.headers))

    def _hold_to_the_rate(self, delivery: Delivery, account: Account) -> None:
        """Raise Problem (429) where the account bounds what one sender may send and this one sends more."""
        sender = delivery.sender
        if sender is None:
            return
        count = len(delivery.events) + len(delivery.quarantined)
        name = f"{account.tenant}{account.source}/{sender.name}"
        wait_s = self._senders.wait_s(name, count, sender.events_per_minute, monotonic())
        if wait_s:
            self._metrics.refused.labels(account.provider, "429").inc()
            problem = too_many(wait_s, "more than this account lets one sender send: send it again later")
            problem.headers.update(delivery.readable_by)
            raise problem

    async def _keep(
        self,
        delivery: Delivery,
        events: Sequence[tuple[InboundEvent, bytes]],
        quarantined: Sequence[Quarantined],
        raw: RawRequest,
        account: Account,
    ) -> None:
        """Make all of a delivery durable. A repeated token that counts once makes it a duplicate: nothing is kept."""
        token = delivery.replay_token
        if token is None and not quarantined:
            await self._append(events)
        elif not await self._keeper.keep(account, raw, events, quarantined, token):
            return
        self._accepted[account.provider].inc(len(events))
        if quarantined:
            self._quarantined[account.provider].inc(len(quarantined))

    async def _append(self, events: Sequence[tuple[InboundEvent, bytes]]) -> None:
        began_s = monotonic()
        await self._intake.accept(events)
        self._metrics.append_seconds.observe(monotonic() - began_s)


def events_of(
    drafts: Sequence[Draft], account: Account, received_at: datetime
) -> tuple[list[tuple[InboundEvent, bytes]], list[Quarantined]]:
    """Return the drafts as events for the log, and as quarantined parts where a draft breaks the events' own rules."""
    events: list[tuple[InboundEvent, bytes]] = []
    quarantined: list[Quarantined] = []
    for draft in drafts:
        known = draft.time is not None and is_a_time(draft.time)
        event = InboundEvent(
            tenant=account.tenant,
            source=account.source,
            id=storable_id(clean_text(draft.id)),
            type=draft.type,
            occurred_at=draft.time if draft.time is not None and known else received_at,
            received_at=received_at,
            data=draft.data if known else {**draft.data, "time_estimated": True},
            subject=clean_text(draft.subject) if draft.subject else None,
            region=account.default_region,
            files=placed(draft.contents) if draft.contents else (),
        )
        try:
            events.append((event, _checked(event)))
        except InvalidEvent as error:
            quarantined.append(Quarantined(f"the adapter's event is not valid: {error}"[:1_000], event.id))
    return events, quarantined


def _checked(event: InboundEvent) -> bytes:
    """Return the record of an event, its texts cleaned. Raises InvalidEvent.

    Adapters give clean texts; going through all of them once more costs more than looking at the record.
    """
    try:
        check_data(event.type, event.data)
        value = encoded(event)
        if b"\\u0000" not in value:
            return value
    except (InvalidEvent, TypeError):
        pass  # a text that is not clean may be why
    cleaned(event.data)
    check_data(event.type, event.data)
    return encoded(event)


def _raw_request(request: Request, headers: Headers, body: bytes, received_at: datetime) -> RawRequest:
    return RawRequest(
        method=request.method,
        path=_path(request.scope["path"]),
        query=request.scope["query_string"].decode("latin-1"),
        headers=headers,
        body=body,
        received_at=received_at,
    )


def _path(path: str) -> str:
    """Return the path of a URL with `path`: `request.url` would put the whole of it together, and take it apart."""
    return path.replace("?", "%3F").replace("#", "%23").replace("\\", "%5C")


def add_webhook_routes(router: APIRouter, endpoint: WebhookEndpoint) -> Sequence[Door]:
    """Add the routes that providers call; return the doors for their deliveries.

    A delivery has a proof to pay for that an event with a key has not, and the framework's way to a route with
    parameters costs nearly as much as the dearest of them.
    """

    async def take(request: Request) -> Response:
        return await endpoint.deliver(request, request.path_params["provider"], request.path_params["token"])

    async def deliver(provider: str, token: str) -> None:
        """Answered as the provider expects, once everything genuine in it is durable.

        401 or 403: not proven to be the provider's. 503: send it again. At most 40 MiB.
        """

    async def deliver_tail(provider: str, token: str, tail: str) -> None:
        """Providers tell formats apart by the end of the URL (Mailgun: …/mime)."""

    path, straight = "/v1/webhooks/{provider}/{token}", straight_to(take)
    with_tail = path + "/{tail}"
    for method, name, summary in (
        ("GET", "webhook_handshake", "A provider's handshake"),
        ("POST", "webhook_delivery", "A provider's deliveries"),
    ):
        router.add_api_route(
            path, deliver, methods=[method], tags=["webhooks"], summary=summary, operation_id=name,
            response_class=Response, route_class_override=straight, responses=TAKEN,
        )  # fmt: skip
        router.add_api_route(
            with_tail, deliver_tail, methods=[method], include_in_schema=False, operation_id=f"{name}_tail",
            response_class=Response, route_class_override=straight,
        )  # fmt: skip
    # A browser asks first whether the widget's website may speak here.
    router.add_api_route(
        path, deliver, methods=["OPTIONS"], include_in_schema=False, operation_id="webhook_preflight",
        response_class=Response, route_class_override=straight,
    )  # fmt: skip
    return [Door("POST", path, take), Door("POST", with_tail, take)]
