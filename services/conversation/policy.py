"""The identity policy of a tenant: what may link, how much, and how long things stay open."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import Annotated, Any

import phonenumbers
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from shared import handles

MOST = 1_000_000
"""Highest limit that can be set: nobody has as many handles, and every store and reader knows the number."""

STORED = object()
"""Context in which a policy is read that was put before: it was taken then, whatever is asked of a new one today."""

OTHER_LIMIT = 5
"""Limit per customer of a handle kind that the policy does not name."""


class Limits(BaseModel):
    """How many distinct handles of a kind one customer may hold; `social` counts per network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crm: Annotated[int, Field(ge=1, le=MOST)] = 1
    email: Annotated[int, Field(ge=1, le=MOST)] = 5
    phone: Annotated[int, Field(ge=1, le=MOST)] = 5
    social: Annotated[int, Field(ge=1, le=MOST)] = 5
    contact: Annotated[int, Field(ge=1, le=MOST)] = 200


class Policy(BaseModel):
    """One tenant's identity policy, as `PUT /v1/identity/policy` takes and `GET` gives it. Durations in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocked: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()
    limits: Limits = Limits()
    open_window_s: Annotated[int, Field(ge=0, le=366 * 86_400)] = 259_200
    follow_up_window_s: Annotated[int, Field(ge=0, le=3660 * 86_400)] = 2_419_200
    degree_limit: Annotated[int, Field(ge=1, le=MOST)] = 20
    default_region: str = "NL"
    own_addresses: tuple[str, ...] = ()

    @field_validator("default_region")
    @classmethod
    def _a_known_region(cls, region: str) -> str:
        if region not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError("use a two-letter ISO 3166 region in capitals, such as NL or US")
        return region

    @field_validator("blocked", "shared", "own_addresses")
    @classmethod
    def _writable(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if "\0" in value or not _is_unicode(value):
                raise ValueError(f"{value[:80]!r} holds what no text here can: NUL or half a surrogate pair")
        return values

    @field_validator("blocked", "shared")
    @classmethod
    def _handles_with_a_kind(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            kind, colon, rest = value.partition(":")
            if not (kind and colon and rest):
                raise ValueError(f"write each handle as kind:value, not {value[:80]!r}")
        return values

    @field_validator("own_addresses")
    @classmethod
    def _addresses_alone(cls, values: tuple[str, ...], about: ValidationInfo) -> tuple[str, ...]:
        return values if about.context is STORED else tuple(handles.own_address(value) for value in values)

    @cached_property
    def open_window(self) -> timedelta:
        return timedelta(seconds=self.open_window_s)

    @cached_property
    def follow_up_window(self) -> timedelta:
        return timedelta(seconds=self.follow_up_window_s)

    @cached_property
    def barred(self) -> frozenset[str]:
        """Handles, in matching form, that identify nobody: blocked or shared by the policy, or the tenant's own."""
        own = (f"email:{address}" for address in self.own_addresses)
        return frozenset(self._matching((*self.blocked, *self.shared, *own)))

    @cached_property
    def own(self) -> frozenset[str]:
        """The tenant's own addresses in matching form."""
        return frozenset(self._matching(f"email:{address}" for address in self.own_addresses))

    def _matching(self, written: Iterable[str]) -> Iterable[str]:
        for handle in written:
            kind, _, value = handle.partition(":")
            yield handles.matching(kind, value, self.default_region) or handle

    def bars_only_more(self, before: Policy) -> frozenset[str] | None:
        """Return the handles that this policy bars and `before` does not, None where anything else differs."""
        same = self.model_copy(update={"blocked": before.blocked, "shared": before.shared}) == before
        return self.barred - before.barred if same and before.barred <= self.barred else None

    def changed_from(self, before: Policy) -> list[str]:
        """Return the names of the settings that are others than in `before`."""
        return [name for name in Policy.model_fields if getattr(self, name) != getattr(before, name)]

    def limit(self, kind: str) -> int:
        """Return how many handles of `kind` one customer may hold."""
        if handles.is_social(kind):
            return self.limits.social
        return int(getattr(self.limits, kind, OTHER_LIMIT))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


DEFAULT = Policy()


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy with the version that it is stored under (0: the default, never stored)."""

    policy: Policy
    version: int

    def document(self) -> dict[str, Any]:
        return self.policy.model_dump(mode="json")
