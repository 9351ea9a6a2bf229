"""`threadline channels` and `threadline quarantine` beside a running Threadline, as an operator uses them."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import httpx
import pytest

from services.cli.knocking import verdict
from services.cli.printing import safe, safe_lines
from services.cli.quarantine import age
from shared import directory
from shared.errors import SetupError
from tests.processes import System, free_port, run, up
from tests.waiting import until

MAIL = b"From: Ann <ann@example.com>\nMessage-ID: <kept@example.com>\nDate: Mon, 02 Mar 2026 10:00:00 +0000\n\nHi\n"
BASIC = {"authorization": "Basic " + base64.b64encode(b"any:hush").decode(), "content-type": "message/rfc822"}


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    folder = directory.temporary("threadline test ")
    async with up(folder) as running:
        yield running


def command(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, *system.cli_data, env={"THREADLINE_PORT": str(system.ingest.port)})


def told(system: System, *arguments: str) -> str:
    done = command(system, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def failed(system: System, *arguments: str) -> str:
    done = command(system, *arguments)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done
    return done.stderr


async def test_an_account_is_set_up_tested_and_stopped_beside_a_running_threadline(
    system: System, tmp_path: Path
) -> None:
    (tmp_path / "secrets").write_text("old\nhush\n")
    url = told(system, "channels", "put", "email_raw", "help", "--secrets-file", str(tmp_path / "secrets")).strip()
    listed = told(system, "channels", "list")
    assert url in listed and "hush" not in listed
    again = ("--secret", "hush", "--own", "bo@acme.example", "--option", "own_mail=agent", "--region", "nl")
    assert told(system, "channels", "put", "email_raw", "help", *again).strip() == url
    knocked = told(system, "channels", "test", "email_raw", "help")
    assert "refuses what proves nothing (401)" in knocked
    assert "a delivery signed with the newest secret is answered as it should be (422)" in knocked
    assert "of email_raw it has: help" in failed(system, "channels", "test", "email_raw", "desk")
    assert "no account" in failed(system, "channels", "test", "email_raw", "help", "--url", url + "x")
    nobody = f"http://127.0.0.1:{free_port()}/"
    assert "nothing answers" in failed(system, "channels", "test", "email_raw", "help", "--url", nobody)

    (tmp_path / "mail").write_bytes(MAIL)
    test = ("channels", "test", "email_raw", "help", "--body", str(tmp_path / "mail"))
    headers = [part for name, value in BASIC.items() for part in ("--header", f"{name}: {value}")]
    assert "2026-03-02T10:00:00.000000Z threadline.message.received kept@example.com" in told(system, *test, *headers)
    assert "not proven (401)" in failed(system, *test)
    wrong = "Authorization: Basic " + base64.b64encode(b"any:hish").decode()
    assert "the password that the sender gives" in failed(system, *test, *headers[2:], "--header", wrong)
    async with system.client("default", system.ingest) as client:
        assert (await client.get("/v1/events/status?source=/email_raw/help&id=kept@example.com")).status_code == 404
    assert told(system, "channels", "delete", "email_raw", "help") == "deleted email_raw/help\n"
    assert "no account" in failed(system, "channels", "delete", "email_raw", "help")

    async def stopped() -> bool:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.post(url, content=MAIL, headers=BASIC)).status_code == 404

    await until(stopped, "the account takes nothing any more")


def test_an_account_that_cannot_work_is_wrong_usage(system: System) -> None:
    for wrong in (
        ("telepathy", "a", "--secret", "s"),
        ("email_raw", "a"),
        ("email_raw", "a\nb", "--secret", "s"),
        ("email_raw", "a", "--secret", "s", "--region", "XX"),
        ("email_raw", "a", "--secret", "s", "--option", "nothing"),
        ("email_raw", "a", "--secret", "s", "--public-url", "ftp://x"),
    ):
        assert command(system, "channels", "put", *wrong).returncode == 2, wrong


async def test_what_was_not_understood_is_listed_shown_retried_after_the_repair_and_dropped(system: System) -> None:
    url = told(system, "channels", "put", "email_raw", "desk", "--secret", "hush").strip()
    async with httpx.AsyncClient(trust_env=False) as client:
        for body in (b"no \x1b[31mmail\n", b"neither\n"):
            assert (await client.post(url, content=body, headers=BASIC)).status_code == 202
    lines = told(system, "quarantine", "list", "--source", "/email_raw/desk").splitlines()
    assert len(lines) == 3 and lines[0].split()[-1] == "REASON"
    assert all("the body has no mail headers" in line and " default " in line for line in lines[1:])
    first, second = (line.split()[0] for line in lines[1:])
    shown = told(system, "quarantine", "show", first)
    assert "no \\x1b[31mmail" in shown and "\x1b" not in shown and "aHVz" not in shown
    assert told(system, "quarantine", "show", first, "--raw") == "no \x1b[31mmail\n"

    still = command(system, "quarantine", "retry", first)
    assert still.returncode == 1 and "still held: the body has no mail headers" in still.stdout
    assert command(system, "quarantine", "drop", second).returncode == 2, "needs --yes"
    assert told(system, "quarantine", "drop", second, "--yes") == "1 dropped\n"
    assert "it was dropped" in failed(system, "quarantine", "drop", second, "--yes")
    for wrong in (("retry",), ("retry", first, "--all"), ("retry", first, "--tenant", "x"), ("list", "--state", "x")):
        assert command(system, "quarantine", *wrong).returncode == 2, wrong

    # What an adapter that learned to read would see: the test cannot teach it, so it gives the record other bytes.
    database = directory.offered(Path(system.cli_data[1]))
    connection = await asyncpg.connect(database)
    await connection.execute("UPDATE log.quarantine SET value = $1 WHERE id = $2::text::uuid", MAIL, first)
    await connection.close()
    assert told(system, "quarantine", "retry", "--all", "--tenant", "default") == f"{first}: put on its topic again\n"
    assert told(system, "quarantine", "list") == ""

    async def there() -> bool:
        async with system.client("default", system.ingest) as client:
            answer = await client.get("/v1/events/status?source=/email_raw/desk&id=kept@example.com")
        return answer.status_code == 200 and answer.json()["status"] == "on_timeline"

    await until(there, "it is on its timeline", 60)
    system.verified()


def a_mail(name: str, minute: int, *before: str) -> bytes:
    answers = f"In-Reply-To: <{before[-1]}@example.com>\n" if before else ""
    references = f"References: {' '.join(f'<{one}@example.com>' for one in before)}\n" if before else ""
    return (
        f"From: Eve <eve@example.com>\nSubject: My order\nMessage-ID: <{name}@example.com>\n{answers}{references}"
        f"Date: Tue, 03 Mar 2026 10:{minute:02}:00 +0000\n\nThis is {name}\n"
    ).encode()


async def test_what_is_retried_takes_its_place_as_if_it_had_come_late(system: System) -> None:
    url = told(system, "channels", "put", "email_raw", "late", "--secret", "hush").strip()
    async with httpx.AsyncClient(trust_env=False) as client:
        # The mail in the middle was not understood; the one behind it answers it.
        for body in (a_mail("first", 0), b"a kind that nobody knew\n", a_mail("third", 40, "second")):
            assert (await client.post(url, content=body, headers=BASIC)).status_code == 202
    held = told(system, "quarantine", "list", "--source", "/email_raw/late").splitlines()[1].split()[0]

    async def line() -> list[tuple[str, str, str]]:
        async with system.client("default", system.conversation) as client:
            found = (await client.get("/v1/customers", params={"handle": "email:eve@example.com"})).json()["customers"]
            if not found:
                return []
            answer = await client.get(f"/v1/customers/{found[0]['id']}/timeline", params={"kind": "message.received"})
        entries = reversed(answer.json()["entries"])
        return [(one["text"].strip(), one["occurred_at"][11:16], one["conversation_id"]) for one in entries]

    async def received() -> float:
        day = {"start": "2026-03-03T00:00:00Z", "end": "2026-03-04T00:00:00Z"}
        async with system.client("default", system.metrics) as client:
            answer = await client.get("/v1/kpis/messages_received", params=day)
        return float(answer.json()["total"]["value"] or 0)

    async def shows(*names: str) -> bool:
        texts = [text for text, _, _ in await line()]
        return texts == [f"This is {name}" for name in names] and await received() == len(names)

    await until(lambda: shows("first", "third"), "the mails around it are there", 60)
    database = directory.offered(Path(system.cli_data[1]))
    connection = await asyncpg.connect(database)
    await connection.execute(
        "UPDATE log.quarantine SET value = $1 WHERE id = $2::text::uuid", a_mail("second", 20, "first"), held
    )
    await connection.close()
    assert told(system, "quarantine", "retry", held) == f"{held}: put on its topic again\n"
    await until(lambda: shows("first", "second", "third"), "the retried mail is in its place", 60)
    entries = await line()
    assert [at for _, at, _ in entries] == ["10:00", "10:20", "10:40"]
    assert len({conversation for _, _, conversation in entries}) == 1
    system.verified()


def test_what_others_wrote_cannot_move_the_cursor_or_pass_for_a_line_of_ours() -> None:
    assert safe("a\x1b[2Jb\nc\u202e") == "a\\x1b[2Jb\\nc\\u202e"
    assert safe_lines("a\r\nb\tc\x07") == "a\nb    c\\x07"
    assert safe("Grüße 猫") == "Grüße 猫"


def test_an_age_is_told_in_its_largest_whole_unit() -> None:
    told = [age(timedelta(seconds=seconds)) for seconds in (-1, 59.9, 60, 7_200, 86_399, 260_000)]
    assert told == ["0 s", "59 s", "1 min", "2 h", "23 h", "3 d"]


def test_the_answer_to_a_knock_tells_a_working_url_from_a_wrong_one() -> None:
    def answer(status: int, kind: str = "application/problem+json") -> httpx.Response:
        return httpx.Response(status, headers={"content-type": kind}, content=b"{}")

    assert verdict("u", answer(403)).startswith("ok")
    for wrong, why in ((answer(404), "no account"), (answer(200), "something else"), (answer(503), "cannot be served")):
        with pytest.raises(SetupError, match=why):
            verdict("u", wrong)
    with pytest.raises(SetupError, match="something else"):
        verdict("u", answer(403, "text/html"))
