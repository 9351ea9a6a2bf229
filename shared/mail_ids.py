"""Comments beside the ids of mails: `<id@host> (of Tuesday (late))` names one mail, words around an address none."""

from __future__ import annotations


def without_comments(written: str) -> str:
    """Return a header's value without its comments, which may be nested; what is within `<…>` is none. Linear.

    A value with a comment that does not end is returned as it is: that is no comment.
    """
    if "(" not in written:
        return written
    kept: list[str] = []
    depth, in_id, escaped = 0, False, False
    for character in written:
        if depth:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            else:
                depth += {"(": 1, ")": -1}.get(character, 0)
            continue
        if character == "(" and not in_id:
            depth = 1
            continue
        in_id = character == "<" or (in_id and character != ">")
        kept.append(character)
    return written if depth else "".join(kept)
