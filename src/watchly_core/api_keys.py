"""API keys: how services act without signing in."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import ApiKeyNotFound, Fault, InvalidApiKey, NotAllowed, NotSignedIn
from watchly_core.movies import Moment
from watchly_core.people import SYSTEM, Actor, Permission, Role, User

if TYPE_CHECKING:
    from watchly_core.ports import Clock, PeopleQueries, Transactions

__all__ = ["KEPT_FOR", "MAX_KEYS", "MAX_NAME", "ApiKey", "ApiKeyDraft", "ApiKeys", "IssuedKey"]

#: Code points of a name at most.
MAX_NAME: Final = 100
#: Keys of one owner, those that were revoked a short while ago as well.
MAX_KEYS: Final = 200
#: How long a user's key is kept that is not good any more.
KEPT_FOR: Final = timedelta(days=30)

_TEXT: Final = re.compile(r"watchly_([0-9a-f]{12})_([A-Za-z0-9_-]{43})", re.ASCII)
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_NAME, examples=["nightly import"])]


class ApiKey(msgspec.Struct, frozen=True):
    """An API key, without what it is used by: of that only `digest` is kept.

    `prefix` is the part of it that is shown. A key of nobody (`user_id` None) is the operator's.
    """

    id: int
    name: str
    role: Role
    prefix: str
    digest: bytes
    user_id: int | None
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    def good(self, now: datetime) -> bool:
        """Whether it can be used at this time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def actor(self, owner: User | None) -> Actor:
        """Who acts by it: with its role, or that of its owner if that may do less by now."""
        role = self.role if owner is None else lesser(self.role, owner.role)
        return Actor(f"api-key:{self.id}", role, self.user_id)


class ApiKeyDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A key to make; without `expires_at`, an aware time, it is good until it is revoked.

    `name` has 1 to 100 code points.
    """

    name: _Name
    role: Role
    expires_at: Moment | None = None


class IssuedKey(msgspec.Struct, frozen=True):
    """A new key, and the text that is borne as a token (RFC 6750), which nobody can show again."""

    key: ApiKey
    secret: str

    def __repr__(self) -> str:
        """Without the secret."""
        return f"IssuedKey({self.key.name!r})"


def lesser(one: Role, other: Role) -> Role:
    """The role of two that may do less."""
    order = list(Role)
    return min(one, other, key=order.index)


def is_api_key(text: str) -> bool:
    """Whether a text looks like an API key."""
    return text.startswith("watchly_")


class ApiKeys:
    """The use cases on API keys.

    Whoever may not do something gets `NotSignedIn` or `NotAllowed`, and nothing is looked at. Where the store
    does not answer, that is `Unavailable`.

    Args:
        people: the read side of the store.
        transactions: its write side.
        clock: the present time.
    """

    def __init__(self, people: PeopleQueries, transactions: Transactions, *, clock: Clock = utc_now) -> None:
        self._people = people
        self._transactions = transactions
        self._clock = clock

    @repeated
    async def add(self, draft: ApiKeyDraft, *, actor: Actor = SYSTEM) -> IssuedKey:
        """Make a key of whom `actor` is, which may do no more; those of nobody take an administrator.

        Raises:
            InvalidApiKey: it breaks rules, or there are too many.
            NotAllowed: the role may do more than the actor, or a user's key would make it: it could outlive
                the one that makes it, behind the back of its owner.
            UserNotFound: the actor's account was removed.
        """
        _require_owner(actor)
        if _is_key_of_user(actor):
            raise NotAllowed("signing in", "an API key of a user makes no others: sign in for that")
        most = Role.ADMIN if actor.may(Permission.MANAGE_PEOPLE) else actor.role
        if most is None or lesser(draft.role, most) is not draft.role:
            raise NotAllowed(draft.role.value, "an API key may do no more than whoever makes it")
        now = self._clock()
        name = _checked(draft, now)
        async with self._transactions() as tx:
            if actor.user_id is not None:
                await tx.users.get(actor.user_id)
            if await tx.api_keys.count(actor.user_id) >= MAX_KEYS:
                detail = f"there may be at most {MAX_KEYS}, of the last {KEPT_FOR.days} days"
                raise InvalidApiKey([Fault("too_many", detail, pointer="#")])
            key, secret = _new_key(name, draft.role, actor.user_id, now, draft.expires_at)
            return IssuedKey(await tx.api_keys.add(key), secret)

    @repeated
    async def add_first(self) -> IssuedKey | None:
        """The operator's first key, which may do everything; None if there ever was a key or user."""
        if await self._people.users(0, 1):
            return None
        now = self._clock()
        async with self._transactions() as tx:
            if await tx.api_keys.count(None):
                return None
            key, secret = _new_key("first start", Role.ADMIN, None, now, None)
            return IssuedKey(await tx.api_keys.add(key), secret)

    async def find(self, *, actor: Actor) -> Sequence[ApiKey]:
        """The keys of whom `actor` is; administrators see those of nobody as well."""
        _require_owner(actor)
        own = await self._people.api_keys(actor.user_id)
        if actor.user_id is None or not actor.may(Permission.MANAGE_PEOPLE):
            return own
        return sorted([*own, *await self._people.api_keys(None)], key=lambda key: key.id)

    @repeated
    async def revoke(self, key_id: int, *, actor: Actor = SYSTEM) -> None:
        """Make a key good for nothing, one's own or, for administrators, anybody's; a user's key only itself.

        Raises:
            ApiKeyNotFound: there is none that the actor may revoke, or not any more.
        """
        actor.require(Permission.OWN_ACCOUNT)
        async with self._transactions() as tx:
            key = await tx.api_keys.get(key_id)
            if _is_key_of_user(actor):
                own = actor.name == key.actor(None).name
            else:
                own = key.user_id == actor.user_id and actor.user_id is not None
            if key.revoked_at is not None or not (own or actor.may(Permission.MANAGE_PEOPLE)):
                raise ApiKeyNotFound(key_id)
            await tx.api_keys.replace(msgspec.structs.replace(key, revoked_at=self._clock()))

    async def use(self, text: str) -> tuple[ApiKey, User | None]:
        """The key that a text is, and its owner.

        Raises:
            NotSignedIn: it is none, or not any more.
        """
        parts = _TEXT.fullmatch(text)
        found = await self._people.api_key(parts[1]) if parts else None
        # Compared also where there is none, so that both take as long.
        digest = found[0].digest if found else b""
        same = hmac.compare_digest(digest, _digest(text))
        if found is None or not same or not found[0].good(self._clock()):
            raise NotSignedIn("the API key is not good, or not any more")
        return found

    @repeated
    async def note_use(self, key: ApiKey) -> None:
        """Note that a key was used now.

        Raises:
            ApiKeyNotFound: it was removed, with its owner or because it is good for nothing any more.
        """
        async with self._transactions() as tx:
            current = await tx.api_keys.get(key.id)
            await tx.api_keys.replace(msgspec.structs.replace(current, last_used_at=self._clock()))


def _require_owner(actor: Actor) -> None:
    """Refuse whoever has no keys: without an account only administrators have some, those of nobody."""
    actor.require(Permission.OWN_ACCOUNT)
    if actor.user_id is None:
        actor.require(Permission.MANAGE_PEOPLE)


def _is_key_of_user(actor: Actor) -> bool:
    """Whether it is not the user who acts, but a key, which may have leaked or be somebody else's by now."""
    return actor.user_id is not None and actor.name != f"user:{actor.user_id}"


def name_of(text: str) -> str:
    """The name of a key as it is kept.

    Raises:
        InvalidApiKey: it is none.
    """
    name = text.strip()
    if not 1 <= len(name) <= MAX_NAME or _FORBIDDEN.search(name):
        detail = f"must have 1 to {MAX_NAME} characters, none of them a control character"
        raise InvalidApiKey([Fault("invalid_value", detail, pointer="#/name")])
    return name


def expiry_of(moment: datetime, now: datetime) -> datetime:
    """The end of a key that is made now.

    Raises:
        InvalidApiKey: it would have ended already.
    """
    if moment <= now:
        raise InvalidApiKey([Fault("too_early", "must be in the future", pointer="#/expires_at")])
    return moment


def _checked(draft: ApiKeyDraft, now: datetime) -> str:
    """The name of a draft, whose rules are checked; every fault is told."""
    faults: list[Fault] = []
    name = ""
    try:
        name = name_of(draft.name)
    except InvalidApiKey as invalid:
        faults += invalid.faults
    try:
        if draft.expires_at is not None:
            expiry_of(draft.expires_at, now)
    except InvalidApiKey as invalid:
        faults += invalid.faults
    if faults:
        raise InvalidApiKey(faults)
    return name


def _new_key(
    name: str, role: Role, user_id: int | None, now: datetime, expires_at: datetime | None
) -> tuple[ApiKey, str]:
    prefix = secrets.token_hex(6)
    secret = f"watchly_{prefix}_{secrets.token_urlsafe(32)}"
    return ApiKey(0, name, role, prefix, _digest(secret), user_id, now, expires_at), secret


def _digest(text: str) -> bytes:
    # It is random and long: nobody can try them all, and no slow hash is needed.
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()
