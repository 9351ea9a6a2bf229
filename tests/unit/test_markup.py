"""HTML of strangers is made safe at a cost that grows with its length only."""

from __future__ import annotations

import time

import nh3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversation.markup import sanitised


def a_newsletter(rows: int = 3_000) -> str:
    row = (
        '<tr><td style="x">a &amp; b&nbsp;<td><font color=red><b>c</b></font><br><a href="https://x.example/?a=1">d</a>'
    )
    return f"{'<div><table><tr><td>' * 40}{row * rows}{'</td></tr></table></div>' * 40}"


def test_what_runs_or_loads_by_itself_is_gone_and_the_rest_stays() -> None:
    html = (
        '<p onclick="x()">Hi <b>Ann</b><script>alert(1)</script><a href="javascript:x">y</a><iframe src=z></iframe></p>'
    )
    assert sanitised(html) == '<p>Hi <b>Ann</b><a rel="noopener noreferrer">y</a></p>'


@pytest.mark.parametrize(
    "html", [a_newsletter(), "<p>x &amp; y<br>" * 5_000, "<pre>" + "a & b\n" * 10_000, "x " * 100_000]
)
def test_large_mail_keeps_its_form(html: str) -> None:
    assert sanitised(html) == nh3.clean(html)


CRAFTED = {
    "nested lists": "<ul><li>" * 7_500,
    "nested blocks": "<div>" * 12_000,
    "ampersands": "&" * 60_000,
    "ampersands in an attribute": "<a href='" + "&" * 60_000,
    "attributes": "<a " + "".join(f"a{number}=1 " for number in range(8_000)) + ">",
    "attributes without blanks": "<a " + "/".join(f"a{number}" for number in range(9_000)) + ">",
    "closed by others": "<b>x</i></p></div>" * 3_300,
    "closed by longer names": ("<" + "a" * 30 + "></" + "a" * 30 + "b>") * 900,
    "opened again in each block": "".join(f"<b a={number}>" for number in range(2_000)) + "</p>" + "<p>x" * 7_000,
}


@pytest.mark.parametrize("name", CRAFTED)
@pytest.mark.parametrize("times", [1, 10])
def test_crafted_html_costs_no_more_than_its_length(name: str, times: int) -> None:
    html = CRAFTED[name] * times

    def once() -> float:
        start = time.thread_time()
        sanitised(html)
        return time.thread_time() - start

    assert any(once() < 0.1 * times for _ in range(3))


TAGS = ["<b>", "</b>", "<script>", "</script>", "<p onclick=x>", "<a href='javascript:x'>", "<!--", "-->", "<style>",
        "<img src=x>", "<svg>", "<div>", "&lt;", "<", ">", "x", '"', "<a =", "<textarea>", "<title>",
        "&#x3c;"]  # fmt: skip


@given(st.lists(st.sampled_from(TAGS), max_size=30).map("".join), st.booleans())
def test_nothing_but_safe_html_comes_out(html: str, as_text: bool) -> None:
    out = sanitised("<div>" * 3_400 + html if as_text else html)
    assert out == nh3.clean(out)
    if as_text:
        assert out.startswith("<pre>")
