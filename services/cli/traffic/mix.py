"""The mix: which share of the traffic does what. Every figure is an option: `--mix NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from math import erf, log, sqrt


def option(default: float, meaning: str) -> float:
    """Declare one figure of the mix with its meaning and unit."""
    value: float = field(default=default, metadata={"meaning": meaning})
    return value


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares are 0–1; durations are seconds. Defaults are the published figures where there is one."""

    start_chat: float = option(0.34, "weight of chat as the first channel of a matter")
    start_email: float = option(0.28, "weight of e-mail as the first channel")
    start_phone: float = option(0.18, "weight of the telephone as the first channel")
    start_whatsapp: float = option(0.09, "weight of WhatsApp as the first channel")
    start_messenger: float = option(0.06, "weight of Messenger as the first channel")
    start_sms: float = option(0.03, "weight of SMS as the first channel")
    start_instagram: float = option(0.02, "weight of Instagram as the first channel")

    escalate_chat_email: float = option(0.25, "answered chats that go on by e-mail")
    escalate_phone_email: float = option(0.20, "answered calls that go on by e-mail")
    escalate_email_phone: float = option(0.05, "answered e-mail threads that go on by telephone")
    escalate_chat_phone: float = option(0.04, "answered chats that go on by telephone")
    escalate_chat_whatsapp: float = option(0.03, "answered chats that go on by WhatsApp")
    escalate_social_email: float = option(0.08, "answered social contacts that go on by e-mail")
    escalation_posted: float = option(0.7, "escalations that the help desk posts itself")

    multichannel: float = option(0.49, "customers who use three to five channels")
    unanswered: float = option(0.50, "opened conversations without a human reply within 24 h")
    messages_before_reply: float = option(1.15, "mean number of messages before the first reply (at least 1)")
    switch: float = option(0.15, "unanswered customers who try another of their channels")
    switch_slow: float = option(0.40, "unserved customers who wait 60 minutes or more before they try another channel")

    reply_fastest_s: float = option(60, "the fastest reply, in seconds")
    reply_slowest_s: float = option(691_200, "the slowest reply, in seconds (8 days)")
    reply_chat_s: float = option(110, "median reply time on chat, in seconds")
    reply_email_s: float = option(9_000, "median reply time by e-mail, in seconds")
    reply_social_s: float = option(5_400, "median reply time on social channels, in seconds")
    reply_spread: float = option(1.3, "spread (sigma of the logarithm) of reply times by e-mail and on social channels")

    answered_20s: float = option(0.80, "calls answered within 20 seconds, of those answered or abandoned")
    patience_600s: float = option(0.53, "callers who hang up before ten minutes of waiting are over")
    patience_60s: float = option(0.08, "callers who hang up before one minute of waiting is over")
    callback: float = option(0.06, "queued calls that ask to be called back")
    ivr: float = option(0.6, "calls that pass through a voice menu")
    ivr_contained: float = option(0.12, "voice menu sessions that end without an agent")
    overflow: float = option(0.02, "queued calls sent to another queue")

    bot: float = option(0.5, "chats that meet a bot first")
    bot_contained: float = option(0.15, "chats with a bot that the bot resolves alone")
    transfer: float = option(0.27, "answered matters that are transferred to another agent or team")
    context_viewed: float = option(0.72, "pickups where the agent opened profile, orders and history")
    several_systems: float = option(0.80, "answered matters for which the agent uses two systems or more")
    info_repeated: float = option(0.27, "answered matters where one thing is asked twice")
    blocked: float = option(0.42, "agents whom a system keeps from helping")
    suggestion: float = option(0.50, "replies that an assistant suggested")

    resolved: float = option(0.92, "answered matters that are resolved")
    reopened: float = option(0.08, "resolved matters that the customer reopens within 7 days")
    self_service_first: float = option(0.81, "matters preceded by a look at the help pages")
    logged_in: float = option(0.65, "chats of customers who are logged in")
    looked_up: float = option(0.85, "answered contacts whose customer the agent finds in the customer system")
    known_profile: float = option(0.75, "look-ups whose profile shows e-mail and telephone too")
    anonymous_caller: float = option(0.04, "calls with a withheld number")
    shared_computer: float = option(0.05, "people who use another one's browser")
    alias_mail: float = option(0.06, "people who also write from a +tag of their address")

    link_ticket: float = option(0.30, "continuations that carry the ticket")
    link_headers: float = option(0.43, "continuations that carry mail headers, a call-back id or a hand-off token")
    link_continues: float = option(0.15, "continuations that name the contact they continue")
    link_nothing: float = option(0.12, "continuations that carry nothing")

    survey_asked: float = option(0.77, "resolved matters that are followed by a survey")
    survey_answered: float = option(0.35, "surveys that are answered")
    csat_good: float = option(0.86, "CSAT answers of 4 or 5, of 1–5")
    ces_mean: float = option(5.5, "mean CES answer, of 1–7")
    nps: float = option(32, "promoters minus detractors, in points")

    praise: float = option(0.37, "social contacts that praise")
    complaint: float = option(0.31, "social contacts that complain")
    cost_per_minute: float = option(1.60, "cost of one minute of handling, in EUR")
    churn: float = option(0.02, "customers who leave after their last matter")
    churn_after_bad: float = option(0.33, "customers who leave after an answer of CSAT 1 or 2")
    agent_turnover: float = option(0.29, "agents who leave in a year, of all")
    remedy: float = option(0.10, "answered matters that end with a choice of replacement or refund")

    peak_chat_h: float = option(13, "hour of the day with most chats, in the company's zone")
    peak_phone_h: float = option(11, "hour of the day with most calls, in the company's zone")
    night: float = option(0.06, "traffic at the quietest hour, of that at the peak")

    duplicates: float = option(0.02, "deliveries that come twice")
    late: float = option(0.02, "deliveries that come minutes to hours late")

    def change(self, settings: Iterable[str]) -> Mix:
        """Return the mix with `NAME=VALUE` settings applied. Raises ValueError naming what is wrong."""
        known, changed = {one.name for one in fields(self)}, {}
        for setting in settings:
            name, found, value = setting.partition("=")
            name = name.strip().replace("-", "_")
            if not found or name not in known:
                raise ValueError(f"--mix {setting}: expected NAME=VALUE with a name shown by --show-mix")
            try:
                changed[name] = float(value)
            except ValueError:
                raise ValueError(f"--mix {setting}: {value!r} is not a number") from None
            if not 0 <= changed[name] <= 1_000_000:
                raise ValueError(f"--mix {setting}: {value} is out of range")
        return replace(self, **changed)

    def starts(self) -> Mapping[str, float]:
        """Return channel → weight as a matter's first channel."""
        return {
            "chat": self.start_chat,
            "email": self.start_email,
            "phone": self.start_phone,
            "whatsapp": self.start_whatsapp,
            "messenger": self.start_messenger,
            "sms": self.start_sms,
            "instagram": self.start_instagram,
        }

    def escalations(self, channel: str) -> Mapping[str, float]:
        """Return to-channel → share of the answered contacts on `channel`."""
        if channel == "chat":
            return {
                "email": self.escalate_chat_email,
                "phone": self.escalate_chat_phone,
                "whatsapp": self.escalate_chat_whatsapp,
            }
        if channel == "email":
            return {"phone": self.escalate_email_phone}
        if channel == "phone":
            return {"email": self.escalate_phone_email}
        return {"email": self.escalate_social_email}

    def never_answered(self, channel: str) -> float:
        """Return the share of matters begun on `channel` that no human ever answers.

        Answered calls always have a reply, and some replies come after 24 h; the rest of `unanswered` must come from
        here.
        """
        if channel == "phone":
            return 0.0
        # Two thirds of the matters begun by telephone open a conversation with an answered call.
        phone = self.start_phone / sum(self.starts().values())
        wanted = min(1.0, self.unanswered / (1 - 0.9 * phone)) if phone < 1 else 0.0
        late = 0.0 if channel == "chat" else self._later_than(86_400, self._median(channel))
        return max(0.0, min(1.0, (wanted - late) / (1 - late))) if late < 1 else 0.0

    def _median(self, channel: str) -> float:
        return {"chat": self.reply_chat_s, "email": self.reply_email_s}.get(channel, self.reply_social_s)

    def _later_than(self, seconds: float, median: float) -> float:
        return 0.5 * (1 - erf(log(seconds / median) / self.reply_spread / sqrt(2)))


def described() -> Iterable[tuple[str, float, str]]:
    """Return name, default and meaning of every figure."""
    for one in fields(Mix):
        yield one.name, one.default, one.metadata["meaning"]  # type: ignore[misc]
