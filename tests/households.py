"""The use cases on people over the store of a house, by its clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from typing import Final, TypeVar

from tests.blocked import through
from tests.houses import House
from watchly_adapters.security import Argon2Hasher, SealedTokens
from watchly_core.access import Access
from watchly_core.accounts import Accounts
from watchly_core.api_keys import ApiKey, ApiKeys
from watchly_core.people import Account, Permission, Role, User, UserDraft
from watchly_core.ports import PasswordHasher, PeopleQueries, Transactions
from watchly_core.sessions import Sessions, SignedIn
from watchly_core.signing_keys import SigningKey, SigningKeys
from watchly_core.throttle import Throttle

T = TypeVar("T")

PASSWORD: Final = "correct horse battery"  # noqa: S105 - of nobody
#: Where requests come from, unless they come from elsewhere.
HERE: Final = "192.0.2.1"
ELSEWHERE: Final = "198.51.100.7"

#: Hash next to nothing, so that tests hash often; the second takes more trouble than the first.
CHEAP: Final = Argon2Hasher(memory_kib=8, time_cost=1)
DEARER: Final = Argon2Hasher(memory_kib=16, time_cost=1)


class Household:
    """What one process has of the people of a house; another household of it is another process.

    Args:
        house: whose store and clock they are.
        secret: seals the keys that sign tokens.
        hasher: hashes passwords.
        everybody: what everybody may do.
        people: the read side of the store, unless it is that of the house.
        transactions: its write side, likewise.
        tokens_alone: whether a token is enough to tell who somebody is.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        house: House,
        *,
        secret: str = "the secret of this house",  # noqa: S107 - of nobody
        hasher: PasswordHasher = CHEAP,
        everybody: frozenset[Permission] = frozenset(),
        people: PeopleQueries | None = None,
        transactions: Transactions | None = None,
        tokens_alone: bool = False,
    ) -> None:
        self.house, self.people = house, people or house.store.people
        transactions = transactions or house.store.transactions
        reads, clock = self.people, house.clock
        self.tokens = SealedTokens(secret)
        self.throttle = Throttle(transactions, clock=clock)
        store = house.store
        self.accounts = through(store, Accounts(reads, transactions, hasher, self.throttle, clock=clock))
        self.keys = SigningKeys(reads, transactions, self.tokens, clock=clock, ticks=house.ticks)
        sessions = Sessions(reads, transactions, hasher, self.keys, self.throttle, clock=clock)
        self.sessions = through(store, sessions)
        api_keys = ApiKeys(reads, transactions, clock=clock)
        self.api_keys = through(store, api_keys)
        access = Access(
            None if tokens_alone else reads,
            self.keys,
            api_keys,
            everybody=everybody,
            clock=clock,
            ticks=house.ticks,
        )
        self.access = through(store, access)

    async def add(self, name: str = "ada", role: Role = Role.VIEWER) -> User:
        """Make the account of somebody whose password is `PASSWORD`."""
        return await self.accounts.add(UserDraft(email=email(name), password=PASSWORD, role=role))

    async def sign_in(self, name: str = "ada", password: str = PASSWORD, *, address: str = HERE) -> SignedIn:
        return await self.sessions.sign_in(email(name), password, address=address)


class Counting:
    """The read side of people, which counts what it is asked for and lets others go first."""

    def __init__(self, real: PeopleQueries) -> None:
        self._real = real
        self.asked: Counter[str] = Counter()

    async def _noted(self, what: str, call: Awaitable[T]) -> T:
        self.asked[what] += 1
        found = await call
        await asyncio.sleep(0)
        return found

    async def account(self, email: str) -> Account | None:
        return await self._noted("account", self._real.account(email))

    async def user(self, user_id: int) -> User:
        return await self._noted("user", self._real.user(user_id))

    async def users(self, after: int, limit: int) -> Sequence[User]:
        return await self._noted("users", self._real.users(after, limit))

    async def session_user(self, session_id: str) -> User | None:
        return await self._noted("session_user", self._real.session_user(session_id))

    async def api_key(self, prefix: str) -> tuple[ApiKey, User | None] | None:
        return await self._noted("api_key", self._real.api_key(prefix))

    async def api_keys(self, user_id: int | None) -> Sequence[ApiKey]:
        return await self._noted("api_keys", self._real.api_keys(user_id))

    async def signing_keys(self) -> Sequence[SigningKey]:
        return await self._noted("signing_keys", self._real.signing_keys())


def email(name: str) -> str:
    return f"{name}@films.example"


def split(results: Iterable[T | BaseException]) -> tuple[list[T], list[BaseException]]:
    """What was answered, and what was refused, by calls that were made at once."""
    done: list[T] = []
    refused: list[BaseException] = []
    for result in results:
        if isinstance(result, BaseException):
            refused.append(result)
        else:
            done.append(result)
    return done, refused
