"""`threadline verify` finds what is wrong, and is silent where nothing is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared import directory
from tests.faults import traffic
from tests.processes import Caller, System, up, up_for_a_module

pytestmark = pytest.mark.timeout(180)

# What somebody did to the tables behind our back, how it is undone, and what verify has to say about it.
TAMPERING = {
    "a lost entry": (
        """
        CREATE TABLE public.kept AS
            SELECT * FROM conversation.entry WHERE type = 'threadline.message.received' LIMIT 1;
        DELETE FROM conversation.entry AS e USING public.kept AS k WHERE e.entry_id = k.entry_id
        """,
        "INSERT INTO conversation.entry SELECT * FROM public.kept; DROP TABLE public.kept",
        "accepted events that are on no timeline and not in quarantine: 1",
    ),
    "an invented entry": (
        """
        INSERT INTO conversation.entry SELECT (x.e).* FROM (
            SELECT jsonb_populate_record(
                e, jsonb_build_object('entry_id', gen_random_uuid(), 'event_id', 'invented')) AS e
            FROM conversation.entry AS e WHERE e.source <> '/threadline' LIMIT 1) AS x
        """,
        "DELETE FROM conversation.entry WHERE event_id = 'invented'",
        "entries of events that the log never carried: 1",
    ),
    "a lost file": (
        "CREATE TABLE public.kept AS SELECT * FROM ingest.attachment; DELETE FROM ingest.attachment",
        "INSERT INTO ingest.attachment SELECT * FROM public.kept; DROP TABLE public.kept",
        "files of entries that are not there, or not as the entry names them: 1",
    ),
    "a changed file": (
        "UPDATE ingest.attachment SET content = set_byte(content, 0, get_byte(content, 0) # 1)",
        "UPDATE ingest.attachment SET content = set_byte(content, 0, get_byte(content, 0) # 1)",
        "files of entries that are not there, or not as the entry names them: 1",
    ),
    "a file cut off": (
        """
        CREATE TABLE public.kept AS SELECT * FROM ingest.attachment;
        UPDATE ingest.attachment SET content = substring(content FOR 3)
        """,
        """
        UPDATE ingest.attachment AS a SET content = k.content FROM public.kept AS k
            WHERE a.attachment_id = k.attachment_id;
        DROP TABLE public.kept
        """,
        "files of entries that are not there, or not as the entry names them: 1",
    ),
    "a leaf moved": (
        """
        CREATE TABLE public.kept AS
            SELECT leaf_id, customer_id FROM conversation.leaf WHERE node LIKE 'crm:%' LIMIT 1;
        UPDATE conversation.leaf AS l SET customer_id = gen_random_uuid() FROM public.kept AS k
            WHERE l.leaf_id = k.leaf_id
        """,
        """
        UPDATE conversation.leaf AS l SET customer_id = k.customer_id FROM public.kept AS k WHERE l.leaf_id = k.leaf_id;
        DROP TABLE public.kept
        """,
        "leaves of the timeline topic that belong to another customer: 1",
    ),
    "a KPI counted twice": (
        """
        CREATE TABLE public.kept AS
            SELECT * FROM metrics.contribution WHERE n <> 0 LIMIT 1;
        INSERT INTO metrics.contribution SELECT * FROM public.kept
        """,
        """
        DELETE FROM metrics.contribution AS c WHERE c.ctid = (SELECT max(m.ctid) FROM metrics.contribution AS m);
        DROP TABLE public.kept
        """,
        "kpi ",
    ),
}


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[tuple[System, str]]:
    """A running Threadline with some traffic on it, and the address of its database."""
    async with up_for_a_module("verify") as running:
        _, posting = await traffic.under_traffic(running, running.ingest, traffic.events(seed=91, people=40))
        await posting
        files = [{"name": "a.bin", "content": "QUJDRA=="}, {"name": "theirs", "url": "/v1/attachments/nonsense"}]
        customer = {"handles": [{"kind": "email", "value": "ann@home.example"}]}
        data = {"channel": "chat", "customer": customer, "text": "see there", "attachments": files}
        posted = _event("/chat/files", "2026-01-05T08:00:00Z", data)
        with Caller(running.ingest, running.key(traffic.TENANT)) as caller:
            assert caller.call("POST", "/v1/events", posted, "application/json").status_code == 202
        url = directory.offered(running.ingest.folder)
        assert url is not None
        yield running, url


def _event(source: str, time: str, data: dict[str, Any]) -> bytes:
    attributes = {"specversion": "1.0", "id": source, "source": source, "type": "threadline.message.received"}
    return json.dumps({**attributes, "time": time, "data": data}).encode()


async def test_verify_is_silent_where_all_is_right(system: tuple[System, str]) -> None:
    checked = system[0].verify()
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_copies_of_a_mail_are_one_message_to_the_ledger_and_to_every_number(system: tuple[System, str]) -> None:
    running = system[0]

    def mail(source: str, second: int) -> bytes:
        data = {"channel": "email", "message_id": "<copied@home.example>", "text": "said once"}
        return _event(source, f"2026-01-05T09:00:{second:02}Z", data)

    with Caller(running.ingest, running.key(traffic.TENANT)) as caller:
        # The first to arrive is not the first that happened.
        for event in (mail("/email/sales", 7), mail("/email/support", 2), mail("/email/archive", 9)):
            assert caller.call("POST", "/v1/events", event, "application/json").status_code == 202
    checked = running.verify()
    assert (checked.returncode, checked.stdout) == (0, "")
    with Caller(running.ingest, running.key(traffic.TENANT)) as caller:
        span = "start=2026-01-05T09:00:00Z&end=2026-01-05T09:01:00Z"
        answer = caller.call("GET", f"/v1/kpis/messages_received?{span}").json()
        assert answer["total"]["value"] == 1


async def test_what_agents_decided_is_in_the_ledger_as_well(system: tuple[System, str]) -> None:
    running, url = system
    with Caller(running.ingest, running.key(traffic.TENANT)) as caller:
        for name in ("left", "right"):
            customer = {"handles": [{"kind": "email", "value": f"{name}@home.example"}]}
            data = {"channel": "email", "customer": customer, "text": "hello"}
            posted = _event(f"/email/{name}", "2026-01-05T10:00:00Z", data)
            assert caller.call("POST", "/v1/events", posted, "application/json").status_code == 202
    assert running.verify().returncode == 0  # both are on timelines now
    with Caller(running.ingest, running.key(traffic.TENANT)) as caller:

        def decide(path: str, **body: Any) -> None:
            answer = caller.call("POST", path, json.dumps(body).encode(), "application/json")
            assert answer.status_code == 200, answer.text

        left, right = (
            caller.call("GET", f"/v1/customers?handle=email:{name}@home.example").json()["customers"][0]
            for name in ("left", "right")
        )
        here, there = left["open_conversations"][0], right["open_conversations"][0]
        decide(f"/v1/customers/{left['id']}/merge", **{"with": right["id"]})
        decide(f"/v1/customers/{left['id']}/split", handles=["email:right@home.example"])
        decide(f"/v1/conversations/{here}/join", conversation_id=there)
    checked = running.verify()
    assert (checked.returncode, checked.stdout) == (0, "")
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "CREATE TABLE public.kept AS SELECT * FROM conversation.entry WHERE type = 'threadline.customer.unmerged'"
        )
        await connection.execute("DELETE FROM conversation.entry WHERE type = 'threadline.customer.unmerged'")
        checked = running.verify()
        await connection.execute("INSERT INTO conversation.entry SELECT * FROM public.kept; DROP TABLE public.kept")
    finally:
        await connection.close()
    assert checked.returncode == 1
    assert "accepted events that are on no timeline and not in quarantine: 1" in checked.stdout


@pytest.mark.parametrize("tampering", TAMPERING)
async def test_verify_names_what_somebody_tampered_with(system: tuple[System, str], tampering: str) -> None:
    running, url = system
    change, undo, sentence = TAMPERING[tampering]
    connection = await asyncpg.connect(url)
    try:
        assert running.verify().returncode == 0
        await connection.execute(change)
        try:
            checked = running.verify()
        finally:
            await connection.execute(undo)
        assert checked.returncode == 1
        assert sentence in checked.stdout
        assert len(checked.stderr.strip().splitlines()) == 1
    finally:
        await connection.close()


async def test_verify_says_so_where_the_services_do_not_come_to_the_end(open_folder: Path) -> None:
    async with up(open_folder) as running:
        key = running.key(traffic.TENANT)
        assert key
        running.ingest.stop()
    # Nobody works here now; one event more would never be done, but with none to do all is well.
    checked = running.verify(1)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
