"""What people type into the search, in the form in which the database is asked."""

from __future__ import annotations

import importlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversation.search_words import SEPARATOR, UNSPACED, apart, asked, together


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("parcel", "parcel"),
        ('"is lost" or -late', '"is lost" or -late'),
        ("包裹", ' "|包||裹|" '),
        ("lost -包裹", 'lost  -"|包||裹|" '),
        ('"没 有"', '"|没| |有|"'),
        ("https://acme.example/a?b=c&d=e -ftp://x.example/y", '"acme.example/a?b=c&d=e" -"x.example/y"'),
        ('"lost', " lost"),
    ],
)
def test_words_are_asked_for_as_the_index_has_them(typed: str, read: str) -> None:
    assert asked(typed).replace(SEPARATOR, "|") == read


@given(st.text(st.sampled_from('a包裹ข"- :/&|!(')))
def test_quotes_always_close(typed: str) -> None:
    assert asked(typed).count('"') % 2 == 0


@given(st.text(st.sampled_from("a包裹ข ")))
def test_what_is_set_apart_comes_together_again(written: str) -> None:
    assert together(apart(written), "<", ">", "") == written


def test_the_database_sets_the_same_characters_apart() -> None:
    migration = importlib.import_module("shared.database.migrations.versions.0027_unspaced_words")
    inside = "".join(re.findall(r"'\(?\[?([\\uU0-9A-F-]+)\]?\)?'", migration.APART))
    assert inside.encode().decode("unicode_escape") == UNSPACED
