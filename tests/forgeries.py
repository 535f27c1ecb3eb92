"""Access tokens that nobody may take, each made of a good one, with the faults that its name says."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from watchly_core.signing_keys import SigningKey

Members = dict[str, Any]

DAY: Final = 86_400
#: The order of P-256.
ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


_ODD_VALUES: Final[Sequence[object]] = (None, 0, True, ["ES256"], {}, "", "\0")
_ODD_SUBJECTS: Final = (
    *("\0", "7\0", "7 ", " 7", "7\n", "7;8", "7' OR 1=1", "user:7", "anonymous"),
    *("SYSTEM", "system ", "system\0", "\U0001f3ac"),
)


def unsealed(secret: str, key: SigningKey) -> ec.EllipticCurvePrivateKey:
    """The key, as whoever has the secret can open it without this service."""
    opener = AESGCM(HKDF(SHA256(), 32, salt=None, info=b"watchly signing keys").derive(secret.encode()))
    number = opener.decrypt(key.sealed[:12], key.sealed[12:], key.kid.encode())
    return ec.derive_private_key(int.from_bytes(number), ec.SECP256R1())


def spelled(content: bytes) -> str:
    return urlsafe_b64encode(content).decode().rstrip("=")


def contents(token: str) -> tuple[bytes, ...]:
    return tuple(urlsafe_b64decode(part + "==") for part in token.split("."))


def compact(members: object) -> bytes:
    return json.dumps(members, separators=(",", ":")).encode()


class Forger(NamedTuple):
    """Makes tokens out of the parts of a good one, with the key that signed it."""

    token: str
    key: ec.EllipticCurvePrivateKey

    @property
    def header(self) -> Members:
        return dict(json.loads(contents(self.token)[0]))

    @property
    def payload(self) -> Members:
        return dict(json.loads(contents(self.token)[1]))

    def unsigned(self, header: bytes | None = None, payload: bytes | None = None) -> str:
        parts = contents(self.token)
        return f"{spelled(header or parts[0])}.{spelled(payload or parts[1])}"

    def signed(
        self,
        header: bytes | None = None,
        payload: bytes | None = None,
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> str:
        message = self.unsigned(header, payload)
        return f"{message}.{spelled(raw(der_of(key or self.key, message)))}"


def der_of(key: ec.EllipticCurvePrivateKey, message: str) -> bytes:
    return key.sign(message.encode(), ec.ECDSA(SHA256()))


def numbers_in(r: int, s: int) -> bytes:
    return r.to_bytes(32) + s.to_bytes(32)


def raw(der: bytes) -> bytes:
    return numbers_in(*utils.decode_dss_signature(der))


def without(members: Members, name: str) -> Members:
    return {each: value for each, value in members.items() if each != name}


def jwk_of(key: ec.EllipticCurvePrivateKey) -> Members:
    numbers = key.public_key().public_numbers()
    x, y = (spelled(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def forged_headers(forger: Forger) -> Iterator[tuple[str, str]]:
    """Headers that say something else, under signatures that are right for them."""
    header, own = forger.header, ec.generate_private_key(ec.SECP256R1())
    for name in ("alg", "typ", "kid"):
        yield f"no {name}", forger.signed(compact(without(header, name)))
        for odd in _ODD_VALUES:
            yield f"{name} {odd!r}", forger.signed(compact(header | {name: odd}))
    for alg in (
        "none",
        "None",
        "NONE",
        "nOnE",
        "none ",
        "es256",
        "ES256 ",
        "ES384",
        "ES256K",
        "RS256",
        "HS256",
    ):
        changed = compact(header | {"alg": alg})
        yield f"alg {alg}", forger.signed(changed)
        yield f"alg {alg} without a signature", f"{forger.unsigned(changed)}."
        yield f"alg {alg} without the last part", forger.unsigned(changed)
    for typ in ("JWT", "jwt", "AT+JWT", "application/at+jwt", "at+jwt ", "refresh+jwt", "dpop+jwt"):
        yield f"typ {typ}", forger.signed(compact(header | {"typ": typ}))
    for kid in ("other", header["kid"].upper() + "0", f"{header['kid']}\0", "../../dev/null", "' OR 1=1 --"):
        yield f"kid {kid!r}", forger.signed(compact(header | {"kid": kid}))
    theirs: Members = {
        "jku": "https://evil.example/jwks.json",
        "x5u": "https://evil.example/key.pem",
        "jwk": jwk_of(own),
        "x5c": ["MIIB"],
        "x5t": "AAAA",
        "crit": ["exp"],
        "b64": False,
        "zip": "DEF",
        "cty": "JWT",
        "enc": "A256GCM",
        "alg ": "none",
    }
    for name, value in theirs.items():
        changed = compact(header | {name: value})
        yield f"header with {name}", forger.signed(changed)
        yield f"header with {name}, by another key", forger.signed(changed, key=own)
    for name, value in (("crit", []), ("b64", True), ("jku", None)):
        yield f"header with {name} {value!r}", forger.signed(compact(header | {name: value}))
    text = compact(header)
    for name, twice in {
        "alg twice": text[:-1] + b',"alg":"ES256"}',
        "alg none, then another": text.replace(b"{", b'{"alg":"none",', 1),
        "alg twice, once escaped": text[:-1] + b',"\\u0061lg":"ES256"}',
        "kid twice": text.replace(b"{", b'{"kid":"other",', 1),
        "a header in an array": b"[" + text + b"]",
        "a header that is a text": compact(text.decode()),
        "a header in UTF-16": text.decode().encode("utf-16"),
        "a header behind a byte order mark": b"\xef\xbb\xbf" + text,
        "a header with a tail": text + b"{}",
        "a header that is cut": text[:-1],
        "a header that is no text": b"\xff\xfe",
        "a header of deep brackets": b"[" * 900,
        "a header with deep brackets": text[:-1] + b',"x":' + b"[" * 400 + b"]" * 400 + b"}",
        "a header that is null": b"null",
    }.items():
        yield name, forger.signed(twice)


def forged_by_public_key(forger: Forger) -> Iterator[tuple[str, str]]:
    """What verifies where the public key is taken for the secret of a keyed hash."""
    public = forger.key.public_key()
    secrets = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "stripped PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "point": public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "JWK": compact(jwk_of(forger.key)),
        "kid": forger.header["kid"].encode(),
        "nothing": b"",
    }
    for alg, hashed in (("HS256", hashlib.sha256), ("HS512", hashlib.sha512), ("ES256", hashlib.sha256)):
        message = forger.unsigned(compact(forger.header | {"alg": alg}))
        for name, secret in secrets.items():
            digest = hmac.new(secret, message.encode(), hashed).digest()
            yield f"{alg} with the {name} for a secret", f"{message}.{spelled(digest)}"


def forged_claims(forger: Forger, now: int) -> Iterator[tuple[str, str]]:
    """Payloads that say what nobody may, signed by the right key."""
    said = forger.payload

    def saying(name: str, value: object, **also: object) -> tuple[str, str]:
        return f"{name} {value!r:.40}", forger.signed(payload=compact(said | {name: value} | also))

    for name in ("iss", "aud", "sub", "role", "jti", "iat", "exp"):
        yield f"no {name}", forger.signed(payload=compact(without(said, name)))
        yield from (saying(name, odd) for odd in (None, True, [said[name]], {"0": said[name]}, ""))
    odd_times = (str(now), "never", now + 0.5, -1, 2**63, 10**30, 1e300, float("nan"), float("inf"))
    yield from (saying(name, odd) for name in ("exp", "iat", "nbf") for odd in odd_times)
    yield saying("exp", now, iat=now - 900)
    yield saying("exp", now - 1, iat=now - 900)
    yield saying("exp", 0, iat=0)
    yield saying("exp", said["iat"])
    yield saying("exp", said["iat"] - 1)
    yield saying("exp", said["iat"] + DAY + 1)
    yield saying("exp", 253_402_300_799)
    yield saying("iat", now + 120, exp=now + 900)
    yield saying("iat", said["exp"] - DAY - 1)
    yield saying("nbf", now + 120)
    yield saying("nbf", said["exp"] + 1)
    odd_ones: Mapping[str, Sequence[object]] = {
        "iss": ("Watchly", "watchly ", "https://evil.example"),
        "aud": ("other", "WATCHLY", ["watchly"], ["watchly", "other"]),
        "role": ("Admin", "root", "admin ", "anonymous", 0, ["admin"]),
        "sub": (7, 7.0, 0, "0", "07", "-7", "+7", "7.0", "7e0", "0x7", "9" * 20, "\u0667", *_ODD_SUBJECTS),
        "sid": (7, "", "\0", "a\0", "a b", "\u00e9", "a" * 65, None, ["a"]),
        "ver": ("3", 3.5, 0, -1, 2**64, None, True),
    }
    yield from (saying(name, odd) for name, values in odd_ones.items() for odd in values)
    text = compact(said)
    for name, content in {
        "a surrogate for a subject": text.replace(compact(said["sub"]), b'"\\ud800"', 1),
        "role twice": text[:-1] + b',"role":"admin"}',
        "sub twice": text.replace(b"{", b'{"sub":"1",', 1),
        "exp twice, once escaped": text[:-1] + b',"\\u0065xp":%d}' % said["exp"],
        "twice in what nobody reads": text[:-1] + b',"x":{"y":1,"y":2}}',
        "a payload in an array": b"[" + text + b"]",
        "a payload that is a text": compact(text.decode()),
        "a payload in UTF-16": text.decode().encode("utf-16"),
        "a payload behind a byte order mark": b"\xef\xbb\xbf" + text,
        "a payload with a tail": text + b"{}",
        "a payload that is cut": text[:-1],
        "a payload that is no text": b"\xff\xfe",
        "a payload of deep brackets": b"[" * 1_200,
        "a payload with deep brackets": text[:-1] + b',"x":' + b"[" * 1_200,
        "a payload with nothing": b"{}",
        "a payload that is a number": b"1",
    }.items():
        yield name, forger.signed(payload=content)
    yield "longer than any", forger.signed(payload=compact(said | {"jti": "x" * 2_000}))


def forged_signatures(forger: Forger) -> Iterator[tuple[str, str]]:
    """Signatures that are none, under a header and a payload that are right."""
    message = forger.unsigned()
    right = contents(forger.token)[2]
    r, s = int.from_bytes(right[:32]), int.from_bytes(right[32:])
    for name, signature in {
        "no signature": b"",
        "a signature that lacks a byte": right[:-1],
        "half a signature": right[:32],
        "a signature with a byte more": right + b"\0",
        "a signature with a byte before it": b"\0" + right,
        "a signature twice": right * 2,
        "a signature in DER": der_of(forger.key, message),
        "zeros for a signature": bytes(64),
        "a signature with r 0": numbers_in(0, s),
        "a signature with s 0": numbers_in(r, 0),
        "the order for a signature": numbers_in(ORDER, ORDER),
        "ones for a signature": numbers_in(1, 1),
        "a signature of the largest numbers": b"\xff" * 64,
        "a signature with swapped halves": numbers_in(s, r),
        "a signature with a bit turned": right[:-1] + bytes([right[-1] ^ 1]),
        "a signature of the header": raw(der_of(forger.key, message.partition(".")[0])),
        "a signature by another key": raw(der_of(ec.generate_private_key(ec.SECP256R1()), message)),
        "a signature on another curve": raw(der_of(ec.generate_private_key(ec.SECP256K1()), message)),
    }.items():
        yield name, f"{message}.{spelled(signature)}"
    said = compact(forger.payload | {"role": "admin", "sub": "1"})
    yield "a signature of other claims", f"{forger.unsigned(payload=said)}.{spelled(right)}"


def misspelled(forger: Forger) -> Iterator[tuple[str, str]]:
    """What has another form than three parts in base64url, each in the one way to spell it."""
    header, payload, signature = parts = forger.token.split(".")
    yield "nothing", ""
    yield "a point", "."
    yield "two points", ".."
    yield "swapped parts", f"{payload}.{header}.{signature}"
    yield "parts from behind", f"{signature}.{payload}.{header}"
    yield "two parts", f"{header}.{payload}"
    yield "four parts", f"{forger.token}.{signature}"
    yield "five parts, as of an encrypted token", f"{forger.token}.{signature}.{signature}"
    yield "a detached payload", f"{header}..{signature}"
    yield "a token twice", f"{forger.token}.{forger.token}"
    yield "a token in JSON", json.dumps({"protected": header, "payload": payload, "signature": signature})
    yield "a scheme before it", f"Bearer {forger.token}"
    yield "capitals", forger.token.upper()
    for name, text in {
        "space": " ",
        "line": "\n",
        "carriage return": "\r",
        "NUL": "\0",
        "point": ".",
    }.items():
        yield f"a {name} behind it", forger.token + text
        yield f"a {name} before it", text + forger.token
        yield f"a {name} inside it", f"{header}.{payload[:9]}{text}{payload[9:]}.{signature}"
    for index, part in enumerate(parts):
        for name, other in {
            "padding": part + "=",
            "right padding": part + "=" * (-len(part) % 4 or 4),
            "a letter more": part + "A",
            "a letter of base64 for mail": part[:-1] + "+",
            "a slash": part[:-1] + "/",
            "a letter that is none": part[:-1] + "\u0430",
            "a digit of another script": part[:-1] + "\u0661",
            "a surrogate": part[:-1] + "\ud800",
            "a percent sign": part[:-1] + "%41",
        }.items():
            yield f"{name} in part {index}", ".".join([*parts[:index], other, *parts[index + 1 :]])
        for other in _same_bytes(part):
            yield f"another spelling of part {index}", ".".join([*parts[:index], other, *parts[index + 1 :]])
    yield "a refresh token", f"wrt_{'A' * 64}"
    yield "an API key", f"watchly_{'0' * 12}_{'A' * 43}"
    yield "60 KB", f"{header}.{payload}.{'A' * 60_000}"


def _same_bytes(part: str) -> Iterator[str]:
    """A spelling of the same bytes whose last letter has bits that mean nothing."""
    if len(part) % 4:
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        yield part[:-1] + alphabet[alphabet.index(part[-1]) + 1]


def all_forgeries(forger: Forger, now: int) -> Mapping[str, str]:
    """All of them by name; `now` is the time in seconds, at which the token is good."""
    return {
        **dict(forged_headers(forger)),
        **dict(forged_by_public_key(forger)),
        **dict(forged_claims(forger, now)),
        **dict(forged_signatures(forger)),
        **dict(misspelled(forger)),
    }
