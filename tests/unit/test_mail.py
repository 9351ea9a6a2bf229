"""Mail as it is: real shapes are understood, crafted ones cost no more than their length."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.conversation.markup import sanitised
from services.ingest.adapters.base import Account
from services.ingest.adapters.mail_event import mail_event, mail_id
from services.ingest.adapters.times import from_rfc2822
from services.ingest.mail import addresses, threading
from services.ingest.mail.automatic import is_automatic
from services.ingest.mail.message import read, read_headers, split, split_slowly
from services.ingest.mail.tickets import signed_address
from services.ingest.mail.words import decode, decode_words, parameters
from shared.plaintext import html_to_text
from shared.quoting import split_reply

ACCOUNT = Account("t", "email_raw", "support", ("secret",), own_addresses=("Support@Acme.example",))


def a_mail(headers: str = "", body: str | bytes = "Hello", sender: str = "Ann <ann@x.example>") -> bytes:
    head = f"From: {sender}\nTo: support@acme.example\nMessage-ID: <m1@x.example>\n{headers}".rstrip("\n")
    return head.encode() + b"\n\n" + (body.encode() if isinstance(body, str) else body)


def event_data(raw: bytes, account: Account = ACCOUNT) -> dict[str, Any]:
    mail = read(raw)
    return mail_event(mail, account, mail_id(mail, raw)).data


# --- headers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("=?utf-8?Q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("=?iso-8859-1?q?Gr=FC=DFe_aus?= =?iso-8859-1?q?_Ede?=", "Grüße aus Ede"),
        ("=?UTF-8?B?w7w=?= plain =?UTF-8?B?w7w=?=", "ü plain ü"),
        # One character cut in two by the length limit of an encoded word.
        ("=?utf-8?b?4oI=?= =?utf-8?b?rA==?=", "€"),
        ("=?utf-8*en?Q?a?=", "a"),
        ("=?nonsense?Q?=E9?=", "é"),
        ("=?utf-8?Q?broken", "=?utf-8?Q?broken"),
        ("=?", "=?"),
        ("50% =?= off", "50% =?= off"),
        ("=?iso-2022-jp?B?GyRCJF4bKEI=?=", "ま"),
        ("=?ks_c_5601-1987?B?vbrGvMfY?=", "스티해"),
    ],
)
def test_encoded_words_are_decoded(written: str, meant: str) -> None:
    assert decode_words(written) == meant


@pytest.mark.parametrize(
    ("raw", "charset", "meant"),
    [
        ("é".encode("latin-1"), "iso-8859-1", "é"),
        (b"\x93quoted\x94", "iso-8859-1", "“quoted”"),
        ("Zażółć".encode("iso-8859-2"), "iso-8859-2", "Zażółć"),
        ("привет".encode("koi8-r"), "KOI8-R", "привет"),
        ("é".encode(), None, "é"),
        (b"\xe9", None, "é"),
        (b"\xe9", "us-ascii", "é"),
        (b"a\x00b", "utf-8", "a\ufffdb"),
        (b"abc-", "punycode", "abc-"),
        (b"\\u0041", "unicode_escape", "\\u0041"),
        (b"\xff\xfe\x00", "utf-8", "\ufffd\ufffd\ufffd"),
        ("中文".encode("gb2312"), "gb2312", "中文"),
        (b"x", "base64", "x"),
    ],
)
def test_any_charset_is_decoded_and_nothing_is_lost_silently(raw: bytes, charset: str | None, meant: str) -> None:
    assert decode(raw, charset) == meant


@pytest.mark.parametrize(
    ("header", "kind", "options"),
    [
        ('Text/Plain; charset="UTF-8"', "text/plain", {"charset": "UTF-8"}),
        ("a/b;boundary=x y ; c=d", "a/b", {"boundary": "x y", "c": "d"}),
        ("attachment; filename*=utf-8''na%C3%AFve%20plan.pdf", "attachment", {"filename": "naïve plan.pdf"}),
        ('attachment; filename*0="one"; filename*1="two"', "attachment", {"filename": "onetwo"}),
        ("attachment; filename*0*=utf-8''%C3; filename*1*=%A9", "attachment", {"filename": "é"}),
        ('attachment; filename="=?utf-8?Q?=C3=A9.pdf?="', "attachment", {"filename": "é.pdf"}),
        ('a/b; name="unclosed', "a/b", {"name": "unclosed"}),
        ("", "", {}),
    ],
)
def test_parameters_are_read(header: str, kind: str, options: dict[str, str]) -> None:
    assert parameters(header) == (kind, options)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("ann@x.example", [("ann@x.example", None)]),
        ('"Lee, Ann (HR)" <ann@x.example>, bo@x.example', [("ann@x.example", "Lee, Ann (HR)"), ("bo@x.example", None)]),
        ("ann@x.example (Ann Lee)", [("ann@x.example", None)]),
        ("Team: ann@x.example, bo@x.example;", [("ann@x.example", None), ("bo@x.example", None)]),
        ("=?utf-8?Q?Ann_L=C3=A9e?= <ann@x.example>", [("ann@x.example", "Ann Lée")]),
        ("support@acme.example,", [("support@acme.example", None)]),
        ("undisclosed-recipients:;", []),
        ("Ann", []),
        ("<@relay.example:ann@x.example>", [("ann@x.example", None)]),
        ("", []),
    ],
)
def test_addresses_are_read(value: str, found: list[tuple[str, str | None]]) -> None:
    assert [(address.address, address.name) for address in addresses.read(value)] == found


# --- threading -----------------------------------------------------------------------------------------------------


def test_references_without_an_address_are_no_ids() -> None:
    """`References: <yes>` once fused thirteen threads."""
    mail = read(a_mail("References: <yes> <p1@x.example>\n  <p2@x.example> <p1@x.example>\n"))
    assert threading.references(mail.headers) == ["<p1@x.example>", "<p2@x.example>"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("<p@x.example>", "<p@x.example>"),
        (" (a comment) <p@x.example> (Ann's of Tuesday)", "<p@x.example>"),
        ("<p@x.example> (Ann's (late) of Tuesday :-\\))", "<p@x.example>"),
        ("<p(1)@x.example>", "<p(1)@x.example>"),
        ("<p@x.example> (no end", None),
        ('Your message of "Tue, 7 Jan 2025" <ann@x.example>', None),
        ("<p@x.example> <q@x.example>", None),
        ("yes", None),
        ("", None),
    ],
)
def test_in_reply_to_counts_only_as_one_id(value: str, found: str | None) -> None:
    assert threading.in_reply_to(read(a_mail(f"In-Reply-To: {value}\n")).headers) == found


def test_of_ten_thousand_references_the_first_and_last_ninety_nine_count() -> None:
    ids = [f"<{number}@x.example>" for number in range(10_000)]
    found = event_data(a_mail("References: " + "\n ".join(ids) + "\n"))["thread"]["references"]
    assert found == ids[:99] + ids[-99:]


def test_id_is_the_one_message_id_or_the_hash_of_the_bytes() -> None:
    one = a_mail()
    none = one.replace(b"Message-ID: <m1@x.example>\n", b"")
    several = one.replace(b"<m1@x.example>", b"<m1@x.example> <m2@x.example>")
    twice = one.replace(b"Message-ID:", b"Message-ID: <m0@x.example>\nMessage-Id:")
    assert mail_id(read(one), one) == "m1@x.example"
    for raw in (none, several, twice):
        assert mail_id(read(raw), raw).startswith("sha256:") and len(mail_id(read(raw), raw)) == 71
        assert "message_id" not in event_data(raw)


BOUNCE = a_mail(
    'Content-Type: multipart/report; report-type=delivery-status; boundary="r"\nReturn-Path: <>\n',
    "--r\n\nYour mail could not be delivered.\n--r\nContent-Type: message/delivery-status\n\n"
    "Reporting-MTA: dns; mx.x.example\n\nFinal-Recipient: rfc822; bo@x.example\nAction: failed\nStatus: 5.1.1\n"
    "Diagnostic-Code: smtp; 550 no such user\n\n--r\nContent-Type: message/rfc822\n\n"
    "From: support@acme.example\nMessage-ID: <sent1@acme.example>\nSubject: Your parcel\n\nHello\n--r--\n",
    "MAILER-DAEMON@mx.x.example",
)


def test_bounce_names_the_mail_that_came_back() -> None:
    data = event_data(BOUNCE)
    assert data["actor"] == {"type": "automated"}
    assert data["thread"] == {"original_message_id": "<sent1@acme.example>"}
    assert data["headers"] == {"Return-Path": "<>", "Content-Type": "multipart/report"}
    assert data["text"].strip() == "Your mail could not be delivered."
    assert data["report"] == [
        {"recipient": "bo@x.example", "action": "failed", "status": "5.1.1", "diagnostic": "smtp; 550 no such user"}
    ]


@pytest.mark.parametrize(
    "header",
    [
        "Auto-Submitted: auto-replied",
        "Auto-Submitted: auto-generated (by a script)",
        "Auto-Submitted: (no) auto-replied",
        "Return-Path: <>",
        "Precedence: bulk",
        "Precedence: list",
        "X-Auto-Response-Suppress: All",
        "List-Id: News <news.x.example>",
        "List-Unsubscribe: <https://x.example/out>",
        "Content-Type: multipart/report; boundary=b",
    ],
)
def test_automatic_mail_is_told(header: str) -> None:
    data = event_data(a_mail(header + "\n"))
    assert data["actor"] == {"type": "automated"}
    assert data["headers"]


@pytest.mark.parametrize(
    "header",
    [
        "Auto-Submitted: no",
        "Auto-Submitted: No (a person (me)); x=1",
        "X-Auto-Response-Suppress: None",
        "Return-Path: <ann@x.example>",
    ],
)
def test_peoples_mail_is_not_automatic(header: str) -> None:
    assert not is_automatic(read(a_mail(header + "\n")))


def test_mail_of_our_own_list_is_peoples_mail() -> None:
    raw = a_mail("List-Id: Help <help.acme.example>\nPrecedence: list\nList-Post: <mailto:help@acme.example>\n")
    own = Account("t", "email_raw", "a", ("s",), options={"own_lists": ["help.acme.example"]})
    assert event_data(raw)["actor"]["type"] == "automated"
    assert event_data(raw, own)["actor"] == {"type": "customer"}
    assert "headers" not in event_data(raw, own)


def test_only_a_signed_ticket_in_the_receiving_address_counts() -> None:
    signed = signed_address("support@acme.example", "T-1042", "secret")
    assert signed.startswith("support+T-1042.")
    for header in (f"Delivered-To: {signed}\n", f"Cc: Support <{signed}>\n"):
        assert event_data(a_mail(header))["thread"] == {"ticket": "T-1042"}
    for forged in (signed.replace("1042", "1043"), "support+T-1042@acme.example",
                   signed_address("support@acme.example", "T-1042", "another")):  # fmt: skip
        assert "thread" not in event_data(a_mail(f"Delivered-To: {forged}\n"))
    with pytest.raises(ValueError, match="does not fit"):
        signed_address("support@acme.example", "T 1042", "secret")


def test_mail_from_our_own_address_is_an_echo_on_the_recipients_timeline() -> None:
    raw = b"From: Acme <support+1@acme.example>\nTo: support@acme.example, Bo <bo@x.example>\nCc: c@x.example\n\nHi"
    draft = mail_event(read(raw), ACCOUNT, "1")
    assert draft.type == "threadline.message.sent"
    assert draft.data["actor"] == {"type": "automated"}
    assert [handle["value"] for handle in draft.data["customer"]["handles"]] == ["bo@x.example"]
    agents = Account("t", "p", "a", ("s",), own_addresses=ACCOUNT.own_addresses, options={"own_mail": "agent"})
    assert mail_event(read(raw), agents, "1").data["actor"]["type"] == "agent"


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "meant"),
    [
        ("Date: Tue, 7 Jan 2025 10:03:00 +0100", datetime(2025, 1, 7, 9, 3, tzinfo=UTC)),
        ("Date: 7 Jan 25 10:03 EST", datetime(2025, 1, 7, 15, 3, tzinfo=UTC)),
        ("Date: Tue, 7 Jan 2025 10:03:00 -0000", datetime(2025, 1, 7, 10, 3, tzinfo=UTC)),
        ("Date: Thu, 1 Jan 1970 00:00:00 +0000", None),
        ("Date: yesterday", None),
        ("Date: Tue, 32 Jan 2025 10:03:00 +0100", None),
        ("Date: Tue, 7 Jan 2025 10:03:00 +9999999999", None),
        ("Date: " + "(" * 5_000, None),
        ("X: y", None),
    ],
)
def test_date_is_read_or_left_out(header: str, meant: datetime | None) -> None:
    assert mail_event(read(a_mail(header + "\n")), ACCOUNT, "1").time == meant


@given(
    st.sampled_from(["", "Tue, ", "tue, ", "Tuesday, "]), st.integers(0, 32), st.sampled_from(["Feb", "feb", "Foo"]),
    st.integers(0, 9999), st.integers(0, 25), st.integers(0, 61), st.sampled_from(["", "GMT", "-0000", "+2500"]),
    st.integers(-1_500, 1_500),
)  # fmt: skip
def test_date_is_what_the_standard_library_reads(
    day_name: str, day: int, month: str, year: int, hour: int, second: int, zone: str, offset: int
) -> None:
    written = f"{day_name}{day} {month} {year:04} {hour:02}:00:{second:02} {zone or f'{offset:+05}'}"
    try:
        meant = parsedate_to_datetime(written)
        meant = meant.replace(tzinfo=UTC) if meant.tzinfo is None else meant.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        meant = None
    assert from_rfc2822(written) == meant


# --- bodies --------------------------------------------------------------------------------------------------------

MULTIPART = a_mail(
    'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="a"\n',
    "preamble\n--a\nContent-Type: multipart/alternative; boundary=ab\n\n"
    "--ab\nContent-Type: text/plain; charset=iso-8859-2\nContent-Transfer-Encoding: quoted-printable\n\n"
    "Za=BF=F3=B3=E6=\n!\n"
    "--ab\nContent-Type: text/html\n\n<p>Hi</p>\n--ab--\n"
    "--a\nContent-Type: image/png; name*=utf-8''%C3%A9.png\nContent-Transfer-Encoding: base64\n"
    "Content-Disposition: inline; filename=p.png\nContent-ID: <c1>\n\nQUJD\n--a--\nepilogue\n",
)


@pytest.mark.parametrize("raw", [MULTIPART, MULTIPART.replace(b"\n", b"\r\n"), b"From ann Tue Jan  7\n" + MULTIPART])
def test_text_html_and_files_of_a_mail_are_told_apart(raw: bytes) -> None:
    data = event_data(raw)
    assert data["text"].strip() == "Zażółć!"
    assert data["html"].strip() == "<p>Hi</p>"
    (file,) = data["attachments"]
    assert (file["name"], file["media_type"], file["size_bytes"], file["content_id"]) == ("p.png", "image/png", 3, "c1")


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (a_mail('Content-Type: multipart/mixed; boundary="never"\n', "Hello"), "Hello"),
        (a_mail("Content-Type: multipart/mixed\n", "Hello"), "Hello"),
        (a_mail("Content-Type: multipart/mixed; boundary=b\n", "--b\n\nHello"), "Hello"),
        (a_mail("Content-Type: text\n", "Hello"), "Hello"),
        (a_mail("Content-Transfer-Encoding: base64\n", "SGVsbG8"), "Hello"),
        (a_mail("Content-Type: message/rfc822\n", "Subject: x\n\nHello"), "Hello"),
        (a_mail("Content-Type: text/html\n", "<div>Hello</div>"), "Hello"),
        (b"Subject: no blank line\nHello there, you", "Hello there, you"),
        (b"\n\nFrom: a@x.example\nSubject: late\n\nHello", "Hello"),
        (a_mail().replace(b"\n", b"\r"), "Hello"),
    ],
)
def test_broken_mail_keeps_its_text(raw: bytes, text: str) -> None:
    assert event_data(raw)["text"].strip() == text


def test_html_only_reply_is_separated_from_its_quote() -> None:
    html = (
        "<style>p{}</style><div>It is broken.</div><div>Ann</div><div class=gmail_quote>On Tue, Jan 7, 2025 at 10:03 "
        "Acme &lt;s@acme.example&gt; wrote:<br><blockquote><p>Hello</p><blockquote>Hi</blockquote></blockquote></div>"
    )
    new, quoted = split_reply(event_data(a_mail("Content-Type: text/html\n", html))["text"])
    assert new == "It is broken.\nAnn"
    assert "> Hello" in quoted and ">> Hi" in quoted


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("a<br>b<br><br>c", "a\nb\n\nc"),
        ("<p>one</p><p>two</p>", "one\n\ntwo"),
        ("1 &lt; 2 &amp; 3 < 4", "1 < 2 & 3 < 4"),
        ("<script>alert(1)</script>x<!-- y -->z", "xz"),
        ("<style>never closed x", "never closed x"),
        ("<pre>a\n  b</pre>", "a\nb"),
        ("<table><tr><td>a<td>b</tr><tr><td>c</tr></table>", "a b\nc"),
        ("<a href='x", ""),
        ("", ""),
    ],
)
def test_html_reads_as_a_person_reads_it(html: str, text: str) -> None:
    assert html_to_text(html) == text


ADDRESSING = ["a@b", "Ann ", "<", ">", '"', "(c)", ",", ";", ":", " ", "x.y@z.example", "\\", "=?utf-8?q?J=C3=A9?="]


@given(st.lists(st.sampled_from(ADDRESSING), max_size=6).map("".join))
def test_the_short_way_to_an_address_leads_where_the_long_one_does(value: str) -> None:
    assert addresses.read(value) == addresses.read_slowly(value)


# --- crafted mail --------------------------------------------------------------------------------------------------

CRAFTED = {
    "comments": b"To: " + b"(" * 60_000,
    "nested comments": b"From: " + b"(a)" * 20_000,
    "quotes in Content-Type": b"Content-Type: text/plain; a=" + b'"' * 60_000,
    "escaped quotes": b"Content-Type: text/plain" + b';a="\\"' * 10_000,
    "nested parts": b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(1_100)),
    "many parts": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\n\n" * 12_000,
    "near boundaries": b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--bx\n" * 12_000,
    "headers": b"a:\n" * 20_000,
    "folded": b"a: b\n" + b" x\n" * 20_000,
    "blank lines": b"a: b\n" + b"\n" * 60_000,
    "words begun": b"Subject: " + b"=?a?q?" * 10_000,
    "words unended": b"Subject: " + b"=?a?q?x" * 8_500,
    "words": b"Subject: " + b"=?utf-8?b?QQ==?= " * 3_500,
    "marks": b"Subject: " + b"=?" * 30_000,
    "references": b"References: " + b"".join(b"<%d@b> " % n for n in range(6_000)),
    "in reply to": b"In-Reply-To: " + b"(" * 60_000,
    "commas": b"From: " + b"," * 60_000,
    "addresses": b"To: " + b"a@b," * 15_000,
    "backslashes": b'From: "' + b"\\" * 60_000,
    "continuations": b"Content-Type: a/b" + b"".join(b";a*%d*=x" % n for n in range(6_000)),
    "report": b"Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n"
    + b"a: b\n\n" * 9_500,
    "dates": b"Date: " + b"1 " * 30_000,
    "punycode": b"Content-Type: text/plain; charset=punycode\n\n" + b"a-" * 30_000,
    "utf-7": b"Content-Type: text/plain; charset=utf-7\n\n" + b"+" * 60_000,
    "escapes": b"Content-Type: text/plain; charset=iso-2022-jp\n\n" + b"\x1b$B" * 20_000,
    "base64": b"Content-Transfer-Encoding: base64\n\n" + b"=" * 60_000,
    "brackets": b"Content-Type: text/html\n\n" + b"<" * 60_000,
    "comments in html": b"Content-Type: text/html\n\n" + b"<!--" * 15_000,
    "styles": b"Content-Type: text/html\n\n" + b"<style>" * 8_500,
    "tags": b"Content-Type: text/html\n\n" + b"<a " * 20_000,
    "blockquotes": b"Content-Type: text/html\n\n" + b"<blockquote>" * 5_000,
    "breaks": b"Content-Type: text/html\n\n" + b"<br>" * 15_000,
    "entities": b"Content-Type: text/html\n\n" + b"&" * 60_000,
    "charset that lies": b"Content-Type: text/plain; charset=utf-16\n\n" + b"\xff\xfe\xd8" * 20_000,
    "charset in words": b"Subject: " + b"=?utf-7?b?KysrKysr?= " * 2_800,
    "extended values": b"Content-Disposition: attachment; filename*=utf-7''" + b"%2b" * 20_000,
    "nested lists": b"Content-Type: text/html\n\n" + b"<ul><li>" * 7_500,
    "nested quotes": b"Content-Type: text/html\n\n" + b"<blockquote><div>" * 3_500,
    "marks of quotes": b"\n" + b"> On Tue, 7 Jan 2025 a@b.example wrote:\n" * 1_500,
    "deep marks": b"\n" + b">" * 60_000,
    "zeros": b"\0" * 60_000,
    "returns": b"a: b\r" * 12_000,
}


@pytest.mark.parametrize("name", CRAFTED)
def test_sixty_kilobytes_of_crafted_mail_take_under_a_tenth_of_a_second(name: str) -> None:
    raw = CRAFTED[name][:60_000]

    def once() -> float:
        start = time.thread_time()
        mail = read(raw)
        draft = mail_event(mail, ACCOUNT, mail_id(mail, raw))
        split_reply(draft.data.get("text", ""))
        sanitised(draft.data.get("html", ""))
        return time.thread_time() - start

    assert any(once() < 0.1 for _ in range(3))


def test_ten_thousand_references_cost_what_their_length_costs() -> None:
    raw = a_mail("References: " + "\n ".join(f"<{number}.{'a' * 40}@x.example>" for number in range(10_000)) + "\n")

    def once() -> float:
        start = time.thread_time()
        event_data(raw)
        return time.thread_time() - start

    assert any(once() < 0.1 * len(raw) / 60_000 for _ in range(3))


PIECES = [b"From: a@b\n", b"Content-Type: multipart/mixed; boundary=x\n", b"Content-Type: text/html; charset=", b"\n",
          b"--x\n", b"--x--", b"=?utf-8?q?", b"?=", b"(", b'"', b"<a@b>", b"References: ", b"Date: ", b"\r", b"\xff",
          b"Content-Transfer-Encoding: base64\n", b"Content-Disposition: attachment; filename*0*=", b"utf-8''%", b";",
          b"message/rfc822", b"Content-Type: message/delivery-status\n", b"To: ", b"\0", b" "]  # fmt: skip


HEADING = (
    b"A: b", b"a : c", b"Tab\tbed: d", b"Long" * 60 + b": e", b"no field", b": nobody's", b" folded", b"\tfolded: too",
    b"\n", b"\n", b"\r\n", b"\r\n", b"\r", b"\0", b"\x1c", b"\xc3\xa9", b"\xff", b" ",
)  # fmt: skip


@settings(max_examples=1_000, deadline=None)
@given(st.lists(st.sampled_from(HEADING), max_size=14).map(b"".join))
def test_headers_in_plain_ascii_are_read_as_any_others_are(block: bytes) -> None:
    raw = b"First: 1\n" + block
    (quick, body), (slow, rest) = split(raw), split_slowly(raw)
    assert body == rest
    assert [(name, quick.get_all(name)) for name in quick] == [(name, slow.get_all(name)) for name in slow]


@settings(max_examples=1_000, deadline=None)
@given(st.lists(st.sampled_from((*HEADING, b"From : a", b"From b", b"\r\n\r\n")), max_size=14).map(b"".join))
def test_headers_without_their_mail_are_read_as_those_of_a_mail(block: bytes) -> None:
    alone = read_headers(block)
    written = block.strip()
    slow, _ = split(written + (b"\r\n\r\n" if b"\r\n" in written else b"\n\n"))
    assert [(name, alone.get_all(name)) for name in alone] == [(name, slow.get_all(name)) for name in slow]


WORDS = ["=?", "?=", "?", "utf-8", "iso-8859-1", "q", "B", "J=C3=A9", "w7w=", "x", " ", "_", "*nl", "\n"]


@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_a_word_alone_reads_as_it_does_among_others(value: str) -> None:
    for word in (value, f"=?utf-8?q?{value}?="):
        assert decode_words(word) + " x" == decode_words(word + " x")


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=60).map(b"".join))
@settings(max_examples=400, deadline=None)
def test_no_bytes_raise_or_leave_what_a_database_refuses(raw: bytes) -> None:
    mail = read(raw)
    draft = mail_event(mail, ACCOUNT, mail_id(mail, raw))
    assert _is_clean(draft.data)


def _is_clean(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(_is_clean(key) and _is_clean(item) for key, item in value.items())
    return all(_is_clean(item) for item in value) if isinstance(value, list) else True
