"""Where an endpoint may be: on the open internet, and in the operator's own network only where a setting allows it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_URL_CHARACTERS = 2_000

# What is no place on the open internet although Python's `is_global` takes it for one, or did in some version.
_NOT_OUTSIDE = tuple(
    ip_network(text)
    for text in (
        "168.63.129.16/32",  # a cloud's own address, answered inside its machines only
        "192.0.0.0/24",
        "192.88.99.0/24",
        "100.64.0.0/10",
        "::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
    )
)
_NAT64 = ip_network("64:ff9b::/96")
_COMPATIBLE = ip_network("::/96")


def networks(text: str) -> tuple[Network, ...]:
    """Read networks separated by commas, such as `10.20.0.0/16,fd00:1::/64`. Raises ValueError naming the wrong one."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(ip_network(part))
        except ValueError:
            raise ValueError(f"{part!r} is not a network such as 10.20.0.0/16") from None
    return tuple(found)


def refusal(address: str, allowed: Sequence[Network] = (), *, cleartext: bool = False) -> str | None:
    """Return why `address` is not called, None where it may be.

    An IPv6 address that carries an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64) is judged by both.
    `cleartext`: only what is allowed by name may be spoken to without TLS.
    """
    try:
        given = ip_address(address)
    except ValueError:
        return "its name leads to something that is not an address"
    meant = [given, *_carried(given)]
    if any(one.version == network.version and one in network for one in meant for network in allowed):
        return None
    if cleartext:
        return "http without TLS is for networks that THREADLINE_WEBHOOK_ALLOWED_NETWORKS names"
    if isinstance(given, IPv6Address) and given.ipv4_mapped is not None:
        meant = [given.ipv4_mapped]
    if all(_is_outside(one) for one in meant):
        return None
    return "its address is not on the open internet (THREADLINE_WEBHOOK_ALLOWED_NETWORKS names exceptions)"


def _is_outside(address: Address) -> bool:
    if any(address.version == network.version and address in network for network in _NOT_OUTSIDE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _carried(address: Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that an IPv6 address stands for or leads to."""
    if isinstance(address, IPv4Address):
        return []
    low = IPv4Address(int(address) & 0xFFFF_FFFF)
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        carried.append(low)
    return [one for one in carried if one is not None]


def checked_url(url: str, allowed: Sequence[Network] = ()) -> str:
    """Return `url` where an endpoint may have it. Raises ValueError with a sentence for whoever gave it.

    A name is not looked up here: where it leads is checked at every connection.
    """
    if len(url) > MAX_URL_CHARACTERS or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"must be a URL of at most {MAX_URL_CHARACTERS} visible ASCII characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("must be a URL such as https://help.example.com/hooks/threadline") from None
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        raise ValueError("must be a URL such as https://help.example.com/hooks/threadline")
    if parts.scheme == "http" and not allowed:
        raise ValueError("must begin with https://, because what is told is about persons")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not carry a user or password; deliveries are proven by their signature")
    if parts.fragment:
        raise ValueError("must not carry a fragment (#…)")
    if (reason := _literal_refusal(parts.hostname, allowed, parts.scheme == "http")) is not None:
        raise ValueError(f"must be reachable from outside: {reason}")
    return url


def _literal_refusal(host: str, allowed: Sequence[Network], cleartext: bool) -> str | None:
    try:
        ip_address(host)
    except ValueError:
        return None
    return refusal(host, allowed, cleartext=cleartext)
