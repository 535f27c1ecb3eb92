"""The ports of people: accounts, sessions, API keys, the keys that sign tokens, and limits of attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from watchly_core.api_keys import ApiKey
from watchly_core.people import Account, Role, User
from watchly_core.sessions import Session
from watchly_core.signing_keys import SigningKey
from watchly_core.tokens import Claims


class PeopleQueries(Protocol):
    """The read side of people. It sees what was committed before a call began, and never a transaction."""

    async def account(self, email: str) -> Account | None:
        """The account whose `User.email` is this text to the letter; any text may be asked for."""
        ...

    async def user(self, user_id: int) -> User:
        """The user with this id.

        Raises:
            UserNotFound: there is none; any integer may be asked for.
        """
        ...

    async def users(self, after: int, limit: int) -> Sequence[User]:
        """At most `limit` users with ids beyond `after`, in the order of these."""
        ...

    async def session_user(self, session_id: str) -> User | None:
        """Whose session it is; None if it has ended."""
        ...

    async def api_key(self, prefix: str) -> tuple[ApiKey, User | None] | None:
        """The API key with this prefix, also a revoked one, and its owner if it has one."""
        ...

    async def api_keys(self, user_id: int | None) -> Sequence[ApiKey]:
        """The keys of a user, or those of nobody, that are not revoked, in the order of their ids."""
        ...

    async def signing_keys(self) -> Sequence[SigningKey]:
        """All keys that sign tokens, oldest first; those that are as old by their ids."""
        ...


class UserRepository(Protocol):
    """Users inside a transaction."""

    async def add(self, email: str, role: Role, password_hash: str, at: datetime) -> User:
        """Add a user at version 1, with an id that no user had before.

        Raises:
            EmailTaken: somebody has the address; nothing else can be done in the transaction.
        """
        ...

    async def get(self, user_id: int) -> Account:
        """The account with this id, held against every other transaction until this one ends.

        Raises:
            UserNotFound: there is none.
        """
        ...

    async def replace(self, account: Account) -> None:
        """Store all of `account` in place of the one with its id, but for when it was made.

        Raises:
            UserNotFound: there is none.
            EmailTaken: somebody else has the address; nothing else can be done in the transaction.
        """
        ...

    async def remove(self, user_id: int) -> None:
        """Remove a user, with all sessions and API keys.

        Raises:
            UserNotFound: there is none.
        """
        ...

    async def admins(self) -> Sequence[int]:
        """The ids of all administrators in order, held as by `get`.

        No other transaction gets them until this one ends, be there any or not. Who is going to hold one
        account after this calls this first, so that nobody waits in a circle.
        """
        ...


class SessionRepository(Protocol):
    """Sessions inside a transaction."""

    async def add(self, session: Session) -> None:
        """Note a session of a user who is there."""
        ...

    async def get(self, handle: bytes) -> tuple[Session, User] | None:
        """The session with this handle, held against every other transaction until this one ends.

        Its user comes with it, and is not held.
        """
        ...

    async def replace(self, session: Session) -> None:
        """Store `session` in place of the one with its id; if that has ended, nothing is done."""
        ...

    async def remove(self, session_id: str) -> None:
        """End a session; ending it twice is no error."""
        ...

    async def trim(self, user_id: int, keep: int) -> None:
        """End all sessions of a user but so many of those that went on last."""
        ...

    async def remove_all(self, user_id: int) -> None:
        """End all sessions of a user."""
        ...

    async def expire(self, now: datetime, limit: int) -> int:
        """Drop at most `limit` sessions that ended by themselves at `now` or before; how many those were."""
        ...


class ApiKeyRepository(Protocol):
    """API keys inside a transaction. Those that were revoked are kept for a while."""

    async def add(self, key: ApiKey) -> ApiKey:
        """Note a key, whose id does not matter; it comes back with one that no key had before.

        Raises:
            Unavailable: another key has its prefix.
        """
        ...

    async def get(self, key_id: int) -> ApiKey:
        """The key with this id, also a revoked one, held against every other transaction.

        Raises:
            ApiKeyNotFound: there is none; any integer may be asked for.
        """
        ...

    async def replace(self, key: ApiKey) -> None:
        """Store `key` in place of the one with its id.

        Raises:
            ApiKeyNotFound: there is none.
        """
        ...

    async def count(self, user_id: int | None) -> int:
        """How many keys a user has, or nobody has, revoked ones as well.

        No other transaction adds a key until this one ends.
        """
        ...

    async def expire(self, before: datetime, limit: int) -> int:
        """Drop at most `limit` keys of users that were revoked, or ended by themselves, before that time.

        Those of nobody stay. How many those were is returned.
        """
        ...


class SigningKeyRepository(Protocol):
    """The keys that sign tokens, inside a transaction."""

    async def all(self) -> Sequence[SigningKey]:
        """All of them, oldest first; those that are as old by their ids.

        No other transaction gets them, or changes any, until this one ends.
        """
        ...

    async def add(self, key: SigningKey) -> None:
        """Note a new one."""
        ...

    async def replace(self, key: SigningKey) -> None:
        """Store `key` in place of the one with its id, which is there."""
        ...

    async def remove(self, kid: str) -> None:
        """Forget one; forgetting it twice is no error."""
        ...


class ThrottleLedger(Protocol):
    """How often something was tried, by buckets that begin anew after a while, inside a transaction.

    Whoever takes from several takes them in the order of their names, so that nobody waits in a circle.
    """

    async def take(self, bucket: str, limit: int, now: datetime, until: datetime) -> datetime | None:
        """Count one more in a bucket; None, or when it begins anew if `limit` were counted before.

        A bucket that is not there, or had to begin anew at `now` or before, begins with this one, and begins
        anew at `until`. Where the limit is reached nothing is counted.
        """
        ...

    async def give_back(self, bucket: str) -> None:
        """Count one less, as far as there is one."""
        ...

    async def find(self, bucket: str, now: datetime) -> bool:
        """Whether there is a bucket that need not begin anew yet."""
        ...

    async def expire(self, now: datetime, limit: int) -> int:
        """Drop at most `limit` buckets that had to begin anew at `now` or before; how many those were."""
        ...


class PasswordHasher(Protocol):
    """Hashes passwords so that guessing them from their hashes costs much."""

    async def hash(self, password: str) -> str:
        """What to keep of a password, another text each time.

        Raises:
            Overloaded: too many are being hashed.
        """
        ...

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether `kept` was made of this password. None is never, and takes as long to say.

        Raises:
            Overloaded: too many are being hashed.
        """
        ...

    def outdated(self, kept: str) -> bool:
        """Whether `hash` would take more trouble today than it took for `kept`."""
        ...


class TokenReader(Protocol):
    """Reads the tokens that requests bear, whoever has the keys that signed them."""

    async def read(self, token: str) -> Claims:
        """What a token says; any text may be asked about.

        Raises:
            NotSignedIn: it is none of ours, not signed by a key that counts, no longer or not yet good.
        """
        ...


class Tokens(Protocol):
    """Signs tokens, and reads those that it signed.

    Keys are sealed by a secret; one that was sealed by another secret is of no use here.
    """

    def new_key(self) -> tuple[str, bytes]:
        """A new key: its id, and the key as it is kept, sealed."""
        ...

    def opens(self, key: SigningKey) -> bool:
        """Whether `key` was sealed by the secret of these tokens."""
        ...

    def sign(self, key: SigningKey, claims: Claims) -> str:
        """A token that says `claims`."""
        ...

    def kid(self, token: str) -> str:
        """Which key a token says that it was signed by.

        Raises:
            NotSignedIn: it is no token of this kind, whoever signed it.
        """
        ...

    def read(self, key: SigningKey, token: str, now: datetime) -> Claims:
        """What a token says.

        Raises:
            NotSignedIn: it is not signed by `key`, not of this service, no longer or not yet good.
        """
        ...

    def public(self, keys: Sequence[SigningKey]) -> Sequence[Mapping[str, str]]:
        """The public halves of keys, as JSON Web Keys (RFC 7517)."""
        ...
