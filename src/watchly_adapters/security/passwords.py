"""A hasher of passwords by Argon2id (RFC 9106), in threads of its own."""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections.abc import Callable
from typing import Final, TypeVar

from argon2 import PasswordHasher, Type, extract_parameters
from argon2.exceptions import Argon2Error, InvalidHashError, VerificationError, VerifyMismatchError
from argon2.low_level import ARGON2_VERSION

from watchly_core.errors import Overloaded, Unavailable
from watchly_core.threads import Threads

T = TypeVar("T")

#: What OWASP's Password Storage Cheat Sheet asks for at least: 19 MiB, gone through twice, on one core.
MEMORY_KIB: Final = 19_456
TIME_COST: Final = 2
PARALLELISM: Final = 1

#: How many are hashed at a time, each on a core and with its memory, and how many more may wait: as many as
#: have their turn in about a second.
LIMIT: Final = 2
WAITING: Final = 64

_SALT_BYTES: Final = 16
_HASH_BYTES: Final = 32


class Argon2Hasher:
    """Satisfies `ports.PasswordHasher` by Argon2id (RFC 9106), in its PHC string format.

    Args:
        memory_kib: KiB of memory for each hash.
        time_cost: how often it goes through them.
        parallelism: how many cores it can use.
        limit: how many passwords are hashed at a time.
        waiting: how many more may wait for their turn.
    """

    def __init__(
        self,
        *,
        memory_kib: int = MEMORY_KIB,
        time_cost: int = TIME_COST,
        parallelism: int = PARALLELISM,
        limit: int = LIMIT,
        waiting: int = WAITING,
    ) -> None:
        self._argon2 = PasswordHasher(
            time_cost, memory_kib, parallelism, hash_len=_HASH_BYTES, salt_len=_SALT_BYTES, type=Type.ID
        )
        self._costs = (memory_kib, time_cost)
        # A hash like any other, but of no password: its bytes are random.
        costs = f"m={memory_kib},t={time_cost},p={parallelism}"
        self._nobodys = f"$argon2id$v={ARGON2_VERSION}${costs}${_random(_SALT_BYTES)}${_random(_HASH_BYTES)}"
        self._threads = Threads(limit, "watchly-argon2")
        self._most = limit + waiting
        self._present = 0

    async def hash(self, password: str) -> str:
        """See the port."""
        return await self._run(lambda: self._argon2.hash(_encoded(password)))

    async def verify(self, kept: str | None, password: str) -> bool:
        """See the port; what is no hash was made of no password, and that takes as long to say as well."""
        return await self._run(lambda: self._verify(kept, _encoded(password)))

    def outdated(self, kept: str) -> bool:
        """See the port."""
        try:
            found = extract_parameters(kept)
        except InvalidHashError:
            return True
        if found.type is not Type.ID or found.version < ARGON2_VERSION:
            return True
        return found.memory_cost < self._costs[0] or found.time_cost < self._costs[1]

    async def _run(self, call: Callable[[], T]) -> T:
        """The result of a call in a thread, unless too many wait for one."""
        if self._present >= self._most:
            raise Overloaded("passwords", "too many wait to be hashed")
        self._present += 1
        try:
            return await self._threads.run(call)
        except Argon2Error as error:
            raise Unavailable("passwords", f"Argon2 says: {error}") from None
        finally:
            self._present -= 1

    def _verify(self, kept: str | None, password: bytes) -> bool:
        if kept is not None:
            try:
                return self._matches(kept, password)
            except (VerificationError, ValueError):
                pass  # it is broken
        self._matches(self._nobodys, password)
        return False

    def _matches(self, kept: str, password: bytes) -> bool:
        try:
            return self._argon2.verify(kept, password)
        except VerifyMismatchError:
            return False


def _encoded(password: str) -> bytes:
    # Who signs in may send anything; what is no text is another password than all that are.
    return password.encode(errors="surrogatepass")


def _random(size: int) -> str:
    return b64encode(secrets.token_bytes(size)).decode().rstrip("=")
