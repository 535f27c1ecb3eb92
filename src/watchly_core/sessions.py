"""Sessions: signing in, staying so, and signing out.

A session is a family of refresh tokens, each of which is good for one use and gives the next one (RFC 9700,
section 4.14.2). A token has two parts: the handle, which all of its family share, and a secret of its own;
of both only digests are kept. Who comes with the handle and another secret than the present one has an old
token, as a thief or their victim would, and ends the session. That is not so for a use that came before
anybody can have known of the next token: of several uses at once one is answered, and the others are refused.
So that this holds for all that were sent at once, the next token is handed out a moment after it was made,
and after the last use of the old one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from watchly_core.clocks import utc_now
from watchly_core.contention import repeated
from watchly_core.errors import InvalidUser, NotSignedIn, Unavailable, UserNotFound
from watchly_core.passwords import same_spelling
from watchly_core.people import Account, User, email_of
from watchly_core.tokens import ACCESS_FOR, Claims

if TYPE_CHECKING:
    from watchly_core.ports import Clock, PasswordHasher, PeopleQueries, Transaction, Transactions
    from watchly_core.signing_keys import SigningKeys
    from watchly_core.throttle import Throttle

__all__ = ["MAX_SESSIONS", "REFRESH_FOR", "Session", "Sessions", "SignedIn"]

#: How long a refresh token is good for.
REFRESH_FOR: Final = timedelta(days=30)

#: How long the next token is kept back after it was made, and after each other use that comes meanwhile; and
#: how long because of all of them, for a thief could send the old token again and again.
SETTLING: Final = timedelta(milliseconds=200)
MOST_SETTLING: Final = timedelta(seconds=2)
#: Sessions of one user; the longest unused one ends for another.
MAX_SESSIONS: Final = 100

_PREFIX: Final = "wrt_"
_HANDLE_BYTES: Final = 16
_SECRET_BYTES: Final = 32

#: What is said whether there is such an account or not.
_WRONG: Final = "the email or the password is wrong"
_REFUSED: Final = "the refresh token is not good, or not any more"


class Session(msgspec.Struct, frozen=True):
    """A session; `handle` and `secret` are the digests of the parts of its present refresh token.

    Nobody had that token before `rotated_at`.
    """

    id: str
    user_id: int
    handle: bytes
    secret: bytes
    created_at: datetime
    rotated_at: datetime
    expires_at: datetime


class SignedIn(msgspec.Struct, frozen=True):
    """What whoever has signed in gets; `expires_in` is how long the access token is good.

    The refresh token is good for one use, within `REFRESH_FOR`.
    """

    access_token: str
    refresh_token: str
    expires_in: timedelta

    def __repr__(self) -> str:
        """Without the tokens."""
        return "SignedIn(…)"


class Sessions:
    """The use cases of signing in.

    Args:
        people: the read side of the store.
        transactions: its write side.
        hasher: verifies passwords.
        keys: sign the access tokens.
        throttle: how often somebody may try.
        clock: the present time.
    """

    def __init__(  # noqa: PLR0913 - each is a part of its own
        self,
        people: PeopleQueries,
        transactions: Transactions,
        hasher: PasswordHasher,
        keys: SigningKeys,
        throttle: Throttle,
        *,
        clock: Clock = utc_now,
    ) -> None:
        self._people = people
        self._transactions = transactions
        self._hasher = hasher
        self._keys = keys
        self._throttle = throttle
        self._clock = clock

    async def sign_in(self, email: str, password: str, *, address: str) -> SignedIn:
        """Begin a session of whoever knows the password; `address` is where the attempt comes from.

        Raises:
            NotSignedIn: there is no such account, or the password is another.
            TooManyAttempts: there were too many.
            Overloaded: too many passwords are being hashed.
        """
        try:
            email = email_of(email)
        except InvalidUser:
            email = ""  # nobody has it, and the attempt is counted all the same
        spelled = same_spelling(password)
        async with self._throttle.attempt(email, address):
            account = await self._people.account(email)
            right = await self._hasher.verify(account.password_hash if account else None, spelled)
            if not right or not account:
                raise NotSignedIn(_WRONG)
        rehashed = None
        if self._hasher.outdated(account.password_hash):
            rehashed = await self._hasher.hash(spelled)
        return await self._begin(account, rehashed, await self._keys.signer())

    @repeated
    async def _begin(self, account: Account, rehashed: str | None, sign: Callable[[Claims], str]) -> SignedIn:
        async with self._transactions() as tx:
            user = await self._present_user(tx, account, rehashed)
            now = self._clock()
            token, handle, secret = _new_token()
            session = Session(secrets.token_hex(16), user.id, handle, secret, now, now, now + REFRESH_FOR)
            await tx.sessions.add(session)
            await tx.sessions.trim(user.id, MAX_SESSIONS)
            return self._signed_in(sign, session, user, token)

    async def refresh(self, token: str) -> SignedIn:
        """Go on with a session: the token is good no more, and another one takes its place.

        Raises:
            NotSignedIn: it is not good. If it is an old one, its session has ended by this.
        """
        came = self._clock()
        handle, secret = _digests(token)
        # Before: once the token is replaced, nothing may keep the next one from its owner.
        sign = await self._keys.signer()
        session, signed_in, refusal = await self._rotate(token, handle, secret, came, sign)
        if signed_in is None:
            raise NotSignedIn(refusal)
        with suppress(Unavailable):
            await self._settle(session)
        return signed_in

    @repeated
    async def _rotate(
        self, token: str, handle: bytes, secret: bytes, came: datetime, sign: Callable[[Claims], str]
    ) -> tuple[Session, SignedIn | None, str]:
        """The session as it is from now on, and what its owner gets, or why they get nothing."""
        signed_in, refusal = None, _REFUSED
        async with self._transactions() as tx:
            found = await tx.sessions.get(handle)
            if found is None:
                raise NotSignedIn(_REFUSED)
            session, user = found
            now = self._clock()
            if not hmac.compare_digest(session.secret, secret):
                if came <= session.rotated_at:
                    refusal = "the refresh token is in use by another request"
                    rotated_at = min(now + SETTLING, session.expires_at - REFRESH_FOR + MOST_SETTLING)
                    await tx.sessions.replace(msgspec.structs.replace(session, rotated_at=rotated_at))
                else:
                    await tx.sessions.remove(session.id)
            elif now >= session.expires_at:
                await tx.sessions.remove(session.id)
            else:
                token, _, secret = _new_token(token)
                session = msgspec.structs.replace(
                    session, secret=secret, rotated_at=now + SETTLING, expires_at=now + REFRESH_FOR
                )
                await tx.sessions.replace(session)
                signed_in = self._signed_in(sign, session, user, token)
        return session, signed_in, refusal

    async def _settle(self, session: Session) -> None:
        """Wait until nobody comes any more who cannot know of the present token."""
        while True:
            await asyncio.sleep(SETTLING.total_seconds())
            found = await self._find(session.handle)
            if found is None or found[0].rotated_at == session.rotated_at:
                return
            session = found[0]

    @repeated
    async def _find(self, handle: bytes) -> tuple[Session, User] | None:
        async with self._transactions() as tx:
            return await tx.sessions.get(handle)

    @repeated
    async def sign_out(self, token: str) -> None:
        """End the session of a refresh token, be it an old one; where there is none, it has ended."""
        try:
            handle, _ = _digests(token)
        except NotSignedIn:
            return
        async with self._transactions() as tx:
            if found := await tx.sessions.get(handle):
                await tx.sessions.remove(found[0].id)

    async def _present_user(self, tx: Transaction, account: Account, rehashed: str | None) -> User:
        """The user as it is now, if the password is still the one that was verified."""
        try:
            current = await tx.users.get(account.user.id)
        except UserNotFound:
            raise NotSignedIn(_WRONG) from None
        if current.password_hash == account.password_hash:
            if rehashed is not None:
                await tx.users.replace(Account(current.user, rehashed))
        elif current.user.version != account.user.version:  # else another sign-in has hashed it anew
            raise NotSignedIn(_WRONG)
        return current.user

    def _signed_in(self, sign: Callable[[Claims], str], session: Session, user: User, token: str) -> SignedIn:
        now = self._clock()
        claims = Claims(str(user.id), user.role, now, now + ACCESS_FOR, session.id, user.version)
        return SignedIn(sign(claims), token, ACCESS_FOR)


def _new_token(previous: str | None = None) -> tuple[str, bytes, bytes]:
    """A new refresh token, of the family of the previous one if there is one, and its digests."""
    handle = secrets.token_bytes(_HANDLE_BYTES) if previous is None else _parts(previous)[0]
    secret = secrets.token_bytes(_SECRET_BYTES)
    return _PREFIX + urlsafe_b64encode(handle + secret).decode(), _digest(handle), _digest(secret)


def _digests(token: str) -> tuple[bytes, bytes]:
    handle, secret = _parts(token)
    return _digest(handle), _digest(secret)


def _parts(token: str) -> tuple[bytes, bytes]:
    try:
        both = urlsafe_b64decode(token.removeprefix(_PREFIX))
    except ValueError:
        both = b""
    if len(both) != _HANDLE_BYTES + _SECRET_BYTES or not token.startswith(_PREFIX):
        raise NotSignedIn(_REFUSED)
    return both[:_HANDLE_BYTES], both[_HANDLE_BYTES:]


def _digest(part: bytes) -> bytes:
    # Both are random and long: nobody can try them all, and no slow hash is needed.
    return hashlib.sha256(part).digest()
