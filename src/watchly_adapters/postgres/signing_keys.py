"""The keys that sign tokens, in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from psycopg.rows import args_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_core.signing_keys import SigningKey

_ALL: Final = """/* signing_keys.all */
    SELECT kid, sealed, created_at, signs_from, ends_at FROM watchly_signing_keys ORDER BY created_at, kid
"""
# Against whoever writes, and whoever takes this lock as well; those who read wait for nobody.
_LOCK: Final = "/* signing_keys.lock */ LOCK TABLE watchly_signing_keys IN SHARE ROW EXCLUSIVE MODE"
_ADD: Final = """/* signing_keys.add */
    INSERT INTO watchly_signing_keys (kid, sealed, created_at, signs_from, ends_at)
    VALUES (%s, %s, %s, %s, %s)
"""
_REPLACE: Final = """/* signing_keys.replace */
    UPDATE watchly_signing_keys SET sealed = %s, created_at = %s, signs_from = %s, ends_at = %s WHERE kid = %s
"""
_REMOVE: Final = "/* signing_keys.remove */ DELETE FROM watchly_signing_keys WHERE kid = %s"


class PostgresSigningKeys:
    """Satisfies `ports.SigningKeyRepository` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def all(self) -> Sequence[SigningKey]:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_LOCK)
        # In a statement of its own: whoever held the lock before has committed what this one sees.
        return await read_signing_keys(self._connection)

    async def add(self, key: SigningKey) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_ADD, (key.kid, *_values(key)))

    async def replace(self, key: SigningKey) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_REPLACE, (*_values(key), key.kid))

    async def remove(self, kid: str) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_REMOVE, (kid,))


async def read_signing_keys(connection: HostConnection) -> Sequence[SigningKey]:
    """All keys, oldest first."""
    async with cursor(connection, args_row(_row), binary=True) as asked:
        await asked.execute(_ALL)
        return await asked.fetchall()


def _values(key: SigningKey) -> tuple[bytes, datetime, datetime, datetime | None]:
    """All of a row but its id."""
    return key.sealed, key.created_at, key.signs_from, key.ends_at


def _row(
    kid: str, sealed: bytes, created_at: datetime, signs_from: datetime, ends_at: datetime | None
) -> SigningKey:
    ends_at = None if ends_at is None else ends_at.astimezone(UTC)
    return SigningKey(kid, sealed, created_at.astimezone(UTC), signs_from.astimezone(UTC), ends_at)
