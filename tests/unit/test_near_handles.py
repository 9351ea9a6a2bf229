"""Handles that differ by a slip of the finger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.conversation.near_handles import near

MAILBOXES = st.text(st.sampled_from("abcdefg.1"), min_size=6, max_size=12)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("email:ann.jansen@home.example", "email:annjansen@home.example"),
        ("email:ann.jansen@home.example", "email:ann.janssen@home.example"),
        ("email:ann.jansen@home.example", "email:ann.jansem@home.example"),
        ("email:ann.jansen@home.example", "email:ann.jasnen@home.example"),
        ("email:ann@gmail.com", "email:ann@gmial.com"),
        ("email:ann@gmail.com", "email:ann@gmail.co"),
        ("phone:+31612345678", "phone:+31612345687"),
    ],
)
def test_one_slip_is_near_from_either_side(one: str, other: str) -> None:
    assert other in near(one)
    assert one in near(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("email:ann@home.example", "email:anna@home.example"),  # too short to tell people apart
        ("email:ann.jansen@home.example", "email:bo.jansen@home.example"),
        ("phone:+31612345678", "phone:+31612345679"),
        ("phone:+31612345678", "phone:+13612345678"),
        ("telegram:shop/123456", "telegram:shop/123465"),
    ],
)
def test_others_are_other_people(one: str, other: str) -> None:
    assert other not in near(one)


@given(MAILBOXES, st.integers(0, 11), st.sampled_from("abc"))
def test_nearness_is_mutual_and_never_oneself(mailbox: str, at: int, letter: str) -> None:
    one, other = (f"email:{name}@x.example" for name in (mailbox, mailbox[:at] + letter + mailbox[at + 1 :]))
    assert one not in near(one)
    assert one == other or (other in near(one) and one in near(other))
