"""Webhooks as a stranger uses them: set up by the command, taken by the program of docs/webhooks.md, which mails."""

from __future__ import annotations

import asyncio
import email.policy
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

from tests.processes import ROOT, System, free_port, run, up
from tests.waiting import until

ALLOWED = {"THREADLINE_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1/32"}


@asynccontextmanager
async def mail_server() -> AsyncIterator[tuple[int, list[EmailMessage]]]:
    """Run an SMTP server that takes everything; yield its port and what it took."""
    took: list[EmailMessage] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            word = line[:4].strip().upper()
            if word == b"DATA":
                writer.write(b"354 go on\r\n")
                body = (await reader.readuntil(b"\r\n.\r\n")).removesuffix(b".\r\n")
                took.append(cast(EmailMessage, email.message_from_bytes(body, policy=email.policy.default)))
            writer.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], took
    finally:
        server.close()


@contextmanager
def program(folder: Path, port: int, **env: str) -> Iterator[None]:
    """Run the program of the documentation in `folder`."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/webhooks.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    file = folder / "mailer.py"
    file.write_text(blocks[0])
    running = subprocess.Popen(
        [sys.executable, str(file)], cwd=folder, env={**os.environ, **env, "PORT": str(port)}, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        running.terminate()
        running.wait(10)


def reply(number: int, text: str) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"r{number}",
        "source": "/desk/replies",
        "type": "threadline.message.sent",
        "time": f"2026-03-03T09:0{number}:00Z",
        "data": {
            "channel": "email",
            "message_id": f"r{number}@desk.acme.example",
            "thread": {"in_reply_to": "a1@example.com"},
            "subject": "Re: Parcel",
            "actor": {"type": "agent", "id": "bo"},
            "customer": {"handles": [{"kind": "email", "value": "ann@example.com"}]},
            "text": text,
        },
    }


async def post(system: System, event: dict[str, Any]) -> None:
    async with system.client("default", system.ingest) as client:
        kind = {"content-type": "application/cloudevents+json"}
        assert (await client.post("/v1/events", json=event, headers=kind)).status_code == 202


def webhooks(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run("webhooks", *arguments, *system.cli_data, env=system.cli_env)


async def test_agents_reply_is_mailed_by_the_documented_program_once_also_when_it_was_away(open_folder: Path) -> None:
    port = free_port()
    async with up(open_folder, ALLOWED) as system, mail_server() as (smtp, took):
        url = f"http://127.0.0.1:{port}/"
        made = webhooks(system, "put", "mailer", url, "--event", "threadline.message.sent", "--source", "/desk/replies")
        assert made.returncode == 0 and re.fullmatch(r"whsec_\S+\n", made.stdout), made.stderr
        env = {"WEBHOOK_SECRET": made.stdout.strip(), "SMTP": f"127.0.0.1:{smtp}"}

        await post(system, reply(1, "On its way."))
        await post(system, {**reply(2, "reported by the provider, sent already"), "source": "/email/provider"})
        await until(lambda: "nothing takes the connection" in webhooks(system, "list").stdout, "it was tried", 30)
        with program(open_folder, port, **env):
            await post(system, reply(3, "Here is the number: 42 \u2713"))
            await until(lambda: len(took) == 2, "both replies are mailed", 40)
        assert [mail.get_content().strip() for mail in took] == ["On its way.", "Here is the number: 42 \u2713"]
        assert took[0]["To"] == "ann@example.com" and took[0]["Subject"] == "Re: Parcel"
        assert (took[0]["Message-ID"], took[0]["In-Reply-To"]) == ("<r1@desk.acme.example>", "<a1@example.com>")
        system.verified()
