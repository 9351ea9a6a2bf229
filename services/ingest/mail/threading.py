"""What a mail's headers say about the thread it belongs to. Pure, linear.

Sources: RFC 5322 section 3.6.4; RFC 3464; the traps seen in real mail are in the tests.
"""

from __future__ import annotations

import re
from functools import lru_cache

from services.ingest.mail.message import Headers, Mail
from shared.mail_ids import without_comments

REFERENCES_AT_EACH_END = 99
"""How many References count from the start and from the end; real mail has been seen with 10,000."""

_ORIGINALS = ("original-message-id", "x-original-message-id")
_ANY_ORIGINAL = frozenset(_ORIGINALS)
_ID = re.compile(r"<([^<>\s@]{1,500}@[^<>\s@]{1,500})>")


# A mail's id is asked for as its event's and as its message's.
@lru_cache(maxsize=1)
def own_id(headers: Headers) -> str | None:
    """Return the mail's own id without its brackets, or None where Message-ID does not hold exactly one."""
    values = headers.get_all("message-id")
    found = _ID.findall(values[0]) if len(values) == 1 else [one for value in values for one in _ID.findall(value)]
    return found[0] if found and found.count(found[0]) == len(found) else None


def in_reply_to(headers: Headers) -> str | None:
    """Return `<id@host>` of In-Reply-To where it is exactly that, comments in parentheses aside; free text is no id."""
    if "in-reply-to" not in headers:
        return None
    for value in headers.get_all("in-reply-to"):
        match = _ID.fullmatch(without_comments(value[:5_000]).strip())
        if match:
            return f"<{match[1]}>"
    return None


def references(headers: Headers) -> list[str]:
    """Return the ids of References in order without repeats: of more than 198 the first and the last 99."""
    if "references" not in headers:
        return []
    found = list(dict.fromkeys(match for value in headers.get_all("references") for match in _ID.findall(value)))
    if len(found) > 2 * REFERENCES_AT_EACH_END:
        found = found[:REFERENCES_AT_EACH_END] + found[-REFERENCES_AT_EACH_END:]
    return [f"<{value}>" for value in found]


def original_message_id(mail: Mail) -> str | None:
    """Return `<id@host>` of the mail that a delivery report is about, or None."""
    if mail.original is None and not mail.report and not mail.headers.has_any(_ANY_ORIGINAL):
        return None
    if mail.original is not None and (found := own_id(mail.original)):
        return f"<{found}>"
    for headers in (*mail.report, mail.headers):
        for name in _ORIGINALS:
            value = headers.get(name)
            match = _ID.search(value[:5_000]) if value else None
            if match:
                return f"<{match[1]}>"
    return None
