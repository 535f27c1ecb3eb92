"""Accounts: the use cases on users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import (
    Fault,
    Invalid,
    InvalidUser,
    LastAdmin,
    UserNotFound,
    VersionConflict,
)
from watchly_core.passwords import common_passwords, password_of, same_spelling
from watchly_core.people import SYSTEM, Account, Actor, Permission, Role, User, UserDraft, UserPatch, email_of

if TYPE_CHECKING:
    from watchly_core.ports import Clock, PasswordHasher, PeopleQueries, Transaction, Transactions
    from watchly_core.throttle import Throttle

__all__ = ["DEFAULT_LIMIT", "Accounts"]

#: Users of one page.
DEFAULT_LIMIT: Final = 50


class Accounts:
    """The use cases on users.

    A write takes the `version` that it was based on, or None for any; a user at another version raises
    `VersionConflict` and nothing changes. There is always an administrator once there was one.
    Whoever may not do something gets `NotSignedIn` or `NotAllowed`, and nothing is looked at. Where the store
    does not answer, or too many passwords wait to be hashed (`Overloaded`), that is `Unavailable`.

    Args:
        people: the read side of the store.
        transactions: its write side.
        hasher: hashes passwords.
        throttle: how often somebody may try.
        clock: the present time.
    """

    def __init__(
        self,
        people: PeopleQueries,
        transactions: Transactions,
        hasher: PasswordHasher,
        throttle: Throttle,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self._people = people
        self._transactions = transactions
        self._hasher = hasher
        self._throttle = throttle
        self._clock = clock
        common_passwords()  # now, and not while requests wait

    async def add(self, draft: UserDraft, *, address: str = "", actor: Actor = SYSTEM) -> User:
        """Make an account; a role beyond viewer takes an administrator. `address` is who asks.

        Raises:
            InvalidUser: the address or the password breaks rules.
            EmailTaken: somebody has that address.
            TooManyAttempts: somebody who has not signed in made too many.
        """
        actor.require(Permission.REGISTER)
        if draft.role is not Role.VIEWER:
            actor.require(Permission.MANAGE_PEOPLE)
        email, password = _checked(draft.email, draft.password)
        if not actor.may(Permission.MANAGE_PEOPLE):
            await self._throttle.sign_up(address)
        return await self._add(email, draft.role, await self._hasher.hash(password))

    @repeated
    async def _add(self, email: str, role: Role, hashed: str) -> User:
        async with self._transactions() as tx:
            return await tx.users.add(email, role, hashed, self._clock())

    async def me(self, *, actor: Actor) -> User:
        """The account of whom `actor` is.

        Raises:
            UserNotFound: there is none: it is the operator, or was removed.
        """
        actor.require(Permission.OWN_ACCOUNT)
        return await self._people.user(_own(actor))

    async def get(self, user_id: int, *, actor: Actor = SYSTEM) -> User:
        """The user with this id.

        Raises:
            UserNotFound: there is none.
        """
        actor.require(Permission.MANAGE_PEOPLE)
        return await self._people.user(user_id)

    async def find(
        self, *, after: int = 0, limit: int = DEFAULT_LIMIT, actor: Actor = SYSTEM
    ) -> Sequence[User]:
        """At most `limit` users, from 1 on, with ids beyond `after`, in ascending order of these."""
        actor.require(Permission.MANAGE_PEOPLE)
        return await self._people.users(after, limit)

    async def revise(
        self, user_id: int, patch: UserPatch, *, version: int | None = None, actor: Actor = SYSTEM
    ) -> User:
        """Change what `patch` holds; a new password ends all sessions of the user.

        Raises:
            UserNotFound: there is none.
            InvalidUser: the address or the password breaks rules.
            EmailTaken: somebody else has that address.
            LastAdmin: nobody would be an administrator any more.
            VersionConflict: the user is at another version.
        """
        actor.require(Permission.MANAGE_PEOPLE)
        known = await self._people.user(user_id)
        email, password = _checked(
            known.email if patch.email is UNSET else patch.email,
            None if patch.password is UNSET else patch.password,
        )
        hashed = await self._hasher.hash(password) if password else None
        if patch.email is not UNSET:
            patch = msgspec.structs.replace(patch, email=email)
        return await self._revise(user_id, patch, hashed, version)

    @repeated
    async def _revise(self, user_id: int, patch: UserPatch, hashed: str | None, version: int | None) -> User:
        async with self._transactions() as tx:
            admins = await tx.users.admins()
            account = await tx.users.get(user_id)
            user = account.user
            _require_version(user, version)
            role = user.role if patch.role is UNSET else patch.role
            if role is not Role.ADMIN:
                _require_another(admins, user_id)
            wanted = msgspec.structs.replace(
                user, email=user.email if patch.email is UNSET else patch.email, role=role
            )
            if wanted == user and hashed is None:
                return user
            return await self._replace(tx, Account(wanted, hashed or account.password_hash), hashed)

    @repeated
    async def remove(self, user_id: int, *, version: int | None = None, actor: Actor = SYSTEM) -> None:
        """Remove a user, with all sessions and API keys.

        Raises:
            UserNotFound: there is none.
            LastAdmin: nobody would be an administrator any more.
            VersionConflict: the user is at another version.
        """
        actor.require(Permission.MANAGE_PEOPLE)
        async with self._transactions() as tx:
            admins = await tx.users.admins()
            account = await tx.users.get(user_id)
            _require_version(account.user, version)
            _require_another(admins, user_id)
            await tx.users.remove(user_id)

    async def change_password(self, current: str, new: str, *, address: str, actor: Actor) -> None:
        """Give the actor's own account another password, which ends all its sessions.

        Raises:
            UserNotFound: the actor is the operator, or has no account any more.
            InvalidUser: the present password is another, or the new one breaks rules.
            TooManyAttempts: the present one was wrong too often.
        """
        actor.require(Permission.OWN_ACCOUNT)
        user = await self._people.user(_own(actor))
        password = password_of(new, "#/new", user.email)
        spelled = same_spelling(current)
        async with self._throttle.attempt(user.email, address):
            account = await self._people.account(user.email)
            same = await self._hasher.verify(account.password_hash if account else None, spelled)
            if account is None or not same:
                raise InvalidUser([Fault("wrong_value", "must be the present password", pointer="#/current")])
        await self._change_password(user.id, account.password_hash, await self._hasher.hash(password))

    @repeated
    async def _change_password(self, user_id: int, known: str, hashed: str) -> None:
        async with self._transactions() as tx:
            held = await tx.users.get(user_id)
            if held.password_hash != known:
                raise InvalidUser([Fault("wrong_value", "was changed meanwhile", pointer="#/current")])
            await self._replace(tx, Account(held.user, hashed), hashed)

    async def _replace(self, tx: Transaction, account: Account, hashed: str | None) -> User:
        """Store an account at its next version; with a new password its sessions end."""
        user = msgspec.structs.replace(account.user, version=account.user.version + 1)
        await tx.users.replace(Account(user, account.password_hash))
        if hashed is not None:
            await tx.sessions.remove_all(user.id)
        return user


def _checked(email: str, password: str | None) -> tuple[str, str]:
    """Both as they are kept; every fault of both is told."""
    faults: list[Fault] = []
    checked = ["", ""]
    try:
        checked[0] = email_of(email)
    except Invalid as invalid:
        faults += invalid.faults
    if password is not None:
        try:
            checked[1] = password_of(password, email=checked[0])
        except Invalid as invalid:
            faults += invalid.faults
    if faults:
        raise InvalidUser(faults)
    return checked[0], checked[1]


def _own(actor: Actor) -> int:
    if actor.user_id is None:
        raise UserNotFound(None)
    return actor.user_id


def _require_version(user: User, version: int | None) -> None:
    if version is not None and version != user.version:
        raise VersionConflict(user.id, version, user.version, "user")


def _require_another(admins: Sequence[int], user_id: int) -> None:
    """Refuse to take the last administrator away."""
    if list(admins) == [user_id]:
        raise LastAdmin
