"""Access tokens (RFC 9068) signed by ES256, and the keys that sign them, sealed by a secret."""

from __future__ import annotations

import json
import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt import PyJWS
from jwt.exceptions import PyJWTError
from msgspec import UNSET, Meta, UnsetType

from watchly_core.errors import Misconfigured, NotSignedIn
from watchly_core.people import Role
from watchly_core.signing_keys import SigningKey
from watchly_core.tokens import MOST_ACCESS, Claims

T = TypeVar("T")

#: Who issues tokens, and for whom: this service, and those that trust it.
ISSUER: Final = "watchly"
AUDIENCE: Final = "watchly"

#: Characters of a token, at most.
MOST_TOKEN: Final = 2_000

#: By how much the clocks of two machines may differ.
SKEW: Final = timedelta(minutes=1)

ALGORITHM: Final = "ES256"
#: Keys of which the private half is kept in memory.
_MOST_OPEN: Final = 64
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")

#: What is said of tokens; none of it quotes them.
_NONE_OF_OURS: Final = "the token is none of this service"
_MALFORMED: Final = "the token is malformed"

# The last second that a datetime can be.
_Time: TypeAlias = Annotated[int, Meta(ge=0, le=253_402_300_799)]


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    """All that a header may say: what is not here could only name another key, or other rules."""

    alg: Literal["ES256"]
    kid: str
    typ: Literal["at+jwt"]


class _Payload(msgspec.Struct, omit_defaults=True):
    """What a token says, with the names and types of RFC 7519; names that are not here mean nothing."""

    iss: Literal["watchly"]
    aud: Literal["watchly"]
    sub: Annotated[str, Meta(pattern=r"\A(?:system|[1-9][0-9]{0,18})\Z")]
    role: Role
    jti: Annotated[str, Meta(min_length=1)]
    iat: _Time
    exp: _Time
    nbf: _Time | UnsetType = UNSET
    sid: Annotated[str, Meta(pattern=r"\A[!-~]{1,64}\Z")] | UnsetType = UNSET
    ver: Annotated[int, Meta(ge=1, le=2**63 - 1)] | UnsetType = UNSET


_HEADERS: Final = msgspec.json.Decoder(_Header)
_PAYLOADS: Final = msgspec.json.Decoder(_Payload)
_JWS: Final = PyJWS([ALGORITHM])


class SealedTokens:
    """Satisfies `ports.Tokens`: tokens are signed by ES256 (RFC 7518), keys sealed by AES-256-GCM.

    Args:
        secret: seals the keys; all that use the same database have the same one.
    """

    def __init__(self, secret: str) -> None:
        derived = HKDF(SHA256(), 32, salt=None, info=b"watchly signing keys").derive(secret.encode())
        self._seal = AESGCM(derived)
        self._opened = lru_cache(_MOST_OPEN)(self._open)

    def new_key(self) -> tuple[str, bytes]:
        """See the port."""
        kid, nonce = secrets.token_hex(8), secrets.token_bytes(_NONCE_BYTES)
        number = generate_private_key(SECP256R1()).private_numbers().private_value
        return kid, nonce + self._seal.encrypt(nonce, number.to_bytes(_KEY_BYTES), kid.encode())

    def opens(self, key: SigningKey) -> bool:
        """See the port."""
        return self._opened(key.kid, key.sealed) is not None

    def sign(self, key: SigningKey, claims: Claims) -> str:
        """See the port. Times are cut to whole seconds.

        Raises:
            Misconfigured: `key` was sealed by another secret.
        """
        payload = _Payload(
            iss=ISSUER,
            aud=AUDIENCE,
            sub=claims.subject,
            role=claims.role,
            jti=secrets.token_urlsafe(12),
            iat=int(claims.issued_at.timestamp()),
            exp=int(claims.expires_at.timestamp()),
            sid=UNSET if claims.session is None else claims.session,
            ver=UNSET if claims.version is None else claims.version,
        )
        header = {"kid": key.kid, "typ": "at+jwt"}
        return _JWS.encode(msgspec.json.encode(payload), self._private(key), ALGORITHM, header)

    def kid(self, token: str) -> str:
        """See the port."""
        return kid_of(token)

    def read(self, key: SigningKey, token: str, now: datetime) -> Claims:
        """See the port."""
        private = self._opened(key.kid, key.sealed)
        if kid_of(token) != key.kid or private is None:
            raise NotSignedIn("the token is signed by another key")
        return claims_of(token, private.public_key(), now)

    def public(self, keys: Sequence[SigningKey]) -> Sequence[Mapping[str, str]]:
        """See the port.

        Raises:
            Misconfigured: one was sealed by another secret.
        """
        return [_published(key.kid, self._private(key)) for key in keys]

    def _private(self, key: SigningKey) -> EllipticCurvePrivateKey:
        private = self._opened(key.kid, key.sealed)
        if private is None:
            raise Misconfigured("SECRET_KEY is not the one that sealed this key for signing tokens")
        return private

    def _open(self, kid: str, sealed: bytes) -> EllipticCurvePrivateKey | None:
        """The key, if it was sealed by this secret, and under this name."""
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            number = self._seal.decrypt(nonce, rest, kid.encode())
            return derive_private_key(int.from_bytes(number), SECP256R1())
        except (InvalidTag, ValueError):  # too short to be one
            return None


def kid_of(token: str) -> str:
    """Which key a token says that it was signed by.

    Raises:
        NotSignedIn: it is no token of this kind, whoever signed it.
    """
    if len(token) > MOST_TOKEN or _TOKEN.fullmatch(token) is None:
        raise NotSignedIn(_NONE_OF_OURS)
    header, payload, signature = map(_decoded, token.split("."))
    del payload, signature  # only how they are spelled matters
    return _strictly(_HEADERS, header).kid


def claims_of(token: str, key: EllipticCurvePublicKey, now: datetime) -> Claims:
    """What a token says whose header `kid_of` has read.

    Raises:
        NotSignedIn: it is not signed by `key`, not of this service, no longer or not yet good.
    """
    try:
        payload = _JWS.decode_complete(token, key, [ALGORITHM])["payload"]
    except PyJWTError:
        raise NotSignedIn("the signature of the token is wrong") from None
    return _claims(_strictly(_PAYLOADS, payload), now)


def _claims(payload: _Payload, now: datetime) -> Claims:
    """What a payload says, if it is good at this time."""
    issued, expires = (datetime.fromtimestamp(seconds, UTC) for seconds in (payload.iat, payload.exp))
    if not timedelta() < expires - issued <= MOST_ACCESS:
        raise NotSignedIn("the token is good for longer than any may be, or never was")
    if expires <= now:
        raise NotSignedIn("the token is not good any more")
    begins = max(payload.iat, payload.nbf or 0)
    if begins > (now + SKEW).timestamp():
        raise NotSignedIn("the token is not good yet")
    return Claims(payload.sub, payload.role, issued, expires, _or_none(payload.sid), _or_none(payload.ver))


def _or_none(value: T | UnsetType) -> T | None:
    return None if value is UNSET else value


def _decoded(part: str) -> bytes:
    """The bytes of a part, if it is the one way to spell them."""
    try:
        content = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        content = b""
    if _encoded(content) != part:
        raise NotSignedIn(_MALFORMED)
    return content


def _encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def _strictly(decoder: msgspec.json.Decoder[T], content: bytes) -> T:
    """What JSON says, if it names nothing twice."""
    try:
        decoded = decoder.decode(content)
        # msgspec takes the last of several members with one name; others may take the first.
        json.loads(content, object_pairs_hook=_named_once)
    except (ValueError, RecursionError):
        raise NotSignedIn(_NONE_OF_OURS) from None
    return decoded


def _named_once(pairs: list[tuple[str, object]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError


def _published(kid: str, private: EllipticCurvePrivateKey) -> Mapping[str, str]:
    numbers = private.public_key().public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": _encoded(numbers.x.to_bytes(_KEY_BYTES)),
        "y": _encoded(numbers.y.to_bytes(_KEY_BYTES)),
        "use": "sig",
        "alg": ALGORITHM,
        "kid": kid,
    }
