"""JSON that is nearly right: a good document with a few places replaced by something odd."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=10), st.just([]), st.just({}),
    st.just([None]), st.just({"a": {}}), st.just(10**400), st.just("9" * 400), st.just("\ud800"), st.just("\0"),
    st.just("2026-99-99T99:99:99Z"), st.just("<"), st.just(-1), st.just(1e308),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in a JSON value."""
    found = [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        found += places(item, (*path, name))
    return found


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@st.composite
def damaged(draw: st.DrawFn, body: Any) -> Any:
    """A recorded payload with up to four places replaced by something odd."""
    for _ in range(draw(st.integers(1, 4))):
        body = changed(body, draw(st.sampled_from(places(body))), draw(odd))
    return body
