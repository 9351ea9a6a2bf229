"""Settings of a process: `THREADLINE_*` variables and a `.env`, read once and frozen.

Durations end in `_s` or `_ms`, sizes in `_bytes`. Secrets have no default. `threadline settings` prints this list.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.errors import SetupError


class Settings(BaseSettings):
    """Everything that can be set. Build it with `load()`, which explains wrong values."""

    model_config = SettingsConfigDict(
        env_prefix="THREADLINE_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    data: Path = Field(Path(".threadline"), description="Data directory: embedded database, first key, secret key.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    database_url: SecretStr | None = Field(
        None, description="PostgreSQL 16 or later (postgresql://user:password@host/name); unset: embedded under DATA."
    )
    database_pool_size: int = Field(16, ge=4, le=500, description="Most connections of one process.")
    database_statement_timeout_s: float = Field(60.0, gt=0, description="Longest a statement may take, in seconds.")
    database_idle_transaction_s: float = Field(
        30.0, gt=0, description="Seconds until the server ends a transaction whose process does nothing (frozen)."
    )
    postgres_bin: Path | None = Field(
        None, description="Folder with initdb and postgres, 16 or later, to use for the embedded database."
    )
    kafka: str | None = Field(
        None, description="Kafka bootstrap servers, host:port with commas; unset: the log is PostgreSQL."
    )
    topic_prefix: str = Field(
        "threadline", pattern=r"^[A-Za-z0-9._-]{1,100}$", description="First part of topic names."
    )
    secret_key: SecretStr | None = Field(
        None, description="32 bytes in base64 that seal channel secrets; with the embedded database DIR/secret.key."
    )
    bootstrap_key: SecretStr | None = Field(
        None, min_length=32, description="An admin key for tenant default, at least 32 characters."
    )


def load(**given: object) -> Settings:
    """Return the settings of this process; `given` (options of the command line) win. Raises SetupError."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        variable = "THREADLINE_" + str(first["loc"][0]).upper()
        raise SetupError(f"{variable}: {first['msg'].lower()}") from error
