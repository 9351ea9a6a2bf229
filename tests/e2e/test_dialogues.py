"""Real dialogues through the public API of real processes: who is who and which conversation is which."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import needs
from tests.e2e import dialogues as told
from tests.e2e.dialogues import Delivery, Dialogues
from tests.processes import Answer, System, apart, up

SECRET_KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture(scope="session")
def dialogues(shared_data: Path) -> Dialogues:
    """The shared dialogues."""
    return told.load(shared_data / "dialogues")


@asynccontextmanager
async def on_kafka(folder: Path, database: str, kafka: str) -> AsyncIterator[System]:
    """Three processes on one database and one broker."""
    env = {
        "THREADLINE_DATABASE_URL": database,
        "THREADLINE_KAFKA": kafka,
        "THREADLINE_TOPIC_PREFIX": f"e2e-{folder.name.replace(' ', '-')}",
        "THREADLINE_SECRET_KEY": SECRET_KEY,
    }
    async with apart(folder, env) as system:
        yield system


async def holds(system: System, dialogues: Dialogues) -> None:
    """Post everything, and find what the truth says; then everything again, and find it unchanged."""
    await told.put_policies(system, dialogues)
    judge_answers(await told.post(system, dialogues))
    system.verified()
    found = await told.statuses(system, dialogues.events)
    assert {what: wrong[:5] for what, wrong in told.differences(dialogues, found).items() if wrong} == {}
    assert (await told.handles(system, dialogues))[:5] == []

    before = await kpis(system, dialogues)
    await told.post_in_batches(system, dialogues)
    system.verified()
    assert await told.statuses(system, dialogues.events) == found, "the same deliveries again changed something"
    assert await kpis(system, dialogues) == before, "the same deliveries again changed a KPI"


async def kpis(system: System, dialogues: Dialogues) -> dict[str, object]:
    """The totals of some KPIs of every tenant over the whole span."""
    totals: dict[str, object] = {}
    for tenant in dialogues.tenants:
        async with system.client(tenant, system.metrics) as client:
            for kpi in ("messages_received", "messages_sent", "conversations_opened", "first_reply_time"):
                answer = await client.get(
                    f"/v1/kpis/{kpi}", params={"start": "2024-12-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}
                )
                assert answer.status_code == 200, answer.text
                totals[f"{tenant} {kpi}"] = answer.json()["total"]
    return totals


def judge_answers(answers: Sequence[tuple[Delivery, Answer]]) -> None:
    """Every accepted line 202 naming its event; every refused one 4xx that says where and what."""
    for delivery, answer in answers:
        if delivery.expect == "accepted":
            assert answer.status_code == 202, (delivery.id, answer.text)
            assert answer.json() == {"accepted": [{"source": delivery.source, "id": delivery.id}]}
        elif delivery.expect == "refused":
            assert answer.status_code in (400, 413, 415, 422), (delivery.body[:80], answer.text)
            assert answer.headers["content-type"].startswith("application/problem+json")
            problem = answer.json()
            assert problem["detail"] or problem.get("errors"), problem
            if answer.status_code == 422 and delivery.body.startswith("{"):
                assert all(error["pointer"].startswith("#") and error["detail"] for error in problem["errors"]), problem
                assert problem["errors"]
        else:
            assert answer.status_code == 202 or 400 <= answer.status_code < 500, answer.text


@needs("shared_data")
@pytest.mark.timeout(600)
async def test_dialogues_in_arrival_order_in_one_process(open_folder: Path, dialogues: Dialogues) -> None:
    async with up(open_folder) as system:
        await holds(system, dialogues)


@needs("shared_data")
@pytest.mark.timeout(600)
async def test_dialogues_in_another_order_in_one_process(open_folder: Path, dialogues: Dialogues) -> None:
    async with up(open_folder) as system:
        await holds(system, dialogues.shuffled(seed=11))


@needs("shared_data", "kafka")
@pytest.mark.timeout(600)
async def test_dialogues_in_arrival_order_over_kafka(
    open_folder: Path, database: str, kafka: str, dialogues: Dialogues
) -> None:
    async with on_kafka(open_folder, database, kafka) as system:
        await holds(system, dialogues)


@needs("shared_data", "kafka")
@pytest.mark.timeout(600)
async def test_dialogues_in_another_order_over_kafka(
    open_folder: Path, database: str, kafka: str, dialogues: Dialogues
) -> None:
    async with on_kafka(open_folder, database, kafka) as system:
        await holds(system, dialogues.shuffled(seed=12))
