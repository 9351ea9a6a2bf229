"""Address lists of mail headers: (name, address) pairs, in one pass over the characters."""

from __future__ import annotations

import re
from typing import NamedTuple

from services.ingest.mail.words import decode_words

LONGEST = 65_536
"""Characters of one header that are read."""

MOST = 500


class Address(NamedTuple):
    """One mailbox; `address` is as written, without blanks."""

    address: str
    name: str | None


def read(value: str | None) -> list[Address]:
    """Return the mailboxes of a From, To or Cc value; groups are opened, comments dropped, broken ones skipped."""
    if not value:
        return []
    plain = _PLAIN.fullmatch(value)
    if plain is not None:
        name, quoted, address = plain.groups()
        phrase = name or quoted
        return [Address(address, _name(phrase) if phrase else None)]
    return read_slowly(value)


# What nearly all mail has: one mailbox, and nothing in it that has a meaning of its own.
_ATOM = r"[A-Za-z0-9!#$%&*+/=?^_`{|}~.-]"
_PLAIN = re.compile(
    rf"""\s*(?:(?:(?P<name>[^"()<>,;:\\@]{{0,200}})|"(?P<quoted>[^"()<>,;:\\@]{{0,200}})"\s*)<)?"""
    rf"(?P<address>{_ATOM}{{1,200}}@{_ATOM}{{1,200}})(?(name)>|(?(quoted)>|))\s*"
)


def _name(phrase: str) -> str | None:
    return decode_words(phrase).strip(" \t\"'")[:200] or None


def read_slowly(value: str) -> list[Address]:
    """Do what `read` does, one character after the other."""
    found: list[Address] = []
    for phrase, angle, bare in _mailboxes(value[:LONGEST]):
        address = _plausible(angle) or _plausible(bare)
        if address:
            found.append(Address(address, _name(phrase) if angle else None))
        if len(found) >= MOST:
            break
    return found


def _plausible(text: str) -> str | None:
    address = "".join(text.split()).strip("<>,;\"'")
    # A source route (<@a,@b:user@host>) ends with the address.
    address = address.rpartition(":")[2] if address.startswith("@") else address
    local, at, domain = address.rpartition("@")
    return address if at and local and domain and len(address) <= 998 else None


def _mailboxes(value: str) -> list[tuple[str, str, str]]:
    """Return (phrase, what stood in angle brackets, everything outside quotes and comments) of each list element."""
    out: list[tuple[str, str, str]] = []
    phrase: list[str] = []
    angle: list[str] = []
    bare: list[str] = []
    comment = 0
    quoted = in_angle = escaped = False
    for character in value:
        if escaped:
            escaped = False
            (angle if in_angle else phrase).append(character)
        elif character == "\\" and (quoted or comment):
            escaped = True
        elif comment:
            comment += {"(": 1, ")": -1}.get(character, 0)
        elif quoted:
            if character == '"':
                quoted = False
                bare.append('"')
            else:
                (angle if in_angle else phrase).append(character)
                bare.append(character)
        elif character == '"':
            quoted = True
            bare.append('"')
        elif character == "(":
            comment = 1
        elif in_angle:
            in_angle = character != ">"
            if in_angle:
                angle.append(character)
        elif character == "<":
            in_angle = True
            angle.clear()
        elif character in ",;":
            out.append(("".join(phrase), "".join(angle), "".join(bare)))
            phrase, angle, bare = [], [], []
            if len(out) > 4 * MOST:
                return out
        elif character == ":":
            # The name of a group ends here.
            phrase, bare = [], []
        else:
            phrase.append(character)
            bare.append(character)
    out.append(("".join(phrase), "".join(angle), "".join(bare)))
    return out
