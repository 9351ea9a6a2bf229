"""What only some providers need of a channel account, each of its own kind: an option that cannot work is refused.

A text where a list belongs would be taken letter by letter, and anything else would break every delivery, long after
whoever wrote it has looked away.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _digits(value: Any) -> Any:
    """Numbers become text: ids and tokens may consist of digits alone, and a command line reads those as a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Word = Annotated[str, BeforeValidator(_digits), Field(min_length=1, max_length=10_000)]
Words = Annotated[list[Word], Field(max_length=1_000)]


class ChannelOptions(BaseModel):
    """The options there are; one that nobody knows is kept as it is, for an adapter of your own."""

    model_config = ConfigDict(strict=True, extra="allow")

    verify_token: Word | None = Field(None, description="Meta: what the handshake has to name")
    app_id: Word | None = Field(None, description="Teams: the bot's app")
    cloud: Literal["public", "us_government"] | None = Field(None, description="Teams: whose keys count")
    jwks: dict[str, Any] | list[Any] | None = Field(None, description="Teams: keys of your own, fetched from nowhere")
    encoding_aes_key: Word | None = Field(None, description="WeChat: safe mode")
    bot_id: Word | None = Field(None, description="Slack, Telegram: our own bot")
    staff: Words | None = Field(None, description="Slack, Teams: user ids of our people")
    origins: Words | None = Field(None, description="Chat: websites that may show it, as https://host")
    events_per_minute: Annotated[int, Field(ge=1)] | None = Field(None, description="Chat: most of one session")
    own_lists: Words | None = Field(None, description="Mail: List-Ids whose mail is people's")
    own_mail: Literal["agent", "automated"] | None = Field(None, description="Mail: who writes from own_addresses")
    ticket_secret: Word | None = Field(None, description="Mail: signs tickets in addresses, outlives rotation")
    callback_on: Words | None = Field(None, description="Twilio: results of Enqueue that ask for a call-back")
    callback_keys: Words | None = Field(None, description="Asterisk: keys that ask for a call-back")

    def given(self) -> dict[str, Any]:
        """Return what was given, numbers as text where texts belong."""
        return self.model_dump(exclude_unset=True)
