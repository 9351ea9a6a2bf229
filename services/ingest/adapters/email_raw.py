"""Raw mail (`message/rfc822`) as a mail server relays it. Proof: HTTP Basic, the password is an active secret."""

from __future__ import annotations

import orjson

from services.ingest.adapters.base import JSON, Account, Answer, Delivery, Malformed, Plain, Quarantined, RawRequest
from services.ingest.adapters.mail_event import mail_event, mail_id
from services.ingest.adapters.payloads import media_type
from services.ingest.adapters.signatures import require_password
from services.ingest.mail.message import read

_TYPES = frozenset({"message/rfc822", "message/global"})


class EmailRaw(Plain):
    """Raw RFC 5322 mail."""

    def verify(self, request: RawRequest, account: Account) -> None:
        """HTTP Basic: any user, the password is the proof."""
        require_password(request, account)
        if media_type(request.headers.get("content-type")) not in _TYPES:
            raise Malformed(415, "the body is to be a mail: Content-Type message/rfc822")

    def parse(self, request: RawRequest, account: Account) -> Delivery:
        """Return the one event of the mail."""
        mail = read(request.body)
        key = mail_id(mail, request.body)
        answer = self.taken(account, key)
        if not mail.headers:
            return Delivery(answer, quarantined=(Quarantined("the body has no mail headers", key),))
        return Delivery(answer, (mail_event(mail, account, key),))

    def taken(self, account: Account, key: str) -> Answer:
        """202 with the identity that the mail has here."""
        body = orjson.dumps({"accepted": [{"source": account.source, "id": key}]})
        return Answer(202, body, (("content-type", JSON),))
