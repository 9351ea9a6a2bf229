"""HTML that strangers wrote, made safe to show: sanitised by nh3, at a cost that grows with its length only.

The parser under nh3 goes through all open elements for each new one, copies a text for each `&` in it, and compares
the attributes of an element with each other, so that a megabyte of either would hold it for minutes. What would cost
so much is therefore told beforehand, and shown as the text that it says instead.
"""

from __future__ import annotations

import re
from collections import defaultdict
from html import escape

import nh3

from shared.plaintext import html_to_text

MOST_STEPS = 5_000_000
"""Steps of the parser below which HTML is sanitised as it is; so many take it about 30 ms. Mail stays below a tenth."""

_SMALL = 100_000
_FEW = 500
"""HTML of so many characters, tags and entities cannot cost more, and is not looked at; most mail is such."""

_TAG = re.compile(r"(/?)([A-Za-z][^\s/>]*)")
_QUOTED_VALUE = re.compile(r"""(?<=[\s/"'])[^\s/="'>]++\s*+=\s*+(?:"[^"]*"|'[^']*')""")
_BETWEEN_ATTRIBUTES = re.compile(r"[\s/=]+")
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
_ENDED_BY_THE_NEXT = frozenset({"p", "li", "dt", "dd", "td", "th", "tr", "tbody", "thead", "tfoot", "option"})
"""Elements that are often left open, and never one directly within another of its kind."""
_FORMATTING = frozenset(
    {"a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"}
)
"""Elements that the parser opens again in each block where they were left open."""


def sanitised(html: str) -> str:
    """Return `html` without anything that could run or load by itself. Never raises; linear in its length."""
    if not _is_small(html) and steps(html) > MOST_STEPS:
        return f"<pre>{escape(html_to_text(html), quote=False)}</pre>"
    return nh3.clean(html)


def _is_small(html: str) -> bool:
    return len(html) <= _SMALL and html.count("<") <= _FEW and html.count("&") <= _FEW


def steps(html: str) -> float:
    """Return about how many steps of some nanoseconds the parser needs for `html`, beyond those for its length."""
    before, *pieces = html.split("<")
    counted = _entities(before)
    depth = 0
    open_elements: defaultdict[str, int] = defaultdict(int)
    for piece in pieces:
        counted += depth + _entities(piece)
        tag = _TAG.match(piece)
        if tag is None:
            continue
        if len(piece) > 500:
            counted += _attributes(piece) ** 2 / 10
        name = tag[2].lower()
        if name in _VOID or name in _ENDED_BY_THE_NEXT:
            continue
        weight = 20 if name in _FORMATTING else 1
        if not tag[1]:
            open_elements[name] += 1
            depth += weight
        elif open_elements[name]:
            open_elements[name] -= 1
            depth -= weight
    return counted


def _entities(text: str) -> float:
    return text.count("&") * len(text) / 300


def _attributes(piece: str) -> int:
    """Return at most how many attributes the tag has with which `piece` begins."""
    values = len(_QUOTED_VALUE.findall(piece))
    return values + len(_BETWEEN_ATTRIBUTES.findall(_QUOTED_VALUE.sub("", piece).partition(">")[0]))
