"""What lifelike traffic consists of: events before they are deliveries, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SOURCES = {
    "chat": "/chat/shop.example",
    "email": "/email/support@shop.example",
    "phone": "/phone/shop",
    "whatsapp": "/whatsapp/shop",
    "messenger": "/messenger/page1",
    "sms": "/sms/shop",
    "instagram": "/instagram/acc1",
    "helpdesk": "/helpdesk/shop",
    "bot": "/bot/shop",
    "survey": "/survey/shop",
    "portal": "/portal/shop",
    "crm": "/crm/shop",
    "erp": "/erp/shop",
    "planning": "/planning/shop",
}


@dataclass(slots=True)
class Event:
    """One event before it is a delivery. `at` is seconds since the epoch, whole milliseconds."""

    at: float
    source: str
    id: str
    type: str
    data: dict[str, Any]
    person: int | None = None
    matter: str | None = None
    reply_text: str | None = None
