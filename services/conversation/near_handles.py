"""Handles that differ from one by a slip of the finger: perhaps the same person's, and never a proof.

Pure. The neighbours of a handle are written out instead of being looked for, so that an ordinary index finds them among
any number of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_lowercase, digits

from services.conversation.identity import Node

SHORTEST = 6
"""Shorter mailbox names have too many neighbours who are other people."""

_IN_MAILBOXES = ascii_lowercase + digits + "._-"
_IN_DOMAINS = ascii_lowercase + "-."


def near(node: Node) -> set[Node]:
    """Return the handles that are one slip away from a handle in matching form.

    Of an e-mail address a character more, less, another one, or two changed over, in the mailbox or the domain. Of a
    phone number two neighbouring digits changed over: one digit else is the telephone next door. Of others none.
    """
    kind, _, value = node.partition(":")
    if kind == "phone":
        # The country code stays as it is: nobody mistakes it, and the first of its digits makes it another length.
        return {f"phone:{value[:3]}{tail}" for tail in _changed_over(value[3:])} - {node}
    if kind != "email":
        return set()
    mailbox, _, domain = value.rpartition("@")
    found = {f"email:{mailbox}@{other}" for other in _slips(domain, _IN_DOMAINS) if _may_be_domain(other)}
    if len(mailbox) >= SHORTEST:
        found |= {f"email:{other}@{domain}" for other in _slips(mailbox, _IN_MAILBOXES)}
    return found - {node}


def _slips(text: str, alphabet: str) -> Iterator[str]:
    yield from _changed_over(text)
    for at in range(len(text) + 1):
        before, behind = text[:at], text[at:]
        yield before + behind[1:]
        for letter in alphabet:
            yield before + letter + behind
            yield before + letter + behind[1:]


def _changed_over(text: str) -> Iterator[str]:
    for at in range(len(text) - 1):
        yield text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _may_be_domain(text: str) -> bool:
    return "." in text and ".." not in text and text[0] not in ".-" and text[-1] not in ".-"
