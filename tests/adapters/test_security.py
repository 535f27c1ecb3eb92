"""What hashes passwords and signs tokens, beyond its suites: costs, forms, and what else only these do."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt
import pytest
from argon2 import PasswordHasher, Type
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tests.forgeries import contents, unsealed

from watchly_adapters.security import Argon2Hasher, SealedTokens
from watchly_core.errors import NotSignedIn, Overloaded
from watchly_core.people import Role
from watchly_core.signing_keys import SigningKey
from watchly_core.tokens import Claims

pytestmark = pytest.mark.anyio

PASSWORD: Final = "correct horse battery"  # noqa: S105 - the best known of all
SECRET: Final = "not a secret, but of more than 32 letters"  # noqa: S105 - as it says
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIMS: Final = Claims("7", Role.EDITOR, NOW, NOW + timedelta(minutes=15), "5e55" * 8, 3)

#: What Argon2 takes at least, for tests of what does not depend on how much that is.
CHEAP: Final = {"memory_kib": 8, "time_cost": 1}


# ---- passwords ----


async def test_hashes_cost_what_is_asked_for_at_least() -> None:
    kept = await Argon2Hasher().hash(PASSWORD)
    kind, version, costs, salt, digest = kept.removeprefix("$").split("$")
    assert (kind, version, costs) == ("argon2id", "v=19", "m=19456,t=2,p=1")
    assert (len(salt), len(digest)) == (22, 43)


BROKEN: Final = [
    "",
    "x",
    "$",
    PASSWORD,
    "$argon2id$",
    "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$x",
    "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$",
    "$argon2id$v=19$m=1,t=0,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNo",
    "$argon2id$v=19$m=x,t=2,p=1$c2FsdHNhbHRzYWx0$aGFzaGhhc2hoYXNo",
    "$2b$12$KIXIDnYOfH4WmqjZ0B1dwu9oyb7n1bS5Pf9z7d3f1f2e1d0c9b8a7",
    "$argon2id$\u00e9",
    "$argon2id$\ud800",
    "\0",
]


@pytest.mark.parametrize("kept", BROKEN)
async def test_what_is_no_hash_is_of_no_password(kept: str) -> None:
    hasher = Argon2Hasher(**CHEAP)
    assert not await hasher.verify(kept, PASSWORD)
    assert not await hasher.verify(kept, kept)


async def took(hasher: Argon2Hasher, kept: str | None) -> float:
    # Time of the processor: what else the machine does counts less.
    began = time.process_time()
    assert not await hasher.verify(kept, "wrong")
    return time.process_time() - began


async def test_it_takes_as_long_for_nobody_and_for_what_is_broken() -> None:
    hasher = Argon2Hasher()
    kinds = [await hasher.hash(PASSWORD), None, *BROKEN[:8:2]]
    rounds = [[await took(hasher, kind) for kind in kinds] for _ in range(9)]
    # The least of several is what it takes where nothing else comes between.
    real, *others = (min(times) for times in zip(*rounds, strict=True))
    for other in others:
        assert 0.5 < other / real < 2


@pytest.mark.parametrize(
    ("before", "outdated"),
    [
        ({"memory_kib": 64, "time_cost": 2}, False),
        ({"memory_kib": 63, "time_cost": 2}, True),
        ({"memory_kib": 64, "time_cost": 1}, True),
        ({"memory_kib": 65, "time_cost": 3}, False),
        ({"memory_kib": 999, "time_cost": 1}, True),
    ],
)
async def test_a_hash_is_outdated_once_it_should_cost_more(before: dict[str, int], *, outdated: bool) -> None:
    hasher = Argon2Hasher(memory_kib=64, time_cost=2)
    kept = await Argon2Hasher(**before).hash(PASSWORD)
    assert hasher.outdated(kept) == outdated
    assert await hasher.verify(kept, PASSWORD)
    assert not hasher.outdated(await hasher.hash(PASSWORD))


async def test_a_hash_of_another_kind_is_outdated() -> None:
    hasher = Argon2Hasher(**CHEAP)
    for kind in (Type.I, Type.D):
        kept = PasswordHasher(9, 99, 1, type=kind).hash(PASSWORD)
        assert await hasher.verify(kept, PASSWORD)
        assert hasher.outdated(kept)
    assert hasher.outdated("of no kind at all")


async def test_the_event_loop_goes_on_while_a_password_is_hashed() -> None:
    hasher = Argon2Hasher(memory_kib=65_536)
    kept = await hasher.hash(PASSWORD)
    for call in (hasher.hash(PASSWORD), hasher.verify(kept, PASSWORD), hasher.verify(None, PASSWORD)):
        turns = 0
        task = asyncio.ensure_future(call)
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        await task
        assert turns > 100


async def test_no_more_are_hashed_at_a_time_than_may_be() -> None:
    hasher = Argon2Hasher(limit=2)

    def running() -> int:
        return sum(thread.name.startswith("watchly-argon2") for thread in threading.enumerate())

    before = running()
    await asyncio.gather(*(hasher.hash(PASSWORD) for _ in range(8)))
    assert running() - before <= 2


async def test_who_finds_too_many_waiting_is_sent_away_at_once() -> None:
    hasher = Argon2Hasher(limit=1, waiting=2)
    kept = await hasher.hash(PASSWORD)
    calls = [hasher.verify(kept, PASSWORD), hasher.verify(None, PASSWORD), hasher.hash(PASSWORD)]
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    for late in (hasher.verify(kept, PASSWORD), hasher.verify(None, PASSWORD), hasher.hash(PASSWORD)):
        with pytest.raises(Overloaded, match=r"^passwords: too many wait"):
            await late
    assert (await asyncio.gather(*tasks))[:2] == [True, False]
    assert await hasher.verify(kept, PASSWORD)


SHORT_OF_MEMORY: Final = """
import asyncio, resource
from watchly_adapters.security import Argon2Hasher
from watchly_core.errors import Unavailable

async def main():
    hasher = Argon2Hasher(memory_kib=2**21)
    for call in (hasher.hash("password"), hasher.verify(None, "password")):
        try:
            print(await call)
        except Unavailable as error:
            print(error)

resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
asyncio.run(main())
"""


def test_too_little_memory_is_no_wrong_password() -> None:
    # A process of its own, which may not have more.
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["passwords: Argon2 says: Memory allocation error"] * 2


# ---- keys ----


def new_key(tokens: SealedTokens) -> SigningKey:
    return SigningKey(*tokens.new_key(), NOW, NOW)


def sealed(number: int, kid: str) -> bytes:
    """A key sealed as documented."""
    secret = HKDF(SHA256(), 32, salt=None, info=b"watchly signing keys").derive(SECRET.encode())
    return bytes(12) + AESGCM(secret).encrypt(bytes(12), number.to_bytes(32), kid.encode())


def test_every_key_has_a_name_of_its_own() -> None:
    tokens = SealedTokens(SECRET)
    keys = [tokens.new_key() for _ in range(20)]
    assert len({kid for kid, _ in keys}) == len({kept for _, kept in keys}) == 20
    assert all(len(kid) == 16 and int(kid, 16) >= 0 for kid, _ in keys)


def test_a_key_is_sealed_as_documented() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    number = unsealed(SECRET, key).private_numbers().private_value
    assert number.to_bytes(32) not in key.sealed
    again = SigningKey("another", sealed(number, "another"), NOW, NOW)
    assert [without_kid(each) for each in tokens.public([key])] == [
        without_kid(each) for each in tokens.public([again])
    ]


def without_kid(key: object) -> dict[str, str]:
    assert isinstance(key, dict)
    return {name: value for name, value in key.items() if name != "kid"}


def test_a_key_under_another_name_or_with_another_byte_is_none() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    assert not tokens.opens(SigningKey("0" * 16, key.sealed, NOW, NOW))
    for index in range(len(key.sealed)):
        changed = bytearray(key.sealed)
        changed[index] ^= 1
        assert not tokens.opens(SigningKey(key.kid, bytes(changed), NOW, NOW))
    for length in range(len(key.sealed)):
        assert not tokens.opens(SigningKey(key.kid, key.sealed[:length], NOW, NOW))
    assert not tokens.opens(SigningKey("kid", sealed(0, "kid"), NOW, NOW))
    assert tokens.opens(key)


# ---- tokens ----


def test_a_token_reads_as_documented() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    header, payload, signature = contents(tokens.sign(key, CLAIMS))
    assert json.loads(header) == {"alg": "ES256", "typ": "at+jwt", "kid": key.kid}
    said = json.loads(payload)
    assert len(said.pop("jti")) == 16
    assert said == {
        "iss": "watchly",
        "aud": "watchly",
        "sub": "7",
        "role": "editor",
        "iat": 1_772_366_400,
        "exp": 1_772_367_300,
        "sid": "5e55" * 8,
        "ver": 3,
    }
    assert len(signature) == 64


def test_the_service_itself_has_no_session() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    claims = Claims("system", Role.ADMIN, NOW, NOW + timedelta(hours=24))
    token = tokens.sign(key, claims)
    assert not {"sid", "ver"} & set(json.loads(contents(token)[1]))
    assert tokens.read(key, token, NOW) == claims


def test_times_are_cut_to_seconds_and_no_token_is_good_for_longer_than_asked_for() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    begins = NOW + timedelta(microseconds=999_999)
    token = tokens.sign(key, Claims("7", Role.VIEWER, begins, begins + timedelta(hours=24)))
    claims = tokens.read(key, token, NOW)
    assert (claims.issued_at, claims.expires_at) == (NOW, NOW + timedelta(hours=24))


def test_a_token_is_good_until_it_ends() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    token = tokens.sign(key, CLAIMS)
    for seconds in (-60, 0, 899.999):
        assert tokens.read(key, token, NOW + timedelta(seconds=seconds)) == CLAIMS
    for seconds, said in ((-61, "not good yet"), (900, "not good any more"), (10**9, "not good any more")):
        with pytest.raises(NotSignedIn, match=said):
            tokens.read(key, token, NOW + timedelta(seconds=seconds))


def test_a_token_is_good_for_the_key_that_signed_it_alone() -> None:
    tokens = SealedTokens(SECRET)
    one, other = new_key(tokens), new_key(tokens)
    token = tokens.sign(one, CLAIMS)
    assert tokens.kid(token) == one.kid
    with pytest.raises(NotSignedIn):
        tokens.read(other, token, NOW)
    with pytest.raises(NotSignedIn):  # another key in the place of the one that is named
        tokens.read(SigningKey(one.kid, sealed(5, one.kid), NOW, NOW), token, NOW)


def test_others_verify_tokens_with_the_published_keys_alone() -> None:
    tokens = SealedTokens(SECRET)
    one, other = new_key(tokens), new_key(tokens)
    now = datetime.now(UTC)
    token = tokens.sign(one, Claims("7", Role.EDITOR, now, now + timedelta(minutes=15), "5e55" * 8, 3))
    published = jwt.PyJWKSet.from_json(json.dumps({"keys": tokens.public([other, one])}))
    named = published[str(jwt.get_unverified_header(token)["kid"])]
    said = jwt.decode(token, named, algorithms=["ES256"], audience="watchly", issuer="watchly")
    assert (said["sub"], said["role"]) == ("7", "editor")
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(token, published[other.kid], algorithms=["ES256"], audience="watchly")


def test_published_keys_say_all_that_is_needed_and_nothing_secret() -> None:
    tokens = SealedTokens(SECRET)
    key = new_key(tokens)
    (published,) = tokens.public([key])
    assert {name: published[name] for name in ("kty", "crv", "use", "alg", "kid")} == {
        "kty": "EC",
        "crv": "P-256",
        "use": "sig",
        "alg": "ES256",
        "kid": key.kid,
    }
    assert set(published) == {"kty", "crv", "use", "alg", "kid", "x", "y"}
    assert tokens.public([]) == []


def test_numbers_of_published_keys_are_never_short() -> None:
    """They have 32 bytes also where the first ones are 0 (RFC 7518, section 6.2.1.2)."""
    tokens = SealedTokens(SECRET)
    number = 379
    x = ec.derive_private_key(number, ec.SECP256R1()).public_key().public_numbers().x
    assert x < 2**248
    (published,) = tokens.public([SigningKey("kid", sealed(number, "kid"), NOW, NOW)])
    assert urlsafe_b64decode(published["x"] + "=") == x.to_bytes(32)
