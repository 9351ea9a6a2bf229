"""The words of a search as people type them, in the form in which the index has them.

Scripts without spaces between words (Thai, Lao, Burmese, Khmer, Chinese, Japanese, Korean with its particles) are
indexed a character at a time, and a run of them is looked for as a phrase. A pasted address is looked for as one, too.
"""

from __future__ import annotations

import re

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fff\u3005-\u3007\u3031-\u318f\u31a0-\ua4cf\ua960-\ua97f"
    "\uac00-\ud7ff\uf900-\ufaff\uff66-\uffdc\U00020000-\U0003ffff"
)
"""The characters that `conversation.words_apart` of the database takes for words of their own, as in its migration."""
SEPARATOR = "\x1f"
"""Stands before and behind each of them in the index and in what is marked. No locale takes it for a letter."""

_ONE = re.compile(f"([{UNSPACED}])")
_RUN = re.compile(rf"((?<!\S)-)?([{UNSPACED}]+)")
_ADDRESS = re.compile(r"(?<!\S)(-?)(?:[A-Za-z][A-Za-z0-9+.-]{1,19}://)(\S+)")


def asked(words: str) -> str:
    """Return `words` as the database's web search is to read them: quotes, `or` and `-` mean what they did."""
    parts = words.split('"')
    if len(parts) % 2 == 0:
        # The last quote does not close; the database heeds it as little.
        parts[-2:] = [" ".join(parts[-2:])]
    for index, part in enumerate(parts):
        quoted = index % 2 == 1
        parts[index] = apart(part) if quoted else _RUN.sub(_phrase, _ADDRESS.sub(r'\1"\2"', part))
    return '"'.join(parts)


def apart(text: str) -> str:
    """Return `text` with each character that is a word of its own set apart."""
    return _ONE.sub(rf"{SEPARATOR}\1{SEPARATOR}", text)


def together(text: str, start: str, stop: str, words: str) -> str:
    """Return what the database marked for `words`, between `start` and `stop`, as it was written.

    Neighbours come under one mark. Of a phrase the database marks each word wherever it stands: of the characters that
    are words of their own only those stay marked that are one of the runs asked for.
    """
    runs = {run[2] for run in _RUN.finditer(words)}

    def marked(found: re.Match[str]) -> str:
        alone = _ONE.search(found[1]) and not any(run in found[1] for run in runs)
        return found[1] if alone else found[0]

    joined = re.sub(f"{stop}{SEPARATOR}*{start}", "", text).replace(SEPARATOR, "")
    return re.sub(f"{start}([^{stop}]*){stop}", marked, joined)


def _phrase(run: re.Match[str]) -> str:
    return f' {run[1] or ""}"{apart(run[2])}" '
