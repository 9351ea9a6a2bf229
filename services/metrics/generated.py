"""What is written from the catalogue: the Grafana dashboard and the page of documentation.

`python -m services.metrics.generated` writes both; a test fails while they are not what the catalogue says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from services.metrics.exposition import FAMILY_LABELS, counts_arrivals, gauge_name
from services.metrics.kpis import BY_ID, FAMILIES
from services.metrics.kpis.definition import Definition
from services.metrics.presenting import DIRECTIONS, describe

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana" / "threadline-kpis.json"
DOCUMENT = ROOT / "docs" / "kpis.md"

UNITS = {"s": "s", "1": "percentunit", "n": "short", "p": "short", "money": "short"}
WIDTH, HEIGHT, COLUMNS = 6, 6, 4


def grafana() -> dict[str, Any]:
    """Return the dashboard: one row a family, one panel a KPI, the window and the channels to choose."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, ids in FAMILIES.items():
        panels.append(
            {"type": "row", "title": title, "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "id": len(panels) + 1}
        )
        y += 1
        for index, kpi in enumerate(ids):
            place = {
                "h": HEIGHT, "w": WIDTH, "x": index % COLUMNS * WIDTH, "y": y + index // COLUMNS * HEIGHT,
            }  # fmt: skip
            panels.append(_panel(BY_ID[kpi], place, len(panels) + 1))
        y += -(-len(ids) // COLUMNS) * HEIGHT
    return {
        "uid": "threadline-kpis",
        "title": "Threadline KPIs",
        "tags": ["threadline"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "window", "type": "custom", "label": "Window", "query": "1h,24h,7d",
            "current": {"text": "24h", "value": "24h"},
        },
        {
            "name": "channel", "type": "query", "label": "Channel", "multi": True, "datasource": _source(),
            "query": "label_values(cs_messages_received_numerator, channel)", "refresh": 2,
            "current": {"text": "all", "value": "all"},
        },
    ]  # fmt: skip


def _source() -> dict[str, str]:
    return {"type": "prometheus", "uid": "${datasource}"}


def _panel(definition: Definition, place: dict[str, int], number: int) -> dict[str, Any]:
    """Return the panel of one KPI: its value by channel, and for durations the 90th percentile."""
    if counts_arrivals(definition):
        queries = {"{{channel}}": f'cs_{definition.id}_numerator{{channel=~"$channel",window="$window"}}'}
    else:
        queries = {"{{channel}}": f'{gauge_name(definition)}{{channel=~"$channel",window="$window"}}'}
    if definition.histogram:
        base = gauge_name(definition).removesuffix("_seconds")
        queries["p90 {{channel}}"] = f'{base}_p90_seconds{{channel=~"$channel",window="$window"}}'
    if "channel" not in definition.dimensions:
        queries = {name: query.replace('channel=~"$channel"', 'channel="all"') for name, query in queries.items()}
    note = f" Benchmark: {definition.benchmark}." if definition.benchmark else ""
    return {
        "id": number,
        "type": "timeseries",
        "title": definition.id.replace("_", " "),
        "description": f"{definition.meaning}. {definition.formula}. {DIRECTIONS[definition.direction]}.{note}",
        "datasource": _source(),
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": UNITS[definition.unit]}, "overrides": []},
        "targets": [
            {"refId": chr(65 + index), "expr": query, "legendFormat": name, "datasource": _source()}
            for index, (name, query) in enumerate(queries.items())
        ],
    }


COLUMNS_SHOWN = (
    "KPI", "meaning", "formula", "unit", "better", "lands by", "dimensions", "parameters", "provisional", "benchmark",
)  # fmt: skip


def document() -> str:
    """Return the page of documentation."""
    lines = [
        "# KPIs",
        "",
        "Generated from the definitions in `services/metrics/kpis` by `python -m services.metrics.generated`.",
        "",
        "Every KPI is a sum of contributions; a ratio is divided last and 0/0 is null. *Lands by* says which instant",
        "puts a contribution into a window, *provisional* how long after a window's end its values may change by rule.",
    ]
    for title, ids in FAMILIES.items():
        lines += ["", f"## {title}", ""]
        lines += [
            "| KPI | meaning | formula | unit | better | lands by | dimensions | parameters | provisional | benchmark |"
        ]
        lines += ["|---|---|---|---|---|---|---|---|---|---|"]
        lines += [_line(BY_ID[kpi]) for kpi in ids]
    return "\n".join([*lines, "", *READINGS, "", *_prometheus()])


READINGS = (
    "## How it is read",
    "",
    "- The lifecycle of a conversation is derived from what was posted; entries that Threadline derives itself count",
    "  nothing. So a posted and a derived opening, reopening or escalation count once. A change of channel inside a",
    "  conversation is an escalation of the contact before it, posted or not.",
    "- Automatic mail and automated senders are no messages; an acknowledgement, a survey or a cost may be theirs.",
    "- A conversation that we began has no first reply, is not due one, and has no agreement to keep.",
    "- A conversation counts for the agent who resolved it, else for who answered it last; a message for its sender.",
    "- Topics are compared as they are: two conversations without a topic are on the same one.",
    "- One handled contact means that exactly one contact was there and a human or a bot answered it.",
    "- A contact counts where it starts, on its channel; customers of a window are those with a contact in it.",
    "- An agent's first act in a conversation is a pick-up.",
    "- A reply within a threshold counts on the channel that opened, for the agent who replied.",
    "- Scores on another scale are mapped on 1–5 (satisfaction), 1–7 (effort) and 0–10 (recommendation), linearly.",
    "- A cost or revenue with a period is spread over it by the hour, to the minor unit.",
    "- A status without a team is for the one that the agent's statuses named last, that UTC day or the day before.",
    "- An agent's state that nothing renews counts for 24 hours. Somebody who leaves without ever having started was a",
    "  customer all along. Survey answers of a customer are those among their own entries.",
    "- Deadlines (unanswered, thresholds, agreements) are contributions at the due time that count from then on; every",
    "  question ends at the service's clock. A late reply takes them back.",
    "- `as_of` sums the changes recorded until then. Changes are recorded a batch at a time.",
    "- What a query may cost: at most 20,000 points, 100,000 over all groups, 100 years, 500,000 sums of changes and",
    "  20 s; more is refused with 422, which says what to ask instead. Questions by channel or family read packed days",
    "  and sums by hour; other dimensions and distinct counts read the changes of the span.",
)


def _line(definition: Definition) -> str:
    shown = describe(definition)
    parameters = "; ".join(f"{k}={'|'.join(v) if v else '…'}" for k, v in shown["parameters"].items())
    days = definition.ttl_s / 86_400
    benchmark = shown["benchmark"] or ""
    if shown["benchmark_source"]:
        benchmark += f" ({shown['benchmark_source']})"
    cells = [
        f"`{definition.id}`", definition.meaning, definition.formula, definition.unit, definition.direction,
        definition.lands, ", ".join(definition.dimensions), parameters, f"{days:g} d" if days else "", benchmark,
    ]  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _prometheus() -> list[str]:
    return [
        "## In Prometheus",
        "",
        "`GET /metrics` shows the tenant of the key. Gauges `cs_<id>[_seconds|_ratio]{channel,window}` with",
        "`_numerator` and `_denominator` are windowed (1h, 24h, 7d) and move when a correction comes; counters",
        "`cs_<id>_total{channel}` and histograms `cs_<id>_arrival_seconds{channel}` count facts in the order they",
        "arrived and never fall.",
        f"`channel` is `all`, one of {', '.join(FAMILY_LABELS)}, or one of the eight busiest channels.",
        "",
    ]


def main() -> None:
    """Write both files."""
    GRAFANA.parent.mkdir(parents=True, exist_ok=True)
    GRAFANA.write_text(json.dumps(grafana(), indent=1) + "\n")
    DOCUMENT.write_text(document())


if __name__ == "__main__":
    main()
