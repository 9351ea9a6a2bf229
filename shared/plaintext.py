"""HTML → the text that a person would read, in one pass; what is quoted gets `>` marks, as in plain mail.

For text only: the result is never shown as HTML, and HTML that is shown is sanitised elsewhere (nh3).
"""

from __future__ import annotations

import html
import re

_SKIPPED = frozenset({"script", "style", "head", "title", "template", "noscript", "svg", "math"})
_BLOCKS = frozenset(
    {
        "p", "div", "tr", "table", "ul", "ol", "li", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "section",
        "article", "header", "footer", "form", "fieldset", "address", "dl", "dt", "dd", "center", "tbody", "thead",
    }
)  # fmt: skip
_SPACED = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "ul", "ol", "table", "pre"})
_OPENING = re.compile(r"<(?=[A-Za-z/!?])")
"""Where a tag begins; any other "<" is text."""
_NAME = re.compile(r"/?\s*([A-Za-z][A-Za-z0-9]{0,19})")
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_LONGEST_TAG = 65_536
_DEEPEST_QUOTE = 30
_RULE = "_" * 20


class _Writer:
    """Collects lines, each with the quote depth at which it stands."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.current: list[str] = []
        self.depth = 0

    def write(self, text: str) -> None:
        if text:
            self.current.append(text)

    def end_line(self, *, always: bool = False) -> None:
        text = "".join(self.current).strip()
        self.current.clear()
        if text or always:
            self.lines.append((">" * self.depth + " " if self.depth else "") + text)

    def blank(self) -> None:
        self.end_line()
        mark = ">" * self.depth
        if self.lines and self.lines[-1].strip() != mark:
            self.lines.append(mark)


def html_to_text(source: str) -> str:
    """Return the readable text of `source`. Never raises; linear in its length."""
    writer = _Writer()
    at = 0
    skipped: str | None = None
    preformatted = 0
    unclosed: set[str] = set()
    while at < len(source):
        opening = _OPENING.search(source, at)
        start = opening.start() if opening is not None else len(source)
        if skipped is None and start > at:
            text = html.unescape(source[at:start])
            if preformatted:
                _write_lines(writer, text)
            else:
                writer.write(_BLANKS.sub(" ", text))
        if start >= len(source):
            break
        if source.startswith("<!--", start):
            end = source.find("-->", start + 4)
            at = len(source) if end < 0 else end + 3
            continue
        match = _NAME.match(source, start + 1)
        end = source.find(">", start, start + _LONGEST_TAG)
        at = len(source) if end < 0 else end + 1
        if match is None:
            continue
        name, closing = match[1].lower(), source[start + 1] == "/"
        if skipped is not None:
            skipped = None if closing and name == skipped else skipped
        elif name in _SKIPPED:
            # What the tag holds is skipped only if it is ever closed; a mail cut off in its style sheet keeps the rest.
            if not closing and name not in unclosed:
                skipped = name if _is_closed(source, at, name) else None
                unclosed |= {name} - {skipped}
        elif name == "pre":
            preformatted = max(0, preformatted + (-1 if closing else 1))
            writer.blank()
        elif name == "blockquote":
            writer.blank()
            writer.depth = max(0, min(_DEEPEST_QUOTE, writer.depth + (-1 if closing else 1)))
        elif name == "br":
            writer.end_line(always=True)
        elif name == "hr":
            writer.blank()
            writer.write(_RULE)
            writer.end_line()
        elif name in _SPACED:
            writer.blank()
        elif name in _BLOCKS:
            writer.end_line()
        elif name in ("td", "th"):
            writer.write(" ")
    writer.end_line()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(writer.lines)).strip().replace("\u00a0", " ")


def _is_closed(source: str, at: int, name: str) -> bool:
    return source.find(f"</{name}", at) >= 0 or source.find(f"</{name.upper()}", at) >= 0


def _write_lines(writer: _Writer, text: str) -> None:
    first, *rest = text.replace("\r\n", "\n").split("\n")
    writer.write(first)
    for line in rest:
        writer.end_line(always=True)
        writer.write(line)
