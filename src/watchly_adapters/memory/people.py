"""People in memory: accounts, sessions, API keys and the keys that sign tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from watchly_adapters.memory.rows import Rows
from watchly_adapters.memory.throttles import Attempts, MemoryThrottles
from watchly_adapters.partial import Turn
from watchly_core.api_keys import ApiKey
from watchly_core.errors import ApiKeyNotFound, EmailTaken, Unavailable, UserNotFound
from watchly_core.people import Account, Role, User
from watchly_core.sessions import Session
from watchly_core.signing_keys import SigningKey


class PeopleTables:
    """What is committed."""

    def __init__(self) -> None:
        self.users: dict[int, Account] = {}
        self.sessions: dict[str, Session] = {}
        self.api_keys: dict[int, ApiKey] = {}
        self.signing_keys: dict[str, SigningKey] = {}
        self.throttles: dict[str, Attempts] = {}
        self._last_id = 0

    def next_id(self) -> int:
        """An id that no user and no API key had before, be it only in a transaction that failed."""
        self._last_id += 1
        return self._last_id


class MemoryPeopleQueries:
    """Satisfies `ports.PeopleQueries`."""

    def __init__(self, tables: PeopleTables) -> None:
        self._tables = tables

    async def account(self, email: str) -> Account | None:
        """See the port."""
        accounts = self._tables.users.values()
        return next((account for account in accounts if account.user.email == email), None)

    async def user(self, user_id: int) -> User:
        """See the port."""
        user = self._user(user_id)
        if user is None:
            raise UserNotFound(user_id)
        return user

    async def users(self, after: int, limit: int) -> Sequence[User]:
        """See the port."""
        ids = sorted(user_id for user_id in self._tables.users if user_id > after)
        return [self._tables.users[user_id].user for user_id in ids[:limit]]

    async def session_user(self, session_id: str) -> User | None:
        """See the port."""
        session = self._tables.sessions.get(session_id)
        return None if session is None else self._user(session.user_id)

    async def api_key(self, prefix: str) -> tuple[ApiKey, User | None] | None:
        """See the port."""
        key = next((key for key in self._tables.api_keys.values() if key.prefix == prefix), None)
        return None if key is None else (key, self._user(key.user_id))

    async def api_keys(self, user_id: int | None) -> Sequence[ApiKey]:
        """See the port."""
        keys = [
            key for key in self._tables.api_keys.values() if key.user_id == user_id and key.revoked_at is None
        ]
        return sorted(keys, key=lambda key: key.id)

    async def signing_keys(self) -> Sequence[SigningKey]:
        """See the port."""
        return _oldest_first(self._tables.signing_keys)

    def _user(self, user_id: int | None) -> User | None:
        account = None if user_id is None else self._tables.users.get(user_id)
        return None if account is None else account.user


class MemoryPeople:
    """The stores of people inside a transaction, with their rows."""

    def __init__(self, tables: PeopleTables, turn: Turn) -> None:
        users = Rows(tables.users)
        sessions = Rows(tables.sessions)
        api_keys = Rows(tables.api_keys)
        signing_keys = Rows(tables.signing_keys)
        throttles = Rows(tables.throttles)
        self.users: MemoryUsers = MemoryUsers(users, sessions, api_keys, tables.next_id, turn)
        self.sessions: MemorySessions = MemorySessions(sessions, users, turn)
        self.api_keys: MemoryApiKeys = MemoryApiKeys(api_keys, tables.next_id, turn)
        self.signing_keys: MemorySigningKeys = MemorySigningKeys(signing_keys, turn)
        self.throttles: MemoryThrottles = MemoryThrottles(throttles, turn)
        self._commits = [rows.commit for rows in (users, sessions, api_keys, signing_keys, throttles)]

    def commit(self) -> None:
        """Make the changes those of everybody."""
        for commit in self._commits:
            commit()


class MemoryUsers:
    """Satisfies `ports.UserRepository`."""

    def __init__(
        self,
        users: Rows[int, Account],
        sessions: Rows[str, Session],
        api_keys: Rows[int, ApiKey],
        next_id: Callable[[], int],
        turn: Turn,
    ) -> None:
        self._users, self._sessions, self._api_keys = users, sessions, api_keys
        self._next_id, self._turn = next_id, turn

    async def add(self, email: str, role: Role, password_hash: str, at: datetime) -> User:
        """See the port."""
        await self._turn()
        user = User(self._next_id(), email, role, at, 1)
        self._put(Account(user, password_hash))
        return user

    async def get(self, user_id: int) -> Account:
        """See the port."""
        await self._turn()
        account = self._users.get(user_id)
        if account is None:
            raise UserNotFound(user_id)
        return account

    async def replace(self, account: Account) -> None:
        """See the port."""
        made = await self.get(account.user.id)
        user = msgspec.structs.replace(account.user, created_at=made.user.created_at)
        self._put(Account(user, account.password_hash))

    async def remove(self, user_id: int) -> None:
        """See the port."""
        await self.get(user_id)
        self._users.drop(user_id)
        self._sessions.drop_where(lambda session: session.user_id == user_id)
        self._api_keys.drop_where(lambda key: key.user_id == user_id)

    async def admins(self) -> Sequence[int]:
        """See the port."""
        await self._turn()
        accounts = self._users.all().items()
        return sorted(user_id for user_id, account in accounts if account.user.role is Role.ADMIN)

    def _put(self, account: Account) -> None:
        others = (other.user for other in self._users.all().values() if other.user.id != account.user.id)
        if any(other.email == account.user.email for other in others):
            raise EmailTaken
        self._users.put(account.user.id, account)


class MemorySessions:
    """Satisfies `ports.SessionRepository`."""

    def __init__(self, sessions: Rows[str, Session], users: Rows[int, Account], turn: Turn) -> None:
        self._sessions, self._users, self._turn = sessions, users, turn

    async def add(self, session: Session) -> None:
        """See the port."""
        await self._turn()
        self._sessions.put(session.id, session)

    async def get(self, handle: bytes) -> tuple[Session, User] | None:
        """See the port."""
        await self._turn()
        sessions = self._sessions.all().values()
        session = next((session for session in sessions if session.handle == handle), None)
        account = None if session is None else self._users.get(session.user_id)
        return None if session is None or account is None else (session, account.user)

    async def replace(self, session: Session) -> None:
        """See the port."""
        await self._turn()
        if self._sessions.get(session.id) is not None:
            self._sessions.put(session.id, session)

    async def remove(self, session_id: str) -> None:
        """See the port."""
        await self._turn()
        self._sessions.drop(session_id)

    async def trim(self, user_id: int, keep: int) -> None:
        """See the port."""
        await self._turn()
        own = [session for session in self._sessions.all().values() if session.user_id == user_id]
        own.sort(key=lambda session: session.id)
        own.sort(key=lambda session: session.rotated_at, reverse=True)
        for session in own[keep:]:
            self._sessions.drop(session.id)

    async def remove_all(self, user_id: int) -> None:
        """See the port."""
        await self._turn()
        self._sessions.drop_where(lambda session: session.user_id == user_id)

    async def expire(self, now: datetime, limit: int) -> int:
        """See the port."""
        await self._turn()
        return self._sessions.drop_where(lambda session: session.expires_at <= now, limit)


class MemoryApiKeys:
    """Satisfies `ports.ApiKeyRepository`."""

    def __init__(self, api_keys: Rows[int, ApiKey], next_id: Callable[[], int], turn: Turn) -> None:
        self._api_keys, self._next_id, self._turn = api_keys, next_id, turn

    async def add(self, key: ApiKey) -> ApiKey:
        """See the port."""
        await self._turn()
        if any(other.prefix == key.prefix for other in self._api_keys.all().values()):
            raise Unavailable("database", "another API key has this prefix")
        key = msgspec.structs.replace(key, id=self._next_id())
        self._api_keys.put(key.id, key)
        return key

    async def get(self, key_id: int) -> ApiKey:
        """See the port."""
        await self._turn()
        key = self._api_keys.get(key_id)
        if key is None:
            raise ApiKeyNotFound(key_id)
        return key

    async def replace(self, key: ApiKey) -> None:
        """See the port."""
        await self.get(key.id)
        self._api_keys.put(key.id, key)

    async def count(self, user_id: int | None) -> int:
        """See the port."""
        await self._turn()
        return sum(key.user_id == user_id for key in self._api_keys.all().values())

    async def expire(self, before: datetime, limit: int) -> int:
        """See the port."""
        await self._turn()

        def ended(key: ApiKey) -> bool:
            ends = [at for at in (key.revoked_at, key.expires_at) if at is not None]
            return key.user_id is not None and any(at < before for at in ends)

        return self._api_keys.drop_where(ended, limit)


class MemorySigningKeys:
    """Satisfies `ports.SigningKeyRepository`."""

    def __init__(self, keys: Rows[str, SigningKey], turn: Turn) -> None:
        self._keys, self._turn = keys, turn

    async def all(self) -> Sequence[SigningKey]:
        """See the port."""
        await self._turn()
        return _oldest_first(self._keys.all())

    async def add(self, key: SigningKey) -> None:
        """See the port."""
        await self._turn()
        self._keys.put(key.kid, key)

    async def replace(self, key: SigningKey) -> None:
        """See the port."""
        await self._turn()
        self._keys.put(key.kid, key)

    async def remove(self, kid: str) -> None:
        """See the port."""
        await self._turn()
        self._keys.drop(kid)


def _oldest_first(keys: dict[str, SigningKey]) -> list[SigningKey]:
    return sorted(keys.values(), key=lambda key: (key.created_at, key.kid))
