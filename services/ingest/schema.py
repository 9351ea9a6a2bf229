"""What an event's `data` may hold, by type: the models that validate, and that the OpenAPI and AsyncAPI pages show.

Known fields are typed strictly and null is absent; fields beyond them are kept as they are. Which fields a type must
have is what its KPI cannot do without; `message_id`, `contact_id` and `channel` may always be missing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from shared.events import POSTED, TYPE_PREFIX
from shared.timestamps import read_rfc3339

SHORT = 1_000
"""Most characters of a name, an id or another field that is not a text."""
MAX_HANDLES = 200

Short = Annotated[str, Field(max_length=SHORT)]
Name = Annotated[str, Field(max_length=SHORT, min_length=1)]
Seconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


def _instant(text: str) -> str:
    try:
        read_rfc3339(text)
    except ValueError as error:
        raise PydanticCustomError("sentence", "{why}", {"why": str(error)}) from error
    return text


Instant = Annotated[str, AfterValidator(_instant), Field(json_schema_extra={"format": "date-time"})]
Metric = Literal["csat", "ces", "nps"]

M = TypeVar("M", bound="Data")


class Part(BaseModel):
    """One object of the data: strict types, unknown fields left to whoever reads them."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Handle(Part):
    """An address of a person. One that stands for nobody (`null`, `anonymous`) is allowed and links nothing."""

    kind: Name = Field(description="email, phone, visitor, crm or a network")
    value: str | None = Field(description="As the channel gives it; null, where it knows none, stands for nobody")
    verified: bool | None = Field(None, description="True for a proof, false for a claim such as a From header")


class Customer(Part):
    """Who contacts the tenant."""

    handles: list[Handle] | None = Field(None, max_length=MAX_HANDLES)
    name: Short | None = None
    attributes: dict[str, Any] | None = None


class Actor(Part):
    """Who did it: `agent` is a person of the tenant, `automated` a machine's mail or acknowledgement."""

    type: Literal["customer", "agent", "bot", "automated"]
    id: Short | None = None
    name: Short | None = None
    team: Short | None = None


class Thread(Part):
    """How the sender says where the event belongs."""

    in_reply_to: str | None = None
    references: list[str] | None = None
    original_message_id: str | None = None
    dm_thread: str | None = None
    ticket: Short | None = None
    callback_id: Short | None = None
    handoff_token: str | None = None
    continues: Short | None = Field(None, description="The contact that this one carries on")


class Attachment(Part):
    """A file: by its URL, or with its bytes, which are kept and given one."""

    name: str | None = None
    media_type: str | None = None
    size_bytes: Annotated[Int64, Field(ge=0)] | None = None
    url: str | None = Field(None, description="Where it is: `/v1/attachments/{id}`, or as the sender gave it")
    content: str | None = Field(
        None,
        description="At the door alone, instead of `url`: the bytes as base64. They are kept, `url` becomes "
        "`/v1/attachments/{id}`, and `size_bytes` and `sha256` are those of the bytes",
        json_schema_extra={"contentEncoding": "base64"},
    )


class Data(Part):
    """What every type may carry."""

    channel: Annotated[str, Field(max_length=100)] | None = None
    customer: Customer | None = None
    actor: Actor | None = None
    message_id: Short | None = None
    contact_id: Short | None = Field(None, description="Chat session, thread or call; unique within the tenant")
    conversation_id: Short | None = None
    thread: Thread | None = None
    headers: dict[str, str | list[str] | None] | None = Field(None, description="Mail headers that tell automatic mail")
    subject: str | None = None
    text: str | None = None
    html: str | None = None
    language: Short | None = None
    topic: Short | None = None
    attachments: list[Attachment] | None = None
    segment: Short | None = None
    device: Short | None = None
    sentiment: Literal["praise", "complaint", "neutral"] | None = None
    handle_s: Seconds | None = Field(None, description="Time spent on it by the agent, seconds")
    suggestion_id: Short | None = None
    fcr_eligible: bool | None = None


class ActorRequired(Data):
    actor: Actor


class ConversationOpened(Data):
    initiator: Short | None = None
    policy_id: Short | None = None

    @model_validator(mode="after")
    def _somebody_began(self) -> Self:
        return _one_of(self, "initiator", "actor")


class ConversationAssigned(Data):
    to_agent: Short | None = None
    to_team: Short | None = None

    @model_validator(mode="after")
    def _to_somebody(self) -> Self:
        return _one_of(self, "to_agent", "to_team")


class ConversationTransferred(Data):
    from_: Short | dict[str, Any] = Field(alias="from")
    to: Short | dict[str, Any]
    reason: Short


class ConversationEscalated(Data):
    to_channel: Name
    from_channel: Name | None = Field(None, description="Where missing: `channel`")
    from_contact: Short | None = Field(None, description="Where missing: `contact_id`")
    to_contact: Short | None = None

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        return _one_of(self, "from_channel", "channel")


class ConversationPending(Data):
    waiting_on: Name


class ConversationResolved(ActorRequired):
    reason: Short | None = None
    resolution_no: Int64 | None = None


class ConversationMerged(Data):
    from_: Name = Field(alias="from")
    into: Name


class CallQueued(Data):
    queue: Name
    ivr_session: Short | None = None


class CallHeld(Data):
    duration_s: Seconds


class CallEnded(Data):
    hold_s: Seconds | None = None
    wrap_s: Seconds | None = None


class IvrEnded(Data):
    session_id: Name
    outcome: Literal["contained", "to_agent", "hung_up"]


class SurveySent(Data):
    survey_id: Name
    kinds: list[Metric] = Field(min_length=1)


class SurveyAnswered(Data):
    survey_id: Name
    kind: Metric
    score: Number
    scale: list[Number] = Field(min_length=2, max_length=2, description="[lowest, highest] possible score")

    @model_validator(mode="after")
    def _score_lies_on_the_scale(self) -> Self:
        low, high = self.scale
        if not low < high:
            raise _wrong("scale", "must be [lowest, highest] with the lowest first")
        if not low <= self.score <= high:
            raise _wrong("score", "lies outside the event's own scale")
        return self


class Session(Data):
    session_id: Name
    confidence: Number | None = None
    article: Short | None = None


class AgentFact(Data):
    agent_id: Short | None = Field(None, description="Where missing: `actor.id`")
    team_id: Short | None = Field(None, description="Where missing: `actor.team`")
    reason: Short | None = None

    @model_validator(mode="after")
    def _names_the_agent(self) -> Self:
        if not self.agent_id and not (self.actor and self.actor.id):
            raise _wrong("agent_id", "is missing: say which agent, here or as actor.id")
        return self


class AgentStatus(AgentFact):
    state: Literal["available", "on_queue", "interacting", "busy", "offline"]
    capacity: Number | None = None


class AgentContextViewed(AgentFact):
    sections: list[Short]
    system: Short | None = None


class AgentBlocked(AgentFact):
    system: Name


class InfoRequested(Data):
    field: Name


class Suggestion(Data):
    suggestion_id: Name


class ChannelAvailability(Data):
    open: bool


class CostRecorded(Data):
    amount_minor: Int64 = Field(description="In the currency's minor unit, e.g. cents")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(description="ISO 4217")
    period_start: Instant
    period_end: Instant
    team: Short | None = None

    @model_validator(mode="after")
    def _period_runs_forward(self) -> Self:
        if read_rfc3339(self.period_end) <= read_rfc3339(self.period_start):
            raise _wrong("period_end", "must lie after period_start")
        return self


class RevenueRecorded(Data):
    amount_minor: Int64 = Field(description="In the currency's minor unit, e.g. cents")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(description="ISO 4217")
    period: JsonValue = Field(description="A day, a month, or [start, end]")
    exposure: JsonValue = None


class RemedyChosen(Data):
    kind: Name


_OWN: dict[str, type[Data]] = {
    "message.sent": ActorRequired,
    "conversation.opened": ConversationOpened,
    "conversation.assigned": ConversationAssigned,
    "conversation.transferred": ConversationTransferred,
    "conversation.escalated": ConversationEscalated,
    "conversation.pending": ConversationPending,
    "conversation.resolved": ConversationResolved,
    "conversation.reopened": ActorRequired,
    "conversation.merged": ConversationMerged,
    "call.queued": CallQueued,
    "call.held": CallHeld,
    "call.ended": CallEnded,
    "ivr.ended": IvrEnded,
    "survey.sent": SurveySent,
    "survey.answered": SurveyAnswered,
    "bot.answered": Session,
    "bot.handed_over": Session,
    "selfservice.viewed": Session,
    "selfservice.deflected": Session,
    "agent.joined": AgentFact,
    "agent.left": AgentFact,
    "agent.status": AgentStatus,
    "agent.context_viewed": AgentContextViewed,
    "agent.blocked": AgentBlocked,
    "info.requested": InfoRequested,
    "suggestion.offered": Suggestion,
    "suggestion.accepted": Suggestion,
    "channel.availability": ChannelAvailability,
    "cost.recorded": CostRecorded,
    "revenue.recorded": RevenueRecorded,
    "remedy.chosen": RemedyChosen,
}

MODELS: dict[str, type[Data]] = {TYPE_PREFIX + name: _OWN.get(name, Data) for name in sorted(POSTED)}
"""Full event type → model of its data."""


def _wrong(field: str, detail: str) -> PydanticCustomError:
    """Return the error that validation reports at `field` instead of at the object as a whole."""
    return PydanticCustomError("at_field", "{detail}", {"field": field, "detail": detail})


def _one_of(model: M, first: str, second: str) -> M:
    if getattr(model, first) is None and getattr(model, second) is None:
        raise _wrong(first, f"is missing: give {first} or {second}")
    return model
