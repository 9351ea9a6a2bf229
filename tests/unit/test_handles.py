"""Which handles are the same, which are nobody's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.handles import NETWORKS, STRENGTH, WEAK, is_social, matching, own_address, parse, queried, shown, strength


@pytest.mark.parametrize(
    ("kind", "value", "region", "form"),
    [
        ("email", "  Ann+shop@Example.COM ", None, "email:ann@example.com"),
        ("email", "ann@example.com", None, "email:ann@example.com"),
        ("email", "a.b@ex.ample.co", None, "email:a.b@ex.ample.co"),
        ("email", "+tag@example.com", None, "email:+tag@example.com"),
        ("email", "ann@bücher.example", None, "email:ann@xn--bcher-kva.example"),
        ("email", "ann@XN--BCHER-KVA.example", None, "email:ann@xn--bcher-kva.example"),
        ("email", "Rene\u0301@ex.example", None, "email:ren\u00e9@ex.example"),
        ("phone", "06 12345678", "NL", "phone:+31612345678"),
        ("phone", "+31 6 12345678", None, "phone:+31612345678"),
        ("phone", "\u202a+31 6 12345678\u202c", None, "phone:+31612345678"),
        ("phone", "tel:+31-6-12345678", None, "phone:+31612345678"),
        ("phone", "1 897 200 0043", "US", "phone:+18972000043"),
        ("phone", "897-200-0043", "US", "phone:+18972000043"),
        ("crm", " C1 ", None, "crm:C1"),
        ("visitor", "v-81", None, "visitor:v-81"),
        ("contact", "s-1", None, "contact:s-1"),
        ("messenger", "page1/psid5", None, "messenger:page1/psid5"),
        ("Email", "ann@example.com", None, "email:ann@example.com"),
        ("crm", "0017", None, "crm:0017"),
        ("crm", "user-0", None, "crm:user-0"),
    ],
)
def test_a_handle_has_one_matching_form(kind: str, value: str, region: str | None, form: str) -> None:
    assert matching(kind, value, region) == form


@pytest.mark.parametrize("kind", ["crm", "email", "phone", "visitor", "contact", "telegram"])
@pytest.mark.parametrize(
    "value",
    [
        "", " ", "null", "NULL", " None ", "undefined", "anonymous", "Anonymous", "guest", "unknown", "true", "false",
        "0", "-1", "id", "email", "NaN", "[object Object]", "00000", "000-000", "+000 000",
        "00000000-0000-0000-0000-000000000000", '"null"', "'undefined'", '""', "“none”", "'0'", '" null "',
        "\"'null'\"",
    ],
)  # fmt: skip
def test_a_value_that_stands_for_nobody_is_no_handle(kind: str, value: str) -> None:
    assert matching(kind, value, "NL") is None


@pytest.mark.parametrize(
    "value",
    [
        "noreply@shop.example", "No-Reply@shop.example", "mailer-daemon@mx.example", "MAILER-DAEMON@mx.example",
        "postmaster@anything.example", "noreply+123@shop.example", "ann", "ann@", "@example.com", "a b@example.com",
        "Ann <ann@example.com>", "a@b@example.com", "a@b\u0000.example", "a@ex\nample.com", "a,b@example.com",
    ],
)  # fmt: skip
def test_an_address_that_nobody_can_be_known_by_is_no_handle(value: str) -> None:
    assert matching("email", value) is None


@pytest.mark.parametrize(
    ("value", "region"), [("12", "NL"), ("0612345678", None), ("not a number", "NL"), ("+31", None), ("9" * 40, "NL")]
)
def test_a_number_that_cannot_be_dialled_is_no_handle(value: str, region: str | None) -> None:
    assert matching("phone", value, region) is None


def test_a_region_that_does_not_exist_reads_like_none() -> None:
    assert matching("phone", "0612345678", "ZZ") is None
    assert matching("phone", "+31612345678", "ZZ") == "phone:+31612345678"


@pytest.mark.parametrize("value", ["page1/null", "page1/0", "bot/undefined", "page1/"])
def test_a_networks_scope_does_not_make_nobody_somebody(value: str) -> None:
    assert matching("messenger", value) is None


def test_an_unknown_kind_is_no_handle() -> None:
    assert matching("ip", "192.0.2.1") is None


def test_a_value_too_long_for_an_index_is_no_handle() -> None:
    assert matching("crm", "c" * 1025) is None
    assert matching("email", "a" * 2000 + "@example.com") is None


def test_strength_follows_the_table() -> None:
    assert [strength(kind) for kind in ("crm", "email", "telegram", "phone", "contact")] == [0, 1, 2, 3, 4]
    assert strength("visitor") == WEAK == strength("never heard of")
    assert is_social("whatsapp") and not is_social("phone")
    assert set(STRENGTH) > NETWORKS


def test_a_handle_is_shown_as_given() -> None:
    assert shown("email", " Ann+shop@Example.com ") == "email:Ann+shop@Example.com"


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        ("phone:+31612345678", ("phone:+31612345678",)),
        ("phone: 31612345678", ("phone:+31612345678",)),
        ("phone: 31 6 12345678", ("phone:+31612345678",)),
        ("email:ann shop@example.com", ("email:ann@example.com",)),
        ("contact:a b", ("contact:a b", "contact:a+b")),
        ("crm:C1", ("crm:C1",)),
        ("crm:a:b", ("crm:a:b",)),
        ("crm:null", ()),
    ],
)
def test_a_query_reads_a_space_as_the_plus_that_it_was(text: str, forms: tuple[str, ...]) -> None:
    assert queried(text) == forms


@pytest.mark.parametrize("text", ["", "ann@example.com", "ip:192.0.2.1", ":x"])
def test_a_query_that_is_no_handle_is_told_how_one_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="kind:value"):
        parse(text)


@given(st.sampled_from([*STRENGTH, "Email", "ip", ""]), st.text(max_size=60), st.sampled_from([None, "NL", "US", "??"]))
def test_a_matching_form_is_its_own_matching_form(kind: str, value: str, region: str | None) -> None:
    form = matching(kind, value, region)
    if form is not None:
        again, _, rest = form.partition(":")
        assert matching(again, rest, None) == form


@given(st.from_regex(r"[0-9+() .x;=,/-]{3,25}", fullmatch=True), st.sampled_from(["NL", "US", "IT", "AR"]))
def test_a_numbers_matching_form_can_be_read_without_a_region(value: str, region: str) -> None:
    form = matching("phone", value, region)
    if form is not None:
        assert matching("phone", form.removeprefix("phone:")) == form


@pytest.mark.parametrize(
    "written",
    [
        "Help Desk <help@shop.example>", "<help@shop.example>", '"Help"help@shop.example', "help@shop.example (Help)",
        "help@shop.example,info@shop.example", "help@shop.example; info@shop.example", "email:help@shop.example",
        "mailto:help@shop.example", "PHONE:+31201112222", "+31 20 1112222", "help@shop.example\nbo@shop.example",
        "", " ",
    ],
)  # fmt: skip
def test_an_own_address_that_would_match_nothing_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        own_address(written)


@pytest.mark.parametrize(
    "written",
    [" Help+desk@Shop.example\n", "+31201112222", "sip:bo@pbx.example", "client:bo", "a@ü.example"],
)  # fmt: skip
def test_an_own_address_is_taken_as_it_is_without_blanks_around_it(written: str) -> None:
    assert own_address(written) == written.strip()
