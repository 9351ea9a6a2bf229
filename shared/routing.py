"""The key of an event's record in the inbound topic: what one sender says keeps its order."""

from __future__ import annotations

from shared.events import InboundEvent
from shared.handles import matching


def routing_key(event: InboundEvent) -> bytes:
    """Return the key of the event's record: tenant and sender handle, so that one sender's events keep their order.

    Where there is no usable handle the contact takes its place, and where there is none the event itself.
    """
    return f"{event.tenant}\0{_sender(event)}".encode()


def _sender(event: InboundEvent) -> str:
    customer = event.data.get("customer")
    for handle in (customer or {}).get("handles") or ():
        form = matching(handle["kind"], handle["value"], event.region)
        if form is not None:
            return form
    contact = event.data.get("contact_id")
    return f"contact:{contact}" if contact else f"event:{event.source}\0{event.id}"
