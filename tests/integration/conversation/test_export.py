"""Everything on one person, as JSON lines."""

from __future__ import annotations

import json
from functools import partial

import asyncpg

from shared.settings import Settings
from tests.timeline_app import running_timelines
from tests.waiting import until


async def test_an_export_holds_all_that_is_kept_of_one_person_and_of_nobody_else(
    pool: asyncpg.Pool, settings: Settings
) -> None:
    async with running_timelines(pool, settings) as timelines:
        hello = timelines.message("09:00:00", "crm:ann", "email:ann@x.example", text="hello", own_field={"a": 1})
        await timelines.post(hello, timelines.message("09:01:00", "crm:bo", text="somebody else"))
        await timelines.post({**hello, "data": {**hello["data"], "text": "hello again"}})
        await until(partial(pool.fetchval, "SELECT count(*) FROM conversation.conflict"), "the other text kept")
        ann = await timelines.customer("crm:ann")
        assert ann is not None
        answer = await timelines.call("GET", f"/v1/customers/{ann['id']}/export")
        assert answer.status_code == 200
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["kind"] for line in lines] == [
            "customer", "entry", "entry", "conflict", "conversation", "identity",
        ]  # fmt: skip
        assert lines[3]["data"]["text"] == "hello again"
        assert {lines[5]["links"][0]["a"], lines[5]["links"][0]["b"]} == {"crm:ann", "email:ann@x.example"}
        assert lines[0]["handles"] == ann["handles"]
        posted = next(line for line in lines if line.get("type") == "threadline.message.received")
        assert posted["data"]["own_field"] == {"a": 1}
        assert posted["extra"] == {"own_field": {"a": 1}}
        assert "somebody else" not in answer.text
        assert (await timelines.call("GET", f"/v1/customers/{ann['id']}/export", tenant="globex")).status_code == 404
