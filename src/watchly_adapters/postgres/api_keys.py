"""API keys in PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from psycopg import AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_core.api_keys import ApiKey
from watchly_core.errors import ApiKeyNotFound, Unavailable
from watchly_core.people import Role

#: The columns of `ApiKey` in the order of its fields, of a table that is called `k` in the statement.
API_KEY: Final = """
    k.id, k.name, k.role, k.prefix, k.digest, k.user_id,
    k.created_at, k.expires_at, k.last_used_at, k.revoked_at
"""
_ADD: Final = (
    """/* api_keys.add */
    INSERT INTO watchly_api_keys AS k (
        name, role, prefix, digest, user_id, created_at, expires_at, last_used_at, revoked_at
    )
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
    RETURNING
    """
    + API_KEY
)
_GET: Final = "/* api_keys.get */ SELECT" + API_KEY + "FROM watchly_api_keys k WHERE k.id = %s FOR UPDATE"
_REPLACE: Final = """/* api_keys.replace */
    UPDATE watchly_api_keys
    SET name = %s, role = %s, prefix = %s, digest = %s, user_id = %s,
        created_at = %s, expires_at = %s, last_used_at = %s, revoked_at = %s
    WHERE id = %s
"""
# Against whoever writes, and whoever takes this lock as well; those who read wait for nobody.
_LOCK: Final = "/* api_keys.lock */ LOCK TABLE watchly_api_keys IN SHARE ROW EXCLUSIVE MODE"
_COUNT_OF_USER: Final = """/* api_keys.count_of_user */
    SELECT count(*) FROM watchly_api_keys WHERE user_id = %s
"""
_COUNT_OF_NOBODY: Final = """/* api_keys.count_of_nobody */
    SELECT count(*) FROM watchly_api_keys WHERE user_id IS NULL
"""
_EXPIRE: Final = """/* api_keys.expire */
    DELETE FROM watchly_api_keys WHERE id IN (
        SELECT id FROM watchly_api_keys
        WHERE user_id IS NOT NULL AND (revoked_at < %s OR expires_at < %s)
        ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""


class PostgresApiKeys:
    """Satisfies `ports.ApiKeyRepository` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def add(self, key: ApiKey) -> ApiKey:
        """See the port."""
        async with api_key_cursor(self._connection) as sink:
            try:
                await sink.execute(_ADD, _values(key))
            except UniqueViolation:
                raise Unavailable("database", "another API key has this prefix") from None
            added = await sink.fetchone()
        if added is None:  # RETURNING gives a row for each that is inserted
            raise Unavailable("database", "an insert gave no row")
        return added

    async def get(self, key_id: int) -> ApiKey:
        """See the port."""
        async with api_key_cursor(self._connection) as asked:
            await asked.execute(_GET, (key_id,))
            key = await asked.fetchone()
        if key is None:
            raise ApiKeyNotFound(key_id)
        return key

    async def replace(self, key: ApiKey) -> None:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_REPLACE, (*_values(key), key.id))
        if not done.rowcount:
            raise ApiKeyNotFound(key.id)

    async def count(self, user_id: int | None) -> int:
        """See the port."""
        async with cursor(self._connection, scalar_row) as asked:
            await asked.execute(_LOCK)
            # In a statement of its own: whoever held the lock before has committed what this one sees.
            if user_id is None:
                await asked.execute(_COUNT_OF_NOBODY)
            else:
                await asked.execute(_COUNT_OF_USER, (user_id,))
            count: int | None = await asked.fetchone()
        return count or 0

    async def expire(self, before: datetime, limit: int) -> int:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_EXPIRE, (before, before, limit))
        return done.rowcount


def api_key_cursor(connection: HostConnection) -> AsyncCursor[ApiKey]:
    """A cursor whose rows of `API_KEY` are keys."""
    return cursor(connection, args_row(api_key_of), binary=True)


def api_key_of(  # noqa: PLR0913, PLR0917 - a row
    key_id: int,
    name: str,
    role: str,
    prefix: str,
    digest: bytes,
    user_id: int | None,
    created_at: datetime,
    expires_at: datetime | None,
    last_used_at: datetime | None,
    revoked_at: datetime | None,
) -> ApiKey:
    """A row of `API_KEY` as a key."""
    return ApiKey(
        key_id,
        name,
        Role(role),
        prefix,
        digest,
        user_id,
        created_at.astimezone(UTC),
        _utc(expires_at),
        _utc(last_used_at),
        _utc(revoked_at),
    )


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)


def _values(key: ApiKey) -> tuple[str | bytes | int | datetime | None, ...]:
    """All of a row but its id."""
    return (
        key.name,
        key.role.value,
        key.prefix,
        key.digest,
        key.user_id,
        key.created_at,
        key.expires_at,
        key.last_used_at,
        key.revoked_at,
    )
