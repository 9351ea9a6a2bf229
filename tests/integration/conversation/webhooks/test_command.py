"""`threadline webhooks` on the real database: what it stores, says and never shows."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from click.testing import Result
from typer.testing import CliRunner

from services.cli import platform, webhooks
from tests.receiver import receiving
from tests.timeline_app import SECRET_KEY

Command = Callable[..., Awaitable[Result]]


@pytest.fixture
def command(database: str, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("THREADLINE_DATABASE_URL", database)
    monkeypatch.setenv("THREADLINE_SECRET_KEY", base64.b64encode(SECRET_KEY).decode())
    monkeypatch.setenv("THREADLINE_WEBHOOK_ALLOWED_NETWORKS", "127.0.0.1/32")
    monkeypatch.setattr(platform, "configure_logging", lambda *_, **__: None)

    async def run(*arguments: str, stdin: str | None = None) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, webhooks.app, arguments, stdin)

    return run


async def test_each_secret_is_handed_out_once_and_both_sign_while_they_overlap(command: Command) -> None:
    async with receiving() as receiver:
        old = (await command("put", "desk", receiver.url())).stdout.strip()
        rotated = await command("rotate", "desk", "--overlap", "60")
        new = rotated.stdout.strip()
        assert new != old and "signs too until" in rotated.stderr
        given = await command("rotate", "desk", "--secret-file", "-", stdin=old)
        assert given.stdout.strip() == old
        assert (await command("test", "desk")).stdout.startswith("ok: ")
        assert receiver.verified_by(old) == receiver.verified_by(new) != []
        again = await command("put", "desk", receiver.url(), "--disabled", "--event", "threadline.message.*")
        listed = await command("list")
        assert again.stdout == "" and re.search(r"desk +disabled +0 +0 +http", listed.stdout)
        assert old not in listed.output and new not in listed.output
        receiver.answer = lambda _: 500
        failed = await command("test", "desk")
        assert failed.exit_code != 0 and "answered 500" in str(failed.exception)


async def test_what_cannot_be_is_refused_with_the_reason_and_stores_nothing(command: Command) -> None:
    for arguments, says in (
        (("put", "desk", "https://169.254.169.254/latest"), "from outside"),
        (("put", "desk", "http://10.0.0.1/"), "http without TLS"),
        (("put", "desk", "https://x.example/", "--event", "threadline.nothing.such"), "matches no event type"),
        (("put", "../desk", "https://x.example/"), "letters, digits"),
        (("rotate", "desk", "--secret-file", "/nowhere"), "cannot be read"),
        (("rotate", "desk"), "no webhook endpoint of this name"),
        (("dead", "desk"), "no webhook endpoint of this name"),
        (("retry", "desk"), "give ids, --since or --all"),
        (("retry", "desk", "--since", "yesterday"), "--since"),
    ):
        refused = await command(*arguments)
        told = " ".join(re.sub(r"[\u2500-\u257f]", " ", f"{refused.output} {refused.exception}").split())
        assert refused.exit_code != 0 and says in told, (arguments, told)
    wrong = await command("rotate", "desk", "--secret-file", "-", stdin="hunter2")
    assert wrong.exit_code != 0 and "hunter2" not in wrong.output and "whsec_" in wrong.output
    assert (await command("list")).output == ""


async def test_dead_letters_are_listed_sent_again_and_gone_with_the_endpoint(
    command: Command, pool: asyncpg.Pool
) -> None:
    await command("put", "desk", "https://x.example/")
    await pool.execute(DEAD_LETTER)
    listed = await command("dead", "desk")
    assert re.search(r"e1\.1 +threadline\.message\.sent .* answered 500", listed.stdout)
    unknown = await command("retry", "desk", "e1.1", "unknown")
    assert "unknown is no dead letter" in str(unknown.exception)
    assert (await command("retry", "desk", "--since", "2999-01-01T00:00:00Z")).stdout == "0 to be sent again\n"
    assert (await command("retry", "desk", "--all")).stdout == "1 to be sent again\n"
    assert (await command("dead", "desk")).stdout == ""
    assert re.search(r"desk +enabled +1 +0 ", (await command("list")).stdout)
    assert (await command("delete", "desk")).exit_code == 0
    assert await pool.fetchval("SELECT count(*) FROM conversation.webhook_delivery") == 0


DEAD_LETTER = """
WITH event AS (
    INSERT INTO conversation.webhook_event (tenant_id, webhook_id, leaf_id, entry_id, type, body)
    VALUES ('default', 'e1.1', gen_random_uuid(), gen_random_uuid(), 'threadline.message.sent', '{}'))
INSERT INTO conversation.webhook_delivery
    (tenant_id, endpoint_id, webhook_id, customer_id, state, attempts, settled_at, last_error)
SELECT 'default', endpoint_id, 'e1.1', gen_random_uuid(), 'x', 10, now(), 'answered 500'
FROM conversation.webhook_endpoint
"""
