"""Which mail was written by a machine, and the headers that say so."""

from __future__ import annotations

from collections.abc import Collection

from services.ingest.mail.message import Headers, Mail
from shared.mail_ids import without_comments

TELLING = (
    "Auto-Submitted", "Return-Path", "Precedence", "X-Auto-Response-Suppress", "List-Id", "List-Unsubscribe",
    "List-Post", "List-Help", "List-Subscribe", "List-Owner", "List-Archive", "X-Autoreply", "X-Autorespond",
    "X-Failed-Recipients",
)  # fmt: skip
"""Headers that tell automatic mail; they travel with the event."""

_TELLING = {name.lower(): name for name in TELLING}
_MARKS = frozenset(
    {"auto-submitted", "x-auto-response-suppress", "precedence", "x-autoreply", "x-autorespond", "x-failed-recipients"}
)
"""Headers of which people's mail has none, lists and bounces aside."""
_FAILED = ("x-autoreply", "x-autorespond", "x-failed-recipients")


def telling_headers(mail: Mail) -> dict[str, str]:
    """Return the headers that tell automatic mail, as written; Content-Type only for a delivery report."""
    headers = mail.headers
    found = {_TELLING[key]: (headers.get(key) or "")[:1_000] for key in headers if key in _TELLING}
    if mail.media_type == "multipart/report":
        found["Content-Type"] = "multipart/report"
    return found


def is_automatic(mail: Mail, own_lists: Collection[str] = ()) -> bool:
    """Tell whether a machine wrote it. Mail of the account's own lists (`own_lists`, List-Id parts) is people's."""
    headers = mail.headers
    if mail.media_type == "multipart/report":
        return True
    if (headers.get("return-path") or "").replace(" ", "") == "<>":
        return True
    if not headers.has_any(_MARKS) and not _is_listed(headers):
        return False
    written = without_comments((headers.get("auto-submitted") or "no")[:1_000])
    submitted = written.split(";", 1)[0].strip().lower()
    if submitted != "no" and submitted:
        return True
    if any(name in headers for name in _FAILED):
        return True
    if (headers.get("x-auto-response-suppress") or "none").strip().lower() != "none":
        return True
    precedence = (headers.get("precedence") or "").strip().lower()
    if precedence in ("bulk", "junk", "auto_reply"):
        return True
    listed = precedence == "list" or _is_listed(headers)
    return listed and not _is_own_list(headers.get("list-id") or headers.get("list-post") or "", own_lists)


def _is_listed(headers: Headers) -> bool:
    return headers.has_any_that_begins("list-")


def _is_own_list(list_id: str, own_lists: Collection[str]) -> bool:
    return any(own.strip().lower() in list_id.lower() for own in own_lists if own.strip())
