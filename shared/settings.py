"""Settings of a process: `THREADLINE_*` variables and a `.env`, read once and frozen.

Durations end in `_s`, sizes in `_bytes`; each field has its unit and meaning. Secrets have no default.
`threadline settings` prints this list with what is in force.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.errors import SetupError

PREFIX = "THREADLINE_"

# Variables that steer something other than a process's settings.
OTHER_VARIABLES = frozenset({"THREADLINE_TEST_ALL"})


def _setting(default: Any, unit: str, meaning: str, **constraints: Any) -> Any:
    return Field(default, description=meaning, json_schema_extra={"unit": unit}, **constraints)


class Settings(BaseSettings):
    """Everything that can be set. Made by `load()`, which explains wrong values in one line."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    # Where
    data: Path = _setting(Path(".threadline"), "folder", "embedded database, first key, secret key")
    host: str = _setting("127.0.0.1", "address", "where to listen")
    port: int = _setting(8080, "port", "where to listen; 0 takes a free one", ge=0, le=65535)
    public_url: str | None = _setting(
        None, "URL", "where people reach this from outside, where a proxy stands before it", pattern=r"^https?://[^/]+"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "level", "least log lines to write")
    log_format: Literal["auto", "json", "text"] = _setting(
        "auto", "format", "of log lines on stderr; auto: text at a terminal, else json"
    )

    # Database
    database_url: SecretStr | None = _setting(
        None, "URL", "PostgreSQL 16 or later, postgresql://user:password@host:5432/name; unset: embedded, under DATA"
    )
    database_pool_size: int = _setting(20, "connections", "most that one process opens", ge=12, le=500)
    database_statement_timeout_s: float = _setting(60.0, "s", "longest that one statement may take", gt=0)
    database_idle_transaction_s: float = _setting(
        30.0, "s", "the server ends a transaction whose process does nothing for so long (frozen)", gt=0
    )
    postgres_bin: Path | None = _setting(
        None, "folder", "initdb and postgres, 16 or later, for the embedded database; unset: the ones of the wheel"
    )

    # Log
    kafka: str | None = _setting(None, "host:port,…", "Kafka bootstrap servers; unset: the log is PostgreSQL")
    topic_prefix: str = _setting(
        "threadline", "text", "first part of each topic's name", pattern=r"^[A-Za-z0-9._-]{1,100}$"
    )
    log_partitions: int = _setting(8, "partitions", "of each topic that is made by us", ge=1, le=1024)
    log_replication: int = _setting(1, "replicas", "of each Kafka topic that is made by us", ge=1, le=32)
    log_retention_s: int = _setting(
        30 * 86_400,
        "s",
        "older records are deleted: by PostgreSQL's log once all have read them, by Kafka anyway",
        ge=60,
    )
    forget_after_s: int | None = _setting(
        None,
        "s",
        "a customer with whom nothing happened for so long is erased, their numbers stay; unset: nobody is. Records of "
        "the log go by LOG_RETENTION_S, which then should be shorter",
        ge=86_400,
    )
    encrypt_log: bool = _setting(
        False,
        "true|false",
        "what the topics say of people is encrypted (on Kafka all of them, else the timeline) under keys that an "
        "erasure destroys; the log is then of no use without the database",
    )
    log_timeout_s: float = _setting(10.0, "s", "an append that is not durable by then is refused with 503", gt=0)
    max_record_bytes: int = _setting(1_000_000, "bytes", "a larger record is refused by the log", ge=1024)
    batch_max_records: int = _setting(4000, "records", "most that a consumer does in one transaction", ge=1, le=100_000)
    policy_slice: int = _setting(
        500,
        "entries",
        "about how many are decided again in one transaction when the identity policy changes: for so long the stream "
        "of its tenant waits",
        ge=1,
    )
    lane_leaves: int = _setting(
        100,
        "handles and sessions",
        "people with more of them are merged and split beside the stream, which goes on meanwhile",
        ge=1,
    )
    lane_entries: int = _setting(
        2000,
        "entries",
        "an event that has more of them decided again, of one matter or of those connected with it, is decided beside "
        "the stream",
        ge=1,
    )
    rejection_limit: int = _setting(
        1000, "records", "so many rejections in a row stop the consumer: a bad deployment, not bad records", ge=1
    )

    # Ingest
    ingest_rate_limit: float | None = _setting(
        None,
        "events/s",
        "of one tenant in one process, above which events are answered 429; a larger batch is taken when nothing came "
        "for a second, and waited for afterwards; unset: no limit",
        gt=0,
    )
    ingest_pressure_bytes: int = _setting(
        256 * 1024 * 1024,
        "bytes",
        "bodies being taken at once in one process, above which more get 429",
        ge=1024 * 1024,
    )

    # Outgoing webhooks
    webhook_timeout_s: float = _setting(20.0, "s", "an endpoint that has not answered by then has failed", ge=1, le=30)
    webhook_retention_s: int = _setting(
        30 * 86_400, "s", "what was told, what waits and dead letters are deleted at this age", ge=3_600
    )
    webhook_allowed_networks: str = _setting(
        "",
        "network,…",
        "networks of your own that endpoints may be in, such as 10.20.0.0/16, also without TLS; none else is reached",
    )

    # Keys
    secret_key: SecretStr | None = _setting(
        None, "base64", "32 bytes that seal channel secrets; needed with DATABASE_URL, else DATA/secret.key"
    )
    bootstrap_key: SecretStr | None = _setting(None, "text", "an admin key for tenant default, at least 32 characters")
    auth_grace_s: float = _setting(
        60.0, "s", "a key that was good stays good so long while the database cannot be reached", ge=0
    )
    session_s: float = _setting(43_200.0, "s", "how long a page's cookie works", ge=60)
    metrics_open: bool = _setting(False, "true|false", "/metrics shows service metrics without a key (KPIs never)")

    @field_validator("secret_key")
    @classmethod
    def _is_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                decoded = base64.b64decode(value.get_secret_value(), validate=True)
            except ValueError:
                raise ValueError("must be 32 bytes in base64") from None
            if len(decoded) != 32:
                raise ValueError(f"must be 32 bytes in base64, but is {len(decoded)}")
        return value

    @field_validator("bootstrap_key")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value is not None else None
        if text is not None and (not 32 <= len(text) <= 512 or not all("!" <= character <= "~" for character in text)):
            raise ValueError("must be 32 to 512 visible ASCII characters")
        return value

    def secret(self) -> bytes:
        """Return the 32 bytes of `secret_key`. The command has set it before any service is built."""
        if self.secret_key is None:
            raise SetupError(NO_SEALING_KEY)
        return base64.b64decode(self.secret_key.get_secret_value())

    def dsn(self) -> str:
        """Return the database's URL, password included. The command has set it before any service is built."""
        if self.database_url is None:
            raise SetupError("THREADLINE_DATABASE_URL is not set")
        return self.database_url.get_secret_value()


NO_SEALING_KEY = (
    "THREADLINE_SECRET_KEY is needed with THREADLINE_DATABASE_URL: 32 bytes in base64, the same for every process "
    "(make one with `openssl rand -base64 32`)"
)


def load(**given: Any) -> Settings:
    """Return the settings of this process; `given`, the options of the command line, win where not None.

    Raises SetupError naming the variable that is wrong.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).removeprefix(PREFIX.lower())
        message = first["msg"].removeprefix("Value error, ")
        raise SetupError(f"{PREFIX}{name.upper()}: {message[0].lower() + message[1:]}") from None
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise SetupError(f"the settings cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Described:
    """One setting as `threadline settings` shows it; secrets are masked."""

    variable: str
    unit: str
    default: str
    meaning: str
    value: str
    is_set: bool


def describe(settings: Settings) -> Iterator[Described]:
    """Yield every setting with its unit, default, meaning and what is in force."""
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        unit = str(extra.get("unit", "")) if isinstance(extra, dict) else ""
        value = getattr(settings, name)
        yield Described(
            PREFIX + name.upper(),
            unit,
            _text(field.default),
            field.description or "",
            _text(value),
            name in settings.model_fields_set,
        )


def _text(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)  # a SecretStr writes itself as stars


def unknown_variables() -> list[str]:
    """Return variables that begin like settings and are none: a slip of the pen, most often."""
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OTHER_VARIABLES
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
