"""What /metrics tells of quarantine and ledger, and that it can tell a loss."""

from __future__ import annotations

import asyncpg
import pytest

from services.conversation.auditing import Audit
from shared.entry_ids import entry_secret
from shared.log.protocol import INBOUND, Outgoing
from shared.settings import Settings
from tests.timeline_app import Timelines, running_timelines
from tests.waiting import until

# Takes an event out of the tables as if it had never been read.
LOSE = "DELETE FROM conversation.entry WHERE event_id = $1"


def an_audit(app: Timelines) -> Audit:
    return Audit(app.platform.pool, app.platform.log, entry_secret(app.platform.secret_key))


async def test_what_is_on_timelines_quarantined_or_erased_is_no_gap(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as app:
        stays, goes = app.message("09:00:00", "email:ann@example.com"), app.message("09:00:00", "email:bo@example.com")
        await app.post(stays, goes)
        customer = await app.customer("email:bo@example.com")
        assert customer is not None
        await app.call("DELETE", f"/v1/customers/{customer['id']}")
        await app.platform.log.append(INBOUND, [Outgoing(b"k", b"not an event")])

        async def kept() -> bool:
            return bool(await pool.fetchval("SELECT count(*) FROM log.quarantine"))

        await until(kept, "the unreadable record is in quarantine")
        audit = an_audit(app)
        assert await audit.look(0.0) >= 2
        assert audit.missing == {}


async def test_lost_event_is_a_gap_until_it_is_back(pool: asyncpg.Pool, settings: Settings) -> None:
    async with running_timelines(pool, settings) as app:
        events = [app.message(f"09:00:{second:02}", f"email:{second}@example.com") for second in range(20)]
        await app.post(*events)
        await pool.execute("CREATE TABLE public.lost AS SELECT * FROM conversation.entry WHERE event_id = $1", "e7")
        await pool.execute(LOSE, "e7")
        audit = an_audit(app)
        await audit.look(0.0)
        assert [gap.event_id for gap in audit.missing.values()] == ["e7"]
        await audit.look(0.999)
        assert [gap.event_id for gap in audit.missing.values()] == ["e7"], "another sample does not hide it"
        await pool.execute("INSERT INTO conversation.entry SELECT * FROM public.lost")
        await audit.look(0.999)
        assert audit.missing == {}


async def test_gauges_show_the_quarantine_and_the_gaps(
    pool: asyncpg.Pool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.conversation.auditing.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("services.conversation.auditing.AUDIT_EVERY_S", 0.1)
    async with running_timelines(pool, settings) as app:

        async def shown() -> str:
            headers = {"authorization": f"Bearer {app.keys['acme']}"}
            return (await app.client.get("/metrics", headers=headers)).text

        await app.post(app.message("09:00:00", "email:ann@example.com"))
        await app.platform.log.append(INBOUND, [Outgoing(b"k", b"not an event")])

        async def told(line: str) -> bool:
            return line in await shown()

        await until(lambda: told("threadline_quarantine_records 1.0"), "the depth of the quarantine")
        assert "threadline_ledger_gaps 0.0" in await shown()
        await pool.execute(LOSE, "e1")
        await until(lambda: told("threadline_ledger_gaps 1.0"), "the gap")
        await pool.execute("UPDATE log.quarantine SET state = 'dropped'")
        await until(lambda: told("threadline_quarantine_records 0.0"), "nothing held any more")
