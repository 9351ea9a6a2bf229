"""Handles: the addresses by which a person is known, and the form in which two of them are compared.

A handle is written `kind:value`. Two handles are the same when their matching forms are equal; they are shown as
given. A value that stands for nobody (`null`, `anonymous`, all zeros, a no-reply address, a number that cannot be
dialled) has no matching form: it never links anything, and it never refuses the event that carries it.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from unicodedata import normalize

import idna
import phonenumbers

WEAK = 9
"""Strength of what never links by itself (a browser is shared by a family)."""

NETWORKS = frozenset(
    {"messenger", "instagram", "telegram", "slack", "teams", "line", "viber", "wechat", "x", "whatsapp"}
)
"""Kinds whose value carries the network's own scope before a slash (`messenger:<page>/<psid>`)."""

STRENGTH = MappingProxyType(
    {"crm": 0, "email": 1, **dict.fromkeys(sorted(NETWORKS), 2), "phone": 3, "contact": 4, "visitor": WEAK}
)
"""Kind → strength as evidence, 0 the strongest. A kind that is not listed is no handle."""

_NOBODY = frozenset(
    {
        "null", "none", "undefined", "anonymous", "guest", "unknown", "true", "false", "0", "-1", "id", "email", "nan",
        "[object object]",
    }
)  # fmt: skip

_NOBODYS_MAILBOXES = frozenset({"noreply", "no-reply", "mailer-daemon", "postmaster"})

_QUOTES = "\"'`\u00b4\u2018\u2019\u201a\u201c\u201d\u201e\u00ab\u00bb"
# What people paste along: no-break and zero-width spaces, direction marks.
_BLANKS = " \t\r\n\f\v\0\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"  # noqa: E501
_NOT_IN_AN_ADDRESS = frozenset('<>()[]{},;:\\"|')
_BESIDE_AN_ADDRESS = frozenset('<>(),;"' + _BLANKS)
_MAX_CHARACTERS = 1024
"""Longer values are kept with their event and link nothing: an index row of PostgreSQL has a limit too."""


def strength(kind: str) -> int:
    """Return how strongly a handle of `kind` identifies: 0 is the strongest, WEAK never links by itself."""
    return STRENGTH.get(kind, WEAK)


def is_social(kind: str) -> bool:
    """Tell whether `kind` is a social network's (the policy's limit `social` counts per network)."""
    return kind in NETWORKS


def matching(kind: str, value: str, region: str | None = None) -> str | None:
    """Return the form by which this handle is compared, as `kind:value`, or None where it stands for nobody.

    `region` is the ISO 3166 country in which a phone number without country code is read; without one such a number
    is no handle. Applied to its own result it changes nothing.
    """
    kind = kind.strip().lower()
    if kind not in STRENGTH or len(value) > _MAX_CHARACTERS:
        return None
    value = value.strip(_BLANKS)
    if _stands_for_nobody(value):
        return None
    if kind in NETWORKS and _stands_for_nobody(value.rpartition("/")[2]):
        return None
    form = _email(value) if kind == "email" else _phone(value, region) if kind == "phone" else value
    return f"{kind}:{form}" if form else None


def shown(kind: str, value: str) -> str:
    """Return the handle as it is shown to people: `kind:value` as given, without blanks around it."""
    return f"{kind.strip().lower()}:{value.strip(_BLANKS)}"


def own_address(text: str) -> str:
    """Return an address or number of the tenant's own, as it is compared, without blanks around it.

    Raises ValueError with a sentence for the caller where it is more than one address: with the name of whose it is,
    the kind of a handle, blanks or another address it would match nothing, and nobody would be told.
    """
    address = text.strip(_BLANKS)
    kind = address.partition(":")[0].lower()
    if not address or kind in ("email", "phone", "mailto", "tel") or not _BESIDE_AN_ADDRESS.isdisjoint(address):
        example = "such as help@shop.example or +31201234567, without a name or a kind"
        raise ValueError(f"must be one address alone, {example}, not {text[:80]!r}")
    return address


def parse(text: str) -> tuple[str, str]:
    """Split what a caller wrote as `kind:value` into its kind and value.

    A space where a phone number or an address has its `+` is read as `+`: that is what an unescaped plus becomes in
    a query. Raises ValueError with a sentence for the caller.
    """
    kind, colon, value = text.partition(":")
    kind = kind.strip().lower()
    if not colon or kind not in STRENGTH:
        raise ValueError(f"a handle is written kind:value, with kind one of {', '.join(STRENGTH)}")
    if kind == "phone" and value.startswith(" "):
        value = "+" + value.strip(_BLANKS)
    elif kind == "email":
        value = value.strip(_BLANKS).replace(" ", "+")
    return kind, value


def queried(text: str, region: str | None = None) -> tuple[str, ...]:
    """Return the matching forms that a query for `kind:value` may mean, the likeliest first; empty where none.

    Beyond phone and e-mail a space may be itself or a lost `+` (`contact:a+b`): both are returned. Raises ValueError
    as `parse` does.
    """
    kind, value = parse(text)
    forms = (matching(kind, value, region), matching(kind, value.replace(" ", "+"), region) if " " in value else None)
    return tuple(dict.fromkeys(form for form in forms if form))


def _stands_for_nobody(value: str) -> bool:
    bare = value
    while len(bare) >= 2 and bare[0] in _QUOTES and bare[-1] in _QUOTES:
        bare = bare[1:-1].strip(_BLANKS)
    bare = bare.lower()
    if bare in _NOBODY:
        return True
    # The digits and letters alone decide: 000-000, 00000000-0000-…, +00 00 and a lone dash are all nobody.
    return bare[:1] in "0+-(#.\"'" and not any(letter.isalnum() and letter != "0" for letter in bare)


def _email(value: str) -> str | None:
    local, at, domain = value.lower().rpartition("@")
    local = local.partition("+")[0] or local
    domain = domain.rstrip(".")
    if not at or not local or not domain or "@" in local or local in _NOBODYS_MAILBOXES:
        return None
    address = f"{local}@{domain}"
    if not address.isascii():
        address = f"{normalize('NFC', local)}@{_ascii_domain(domain)}"
    if not address.isprintable() or " " in address or not _NOT_IN_AN_ADDRESS.isdisjoint(address):
        return None
    return address


def _ascii_domain(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return domain


@lru_cache(maxsize=65_536)
def _phone(value: str, region: str | None) -> str | None:
    try:
        number = phonenumbers.parse(value, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_possible_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
