"""The post itself: whom it reaches, whom never, and what it makes of everything that a receiver may do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.conversation.webhooks import transport as transport_module
from services.conversation.webhooks.retrying import Answer
from services.conversation.webhooks.transport import Resolve, open_transport
from tests.receiver import HANG, receiving
from tests.waiting import until

HERE = (IPv4Network("127.0.0.0/8"),)
HEADERS = {"webhook-id": "m1", "content-type": "application/json"}


def names(*addresses: str) -> Resolve:
    """A name server that gives these addresses, whatever it is asked."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


async def post(
    url: str, resolve: Resolve | None = None, allowed: Sequence[IPv4Network] = (), timeout_s: float = 5
) -> Answer:
    async with open_transport(allowed, timeout_s, resolve) as transport:
        return await transport.post(url, HEADERS, b"{}")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.0.0.1", "0", "[::1]"])
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_this_machine_is_not_reached_by_default_under_any_name(host: str, scheme: str) -> None:
    async with receiving() as receiver:
        answer = await post(f"{scheme}://{host}:{receiver.port}/hook")
        assert answer.status is None and "not called" in (answer.error or ""), answer
        assert receiver.seen == []


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "192.168.0.1", "fd00::1", "::ffff:127.0.0.1"])
async def test_name_that_leads_inside_is_refused_even_beside_an_address_outside(address: str) -> None:
    for addresses in ((address,), ("93.184.216.34", address)):
        answer = await post("https://hooks.example.com/", names(*addresses))
        assert "not called" in (answer.error or "") and address not in (answer.error or "")


async def test_name_that_leads_elsewhere_at_the_second_look_gains_nothing() -> None:
    async with receiving() as receiver:
        asked: list[str] = []

        async def rebinding(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.2"] if len(asked) == 1 else ["127.0.0.1"]

        # 127.0.0.1 is not allowed: a second look-up between check and connection would reach the receiver there.
        allowed = [IPv4Network("127.0.0.2/32")]
        answer = await post(receiver.url(host="hooks.example.com"), rebinding, allowed)
        assert answer.status is None and receiver.seen == [] and len(asked) == 1
        answer = await post(receiver.url(host="hooks.example.com"), rebinding, allowed)
        assert "not called" in (answer.error or "") and receiver.seen == []


async def test_allowed_network_is_reached_with_the_name_it_was_called_by() -> None:
    async with receiving() as receiver:
        answer = await post(receiver.url(host="hooks.example.com"), names("127.0.0.1"), HERE)
        assert answer.status == 204
        assert receiver.seen[0].headers["host"] == f"hooks.example.com:{receiver.port}"


async def test_url_whose_scheme_is_in_capitals_is_called_as_any_other() -> None:
    async with receiving() as receiver:
        url = receiver.url().replace("http", "HTTP")
        assert (await post(url, allowed=HERE)).status == 204
        assert "not called" in ((await post(url)).error or "")


async def test_redirect_is_an_answer_and_not_followed() -> None:
    async with receiving() as receiver, receiving() as elsewhere:
        receiver.answer = lambda _: (302, {"location": elsewhere.url()})
        assert (await post(receiver.url(), allowed=HERE)).status == 302
        assert elsewhere.seen == []


async def test_silence_ends_at_the_time_out_and_retry_after_is_read() -> None:
    async with receiving() as receiver:
        receiver.answer = lambda _: HANG
        assert (await post(receiver.url(), allowed=HERE, timeout_s=0.2)).error == "no answer within 0.2 s"
        receiver.answer = lambda _: (503, {"Retry-After": "17"})
        assert (await post(receiver.url(), allowed=HERE)).retry_after_s == 17


async def test_endless_answer_is_read_to_its_limit_only() -> None:
    async with open_transport(HERE, 5) as transport:

        async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    writer.write(b"x" * 65_536)
                    await writer.drain()
            except ConnectionError:
                writer.close()

        server = await asyncio.start_server(endless, "127.0.0.1", 0)
        answer = await transport.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", HEADERS, b"{}")
        assert answer.status == 200 and answer.excerpt == "x" * 500
        server.close()


@pytest.mark.parametrize("status", [200, 410, 503])
@pytest.mark.parametrize(
    "rest",
    [b"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n", b"Content-Length: 9\r\n\r\nno", b"Content-Length: 9\r\n\r\nno!"],
    ids=["never ends", "is silent", "is cut off"],
)
async def test_status_counts_however_the_body_behind_it_ends(status: int, rest: bytes) -> None:
    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        await asyncio.sleep(0.2)  # so that the body would come to its end after the limit of the post
        writer.write(f"HTTP/1.1 {status} X\r\nRetry-After: 7\r\n".encode() + rest)
        await writer.drain()
        if rest.endswith(b"!"):
            writer.close()
        await reader.read()  # until the other side has had enough
        writer.close()

    async with await asyncio.start_server(answers, "127.0.0.1", 0) as server:
        answer = await post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", allowed=HERE, timeout_s=0.5)
    assert (answer.status, answer.retry_after_s, answer.error) == (status, 7, None)
    assert answer.excerpt.startswith("no")


async def test_a_silent_name_server_holds_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    asked: list[str] = []
    known = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> Any:
        if host == "silent.example":
            asked.append(host)
            silent.wait(30)
            raise OSError
        return known("127.0.0.1" if host == "hooks.example.com" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        async with receiving() as receiver, open_transport(HERE, 1) as transport:
            posts = [transport.post("https://silent.example/", HEADERS, b"{}") for _ in range(300)]
            answers = asyncio.ensure_future(asyncio.gather(*posts))
            await until(lambda: asked, "the silent one is asked")
            assert (await transport.post(receiver.url(host="hooks.example.com"), HEADERS, b"{}")).status == 204
            assert {answer.error for answer in await answers} == {"no answer within 1 s"} and len(asked) == 1
            silent.set()
    finally:
        silent.set()


async def test_address_that_is_silent_keeps_nobody_from_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_module, "CONNECT_S", 0.3)
    async with receiving() as receiver:
        with socket.socket() as full, ExitStack() as waiting:
            full.bind(("127.0.0.2", receiver.port))
            full.listen(0)
            for _ in range(3):  # a queue that is full takes no connection, and refuses none
                one = waiting.enter_context(socket.socket())
                one.setblocking(False)
                one.connect_ex(("127.0.0.2", receiver.port))
            url = receiver.url(host="hooks.example.com")
            assert (await post(url, names("127.0.0.2"), HERE, timeout_s=0.5)).error == "no answer within 0.5 s"
            assert (await post(url, names("127.0.0.2", "127.0.0.1"), HERE)).status == 204


async def test_nothing_there_unknown_names_and_nonsense_are_answers_without_an_address() -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise OSError("unknown")

    assert (await post("http://127.0.0.1:1/", allowed=HERE)).error == "cannot be reached: nothing takes the connection"
    assert (await post("https://hooks.example.com/", unknown)).error == "cannot be reached: its name is not known"
    assert (await post("https://hooks.example.com/", names())).error == "cannot be reached: its name has no address"
    async with receiving() as receiver:
        receiver.answer = lambda _: (204, {"x": "a\r\nbroken header line"})
        assert "broke" in ((await post(receiver.url(), allowed=HERE)).error or "")


def certificate_for(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return a server's context with a certificate for `name`, and one that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    whole = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    whole.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(whole)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(serialization.Encoding.PEM).decode())


async def test_certificate_must_be_of_the_name_although_an_address_is_connected_to(tmp_path: Path) -> None:
    server, trusting = certificate_for("hooks.example.com", tmp_path)
    async with receiving(tls=server) as receiver, open_transport(HERE, 5, names("127.0.0.1"), trusting) as transport:
        assert (await transport.post(receiver.url(host="hooks.example.com"), HEADERS, b"{}")).status == 204
        other = await transport.post(receiver.url(host="other.example.com"), HEADERS, b"{}")
        assert other.error == "cannot be reached: its certificate is not valid for this name"
        assert len(receiver.seen) == 1
    async with receiving(tls=server) as receiver:
        untrusted = await post(receiver.url(host="hooks.example.com"), names("127.0.0.1"), HERE)
        assert "certificate" in (untrusted.error or "") and not receiver.seen
