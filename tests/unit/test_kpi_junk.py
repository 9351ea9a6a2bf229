"""Whatever a sender puts into fields that KPIs read: evaluating it never fails, and the outcome can be stored."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.metrics.entries import LABEL_LENGTH, NAME_LENGTH, compact
from services.metrics.evaluation import Timeline, recount
from services.metrics.kpis.surveys import MOODS
from shared.anonymity import KEPT
from shared.events import COMINGS_AND_GOINGS, POSTED, TYPE_PREFIX
from tests.kpi_histories import STEPS, a_history
from tests.kpi_timeline import OFFICE_RULES, entry_body, uid

junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "\0", "x" * 5000, "é" * 5000, "2026-03-03T08:00:00Z", "2026-13", "9999-12", "EUR", *MOODS])
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
LABELS = ("channel", "contact_id", "topic", "language")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(sorted(POSTED)),
                "occurred_at": st.sampled_from(
                    ["2026-03-03T08:00:00Z", "2026-03-03T08:00:01.5Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
                ),
                "data": st.dictionaries(st.sampled_from(sorted(KEPT | {"agent_id", "segment", "customer"})), junk),
                "actor": st.none() | st.fixed_dictionaries({"type": junk, "id": junk, "team": junk}),
                "in_conversation": st.booleans(),
                **dict.fromkeys(LABELS, junk),
            }
        ),
        max_size=8,
    )
)
def test_junk_is_evaluated_to_what_the_database_can_hold(events: list[dict[str, Any]]) -> None:
    entries = []
    for number, event in enumerate(events):
        body = {
            **event, "id": uid(f"junk {number}"), "event_id": f"{number}", "source": "junk",
            "type": TYPE_PREFIX + event["type"], "conversation_id": uid("k") if event["in_conversation"] else None,
            "leaf_id": uid("l"),
        }  # fmt: skip
        entries.append(compact(body))
    for ref, cells in recount(Timeline(entries, {}, {}), OFFICE_RULES).items():
        assert 0 < len(ref.key) <= NAME_LENGTH and "\0" not in ref.key
        for key, (n, total) in cells.items():
            assert abs(key.at) < 2**63 and abs(n) < 2**63 and abs(total) < 2**63 and abs(key.bucket) < 2**15
            for text in (key.series, key.member, *(label for label in key.dims if label is not None)):
                assert "\0" not in text and len(text) <= LABEL_LENGTH + 40
            assert not math.isnan(total)


def test_histories_use_every_kind_of_step() -> None:
    types = {event["type"] for seed in range(30) for event in a_history(seed).events}
    assert len(types) > len(set(STEPS))
    assert entry_body(a_history(1).events[0])["type"].startswith(TYPE_PREFIX)


@pytest.mark.parametrize("kind", sorted(COMINGS_AND_GOINGS))
@pytest.mark.parametrize("conversation", [None, uid("k")], ids=["alone", "amid a conversation"])
def test_comings_and_goings_count_for_nothing(kind: str, conversation: str | None) -> None:
    def at(number: int, type_: str, actor: str, place: str | None) -> dict[str, Any]:
        return {
            "id": uid(f"e{number}"), "event_id": f"{number}", "source": "line", "type": f"{TYPE_PREFIX}{type_}",
            "occurred_at": f"2026-03-03T0{number}:00:00Z", "conversation_id": place, "leaf_id": uid("l"),
            "channel": "line", "actor": {"type": actor}, "data": {},
        }  # fmt: skip

    others = [at(1, "message.received", "customer", uid("k")), at(5, "message.sent", "agent", uid("k"))]
    without = recount(Timeline([compact(one) for one in others], {}, {}), OFFICE_RULES)
    with_it = [at(number, kind, "customer", conversation) for number in (0, 3, 9)]
    assert recount(Timeline([compact(one) for one in (*others, *with_it)], {}, {}), OFFICE_RULES) == without
    assert any(without.values())
