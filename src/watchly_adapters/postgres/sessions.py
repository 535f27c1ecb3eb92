"""Sessions in PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from psycopg.rows import args_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_adapters.postgres.users import USER, user_of
from watchly_core.people import User
from watchly_core.sessions import Session

_ADD: Final = """/* sessions.add */
    INSERT INTO watchly_sessions (id, user_id, handle, secret, created_at, rotated_at, expires_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s)
"""
_GET: Final = (
    "/* sessions.get */ SELECT s.id, s.handle, s.secret, s.created_at, s.rotated_at, s.expires_at,"
    + USER
    + "FROM watchly_sessions s JOIN watchly_users u ON u.id = s.user_id WHERE s.handle = %s FOR UPDATE OF s"
)
_REPLACE: Final = """/* sessions.replace */
    UPDATE watchly_sessions
    SET user_id = %s, handle = %s, secret = %s, created_at = %s, rotated_at = %s, expires_at = %s
    WHERE id = %s
"""
_REMOVE: Final = "/* sessions.remove */ DELETE FROM watchly_sessions WHERE id = %s"
_TRIM: Final = """/* sessions.trim */
    DELETE FROM watchly_sessions WHERE id IN (
        SELECT id FROM watchly_sessions WHERE user_id = %s ORDER BY rotated_at DESC, id OFFSET %s
    )
"""
_REMOVE_ALL: Final = "/* sessions.remove_all */ DELETE FROM watchly_sessions WHERE user_id = %s"
_EXPIRE: Final = """/* sessions.expire */
    DELETE FROM watchly_sessions WHERE id IN (
        SELECT id FROM watchly_sessions WHERE expires_at <= %s
        ORDER BY expires_at LIMIT %s FOR UPDATE SKIP LOCKED
    )
"""


class PostgresSessions:
    """Satisfies `ports.SessionRepository` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def add(self, session: Session) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_ADD, (session.id, *_values(session)))

    async def get(self, handle: bytes) -> tuple[Session, User] | None:
        """See the port."""
        async with cursor(self._connection, args_row(_row), binary=True) as asked:
            await asked.execute(_GET, (handle,))
            return await asked.fetchone()

    async def replace(self, session: Session) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_REPLACE, (*_values(session), session.id))

    async def remove(self, session_id: str) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_REMOVE, (session_id,))

    async def trim(self, user_id: int, keep: int) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_TRIM, (user_id, keep))

    async def remove_all(self, user_id: int) -> None:
        """See the port."""
        await cursor(self._connection, tuple_row).execute(_REMOVE_ALL, (user_id,))

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_EXPIRE, (now, limit))
        return done.rowcount


def _values(session: Session) -> tuple[int, bytes, bytes, datetime, datetime, datetime]:
    """All of a row but its id."""
    return (
        session.user_id,
        session.handle,
        session.secret,
        session.created_at,
        session.rotated_at,
        session.expires_at,
    )


def _row(  # noqa: PLR0913, PLR0917 - a row
    session_id: str,
    handle: bytes,
    secret: bytes,
    created_at: datetime,
    rotated_at: datetime,
    expires_at: datetime,
    user_id: int,
    email: str,
    role: str,
    user_created_at: datetime,
    version: int,
) -> tuple[Session, User]:
    session = Session(
        session_id,
        user_id,
        handle,
        secret,
        created_at.astimezone(UTC),
        rotated_at.astimezone(UTC),
        expires_at.astimezone(UTC),
    )
    return session, user_of(user_id, email, role, user_created_at, version)
