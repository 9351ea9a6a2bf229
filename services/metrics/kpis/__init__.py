"""All KPIs: one module a family, pure functions from facts to contributions, each beside its definition."""

from __future__ import annotations

from services.metrics.kpis import calls, handling, loyalty, money, reply, resolution, selfservice, surveys, volume
from services.metrics.kpis.calls import contact as call_contact
from services.metrics.kpis.definition import Contribute, Definition, Entity

DEFINITIONS: tuple[Definition, ...] = (
    *volume.DEFINITIONS,
    *reply.DEFINITIONS,
    *resolution.DEFINITIONS,
    *calls.DEFINITIONS,
    *handling.DEFINITIONS,
    *selfservice.DEFINITIONS,
    *surveys.DEFINITIONS,
    *money.DEFINITIONS,
    *loyalty.DEFINITIONS,
)

FAMILIES: dict[str, list[str]] = {
    "Volume": [d.id for d in volume.DEFINITIONS],
    "Replies": [d.id for d in reply.DEFINITIONS],
    "Resolution": [d.id for d in resolution.DEFINITIONS],
    "Calls": [d.id for d in calls.DEFINITIONS],
    "Our effort": [d.id for d in handling.DEFINITIONS],
    "Bots and self-service": [d.id for d in selfservice.DEFINITIONS],
    "What customers say": [d.id for d in surveys.DEFINITIONS],
    "Money": [d.id for d in money.DEFINITIONS],
    "Loyalty": [d.id for d in loyalty.DEFINITIONS],
}
"""The KPIs in the order and under the headings people read them by."""

BY_ID: dict[str, Definition] = {definition.id: definition for definition in DEFINITIONS}


def _functions() -> dict[Entity, tuple[Contribute, ...]]:
    found: dict[Entity, dict[Contribute, None]] = {entity: {} for entity in Entity}
    for definition in DEFINITIONS:
        for entity, function in definition.contributes:
            found[entity][function] = None
    found[Entity.call][call_contact] = None
    return {entity: tuple(functions) for entity, functions in found.items()}


FUNCTIONS: dict[Entity, tuple[Contribute, ...]] = _functions()
"""What is evaluated for each kind of entity."""
