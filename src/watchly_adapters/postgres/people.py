"""Reading people from PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from psycopg.rows import args_row

from watchly_adapters.postgres.api_keys import API_KEY, api_key_cursor, api_key_of
from watchly_adapters.postgres.pool import HostConnection, Reads, cursor
from watchly_adapters.postgres.signing_keys import read_signing_keys
from watchly_adapters.postgres.users import ACCOUNT, USER, account_cursor, user_of
from watchly_core.api_keys import ApiKey
from watchly_core.errors import UserNotFound
from watchly_core.people import Account, User
from watchly_core.signing_keys import SigningKey

_ACCOUNT: Final = "/* people.account */ SELECT" + ACCOUNT + "FROM watchly_users u WHERE u.email = %s"
_USER: Final = "/* people.user */ SELECT" + USER + "FROM watchly_users u WHERE u.id = %s"
_USERS: Final = (
    "/* people.users */ SELECT" + USER + "FROM watchly_users u WHERE u.id > %s ORDER BY u.id LIMIT %s"
)
_SESSION_USER: Final = (
    "/* people.session_user */ SELECT"
    + USER
    + "FROM watchly_sessions s JOIN watchly_users u ON u.id = s.user_id WHERE s.id = %s"
)
_API_KEY: Final = (
    "/* people.api_key */ SELECT"
    + API_KEY
    + ", u.email, u.role, u.created_at, u.version"
    + " FROM watchly_api_keys k LEFT JOIN watchly_users u ON u.id = k.user_id WHERE k.prefix = %s"
)
_OF_USER: Final = (
    "/* people.of_user */ SELECT"
    + API_KEY
    + "FROM watchly_api_keys k WHERE k.user_id = %s AND k.revoked_at IS NULL ORDER BY k.id"
)
_OF_NOBODY: Final = (
    "/* people.of_nobody */ SELECT"
    + API_KEY
    + "FROM watchly_api_keys k WHERE k.user_id IS NULL AND k.revoked_at IS NULL ORDER BY k.id"
)


class PostgresPeopleQueries:
    """Satisfies `ports.PeopleQueries`: each call is one statement."""

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    async def account(self, email: str) -> Account | None:
        """See the port."""
        if not _may_be_stored(email):
            return None

        async def read(connection: HostConnection) -> Account | None:
            async with account_cursor(connection) as asked:
                await asked.execute(_ACCOUNT, (email,))
                return await asked.fetchone()

        return await self._reads.read(read)

    async def user(self, user_id: int) -> User:
        """See the port."""

        async def read(connection: HostConnection) -> User | None:
            async with cursor(connection, args_row(user_of), binary=True) as asked:
                await asked.execute(_USER, (user_id,))
                return await asked.fetchone()

        user = await self._reads.read(read)
        if user is None:
            raise UserNotFound(user_id)
        return user

    async def users(self, after: int, limit: int) -> Sequence[User]:
        """See the port."""

        async def read(connection: HostConnection) -> Sequence[User]:
            async with cursor(connection, args_row(user_of), binary=True) as asked:
                await asked.execute(_USERS, (after, limit))
                return await asked.fetchall()

        return await self._reads.read(read)

    async def session_user(self, session_id: str) -> User | None:
        """See the port."""

        async def read(connection: HostConnection) -> User | None:
            async with cursor(connection, args_row(user_of), binary=True) as asked:
                await asked.execute(_SESSION_USER, (session_id,))
                return await asked.fetchone()

        return await self._reads.read(read)

    async def api_key(self, prefix: str) -> tuple[ApiKey, User | None] | None:
        """See the port."""

        async def read(connection: HostConnection) -> tuple[ApiKey, User | None] | None:
            async with cursor(connection, args_row(_owned), binary=True) as asked:
                await asked.execute(_API_KEY, (prefix,))
                return await asked.fetchone()

        return await self._reads.read(read)

    async def api_keys(self, user_id: int | None) -> Sequence[ApiKey]:
        """See the port."""

        async def read(connection: HostConnection) -> Sequence[ApiKey]:
            async with api_key_cursor(connection) as asked:
                if user_id is None:
                    await asked.execute(_OF_NOBODY)
                else:
                    await asked.execute(_OF_USER, (user_id,))
                return await asked.fetchall()

        return await self._reads.read(read)

    async def signing_keys(self) -> Sequence[SigningKey]:
        """See the port."""
        return await self._reads.read(read_signing_keys)


def _may_be_stored(text: str) -> bool:
    """Whether PostgreSQL can hold a text: without NUL, and without halves of surrogate pairs."""
    return "\0" not in text and not any("\ud800" <= char <= "\udfff" for char in text)


def _owned(  # noqa: PLR0913, PLR0917 - a row
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
    email: str | None,
    user_role: str | None,
    user_created_at: datetime | None,
    version: int | None,
) -> tuple[ApiKey, User | None]:
    key = api_key_of(
        key_id,
        name,
        role,
        prefix,
        digest,
        user_id,
        created_at,
        expires_at,
        last_used_at,
        revoked_at,
    )
    if user_id is None or email is None or user_role is None or user_created_at is None or version is None:
        return key, None
    return key, user_of(user_id, email, user_role, user_created_at, version)
