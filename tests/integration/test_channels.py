"""Channel accounts and their webhooks, on the real database and log: who may send, what is kept, what is answered."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest

from services.ingest.adapters import ADAPTERS
from services.ingest.adapters.base import (
    Account,
    Answer,
    Delivery,
    Draft,
    Headers,
    Plain,
    Quarantined,
    RawRequest,
    ReplayToken,
)
from services.ingest.channels import SEALED_FOR, Channels
from services.ingest.keeping import FORGET_EXPIRED, MANY, Events, Keeper
from services.ingest.reading import storable_id
from shared.errors import LogUnavailable, SetupError
from shared.events import InboundEvent
from shared.sealing import Sealer
from shared.settings import Settings
from tests.ingest_app import NOW, SECRET_KEY, Ingest, running_ingest
from tests.waiting import until

MAIL = (
    b"From: Ann <ann@example.com>\r\nTo: help@acme.example\r\nMessage-ID: <m1@example.com>\r\nSubject: Hi\r\n\r\n"
    b"Hello\r\n"
)
PASSWORD = "correct horse"


@pytest.fixture
async def ingest(pool: asyncpg.Pool, settings: Settings) -> AsyncIterator[Ingest]:
    async with running_ingest(pool, settings, {**ADAPTERS, "once": Once()}) as running:
        yield running


async def put(
    ingest: Ingest, path: str = "email_raw/help@acme.example", key: str = "admin", **body: Any
) -> httpx.Response:
    return await ingest.client.put(
        f"/v1/channels/{path}",
        json={"secrets": [PASSWORD], **body},
        headers={"authorization": f"Bearer {ingest.keys[key]}"},
    )


async def channels(ingest: Ingest, method: str = "GET", path: str = "", key: str = "admin") -> httpx.Response:
    headers = {"authorization": f"Bearer {ingest.keys[key]}"}
    return await ingest.client.request(method, f"/v1/channels{path}", headers=headers)


async def mail(ingest: Ingest, path: str, password: str = PASSWORD, body: bytes = MAIL) -> httpx.Response:
    credentials = base64.b64encode(f"any:{password}".encode()).decode()
    headers = {"authorization": f"Basic {credentials}", "content-type": "message/rfc822"}
    return await ingest.client.post(path, content=body, headers=headers)


async def held(ingest: Ingest) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await ingest.platform.pool.fetch("SELECT * FROM log.quarantine ORDER BY event_id")
    return rows


# Accounts


async def test_an_account_gets_a_url_that_stays_when_it_changes(ingest: Ingest) -> None:
    first = (await put(ingest)).json()
    assert set(first) == {"provider", "account", "webhook_url", "webhook_path"}
    assert first["webhook_path"].startswith("/v1/webhooks/email_raw/")
    assert len(first["webhook_path"].rpartition("/")[2]) >= 40
    assert first["webhook_url"] == "http://ingest.test" + first["webhook_path"]
    assert (await put(ingest, secrets=["another"])).json() == first
    assert (await put(ingest, "email_raw/other")).json()["webhook_path"] != first["webhook_path"]


async def test_secrets_are_stored_sealed_and_never_shown(ingest: Ingest) -> None:
    await put(ingest, options={"verify_token": "hush-hush", "own_mail": "agent"}, own_addresses=["a@acme.example"])
    row = await ingest.platform.pool.fetchrow("SELECT * FROM ingest.channel_account")
    assert PASSWORD.encode() not in row["sealed"] and b"hush" not in row["sealed"]
    for answer in (await channels(ingest), await channels(ingest, path="/email_raw/help@acme.example")):
        assert answer.status_code == 200
        assert PASSWORD not in answer.text and "hush-hush" not in answer.text
    (shown,) = (await channels(ingest)).json()["channels"]
    assert (shown["secrets"], shown["own_addresses"]) == (1, ["a@acme.example"])
    assert shown["options"] == {"verify_token": "***", "own_mail": "agent"}


async def test_only_an_admin_of_the_tenant_sees_its_accounts(ingest: Ingest) -> None:
    await put(ingest)
    assert (await put(ingest, key="events:write")).status_code == 403
    assert (await channels(ingest, key="timeline:read")).status_code == 403
    assert (await channels(ingest, key="globex")).status_code == 403


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"secrets": []}, "#/secrets"),
        ({"secrets": [""]}, "#/secrets/0"),
        ({"secrets": "one"}, "#/secrets"),
        ({"secrets": None}, "#/secrets"),
        ({"public_url": "ftp://x"}, "#/public_url"),
        ({"public_url": "https://"}, "#/public_url"),
        ({"default_region": "XX"}, "#/default_region"),
        ({"own_addresses": [7]}, "#/own_addresses/0"),
        ({"own_addresses": ["a@acme.example", "Help <help@acme.example>"]}, "#/own_addresses/1"),
        ({"options": []}, "#/options"),
        ({"options": {"own_lists": "people.acme.example"}}, "#/options/own_lists"),
        ({"options": {"own_lists": [None]}}, "#/options/own_lists/0"),
        ({"options": {"origins": "https://www.acme.example"}}, "#/options/origins"),
        ({"options": {"staff": {}}}, "#/options/staff"),
        ({"options": {"callback_on": True}}, "#/options/callback_on"),
        ({"options": {"events_per_minute": "many"}}, "#/options/events_per_minute"),
        ({"options": {"events_per_minute": 0}}, "#/options/events_per_minute"),
        ({"options": {"own_mail": "people"}}, "#/options/own_mail"),
        ({"options": {"cloud": "moon"}}, "#/options/cloud"),
        ({"option": {}}, "#/option"),
    ],
)
async def test_an_account_that_cannot_work_is_refused_with_a_pointer(
    ingest: Ingest, body: dict[str, Any], pointer: str
) -> None:
    answer = await put(ingest, **body)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


async def test_options_are_kept_as_given_and_ids_of_digits_are_text(ingest: Ingest) -> None:
    given = {"bot_id": 42, "staff": [7, "U1"], "origins": ["https://www.acme.example"], "of_my_own": {"a": [1]}}
    assert (await put(ingest, options=given)).status_code == 200
    answer = (await channels(ingest)).json()["channels"][0]
    assert answer["options"] == given | {"bot_id": "42", "staff": ["7", "U1"]}


async def test_odd_bodies_and_names_are_the_callers_mistake(ingest: Ingest) -> None:
    headers = {"authorization": f"Bearer {ingest.keys['admin']}"}
    lone = b'{"secrets":["s"],"options":{"n":"\\ud800"}}'
    answer = await ingest.client.put("/v1/channels/email_raw/a", content=lone, headers=headers)
    assert answer.status_code == 200
    for body in (b"", b"{", b"[]", b'{"secrets":["\\u0000"],"options":{"a":' + b"[" * 99 + b"]" * 99 + b"}}"):
        answer = await ingest.client.put("/v1/channels/email_raw/a", content=body, headers=headers)
        assert answer.status_code in (400, 422), answer.text
    assert (await put(ingest, "telepathy/a")).status_code == 404
    assert (await put(ingest, "email_raw/" + "a" * 201)).status_code == 422
    assert (await put(ingest, "email_raw/a%00b")).status_code == 422


# Webhooks


async def test_a_genuine_delivery_is_in_the_log_when_it_is_answered(ingest: Ingest) -> None:
    path = (await put(ingest, default_region="NL")).json()["webhook_path"]
    answer = await mail(ingest, path)
    assert answer.status_code == 202
    assert answer.json() == {"accepted": [{"source": "/email_raw/help@acme.example", "id": "m1@example.com"}]}
    (event,) = await ingest.inbound()
    assert (event.tenant, event.source, event.id, event.region) == (
        "acme", "/email_raw/help@acme.example", "m1@example.com", "NL",
    )  # fmt: skip
    assert (event.occurred_at, event.data["time_estimated"]) == (NOW, True)
    assert event.data["customer"]["handles"][0]["value"] == "ann@example.com"
    status = await ingest.status("/email_raw/help@acme.example", "m1@example.com")
    assert status.json()["status"] == "accepted"


async def test_a_forged_delivery_leaves_only_a_counter(ingest: Ingest) -> None:
    path = (await put(ingest)).json()["webhook_path"]
    answer = await mail(ingest, path, "wrong")
    assert answer.status_code == 401 and "Basic" in answer.headers["www-authenticate"]
    assert await ingest.inbound() == [] and await held(ingest) == []
    counted = ingest.platform.registry.get_sample_value(
        "threadline_ingest_webhooks_forged_total", {"provider": "email_raw"}
    )
    assert counted == 1


async def test_a_url_names_one_provider_and_account_and_stops_when_deleted(ingest: Ingest) -> None:
    path = (await put(ingest)).json()["webhook_path"]
    assert (await mail(ingest, path.replace("email_raw", "twilio"))).status_code == 404
    assert (await mail(ingest, path[:-1] + ("A" if path[-1] != "A" else "B"))).status_code == 404
    assert (await channels(ingest, "DELETE", "/email_raw/help@acme.example")).status_code == 204
    assert (await mail(ingest, path)).status_code == 404
    assert (await channels(ingest, "DELETE", "/email_raw/help@acme.example")).status_code == 404
    assert (await put(ingest)).json()["webhook_path"] != path


async def test_a_secret_that_was_replaced_stops_and_both_work_meanwhile(ingest: Ingest) -> None:
    path = (await put(ingest, secrets=["new", "old"])).json()["webhook_path"]
    assert (await mail(ingest, path, "old")).status_code == 202
    assert (await mail(ingest, path, "new")).status_code == 202
    await put(ingest, secrets=["new"])
    assert (await mail(ingest, path, "old")).status_code == 401


async def test_what_is_genuine_and_not_understood_is_kept_once_without_its_credentials(ingest: Ingest) -> None:
    path = (await put(ingest)).json()["webhook_path"]
    for _ in range(2):
        answer = await mail(ingest, path, body=b"\r\nno mail at all")
        assert answer.status_code == 202
    (row,) = await held(ingest)
    assert (row["tenant_id"], row["source"]) == ("acme", "/email_raw/help@acme.example")
    assert row["event_id"] == answer.json()["accepted"][0]["id"] and row["event_id"].startswith("sha256:")
    assert row["value"] == b"\r\nno mail at all" and row["reason"]
    assert b"authorization" not in row["headers"].lower() and b"message/rfc822" in row["headers"]
    status = (await ingest.status(row["source"], row["event_id"])).json()
    assert (status["status"], status["reason"]) == ("quarantined", row["reason"])


async def test_a_log_that_is_away_is_5xx_so_that_the_provider_comes_again(ingest: Ingest) -> None:
    path = (await put(ingest)).json()["webhook_path"]
    ingest.log.error = LogUnavailable("no broker")
    answer = await mail(ingest, path)
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    ingest.log.error = None
    assert (await mail(ingest, path)).status_code == 202


async def test_mail_may_be_larger_than_an_event_and_not_larger_than_40_mib(ingest: Ingest) -> None:
    path = (await put(ingest)).json()["webhook_path"]
    assert (await mail(ingest, path, body=MAIL + b"x" * 76 * 100_000)).status_code == 202
    assert (await mail(ingest, path, body=b"x" * (40 * 1024 * 1024 + 1))).status_code == 413
    assert (await mail(ingest, path, body=b"")).status_code == 422


class Once(Plain):
    """A provider for these tests: the query says the token that counts once and which kind of part to make."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """Everybody is genuine."""

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        token, _, kind = request.query.partition("&")
        events = (Draft("id-" + "i" * 2_000, "threadline.message.received", None, {"text": "a\0b"}),)
        if kind == "ancient":
            events = (Draft("old", "threadline.message.received", datetime(1, 1, 1, tzinfo=UTC), {}),)
        if kind == "invalid":
            events = (Draft("bad", "threadline.survey.answered", None, {"score": "five"}),)
        quarantined = (Quarantined("half understood\0", "part-2"),) if kind == "part" else ()
        return Delivery(Answer(200, b"ok", (("x-a", "b"),)), events, quarantined, ReplayToken(token, 60))


async def test_a_token_that_counts_once_makes_its_repetition_a_duplicate(ingest: Ingest) -> None:
    path = (await put(ingest, "once/a")).json()["webhook_path"]
    ingest.log.error = LogUnavailable("no broker")
    assert (await ingest.client.post(f"{path}?t1", content=b"x")).status_code == 503
    ingest.log.error = None
    for _ in range(3):
        answer = await ingest.client.post(f"{path}?t1", content=b"x")
        assert (answer.status_code, answer.content, answer.headers["x-a"]) == (200, b"ok", "b")
    (event,) = await ingest.inbound()
    assert event.id == storable_id("id-" + "i" * 2_000) and event.data["text"] == "a\ufffdb"
    await ingest.client.post(f"{path}/mime?t2", content=b"x")
    assert len(await ingest.inbound()) == 2
    pool = ingest.platform.pool
    await pool.execute(FORGET_EXPIRED, NOW)
    assert await pool.fetchval("SELECT count(*) FROM ingest.replay_token") == 2
    await pool.execute("UPDATE ingest.replay_token SET expires_at = $1::timestamptz - interval '1 s'", NOW)
    await ingest.client.post(f"{path}?t1", content=b"x")
    assert len(await ingest.inbound()) == 3


async def test_of_many_deliveries_at_once_each_token_counts_once(ingest: Ingest) -> None:
    path = (await put(ingest, "once/a")).json()["webhook_path"]
    other = (await put(ingest, "once/b")).json()["webhook_path"]
    targets = [f"{path}?t{number % 20}" for number in range(120)] + [f"{other}?t{number}&part" for number in range(20)]
    answers = await asyncio.gather(*(ingest.client.post(target, content=b"x") for target in targets))
    assert {answer.status_code for answer in answers} == {200}
    sources = [event.source for event in await ingest.inbound()]
    assert (sources.count("/once/a"), sources.count("/once/b")) == (20, 20)
    assert await ingest.platform.pool.fetchval("SELECT count(*) FROM ingest.replay_token") == 40
    assert [row["source"] for row in await held(ingest)] == ["/once/b"]


async def test_of_many_deliveries_at_once_none_is_remembered_while_the_log_is_away(ingest: Ingest) -> None:
    path = (await put(ingest, "once/a")).json()["webhook_path"]
    ingest.log.error = LogUnavailable("no broker")
    answers = await asyncio.gather(*(ingest.client.post(f"{path}?t{number}", content=b"x") for number in range(30)))
    assert {answer.status_code for answer in answers} == {503}
    assert await ingest.platform.pool.fetchval("SELECT count(*) FROM ingest.replay_token") == 0
    ingest.log.error = None
    again = await asyncio.gather(*(ingest.client.post(f"{path}?t{number}", content=b"x") for number in range(30)))
    assert {answer.status_code for answer in again} == {200} and len(await ingest.inbound()) == 30


async def test_a_delivery_that_cannot_be_kept_does_not_hold_up_those_beside_it(pool: asyncpg.Pool) -> None:
    taken: list[str] = []

    async def append(events: Events) -> None:
        names = [event.id for event, _ in events]
        if "bad" in names:
            raise ValueError("this one breaks it")
        taken.extend(names)

    keeper = Keeper(pool, append)
    account = Account("acme", "once", "a", ("secret",))
    raw = RawRequest("POST", "/x", "", Headers(), b"x", NOW)

    async def kept(name: str) -> bool:
        event = InboundEvent("acme", "/once/a", name, "threadline.message.received", NOW, NOW, {})
        return await keeper.keep(account, raw, [(event, b"")], (), ReplayToken(name, 60))

    names = [str(number) for number in range(20)] + ["bad"]
    results = await asyncio.gather(*map(kept, names), return_exceptions=True)
    assert results[:-1] == [True] * 20 and isinstance(results[-1], ValueError)
    assert sorted(taken) == sorted(names[:-1])
    assert await kept("1") is False


@pytest.mark.parametrize(("meanwhile", "transactions"), [(MANY - 1, 1), (MANY, 2)])
async def test_few_deliveries_wait_for_the_transaction_on_its_way_and_many_have_one_of_their_own(
    pool: asyncpg.Pool, meanwhile: int, transactions: int
) -> None:
    begun, sizes, go_on = 0, [], asyncio.Event()

    class Counting:
        def acquire(self) -> Any:
            nonlocal begun
            begun += 1
            return pool.acquire()

    async def append(events: Events) -> None:
        sizes.append(len(events))
        await go_on.wait()

    keeper = Keeper(Counting(), append)  # type: ignore[arg-type]
    account, raw = Account("acme", "once", "a", ("secret",)), RawRequest("POST", "/x", "", Headers(), b"x", NOW)

    def keep(name: str) -> asyncio.Task[bool]:
        event = InboundEvent("acme", "/once/a", name, "threadline.message.received", NOW, NOW, {})
        return asyncio.create_task(keeper.keep(account, raw, [(event, b"")], (), ReplayToken(name, 60)))

    first = keep("first")
    await until(lambda: sizes, "the first is being appended")
    others = [keep(str(number)) for number in range(meanwhile)]
    for _ in range(5):
        await asyncio.sleep(0)  # so that all that is to begin has begun
    assert begun == transactions
    go_on.set()
    assert all(await asyncio.gather(first, *others))
    assert sizes == [1, meanwhile]


async def test_half_a_delivery_is_taken_and_half_of_it_quarantined(ingest: Ingest) -> None:
    path = (await put(ingest, "once/a")).json()["webhook_path"]
    assert (await ingest.client.post(f"{path}?t1&part", content=b"x")).status_code == 200
    assert (await ingest.client.post(f"{path}?t2&invalid", content=b"x")).status_code == 200
    assert len(await ingest.inbound()) == 1
    assert [(row["event_id"], row["reason"][:27]) for row in await held(ingest)] == [
        ("bad", "the adapter's event is not "),
        ("part-2", "half understood\ufffd"),
    ]


async def test_what_a_provider_dates_to_the_year_1_happened_when_it_was_received(ingest: Ingest) -> None:
    path = (await put(ingest, "once/a")).json()["webhook_path"]
    assert (await ingest.client.post(f"{path}?t1&ancient", content=b"x")).status_code == 200
    (event,) = await ingest.inbound()
    assert (event.occurred_at, event.data["time_estimated"]) == (NOW, True)


# Sealing


def test_what_is_sealed_opens_only_for_its_owner_and_with_its_key() -> None:
    sealed = Sealer(SECRET_KEY, SEALED_FOR).seal(b"secret", "acme/slack/a")
    assert Sealer(SECRET_KEY, SEALED_FOR).open(sealed, "acme/slack/a") == b"secret"
    assert Sealer(SECRET_KEY, SEALED_FOR).seal(b"secret", "acme/slack/a") != sealed
    for sealer, changed, owner in (
        (Sealer(SECRET_KEY, SEALED_FOR), sealed, "globex/slack/a"),
        (Sealer(bytes(32), SEALED_FOR), sealed, "acme/slack/a"),
        (Sealer(SECRET_KEY, "other secrets"), sealed, "acme/slack/a"),
        (Sealer(SECRET_KEY, SEALED_FOR), sealed[:-1] + bytes([sealed[-1] ^ 1]), "acme/slack/a"),
        (Sealer(SECRET_KEY, SEALED_FOR), b"", "acme/slack/a"),
    ):
        with pytest.raises(SetupError, match=owner):
            sealer.open(changed, owner)


async def test_accounts_from_memory_outlive_a_database_that_is_away(pool: asyncpg.Pool) -> None:
    accounts = Channels(pool, SECRET_KEY)
    stored = await accounts.put(Account("acme", "slack", "a", ("s",)))
    assert (await accounts.by_token(stored.token)) == stored
    remembered = accounts._memory[stored.token]
    remembered.asked_s -= 100
    await pool.close()
    assert (await accounts.by_token(stored.token)) == stored
