"""Who is asking: API keys and page sessions, answered from memory.

What can go wrong, and what then happens:
- A key is revoked in another process: an answer from memory is asked again in the background once it is `SOFT_S` old
  and waits for the database once it is `HARD_S` old, so a revoked key stops within 5 s.
- The database cannot be reached: nobody can revoke anything there either, so a key that was good stays good for
  `auth_grace_s` seconds; a key that was never seen is answered 503, never 401.
- Somebody tries keys: what does not look like a key is refused without asking, what was just refused is remembered for
  a moment, and unknown keys cause no more than `LOOKUPS_PER_S` questions to the database.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from pydantic import BaseModel, Field
from starlette.requests import HTTPConnection

from shared.database.engine import translated
from shared.errors import DatabaseUnavailable
from shared.keys import ADMIN, END_SESSION, KEY_FORM, SCOPES, START_SESSION, Found, find, hash_of
from shared.problems import Problem, unavailable

if TYPE_CHECKING:
    import asyncpg

COOKIE = "threadline_session"
SOFT_S = 2.0
HARD_S = 4.0
REFUSED_S = 1.0
"""How long a refusal is remembered: a key made in between could not have been known to who tried it before."""
REMEMBERED = 10_000
"""Most keys and sessions kept in memory, good and refused together; the least recently used go first."""
LOOKUPS_PER_S = 200
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking: a tenant's key and what it may do."""

    tenant: str
    scopes: frozenset[str]
    key_id: UUID

    def may(self, scope: str) -> bool:
        """Tell whether this key may do what `scope` stands for."""
        return scope in self.scopes or ADMIN in self.scopes


@dataclass(slots=True)
class _Remembered:
    principal: Principal | None
    asked_at: float  # monotonic
    expires_at: float  # wall clock, infinite where the key does not expire
    asking: asyncio.Task[None] | None = None


class Authenticator:
    """Answers who a key or session belongs to. One per process.

    `monotonic` and `wall` are the clocks, in seconds: only tests give others.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        grace_s: float = 60.0,
        session_s: float = 43_200.0,
        public_origin: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._pool = pool
        self._grace_s = grace_s
        self._session_s = session_s
        self._public_origin = public_origin
        self._monotonic = monotonic
        self._wall = wall
        self._memory: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._lookups = float(LOOKUPS_PER_S)
        self._lookups_at = monotonic()
        self._failed_at = float("-inf")

    async def principal_of(self, secret: str, *, session: bool = False) -> Principal | None:
        """Return who `secret` (a key, or a session's cookie) belongs to, None where it is not good.

        Raises DatabaseUnavailable where that cannot be found out.
        """
        name = _name(secret, session)
        known = self._memory.get(name)
        if known is not None:
            age_s = self._monotonic() - known.asked_at
            if age_s < (SOFT_S if known.principal is not None else REFUSED_S):
                return known.principal if self._wall() < known.expires_at else None
        return await self._ask(secret, name, known)

    async def authorize(self, connection: HTTPConnection, scope: str) -> Principal:
        """Return who sent this request, if they may do what `scope` stands for.

        Raises Problem: 401 without a good key, 403 without the scope or for a write with a cookie from another origin,
        503 where it cannot be found out now.
        """
        principal = await self._identify(connection)
        if scope not in principal.scopes and ADMIN not in principal.scopes:
            raise forbidden(scope)
        return principal

    async def _identify(self, connection: HTTPConnection) -> Principal:
        header = connection.headers.get("authorization")
        if header is not None:
            kind, _, secret = header.partition(" ")
            if kind.lower() != "bearer":
                raise unauthenticated("the Authorization header must be `Bearer KEY`")
            principal = await self._found(secret.strip(), session=False)
            if principal is None:
                raise unauthenticated("this key is not known, has expired or was revoked", presented=True)
            return principal
        cookie = connection.cookies.get(COOKIE)
        if cookie is None:
            raise unauthenticated("send a key as `Authorization: Bearer KEY`")
        principal = await self._found(cookie, session=True)
        if principal is None:
            raise unauthenticated("this session has ended; log in again", presented=True)
        if connection.scope.get("method") in WRITES and not self.same_origin(connection):
            raise Problem(403, "Forbidden", "a write with a cookie must come from Threadline's own pages")
        return principal

    async def _found(self, secret: str, *, session: bool) -> Principal | None:
        try:
            return await self.principal_of(secret, session=session)
        except DatabaseUnavailable as error:
            raise unavailable("the key cannot be checked now; try again") from error

    def same_origin(self, connection: HTTPConnection) -> bool:
        """Tell whether the request says that it comes from a page of this very host."""
        origin = connection.headers.get("origin")
        if origin is None:
            return False
        if self._public_origin is not None and origin == self._public_origin:
            return True
        # The scheme is left out: a proxy that ends TLS tells us http.
        return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower() != ""

    def is_https(self, connection: HTTPConnection) -> bool:
        """Tell whether the caller came by https, to us or to the proxy before us."""
        by_proxy = self._public_origin is not None and self._public_origin.startswith("https://")
        return connection.url.scheme == "https" or by_proxy

    # Memory ----------------------------------------------------------------------------------------------------------

    async def _ask(self, secret: str, name: bytes, known: _Remembered | None) -> Principal | None:
        if known is None or known.principal is None:
            if not KEY_FORM.fullmatch(secret):
                return None
            self._count_lookup()
            return await self._look_up(name)
        if known.asking is None or known.asking.done():
            known.asking = asyncio.create_task(self._refresh(name))
        now = self._monotonic()
        # While the database is away not every request waits to learn it anew.
        if now - known.asked_at >= HARD_S and now - self._failed_at >= SOFT_S:
            await asyncio.shield(known.asking)
        fresh = self._memory.get(name)
        if fresh is None or self._monotonic() - fresh.asked_at > self._grace_s:
            raise DatabaseUnavailable("the database could not be asked for too long")
        return fresh.principal if self._wall() < fresh.expires_at else None

    async def _look_up(self, name: bytes) -> Principal | None:
        asked_at = self._monotonic()
        with translated():
            found = await find(self._pool, name[1:], session=name[:1] == b"s")
        self._remember(name, found, asked_at)
        return Principal(found.tenant, found.scopes, found.key_id) if found else None

    async def _refresh(self, name: bytes) -> None:
        try:
            await asyncio.wait_for(self._look_up(name), 2.0)
        except (DatabaseUnavailable, TimeoutError):
            self._failed_at = self._monotonic()

    def _remember(self, name: bytes, found: Found | None, asked_at: float) -> None:
        expires_at = found.expires_at.timestamp() if found and found.expires_at else float("inf")
        principal = Principal(found.tenant, found.scopes, found.key_id) if found else None
        self._memory[name] = _Remembered(principal, asked_at, expires_at)
        self._memory.move_to_end(name)
        while len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)

    def _count_lookup(self) -> None:
        now = self._monotonic()
        self._lookups = min(LOOKUPS_PER_S, self._lookups + (now - self._lookups_at) * LOOKUPS_PER_S)
        self._lookups_at = now
        if self._lookups < 1:
            raise Problem(
                429, "Too many unknown keys", "too many keys that are not known are being tried; try again",
                headers={"Retry-After": "1"},
            )  # fmt: skip
        self._lookups -= 1

    # Sessions --------------------------------------------------------------------------------------------------------

    async def start_session(self, key: str) -> tuple[str, float] | None:
        """Start a page session for `key`; return its secret and its length in seconds, None where the key is not good.

        It ends with its key, at the latest. Raises DatabaseUnavailable.
        """
        principal = await self.principal_of(key)
        if principal is None:
            return None
        known = self._memory[_name(key, session=False)]
        length_s = min(self._session_s, known.expires_at - self._wall())
        secret = "tls_" + secrets.token_urlsafe(32)
        with translated():
            await self._pool.execute(
                START_SESSION, principal.tenant, principal.key_id, hash_of(secret), timedelta(seconds=length_s)
            )
        return secret, length_s

    async def end_session(self, secret: str) -> None:
        """End a page session. Raises DatabaseUnavailable."""
        self._memory.pop(_name(secret, session=True), None)
        with translated():
            await self._pool.execute(END_SESSION, hash_of(secret))


def _name(secret: str, session: bool) -> bytes:
    # Keys and sessions are remembered apart: one must never pass for the other.
    return (b"s" if session else b"k") + sha256(secret.encode("utf-8", "surrogatepass")).digest()


def unauthenticated(detail: str, *, presented: bool = False) -> Problem:
    """Return the 401."""
    challenge = 'Bearer realm="threadline"' + (', error="invalid_token"' if presented else "")
    return Problem(401, "Unauthorized", detail, headers={"WWW-Authenticate": challenge})


def forbidden(scope: str) -> Problem:
    """Return the 403 for a key without `scope`."""
    return Problem(
        403,
        "Forbidden",
        f"this needs a key with the scope {scope}",
        headers={"WWW-Authenticate": f'Bearer realm="threadline", error="insufficient_scope", scope="{scope}"'},
    )


class Require(SecurityBase):
    """FastAPI dependency: the Principal of the request, if its key has `scope`. Use `require(scope)`."""

    def __init__(self, scope: str) -> None:
        assert scope in SCOPES, f"unknown scope {scope}"
        self.scope = scope
        self.scheme_name = "key"
        self.model = HTTPBearer(description="A key as `threadline keys create` prints it, or a page's session cookie.")

    async def __call__(self, request: HTTPConnection) -> Principal:
        authenticator: Authenticator = request.app.state.auth
        return await authenticator.authorize(request, self.scope)


def require(scope: str) -> Require:
    """Return the dependency for `principal: Annotated[Principal, Depends(require("timeline:read"))]`.

    The app's authenticator is `app.state.auth` (shared/web.py puts it there).
    """
    return Require(scope)


class SessionStart(BaseModel):
    """Body of `POST /v1/session`."""

    key: str = Field(max_length=512)


router = APIRouter(tags=["session"])


@router.post("/v1/session", status_code=204, summary="Exchange a key for a page's cookie")
async def start_session(body: SessionStart, request: Request) -> Response:
    """Set an HttpOnly, SameSite=Strict cookie that works instead of the key until it expires or the key ends."""
    authenticator: Authenticator = request.app.state.auth
    if "origin" in request.headers and not authenticator.same_origin(request):
        raise Problem(403, "Forbidden", "a session is started from Threadline's own pages")
    started = await authenticator.start_session(body.key)
    if started is None:
        raise unauthenticated("this key is not known, has expired or was revoked", presented=True)
    secret, length_s = started
    answer = Response(status_code=204)
    answer.set_cookie(
        COOKIE,
        secret,
        max_age=int(length_s),
        httponly=True,
        samesite="strict",
        secure=authenticator.is_https(request),
        path="/",
    )
    return answer


@router.delete("/v1/session", status_code=204, summary="Log out")
async def end_session(request: Request) -> Response:
    """End the session of the cookie and take the cookie back."""
    authenticator: Authenticator = request.app.state.auth
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        if not authenticator.same_origin(request):
            raise Problem(403, "Forbidden", "a write with a cookie must come from Threadline's own pages")
        await authenticator.end_session(cookie)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer
