"""How distinct people are counted: channels of a customer, coming and going, agents who were blocked."""

from __future__ import annotations

from services.metrics.reading.cells import Cells, Window
from services.metrics.reading.figures import Figures, Reader, own, ratio, reads
from services.metrics.reading.question import Fetch, Query


def _blocked(query: Query, cells: Cells, window: Window) -> Figures:
    blocked = cells.distinct("system_blocked_ratio")
    return ratio(len(blocked), len(blocked | cells.distinct("agents_active")))


def _portal(query: Query, cells: Cells, window: Window) -> Figures:
    viewing = cells.distinct("portal_adoption_ratio")
    return ratio(len(viewing), len(viewing | cells.distinct("contact_customers")))


def _channels_fetches(query: Query) -> list[Fetch]:
    group = (*query.group_by, "channel")
    return [Fetch("by channel", ("contact_customers",), query.edges, group, query.filters, members=True)]


def _channels(query: Query, cells: Cells, window: Window) -> Figures:
    used: dict[str, dict[str | None, int]] = {}
    for row in cells.rows:
        channels = used.setdefault(row.member, {})
        channels[row.group[-1]] = channels.get(row.group[-1], 0) + row.n
    counts = [sum(n > 0 for n in channels.values()) for channels in used.values()]
    customers = sum(count > 0 for count in counts)
    by_count = {str(n): counts.count(n) for n in sorted(set(counts)) if n}
    return ratio(sum(3 <= count <= 5 for count in counts), customers, customers, distribution=by_count)


def _churn(query: Query, cells: Cells, window: Window) -> Figures:
    before = cells.members_before.get("customer_base", {})
    base = {member for member, (n, _) in before.items() if n > 0}
    inside = cells.members.get("customer_base", {})
    if query.parameters.get("variant") == "net":
        return ratio(-sum(n for n, _ in inside.values()), len(base), len(base))
    lost = sum(before[m][0] + inside[m][0] <= 0 for m in base if m in inside)
    started = sum(1 for m, (n, _) in inside.items() if m not in base and n > 0)
    return ratio(lost, len(base), len(base), new=started)


def _after_bad(query: Query, cells: Cells, window: Window) -> Figures:
    members = cells.members.get("churn_after_bad_ratio", {})
    customers = [total for n, total in members.values() if n > 0]
    return ratio(sum(total > 0 for total in customers), len(customers))


READERS: dict[str, Reader] = {
    "system_blocked_ratio": Reader(lambda q: reads(q, "system_blocked_ratio", "agents_active", members=True), _blocked),
    "portal_adoption_ratio": Reader(
        lambda q: reads(q, "portal_adoption_ratio", "contact_customers", members=True), _portal
    ),
    "multichannel_3to5_ratio": Reader(_channels_fetches, _channels),
    "customer_churn_ratio": Reader(lambda q: reads(q, "customer_base", members=True, before=True), _churn),
    "churn_after_bad_ratio": Reader(lambda q: own(q, members=True), _after_bad),
}
