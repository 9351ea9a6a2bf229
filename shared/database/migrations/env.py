"""What Alembic runs: the migrations on the connection that migrate.py hands over, in one transaction."""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.ddl.postgresql import PostgresqlImpl
from sqlalchemy.util import await_only


class Scripts(PostgresqlImpl):
    """Lets `op.execute` take a text of many statements, comments and colons as they stand.

    Otherwise each would be one prepared statement, and `:name` in it a parameter.
    """

    __dialect__ = "postgresql"

    def execute(self, sql: Any, execution_options: dict[str, Any] | None = None) -> None:
        if not isinstance(sql, str) or self.connection is None:
            super().execute(sql, execution_options)
            return
        self.connection.exec_driver_sql("SELECT 1")  # begins the transaction where nothing has yet
        driver: Any = self.connection.connection.driver_connection
        await_only(driver.execute(sql))


connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `threadline migrate`: it brings the connection and the lock")

context.configure(connection=connection, target_metadata=None)
with context.begin_transaction():
    context.run_migrations()
