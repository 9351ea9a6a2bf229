"""`threadline import` and `try` as a stranger uses them: history comes in with its own times, twice is once."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from services.cli.importing import Import, history, refused
from services.cli.traffic.client import Client
from services.ingest.importers.kinds import Kind
from shared import directory
from tests.processes import COMMAND, ROOT, Process, System, environment, free_port, run, servers_of, up
from tests.waiting import until

HOST = "example.com"
ENVELOPE = b"From ann@example.com Mon Mar  2 09:00:00 2026\n"


def a_mail(number: int, sender: str = "Ann <ann@example.com>", to: str = "help@acme.example") -> bytes:
    return (
        f"From: {sender}\nTo: {to}\nMessage-ID: <m{number}@example.com>\nSubject: Parcel\n"
        f"Date: Mon, 02 Mar 2026 10:00:{number:02d} +0000\n\nMail {number}\n"
    ).encode()


def with_file(number: int, content: bytes) -> bytes:
    """A mail with a file of these bytes."""
    head, _, text = a_mail(number, "Fay <fay@example.com>").partition(b"\n\n")
    return (
        head + b'\nContent-Type: multipart/mixed; boundary="b"\n\n--b\n\n' + text
        + b'--b\nContent-Type: image/png\nContent-Transfer-Encoding: base64\nContent-Disposition: attachment; '
        b'filename="x.png"\n\n' + base64.encodebytes(content) + b"--b--\n"
    )  # fmt: skip


def an_mbox(*mails: bytes) -> bytes:
    return b"".join(ENVELOPE + mail + b"\n" for mail in mails)


def a_line(number: int, **over: object) -> str:
    event = {
        "specversion": "1.0", "id": f"l{number}", "source": "/chat/shop", "type": "threadline.message.received",
        "time": "2026-03-01T08:00:00Z",
        "data": {"channel": "chat", "customer": {"handles": [{"kind": "visitor", "value": "v-1"}]}, "text": "hi"},
    }  # fmt: skip
    return json.dumps({**event, **over})


@pytest.fixture(scope="module")
async def system() -> AsyncIterator[System]:
    folder = directory.temporary("threadline test ")
    async with up(folder) as running:
        yield running


def load(system: System, kind: str, path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run("import", kind, str(path), "--url", system.ingest.url, "--key", system.key("acme"), *more)


async def timeline(system: System, handle: str) -> list[dict[str, Any]]:
    async with system.client("acme", system.conversation) as client:
        found = (await client.get(f"/v1/customers?handle={quote(handle)}")).json()["customers"]
        if not found:
            return []
        entries = (await client.get(f"/v1/customers/{found[0]['id']}/timeline?limit=200")).json()["entries"]
    return [entry for entry in entries if entry["source"] != "/threadline"][::-1]


async def test_an_mbox_becomes_a_timeline_with_its_own_times_and_a_second_import_changes_nothing(
    system: System, tmp_path: Path
) -> None:
    mails = [a_mail(number) for number in range(3)]
    answer = a_mail(9, "Bo <bo@acme.example>", "ann@example.com")
    (tmp_path / "box").write_bytes(an_mbox(*mails, b"\n", answer))
    first = load(system, "mbox", tmp_path / "box", "--account", "help", "--own", "bo@acme.example")
    assert first.returncode == 1
    assert re.match(r"message 4 \(byte \d+\): it is empty\n4 of 5 imported in ", first.stdout)
    assert first.stderr == "threadline: 1 of 5 could not be imported; stdout names each\n"

    async def four() -> bool:
        return len(await timeline(system, "email:ann@example.com")) == 4

    await until(four, "the mails are on the timeline", 60)
    again = load(system, "mbox", tmp_path / "box", "--account", "help", "--own", "bo@acme.example")
    assert again.returncode == 1
    (tmp_path / "mark.jsonl").write_text(a_line(0))
    assert load(system, "jsonl", tmp_path / "mark.jsonl").returncode == 0
    system.verified()
    entries = await timeline(system, "email:ann@example.com")
    assert [(e["source"], e["event_id"], e["occurred_at"], e["direction"]) for e in entries] == [
        ("/email_raw/help", f"m{number}@example.com", f"2026-03-02T10:00:{number:02d}.000000Z", direction)
        for number, direction in ((0, "in"), (1, "in"), (2, "in"), (9, "out"))
    ]
    assert entries[3]["actor"]["type"] == "agent"
    assert {entry["conversation_id"] for entry in entries} == {entries[0]["conversation_id"]}


async def test_files_come_along_also_those_that_fit_into_no_request_of_events(system: System, tmp_path: Path) -> None:
    small, large = bytes(range(256)), b"a" * 9_000_000
    (tmp_path / "box").write_bytes(an_mbox(with_file(60, small), with_file(61, large)))
    for _ in range(2):
        done = load(system, "mbox", tmp_path / "box", "--account", "files")
        assert (done.returncode, done.stdout.splitlines()[-1].split(" imported")[0]) == (0, "2 of 2"), done.stderr
        assert "left out" not in done.stdout
    await until(partial(timeline, system, "email:fay@example.com"), "the mails are on the timeline", 60)
    system.verified()
    files = [entry["attachments"][0] for entry in await timeline(system, "email:fay@example.com")]
    async with system.client("acme", system.conversation) as client:
        for file, content in zip(files, (small, large), strict=True):
            answer = await client.get(file["url"])
            assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, content, "image/png")
            assert answer.headers["content-disposition"].endswith("x.png")


async def test_of_a_file_that_is_not_taken_that_is_said_and_its_mail_comes_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posted = []

    def older(request: httpx.Request) -> httpx.Response:
        if request.url.path != "/v1/events":
            return httpx.Response(404, json={"title": "Not found"})
        posted.extend(json.loads(request.content))
        return httpx.Response(202, json={"accepted": [{"source": "/s", "id": "1"}]})

    (tmp_path / "a.eml").write_bytes(with_file(62, b"a" * 9_000_000))
    with history(Kind.EML, tmp_path / "a.eml", "files", ()) as found:
        job = Import(found, "http://older.example", "key")
        async with httpx.AsyncClient(transport=httpx.MockTransport(older)) as http:
            await job.post_all(Client(http, "http://older.example"))
    assert (job.taken, job.faults) == (1, 0)
    assert "a.eml: the bytes of its attachment x.png are left out: 404 Not found" in capsys.readouterr().out
    (event,) = posted
    assert set(event["data"]["attachments"][0]) == {"name", "media_type", "size_bytes", "sha256", "part"}


async def test_maildirs_and_eml_files_give_the_same_ids_as_an_mbox(system: System, tmp_path: Path) -> None:
    mail = a_mail(50, "Cas <cas@example.com>")
    (tmp_path / "box").mkdir()
    for name in ("cur", "new", "tmp"):
        (tmp_path / "box" / name).mkdir()
    (tmp_path / "box/cur/1.a:2,S").write_bytes(mail)
    (tmp_path / "box/new/2.b").write_bytes(a_mail(51, "Cas <cas@example.com>"))
    (tmp_path / "one.eml").write_bytes(mail)
    (tmp_path / "same").write_bytes(an_mbox(mail))
    for kind, name, count in (("maildir", "box", 2), ("eml", "one.eml", 1), ("mbox", "same", 1), ("eml", ".", 1)):
        done = load(system, kind, tmp_path / name)
        assert (done.returncode, done.stdout.split(" imported")[0]) == (0, f"{count} of {count}"), done.stderr

    async def both() -> bool:
        return len(await timeline(system, "email:cas@example.com")) >= 2

    await until(both, "the mails are on the timeline", 60)
    ids = [entry["event_id"] for entry in await timeline(system, "email:cas@example.com")]
    assert ids == ["m50@example.com", "m51@example.com"]


def test_a_line_that_is_refused_is_named_and_the_others_are_taken(system: System, tmp_path: Path) -> None:
    lines = [a_line(1), "{", a_line(2, type="threadline.nonsense"), "", "[]", a_line(3), a_line(4, time="yesterday")]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    done = load(system, "jsonl", tmp_path / "events.jsonl")
    assert done.returncode == 1
    named = [line.split(":")[0] for line in done.stdout.splitlines()[:-1]]
    assert named == ["line 2", "line 3", "line 5", "line 7"]
    assert "/type is unknown" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("2 of 6 imported")


def test_failures_are_one_line_and_wrong_usage_is_2(system: System, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Dear diary\n")
    (tmp_path / "box").write_bytes(an_mbox(a_mail(1)))
    no_mbox = load(system, "mbox", tmp_path / "text")
    assert (no_mbox.returncode, len(no_mbox.stderr.splitlines())) == (1, 1)
    assert "it is no mbox" in no_mbox.stderr
    assert load(system, "maildir", tmp_path).returncode == 1
    wrong_key = run("import", "mbox", str(tmp_path / "box"), "--url", system.ingest.url, "--key", "nonsense")
    assert wrong_key.returncode == 1 and "401" in wrong_key.stderr
    nobody = run("import", "mbox", str(tmp_path / "box"), "--url", f"http://127.0.0.1:{free_port()}", "--key", "k")
    assert nobody.returncode == 1 and "nothing answers" in nobody.stderr
    assert load(system, "mbox", tmp_path / "missing").returncode == 2
    assert load(system, "pst", tmp_path / "box").returncode == 2
    assert run("import", "mbox", str(tmp_path / "box")).returncode == 2
    assert load(system, "mbox", tmp_path / "box", "--account", "a\nb").returncode == 2
    named = ("--own", "help@shop.example", "--own", "Help <help@shop.example>")
    for wrong in (load(system, "mbox", tmp_path / "box", *named), run("try", str(tmp_path / "box"), *named)):
        assert wrong.returncode == 2 and "--own" in wrong.stderr and "one address" in wrong.stderr


def test_only_pointers_to_items_of_a_batch_count_as_refusals() -> None:
    def answer(status: int, *pointers: str) -> httpx.Response:
        return httpx.Response(status, json={"errors": [{"pointer": pointer, "detail": "x"} for pointer in pointers]})

    assert refused(answer(422, "#/17/data/channel", "#/3")) == {17: "/data/channel x", 3: "the event x"}
    assert refused(answer(422, "#/data")) == refused(answer(413, "#/1")) == refused(httpx.Response(422)) == {}


def test_try_once_imports_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(an_mbox(a_mail(1), a_mail(2), a_mail(3, "Bo <bo@example.com>")))
    port = str(free_port())
    done = run("try", str(tmp_path / "box"), "--once", "--port", port, timeout_s=180)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 3 imported" in done.stdout
    assert done.stdout.splitlines()[-1] == "Everything is on its timeline: 2 customers."
    assert not servers_of(Path(f"--port\0{port}")), "its server has ended"


async def test_try_signs_in_by_the_address_it_prints_and_ends_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "box").write_bytes(an_mbox(a_mail(1)))
    trial = Process(("try", str(tmp_path / "box")), tmp_path)
    trial.spawn()
    try:
        await until(lambda: "on its timeline" in trial.tail(), "the import is shown", 120)
        page = re.search(r"(http://\S+)/console#key=(\S+)", trial.tail())
        assert page is not None
        async with httpx.AsyncClient(base_url=page[1], trust_env=False) as client:
            assert (await client.get("/console")).status_code == 200
            assert (await client.post("/v1/session", json={"key": page[2]})).status_code == 204
            assert len((await client.get("/v1/customers")).json()["customers"]) == 1
        trial.signal(signal.SIGINT)
        assert trial.process is not None
        assert trial.process.wait(60) == 0, trial.tail()
        async with httpx.AsyncClient(base_url=page[1], trust_env=False) as client:
            with pytest.raises(httpx.TransportError):
                await client.get("/healthz")
    finally:
        trial.stop()


async def test_an_interrupted_import_says_what_was_taken_and_repeating_it_completes(
    system: System, tmp_path: Path
) -> None:
    box = tmp_path / "long"
    with box.open("wb") as file:
        for number in range(30_000):
            file.write(
                ENVELOPE + a_mail(59, "Dee <dee@example.com>").replace(b"m59@", f"d{number % 40}@".encode()) + b"\n"
            )
    importing = subprocess.Popen(  # noqa: ASYNC220
        [*COMMAND, "import", "mbox", str(box), "--url", system.ingest.url, "--key", system.key("acme")],
        cwd=ROOT, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    async def begun() -> bool:
        return bool(await timeline(system, "email:dee@example.com"))

    await until(begun, "the import has begun", 60)
    importing.send_signal(signal.SIGINT)
    _, said = importing.communicate(timeout=60)
    assert importing.returncode == 1
    assert re.fullmatch(r"threadline: stopped after \d+ events: run it again for the rest, nothing is doubled\n", said)
    (tmp_path / "rest").write_bytes(ENVELOPE.join(box.read_bytes().split(ENVELOPE)[:41]))
    assert load(system, "mbox", tmp_path / "rest").returncode == 0

    async def forty() -> bool:
        return len(await timeline(system, "email:dee@example.com")) == 40

    await until(forty, "each mail is there once", 120)


MANY = 6_000


async def test_an_import_that_is_killed_goes_on_where_it_is_started_again_and_shows_how_far_it_is(
    system: System, tmp_path: Path
) -> None:
    box = tmp_path / "many"
    with box.open("wb") as file:
        for number in range(MANY):
            mail = a_mail(number % 60, f"Person <k{number % 50}@example.com>")
            file.write(ENVELOPE + mail.replace(b"<m", b"<killed%d." % number) + b"\n")
    first, last = f"killed0.0@{HOST}", f"killed{MANY - 1}.{(MANY - 1) % 60}@{HOST}"
    command = [*COMMAND, "import", "mbox", str(box), "--url", system.ingest.url, "--account", "killed"]
    env = environment({"THREADLINE_KEY": system.key("acme"), "TERM": "xterm", "COLUMNS": "100"})
    killed = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: ASYNC220
    await until(lambda: is_known(system, first), "the import has begun", 60)
    killed.kill()
    killed.communicate(timeout=30)
    assert killed.returncode == -signal.SIGKILL
    assert not await is_known(system, last), "it was killed in its midst"

    again, screen = await asyncio.to_thread(on_a_terminal, command, env)
    assert again == 0
    assert "100%" in screen and f"{MANY} taken" in screen
    system.verified(timeout_s=240)
    async with system.client("acme", system.conversation) as client:
        for number in range(0, MANY, 397):
            one = f"killed{number}.{number % 60}@{HOST}"
            answer = (await client.get(f"/v1/events/status?source=/email_raw/killed&id={one}")).json()
            assert answer["status"] == "on_timeline"
    entries = await timeline(system, "email:k7@example.com")
    assert len(entries) == len({entry["event_id"] for entry in entries}) == MANY / 50
    for entry in entries:
        second = int(entry["event_id"].partition(".")[2].partition("@")[0])
        assert entry["occurred_at"] == f"2026-03-02T10:00:{second:02d}.000000Z"


async def is_known(system: System, id: str) -> bool:
    async with system.client("acme", system.ingest) as client:
        answer = await client.get(f"/v1/events/status?source=/email_raw/killed&id={id}")
    return answer.status_code == 200


def on_a_terminal(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run `command` with stderr on a terminal; return its exit code and all that stood there."""
    ours, theirs = pty.openpty()
    screen = b""
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        try:
            while chunk := os.read(ours, 65_536):
                screen += chunk
        except OSError:
            pass  # the other side is closed
        finally:
            os.close(ours)
    return process.returncode, screen.decode(errors="replace")
