"""The shapes of the KPI API's answers, for /openapi.json. Answers are made as they are; a test holds them to these."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Instant = Annotated[str, Field(description="RFC 3339, UTC, microseconds", examples=["2026-03-03T23:00:00.000000Z"])]
Number = float | int | None


class Shape(BaseModel):
    """An answer has these fields and no others."""

    model_config = ConfigDict(extra="forbid")


class Point(Shape):
    """What one window, or one group in it, comes to. Times in seconds, ratios 0–1, money in major units."""

    start: Instant
    end: Instant
    group: dict[str, str | None] = Field(description="The dimensions of `group_by`; null where an entry has none")
    value: Number = Field(description="null is 0/0")
    numerator: Number
    denominator: Number
    count: int
    p50: Number
    p90: Number
    min: Number
    max: Number
    provisional: bool = Field(description="May still change by rule, e.g. a reply within seven days")
    distribution: dict[str, int] | None = Field(
        None, description="Answers by score, contacts by local hour, customers by channels"
    )
    currency: str | None = Field(None, description="Of amounts of money, ISO 4217")
    new: int | None = Field(None, description="customer_churn_ratio: how many came")
    left: int | None = Field(None, description="agent_turnover_ratio: how many left")
    share_3600s: Number = Field(None, description="channel_switch_wait: the share that waited an hour or longer")
    count_3600s: int | None = Field(None, description="channel_switch_wait: how many did")


class KpiAnswer(Shape):
    """The points of one KPI and their pooled total, which is never an average of averages."""

    kpi: str
    unit: Literal["n", "s", "1", "p", "money"]
    version: int = Field(description="Of the KPI's definition")
    tz: str
    points: list[Point]
    total: Point
    currency: str | None = None


class Receipt(Shape):
    """One unit of the denominator: a conversation, call, survey, customer or agent."""

    id: str
    kind: str
    at: Instant | None = Field(None, description="Where it landed; none where the whole span counts")
    event_ids: list[str]


class Amount(Shape):
    """An amount of money in the numerator."""

    id: str
    event_ids: list[str]
    amount_minor: int


class Receipts(Shape):
    """A page of receipts."""

    kpi: str
    version: int
    receipts: list[Receipt]
    next: str | None = Field(description="Give it as `cursor`; null at the end")
    amounts: list[Amount] | None = Field(None, description="KPIs of costs: the amounts, at most 1,000")


class ScoreboardRow(Shape):
    """A published figure beside the tenant's."""

    id: str
    kpi: str
    parameters: dict[str, str]
    figure: float | list[float] | str
    unit: str
    source: str
    value: Number
    numerator: Number
    denominator: Number
    ci95: tuple[float, float] | None = Field(description="The 95 % interval of the value, where there is one")
    comparable: bool
    note: str


class Scoreboard(Shape):
    """Every benchmark that can be compared."""

    rows: list[ScoreboardRow]
