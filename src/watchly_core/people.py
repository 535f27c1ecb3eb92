"""People: who may do what, and what an account is.

Whoever acts is an `Actor` with a role, and a role grants permissions: one table says which. What a password
may be is in `passwords`; how they are hashed is an adapter's affair.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from watchly_core.errors import Fault, InvalidUser, NotAllowed, NotSignedIn
from watchly_core.movies import Moment

__all__ = [
    "MAX_EMAIL",
    "PERMISSIONS",
    "SYSTEM",
    "Account",
    "Actor",
    "Permission",
    "Role",
    "User",
    "UserDraft",
    "UserPatch",
    "stranger",
]

#: The length of an address at most (RFC 5321, section 4.5.3.1.3, without the angle brackets).
MAX_EMAIL: Final = 254
# Characters that one of them is spelled with at most, and then some. Of more nobody asks what Unicode makes:
# with marks in a bad order that takes time by the square of their number.
_MOST_SPELLED: Final = 4 * MAX_EMAIL

# What has an at sign between something and a domain. Whether somebody reads it, only a letter can tell.
_EMAIL: Final = re.compile(r"[^\s@\"(),:;<>\[\\\]]{1,64}@[^\s@\"(),:;<>\[\\\]]+")

# What schemas say of the fields; `email_of` and `passwords.password_of` are what checks them.
_Email: TypeAlias = Annotated[str, Meta(max_length=MAX_EMAIL, examples=["ada@films.example"])]
_Password: TypeAlias = Annotated[
    str, Meta(min_length=8, max_length=1_024, examples=["correct horse battery"])
]


class Role(enum.StrEnum):
    """What somebody is in this catalogue; each role may do what the ones before it may."""

    VIEWER = "viewer"
    EDITOR = "editor"
    ADMIN = "admin"


class Permission(enum.StrEnum):
    """What can be allowed."""

    #: To read movies, images and changes.
    READ = "read"
    #: To write movies and images.
    WRITE = "write"
    #: To see one's own account, and to have API keys.
    OWN_ACCOUNT = "own_account"
    #: To make an account.
    REGISTER = "register"
    #: To see and change the accounts of others, and their roles.
    MANAGE_PEOPLE = "manage_people"
    #: To drop what is due or old, before it would go by itself.
    SWEEP = "sweep"


_VIEWER: Final = frozenset({Permission.READ, Permission.OWN_ACCOUNT})

#: What each role grants.
PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.VIEWER: _VIEWER,
    Role.EDITOR: _VIEWER | {Permission.WRITE},
    Role.ADMIN: frozenset(Permission),
}

_NOTHING: Final[frozenset[Permission]] = frozenset()


class Actor(msgspec.Struct, frozen=True):
    """Whoever does something, as events name them: ``user:7``, ``api-key:3``, ``system``, ``anonymous``.

    `role` is None for whoever has not signed in. `user_id` is the account that acts, or to which the key
    belongs that does. `also` is what everybody may do where this one acts, whatever the role.
    """

    name: str
    role: Role | None = None
    user_id: int | None = None
    also: frozenset[Permission] = _NOTHING

    def may(self, permission: Permission) -> bool:
        """Whether this actor has a permission."""
        return permission in self.also or (self.role is not None and permission in PERMISSIONS[self.role])

    def require(self, permission: Permission) -> None:
        """Refuse what this actor may not do.

        Raises:
            NotSignedIn: nobody knows who it is.
            NotAllowed: it is known, and may not.
        """
        if self.may(permission):
            return
        if self.role is None:
            raise NotSignedIn
        raise NotAllowed(permission.value)


#: The service itself, and a program that embeds the catalogue and names nobody.
SYSTEM: Final = Actor("system", Role.ADMIN)


def stranger(may: frozenset[Permission] = _NOTHING) -> Actor:
    """Somebody who has not signed in, where everybody may do this much."""
    return Actor("anonymous", also=may)


class User(msgspec.Struct, frozen=True):
    """An account. `version` is 1 when it is made and one more after each change, of its password as well."""

    id: int
    email: str
    role: Role
    created_at: Moment
    version: int

    @property
    def actor(self) -> Actor:
        """The user as an actor."""
        return Actor(f"user:{self.id}", self.role, self.id)


class Account(msgspec.Struct, frozen=True):
    """A user, and the hash of the password."""

    user: User
    password_hash: str

    def __repr__(self) -> str:
        """Without the hash."""
        return f"Account({self.user!r})"


class UserDraft(msgspec.Struct, frozen=True, kw_only=True):
    """An account to make.

    `email` has at most 254 characters, `password` from 8 to 1,024 code points.
    """

    email: _Email
    password: _Password
    role: Role = Role.VIEWER

    def __repr__(self) -> str:
        """Without the password."""
        return f"UserDraft({self.email!r}, {self.role!r})"


class UserPatch(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of an account to change; one left out (UNSET) stays. The rules are those of a new one."""

    email: _Email | UnsetType = UNSET
    password: _Password | UnsetType = UNSET
    role: Role | UnsetType = UNSET

    def __repr__(self) -> str:
        """Without the password."""
        return f"UserPatch({self.email!r}, {self.role!r})"


def role_of(text: str) -> Role:
    """The role with this name.

    Raises:
        ValueError: there is none.
    """
    try:
        return Role(text)
    except ValueError:
        raise ValueError(f"must be one of {', '.join(Role)}") from None


def email_of(text: str) -> str:
    """The address as it is kept: what differs in case only, or in how Unicode spells it, is the same.

    Raises:
        InvalidUser: it is none.
    """
    email = unicodedata.normalize("NFKC", text[:_MOST_SPELLED]).strip().casefold()
    if len(text) > _MOST_SPELLED or len(email) > MAX_EMAIL:
        raise InvalidUser([Fault("too_long", f"must have at most {MAX_EMAIL} characters", pointer="#/email")])
    if _EMAIL.fullmatch(email) is None or not email.isprintable():
        raise InvalidUser(
            [Fault("invalid_value", "must be an address like ada@films.example", pointer="#/email")]
        )
    return email
