"""Users in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from psycopg import AsyncCursor
from psycopg.errors import UniqueViolation
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.pool import HostConnection, cursor
from watchly_core.errors import EmailTaken, Unavailable, UserNotFound
from watchly_core.people import Account, Role, User

#: The columns of `User` in the order of its fields, of a table that is called `u` in the statement.
USER: Final = " u.id, u.email, u.role, u.created_at, u.version "
#: Those of `Account`.
ACCOUNT: Final = USER + ", u.password_hash "

_ADD: Final = (
    """/* users.add */
    INSERT INTO watchly_users AS u (email, role, password_hash, created_at, version)
    VALUES (%s, %s, %s, %s, 1)
    RETURNING
    """
    + USER
)
_GET: Final = "/* users.get */ SELECT" + ACCOUNT + "FROM watchly_users u WHERE u.id = %s FOR UPDATE"
_REPLACE: Final = """/* users.replace */
    UPDATE watchly_users SET email = %s, role = %s, password_hash = %s, version = %s WHERE id = %s
"""
_REMOVE: Final = "/* users.remove */ DELETE FROM watchly_users WHERE id = %s"
# Of several who take administrators away, one at a time: a row that turns out to be no administrator's any
# more stays held all the same, so the order of rows alone would let them wait in a circle.
_TURN: Final = "/* users.turn */ SELECT pg_advisory_xact_lock(hashtextextended('watchly.administrators', 0))"
_ADMINS: Final = "/* users.admins */ SELECT id FROM watchly_users WHERE role = 'admin' ORDER BY id FOR UPDATE"


class PostgresUsers:
    """Satisfies `ports.UserRepository` on a connection that is inside a transaction."""

    def __init__(self, connection: HostConnection) -> None:
        self._connection = connection

    async def add(self, email: str, role: Role, password_hash: str, at: datetime) -> User:
        """See the port."""
        async with cursor(self._connection, args_row(user_of), binary=True) as sink:
            try:
                await sink.execute(_ADD, (email, role.value, password_hash, at))
            except UniqueViolation:
                raise EmailTaken from None
            user = await sink.fetchone()
        if user is None:  # RETURNING gives a row for each that is inserted
            raise Unavailable("database", "an insert gave no row")
        return user

    async def get(self, user_id: int) -> Account:
        """See the port."""
        async with account_cursor(self._connection) as asked:
            await asked.execute(_GET, (user_id,))
            account = await asked.fetchone()
        if account is None:
            raise UserNotFound(user_id)
        return account

    async def replace(self, account: Account) -> None:
        """See the port."""
        user = account.user
        values = (user.email, user.role.value, account.password_hash, user.version, user.id)
        try:
            done = await cursor(self._connection, tuple_row).execute(_REPLACE, values)
        except UniqueViolation:
            raise EmailTaken from None
        if not done.rowcount:
            raise UserNotFound(user.id)

    async def remove(self, user_id: int) -> None:
        """See the port."""
        done = await cursor(self._connection, tuple_row).execute(_REMOVE, (user_id,))
        if not done.rowcount:
            raise UserNotFound(user_id)

    async def admins(self) -> Sequence[int]:
        """See the port."""
        async with cursor(self._connection, scalar_row) as asked:
            await asked.execute(_TURN)
            # In a statement of its own: whoever had the turn before has committed what this one sees.
            await asked.execute(_ADMINS)
            ids: list[int] = await asked.fetchall()
        return ids


def user_of(user_id: int, email: str, role: str, created_at: datetime, version: int) -> User:
    """A row of `USER` as a user."""
    return User(user_id, email, Role(role), created_at.astimezone(UTC), version)


def account_cursor(connection: HostConnection) -> AsyncCursor[Account]:
    """A cursor whose rows of `ACCOUNT` are accounts."""
    return cursor(connection, args_row(_account), binary=True)


def _account(  # noqa: PLR0913, PLR0917 - a row
    user_id: int, email: str, role: str, created_at: datetime, version: int, password_hash: str
) -> Account:
    return Account(user_of(user_id, email, role, created_at, version), password_hash)
