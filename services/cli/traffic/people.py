"""The people of the simulation: handles by which each channel sees them, and how many channels they use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from services.cli.traffic.mix import Mix
from services.cli.traffic.texts import FAMILY, GIVEN

Handle = Mapping[str, Any]

SOCIAL = ("whatsapp", "messenger", "sms", "instagram")
CHANNELS = ("chat", "email", "phone", *SOCIAL)


@dataclass(frozen=True, slots=True)
class Person:
    """One person. `channels` is what they use, in the order in which they think of it."""

    number: int
    name: str
    language: str
    crm: str
    email: str
    alias: str | None
    phone: str
    visitor: str
    psid: str
    igsid: str
    segment: str
    channels: Sequence[str]

    def handle(self, channel: str) -> dict[str, Any]:
        """Return the handle by which `channel` sees this person."""
        if channel == "chat":
            return {"kind": "visitor", "value": self.visitor, "verified": True}
        if channel == "email":
            return {"kind": "email", "value": self.email, "verified": False}
        if channel in ("phone", "sms", "whatsapp"):
            return {"kind": "phone", "value": self.phone, "verified": channel != "phone"}
        if channel == "messenger":
            return {"kind": "messenger", "value": f"page1/{self.psid}", "verified": True}
        return {"kind": "instagram", "value": f"acc1/{self.igsid}", "verified": True}

    def account(self) -> dict[str, Any]:
        """Return the handle of this person in the customer system."""
        return {"kind": "crm", "value": self.crm, "verified": True}


def person(seed: int, number: int, mix: Mix) -> Person:
    """Return person `number` of the world with this seed; the same whenever asked."""
    rng = Random(f"person/{seed}/{number}")
    given, family = rng.choice(GIVEN), rng.choice(FAMILY)
    name = f"{given} {family}"
    # The seed is part of every address, so that two worlds in one tenant never meet by accident.
    tail = f"{seed}x{number}"
    # Who shares a computer carries the cookie of the person before.
    browser = number - 1 if number and rng.random() < mix.shared_computer else number
    email = f"{given}.{family}.{tail}@mail.example".replace(" ", "").lower()
    return Person(
        number=number,
        name=name,
        language="nl" if rng.random() < 0.5 else "en",
        crm=f"c-{tail}",
        email=email,
        alias=email.replace("@", "+shop@") if rng.random() < mix.alias_mail else None,
        # 08 is nobody's mobile range after +316; eight digits follow, so every number is possible.
        phone=f"+316{(seed * 7_919_993 + number * 7) % 90_000_000 + 10_000_000}",
        visitor=f"v-{Random(f'browser/{seed}/{browser}').getrandbits(48):012x}",
        psid=f"psid{tail}",
        igsid=f"ig{tail}",
        segment=rng.choices(("consumer", "business", "premium"), (0.75, 0.15, 0.10))[0],
        channels=_channels(rng, mix),
    )


def _channels(rng: Random, mix: Mix) -> Sequence[str]:
    # Escalations take some people to a third channel by themselves; the rest of the share is planned here.
    planned = max(0.0, (mix.multichannel - LEAK) / (1 - LEAK))
    if rng.random() < planned:
        many = rng.choices((3, 4, 5), (0.68, 0.24, 0.08))[0]
    else:
        many = rng.choices((1, 2), (0.6, 0.4))[0]
    weights = dict(mix.starts())
    chosen: list[str] = []
    while len(chosen) < many and any(weights.values()):
        channel = rng.choices(list(weights), list(weights.values()))[0]
        chosen.append(channel)
        del weights[channel]
    return tuple(chosen)


LEAK = 0.05
"""Share of the people with one or two planned channels whom escalations bring to a third (measured)."""
