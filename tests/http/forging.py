"""Headers that a service must not believe: what is known of breaking tokens, and what merely goes wrong."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.http.cast import PASSWORD, Cast, Member

from watchly_adapters.container import Container
from watchly_adapters.security import SealedTokens
from watchly_core.errors import NotSignedIn
from watchly_core.people import Role, UserPatch

#: Takes a member out of a header or a payload.
_OUT: Final = object()
_NUL: Final = "\x00"


def encoded(content: bytes) -> str:
    """The content as a part of a token."""
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def decoded(part: str) -> dict[str, object]:
    """What a part of a token says."""
    content = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return msgspec.json.decode(content, type=dict[str, object])


class Forger:
    """Makes tokens that differ from a good one in one thing each, and are signed by the key of the service.

    So it is that one thing for which they are refused.
    """

    def __init__(self, token: str, private: EllipticCurvePrivateKey) -> None:
        self.token = token
        self._private = private
        self._header, self._payload = map(decoded, token.split(".")[:2])
        self.now = int(datetime.now(UTC).timestamp())

    def header(self, **members: object) -> str:
        """A token with other members in its header."""
        return self.signed(_changed(self._header, members), _json(self._payload))

    def payload(self, **members: object) -> str:
        """A token that says something else."""
        return self.signed(_json(self._header), _changed(self._payload, members))

    def raw(self, header: bytes | None = None, payload: bytes | None = None) -> str:
        """A token with these bytes for its header or its payload."""
        return self.signed(header or _json(self._header), payload or _json(self._payload))

    def signed(self, header: bytes, payload: bytes, private: EllipticCurvePrivateKey | None = None) -> str:
        """A token signed as ES256 is."""
        text = f"{encoded(header)}.{encoded(payload)}"
        r, s = decode_dss_signature((private or self._private).sign(text.encode(), ECDSA(SHA256())))
        return f"{text}.{encoded(r.to_bytes(32) + s.to_bytes(32))}"

    def by_stranger(self, **members: object) -> str:
        """A token that somebody else has signed, whose header says this too."""
        return self.signed(
            _changed(self._header, members), _json(self._payload), generate_private_key(SECP256R1())
        )

    def by_public_key(self, secret: bytes) -> str:
        """A token signed by HMAC, with what everybody knows as its secret (CVE-2015-9235)."""
        text = f"{encoded(_changed(self._header, {'alg': 'HS256'}))}.{encoded(_json(self._payload))}"
        return f"{text}.{encoded(hmac.digest(secret, text.encode(), 'sha256'))}"

    def public_keys(self) -> dict[str, bytes]:
        """The public key in the forms in which it might be taken for a secret."""
        public = self._private.public_key()
        info = PublicFormat.SubjectPublicKeyInfo
        return {
            "PEM": public.public_bytes(Encoding.PEM, info),
            "PEM without its last line end": public.public_bytes(Encoding.PEM, info).rstrip(),
            "DER": public.public_bytes(Encoding.DER, info),
            "point": public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
            "nothing": b"",
        }

    def signature(self, content: bytes) -> str:
        """The good token with another signature."""
        return f"{self.token.rpartition('.')[0]}.{encoded(content)}"

    def unsigned(self, alg: str) -> str:
        """A token that says that it needs no signature, and has none."""
        return f"{encoded(_changed(self._header, {'alg': alg}))}.{encoded(_json(self._payload))}."


def _json(members: Mapping[str, object]) -> bytes:
    return json.dumps(members).encode()  # which writes NaN and Infinity as well


def _changed(members: Mapping[str, object], changes: Mapping[str, object]) -> bytes:
    both = {**members, **changes}
    return _json({name: value for name, value in both.items() if value is not _OUT})


def tokens(forger: Forger, other: Member) -> dict[str, str]:
    """Tokens, each with what is wrong with it."""
    good, now = forger.token, forger.now
    head, body, signature = good.split(".")
    jwk = {"kty": "EC", "crv": "P-256", "x": encoded(b"x" * 32), "y": encoded(b"y" * 32)}
    claims = decoded(body)
    return {
        **{f"alg {alg!r}, unsigned": forger.unsigned(alg) for alg in ("none", "None", "NONE", "nOnE", "")},
        **{
            f"alg {alg!r}": forger.header(alg=alg)
            for alg in (
                "none",
                "es256",
                "ES384",
                "RS256",
                "HS256",
                "ES256K",
                "EdDSA",
                "",
                None,
                256,
                ["ES256"],
            )
        },
        "no alg": forger.header(alg=_OUT),
        **{
            f"HS256 by the public key, {form}": forger.by_public_key(secret)
            for form, secret in forger.public_keys().items()
        },
        "another kid": forger.header(kid="0" * 16),
        "no kid": forger.header(kid=_OUT),
        **{
            f"kid {kid!r:.20}": forger.header(kid=kid)
            for kid in ("", 7, None, "../../dev/null", "' OR 1=1 --", _NUL, "k" * 1_000, ["x"])
        },
        "jku": forger.header(jku="https://evil.example/jwks.json"),
        "x5u": forger.header(x5u="https://evil.example/x.pem"),
        "x5c": forger.header(x5c=["MIIB"]),
        "jwk": forger.header(jwk=jwk),
        "jku of who signed": forger.by_stranger(jku="https://evil.example/jwks.json"),
        "jwk of who signed": forger.by_stranger(jwk=jwk),
        "signed by a stranger": forger.by_stranger(),
        "crit": forger.header(crit=["exp"]),
        "crit, empty": forger.header(crit=[]),
        "b64": forger.header(b64=False, crit=["b64"]),
        "zip": forger.header(zip="DEF"),
        **{f"typ {typ!r}": forger.header(typ=typ) for typ in ("JWT", "", None, "rt+jwt", 1)},
        "no typ": forger.header(typ=_OUT),
        "no exp": forger.payload(exp=_OUT),
        "exp past": forger.payload(iat=now - 60, exp=now - 1),
        "exp now": forger.payload(iat=now - 60, exp=now),
        **{
            f"exp {exp!r}": forger.payload(exp=exp)
            for exp in (str(now + 60), "never", 10**11, 10**400, now + 60.5, -1, 0, None, True, [now + 60])
        },
        "exp NaN": forger.payload(exp=float("nan")),
        "exp infinite": forger.payload(exp=float("inf")),
        "exp 25 hours after": forger.payload(exp=now + 25 * 3_600),
        "nbf to come": forger.payload(nbf=now + 300),
        "nbf textual": forger.payload(nbf=str(now)),
        "iat to come": forger.payload(iat=now + 300),
        "no iat": forger.payload(iat=_OUT),
        **{
            f"aud {aud!r}": forger.payload(aud=aud)
            for aud in ("other", "", None, ["other"], ["watchly", "other"], "Watchly")
        },
        "no aud": forger.payload(aud=_OUT),
        **{
            f"iss {iss!r}": forger.payload(iss=iss) for iss in ("https://evil.example", "", None, ["watchly"])
        },
        "no iss": forger.payload(iss=_OUT),
        **{
            f"sub {sub!r:.20}": forger.payload(sub=sub)
            for sub in (
                other.user.id,
                "",
                _NUL,
                f"{claims['sub']}{_NUL}",
                None,
                "0",
                "-1",
                f"0{claims['sub']}",
                "9" * 30,
                "admin",
                "anonymous",
                "system",
                "' OR 1=1 --",
                [claims["sub"]],
            )
        },
        "sub of another": forger.payload(sub=str(other.user.id)),
        "no sub": forger.payload(sub=_OUT),
        **{f"role {role!r}": forger.payload(role=role) for role in ("root", "", None, "Admin", 1)},
        **{f"sid {sid!r:.20}": forger.payload(sid=sid) for sid in ("", _NUL, 7, "0" * 32, "x" * 1_000)},
        "no sid": forger.payload(sid=_OUT),
        "sid of another": forger.payload(sid=decoded(other.token.split(".")[1])["sid"]),
        **{f"ver {ver!r}": forger.payload(ver=ver) for ver in (0, 2, "1", 10**30, None)},
        "no ver": forger.payload(ver=_OUT),
        "a member twice": forger.raw(payload=_json(claims)[:-1] + b', "sub": "1"}'),
        "alg twice": forger.raw(header=_json(decoded(head))[:-1] + b', "alg": "none"}'),
        "payload no JSON": forger.raw(payload=b"sub=1"),
        "payload of no UTF-8": forger.raw(payload=b'{"sub": "\xff"}'),
        "payload a list": forger.raw(payload=b"[1]"),
        "payload nested": forger.raw(payload=b"[" * 700),
        "payload empty": forger.raw(payload=b"{}"),
        "payload with a BOM": forger.raw(payload=b"\xef\xbb\xbf" + _json(claims)),
        "header a list": forger.raw(header=b"[]"),
        "header nested": forger.raw(header=b'{"alg":' * 100),
        "signature of zeros": forger.signature(bytes(64)),
        "signature too short": forger.signature(b"s" * 63),
        "signature too long": forger.signature(b"s" * 65),
        "signature empty": f"{head}.{body}.",
        "signature of another": f"{head}.{body}.{other.token.rpartition('.')[2]}",
        "payload of another": f"{head}.{other.token.split('.')[1]}.{signature}",
        "no signature": f"{head}.{body}",
        "a part too many": f"{good}.{signature}",
        "five parts": f"{head}..{body}.{signature}.{signature}",
        "padded": f"{good}==",
        "spelled otherwise": f"{head}.{body}.{signature[:-1]}{_next(signature[-1])}",
        "of another alphabet": f"{head}.{body}.+/{signature[2:]}",
        "dots": "..",
        "no token": "token",
        "parts swapped": f"{body}.{head}.{signature}",
        "in quotes": f'"{good}"',
        "a word after": f"{good} {good}",
        "a comma after": f"{good},",
        "null": "null",
        "undefined": "undefined",
    }


def _next(character: str) -> str:
    """Another spelling of the last two bits of 64 bytes, which lenient decoders pass over."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return alphabet[alphabet.index(character) ^ 1]


async def ended(container: Container, cast: Cast) -> dict[str, str]:
    """Tokens and keys that were good, and what made an end of that."""
    accounts, sessions, api_keys = container.accounts(), container.sessions(), container.api_keys()
    removed = await cast.member(Role.EDITOR)
    await accounts.remove(removed.user.id)
    demoted = await cast.member(Role.EDITOR)
    await accounts.revise(demoted.user.id, UserPatch(role=Role.VIEWER))
    left = await cast.member(Role.EDITOR)
    await sessions.sign_out(left.signed_in.refresh_token)
    reused = await cast.member(Role.EDITOR)
    fresh = await sessions.refresh(reused.signed_in.refresh_token)
    with suppress(NotSignedIn):  # by which the session ends
        await sessions.refresh(reused.signed_in.refresh_token)
    changed = await cast.member(Role.EDITOR)
    await accounts.change_password(PASSWORD, "another incident", address="", actor=changed.user.actor)
    revoked = await cast.member(Role.EDITOR)
    await api_keys.revoke(revoked.key.key.id)
    good = await cast.member(Role.EDITOR)
    expired = await cast.member(Role.EDITOR)
    async with container.database().transactions() as tx:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await tx.api_keys.replace(msgspec.structs.replace(expired.key.key, expires_at=past))
    prefix = good.key.key.prefix
    return {
        "user removed": removed.token,
        "user demoted": demoted.token,
        "signed out": left.token,
        "refresh token used twice": fresh.access_token,
        "password changed": changed.token,
        "refresh token": good.signed_in.refresh_token,
        "API key revoked": revoked.key.secret,
        "API key of a removed user": removed.key.secret,
        "API key expired": expired.key.secret,
        "API key of another secret": f"watchly_{prefix}_{'x' * 43}",
        "API key of no prefix": f"watchly_{'0' * 12}_{good.key.secret[-43:]}",
        "API key in capitals": good.key.secret.upper(),
        "API key cut": good.key.secret[:-1],
        "API key with more": good.key.secret + "x",
        "prefix alone": f"watchly_{prefix}",
        "watchly_": "watchly_",
    }


def headers(good: str) -> dict[str, list[bytes]]:
    """Lines of Authorization that bear a good token in a way in which none is borne."""
    token = good.encode()
    return {
        "Basic": [b"Basic " + token],
        "Basic, as name and password": [b"Basic " + base64.b64encode(b"ada:" + token)],
        "Token": [b"Token " + token],
        "JWT": [b"JWT " + token],
        "Digest": [b'Digest username="ada"'],
        "no scheme": [token],
        "Bearer alone": [b"Bearer"],
        "Bearer and a space": [b"Bearer "],
        "Bearer twice": [b"Bearer Bearer " + token],
        "Bearer, colon": [b"Bearer: " + token],
        "Bearer=": [b"Bearer=" + token],
        "tab": [b"Bearer\t" + token],
        "no space": [b"Bearer" + token],
        "two in a line": [b"Bearer " + token + b", Bearer " + token],
        "two lines": [b"Bearer " + token, b"Bearer " + token],
        "an empty line first": [b"", b"Bearer " + token],
        "60 KB": [b"Bearer " + b"x" * 60_000],
        "60 KB after it": [b"Bearer " + token + b"x" * 60_000],
        "60 KB of dots": [b"Bearer " + b"." * 60_000],
        "not ASCII": [b"Bearer \xff\xfe" + token],
        "UTF-8": ["Bearer ключ".encode()],
        "full width": ["\uff22earer ".encode() + token],
        "a byte inside": [b"Bearer " + token[:40] + b"\xe9" + token[41:]],
        "empty": [b""],
    }


async def forger_of(container: Container, member: Member) -> Forger:
    """A forger who has the key of the service."""
    key = (await container.database().people.signing_keys())[0]
    sealed = container.tokens()
    assert isinstance(sealed, SealedTokens)
    return Forger(member.token, sealed._private(key))  # noqa: SLF001 - nobody else may have it
