"""Channel adapters: one pure module per provider, raw request → events. See docs/adapters.md."""

from __future__ import annotations

from types import MappingProxyType

from services.ingest.adapters.asterisk import Asterisk
from services.ingest.adapters.base import Adapter
from services.ingest.adapters.chat import Chat
from services.ingest.adapters.email_raw import EmailRaw
from services.ingest.adapters.line import Line
from services.ingest.adapters.mailgun import Mailgun
from services.ingest.adapters.messenger import Messenger
from services.ingest.adapters.postmark import Postmark
from services.ingest.adapters.sendgrid import SendGridEvents, SendGridInbound
from services.ingest.adapters.slack import Slack
from services.ingest.adapters.standard_webhooks import StandardWebhooks
from services.ingest.adapters.teams import Teams
from services.ingest.adapters.telegram import Telegram
from services.ingest.adapters.twilio import Twilio
from services.ingest.adapters.viber import Viber
from services.ingest.adapters.wechat import WeChat
from services.ingest.adapters.whatsapp_cloud import WhatsAppCloud
from services.ingest.adapters.x import X

ADAPTERS: MappingProxyType[str, Adapter] = MappingProxyType(
    {
        "chat": Chat(),
        "email_raw": EmailRaw(),
        "sendgrid_inbound": SendGridInbound(),
        "sendgrid_events": SendGridEvents(),
        "mailgun": Mailgun(),
        "postmark": Postmark(),
        "twilio": Twilio(),
        "asterisk": Asterisk(),
        "whatsapp_cloud": WhatsAppCloud(),
        "messenger": Messenger("messenger"),
        "instagram": Messenger("instagram"),
        "telegram": Telegram(),
        "slack": Slack(),
        "teams": Teams(),
        "line": Line(),
        "viber": Viber(),
        "wechat": WeChat(),
        "x": X(),
        "standard_webhooks": StandardWebhooks(),
    }
)
"""Provider → adapter: the providers of the contract, each by its name there."""
