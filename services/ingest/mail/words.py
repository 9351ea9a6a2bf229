"""Words of mail headers and bodies: charsets, encoded words (RFC 2047), parameters (RFC 2045, 2231). Linear time."""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

_SURROGATE = re.compile("[\ud800-\udfff]")

_ALIASES = {
    # What mail calls the left is in practice a subset of the right (Encoding Standard of the WHATWG).
    "iso-8859-1": "cp1252", "latin-1": "cp1252", "latin1": "cp1252", "iso8859-1": "cp1252", "us-ascii": "ascii",
    "iso-8859-9": "cp1254", "iso-8859-11": "cp874", "tis-620": "cp874", "gb2312": "gb18030", "gbk": "gb18030",
    "x-gbk": "gb18030", "gb_2312-80": "gb18030", "ks_c_5601-1987": "cp949", "euc-kr": "cp949", "shift_jis": "cp932",
    "shift-jis": "cp932", "x-sjis": "cp932", "windows-31j": "cp932", "big5": "big5hkscs", "x-x-big5": "big5hkscs",
    "iso-8859-8-i": "iso-8859-8", "iso-8859-8-e": "iso-8859-8", "unicode-1-1-utf-7": "utf-7", "utf8": "utf-8",
    "unicode-1-1-utf-8": "utf-8", "macintosh": "mac-roman", "x-mac-roman": "mac-roman", "cp-850": "cp850",
    "utf-8-bom": "utf-8-sig", "windows-874": "cp874", "dos-874": "cp874", "iso-2022-jp": "iso2022_jp_ext",
}  # fmt: skip
_NOT_TEXT = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"})
"""Codecs that are no charset, or whose cost is not linear."""

_LONGEST_PARAMETERS = 16_384
_MOST_PARAMETERS = 100
_SHORT = 100
_PARAMETER = re.compile(r';\s*([^\s=;"]{1,100})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^;"]*))', re.DOTALL)
_BACKSLASH = re.compile(r"\\(.)", re.DOTALL)


def clean(text: str) -> str:
    """Replace NUL characters and lone surrogates by U+FFFD."""
    if not text.isascii():
        try:
            # Encoding finds a surrogate ten times faster than a regular expression does.
            text.encode()
        except UnicodeEncodeError:
            text = _SURROGATE.sub("\ufffd", text)
    return text.replace("\0", "\ufffd")


@lru_cache(maxsize=512)
def _codec(charset: str) -> str | None:
    """Return the name of the codec for a charset as mail writes it, or None where there is none."""
    name = charset.strip().strip("\"'").lower()[:60]
    name = _ALIASES.get(name, name)
    try:
        found = codecs.lookup(name)
        "".encode(name)
    except (LookupError, ValueError):
        return None
    return None if found.name.replace("-", "_") in _NOT_TEXT else name


def decode(raw: bytes, charset: str | None) -> str:
    """Decode `raw`: by `charset` where that is one and fits, else as UTF-8 where it is, else as Windows-1252.

    Nothing is lost silently: what fits nowhere becomes U+FFFD.
    """
    codec = _codec(charset) if charset else None
    if codec is None or codec == "ascii":
        return clean(_guess(raw))
    text = raw.decode(codec, "replace")
    if "\ufffd" in text and codec != "utf-8":
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            pass
    return clean(text)


def _guess(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def header_text(raw: bytes) -> str:
    """Return a raw header value as text (8-bit bytes by guess), unfolded, encoded words left as they are."""
    raw = raw.strip()
    if raw.isascii() and b"\n" not in raw and b"\r" not in raw and b"\0" not in raw:
        # Nearly all of them: there is nothing to guess, to clean or to unfold.
        return raw.decode("ascii").strip()
    return clean(_guess(raw)).replace("\r", "").replace("\n", "").strip()


def decode_words(value: str) -> str:
    """Decode the encoded words in a header value; what is broken stays as written."""
    if "=?" not in value:
        return value
    first = _word(value, 0) if value.startswith("=?") else None
    if first is not None and first[2] == len(value):
        # One word and nothing else, as nearly always.
        return decode(first[1], first[0])
    out: list[str] = []
    pending: tuple[str, bytes] | None = None
    at = 0
    while True:
        start = value.find("=?", at)
        word = _word(value, start) if start >= 0 else None
        gap = value[at:] if start < 0 else value[at:start]
        if pending is not None and (word is None or gap.strip()):
            out.append(decode(pending[1], pending[0]))
            pending = None
        if start < 0:
            out.append(gap)
            return clean("".join(out))
        if word is None:
            out.append(gap + "=?")
            at = start + 2
            continue
        charset, content, at = word
        if pending is not None and pending[0] == charset:
            # Long words are cut anywhere, even within a character, so the bytes are joined first.
            pending = (charset, pending[1] + content) if len(pending[1]) < 4096 else _flush(out, pending, word)
            continue
        if pending is not None:
            out.append(decode(pending[1], pending[0]))
        else:
            out.append(gap)
        pending = (charset, content)


def _flush(out: list[str], pending: tuple[str, bytes], word: tuple[str, bytes, int]) -> tuple[str, bytes]:
    out.append(decode(pending[1], pending[0]))
    return word[0], word[1]


def _word(value: str, start: int) -> tuple[str, bytes, int] | None:
    """Read `=?charset?encoding?text?=` at `start`: (charset, bytes, index after it)."""
    mark = value.find("?", start + 2, start + 64)
    if mark < 0 or value[mark + 2 : mark + 3] != "?":
        return None
    charset = value[start + 2 : mark].split("*", 1)[0].lower()
    encoding = value[mark + 1].lower()
    end = value.find("?=", mark + 3, mark + 1_500)
    if end < 0 or not charset or encoding not in "bq":
        return None
    payload = value[mark + 3 : end].encode("utf-8", "replace")
    content = base64_bytes(payload) if encoding == "b" else binascii.a2b_qp(payload.replace(b" ", b"_"), header=True)
    return charset, content, end + 2


_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))


def base64_bytes(encoded: bytes) -> bytes:
    """Decode base64 as far as it goes: foreign bytes are skipped, a cut-off end is dropped."""
    digits = encoded.translate(None, _NOT_BASE64)
    rest = len(digits) % 4
    if rest == 1:
        digits = digits[:-1]
    return binascii.a2b_base64(digits + b"=" * (-len(digits) % 4))


def parameters(value: str) -> tuple[str, Mapping[str, str]]:
    """Split a Content-Type or Content-Disposition into its value in lower case and its parameters, decoded."""
    if ";" not in value:
        return value[:_LONGEST_PARAMETERS].strip().lower(), {}
    # Mails differ in few of them, apart from their boundaries.
    return _parameters(value) if len(value) > _SHORT else _known_parameters(value)


def _parameters(value: str) -> tuple[str, Mapping[str, str]]:
    value = value[:_LONGEST_PARAMETERS]
    kind, _, rest = value.partition(";")
    found: dict[str, str] = {}
    for count, match in enumerate(_PARAMETER.finditer(";" + rest)):
        if count >= _MOST_PARAMETERS:
            break
        name, quoted, bare = match.groups()
        content = _BACKSLASH.sub(r"\1", quoted) if quoted is not None else bare.strip()
        found.setdefault(name.lower(), content)
    return kind.strip().lower(), _continued(found)


_known_parameters = lru_cache(maxsize=512)(_parameters)


def _continued(found: dict[str, str]) -> dict[str, str]:
    """Join continuations (`name*0`, `name*1*`) and decode extended values (`name*=charset'language'…`)."""
    out = {name: decode_words(text) for name, text in found.items() if "*" not in name}
    if len(out) == len(found):
        return out
    for base in {name.split("*", 1)[0] for name in found if "*" in name}:
        pieces: list[bytes] = []
        charset = "utf-8"
        whole = found.get(f"{base}*")
        numbered = [whole] if whole is not None else []
        extended = whole is not None
        for number in range(_MOST_PARAMETERS):
            if whole is not None:
                break
            piece = found.get(f"{base}*{number}*")
            extended_piece = piece is not None
            if piece is None:
                piece = found.get(f"{base}*{number}")
            if piece is None:
                break
            extended |= extended_piece
            numbered.append(piece)
        for number, piece in enumerate(numbered):
            if extended and number == 0 and piece.count("'") >= 2:
                charset, _, piece = piece.split("'", 2)
            pieces.append(unquote_to_bytes(piece) if extended else piece.encode("utf-8", "replace"))
        if pieces:
            out[base] = decode(b"".join(pieces), charset or "utf-8")
    return out
