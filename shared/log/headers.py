"""Headers of a record as one column of bytes."""

from __future__ import annotations

import orjson

Headers = tuple[tuple[str, bytes], ...]


def encode_headers(headers: Headers) -> bytes | None:
    """Return `headers` as JSON, None where there are none. Latin-1 gives each byte one character and back."""
    if not headers:
        return None
    return orjson.dumps([[name, value.decode("latin-1")] for name, value in headers])


def decode_headers(stored: bytes | None) -> Headers:
    """Read what `encode_headers` made."""
    if stored is None:
        return ()
    return tuple((name, value.encode("latin-1")) for name, value in orjson.loads(stored))
