"""What tokens promise: they say what they were told to, to who has the key, and while they are good."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec
import pytest

from watchly_core.errors import Misconfigured, NotSignedIn
from watchly_core.people import Role
from watchly_core.ports import Tokens
from watchly_core.signing_keys import SigningKey
from watchly_core.tokens import MOST_ACCESS, Claims

__all__ = ["Make", "TokensContract"]

SECRET: Final = "not a secret, but of more than 32 letters"  # noqa: S105 - as it says
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
CLAIMS: Final = Claims("7", Role.EDITOR, NOW, NOW + timedelta(minutes=15), "5e55" * 8, 3)

_SECOND: Final = timedelta(seconds=1)

#: Makes tokens of a secret.
Make: TypeAlias = Callable[[str], Tokens]


def _key(tokens: Tokens) -> SigningKey:
    return SigningKey(*tokens.new_key(), NOW, NOW)


class TokensContract:
    """Keys, signing and reading. Supply `make`."""

    @pytest.fixture
    def make(self) -> Iterator[Make]:
        """It makes tokens of a secret."""
        raise NotImplementedError("supply a fixture `make`: it makes tokens of a secret")

    # Keys

    def test_every_key_is_another(self, make: Make) -> None:
        tokens = make(SECRET)
        keys = [tokens.new_key() for _ in range(20)]
        assert len({kid for kid, _ in keys}) == len({sealed for _, sealed in keys}) == 20
        assert all(kid.isascii() and kid.isprintable() and 8 <= len(kid) <= 64 for kid, _ in keys)
        published = tokens.public([SigningKey(*key, NOW, NOW) for key in keys])
        assert len({tuple(sorted(set(key.items()) - {("kid", key["kid"])})) for key in published}) == 20

    def test_a_key_is_of_use_to_who_has_the_secret_alone(self, make: Make) -> None:
        tokens, same, other = make(SECRET), make(SECRET), make(SECRET + "x")
        key = _key(tokens)
        token = tokens.sign(key, CLAIMS)
        assert tokens.opens(key)
        assert same.opens(key)
        assert same.read(key, token, NOW) == CLAIMS
        assert tokens.read(key, same.sign(key, CLAIMS), NOW) == CLAIMS
        assert same.public([key]) == tokens.public([key])
        assert not other.opens(key)
        with pytest.raises(NotSignedIn):
            other.read(key, token, NOW)
        for use in (lambda: other.sign(key, CLAIMS), lambda: other.public([key])):
            with pytest.raises(Misconfigured) as raised:
                use()
            assert SECRET not in str(raised.value)

    def test_a_key_that_was_changed_is_none(self, make: Make) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        assert not tokens.opens(SigningKey("0" * len(key.kid), key.sealed, NOW, NOW))
        for index in range(len(key.sealed)):
            changed = bytearray(key.sealed)
            changed[index] ^= 1
            assert not tokens.opens(SigningKey(key.kid, bytes(changed), NOW, NOW))
            assert not tokens.opens(SigningKey(key.kid, key.sealed[:index], NOW, NOW))
        assert tokens.opens(key)

    def test_there_may_be_many_keys(self, make: Make) -> None:
        tokens = make(SECRET)
        keys = [_key(tokens) for _ in range(150)]
        signed = [tokens.sign(key, CLAIMS) for key in keys]
        for key, token in zip(keys, signed, strict=True):
            assert tokens.kid(token) == key.kid
            assert tokens.read(key, token, NOW) == CLAIMS

    def test_what_is_published_of_keys_is_no_secret(self, make: Make) -> None:
        tokens = make(SECRET)
        keys = [_key(tokens) for _ in range(3)]
        published = tokens.public(keys)
        assert [key["kid"] for key in published] == [key.kid for key in keys]
        for key in published:
            assert key["kty"] in {"EC", "RSA", "OKP"}
            assert (key["use"], bool(key["alg"])) == ("sig", True)
            # RFC 7518, sections 6.2.2 and 6.3.2: what is private of a key.
            assert not {"d", "p", "q", "dp", "dq", "qi", "oth", "k"} & set(key)
        assert list(tokens.public([])) == []

    # Tokens

    @pytest.mark.parametrize("role", Role)
    def test_a_token_says_what_it_was_told_to(self, make: Make, role: Role) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        of_user = msgspec.structs.replace(CLAIMS, role=role)
        of_service = Claims("system", role, NOW, NOW + MOST_ACCESS)
        for claims in (
            of_user,
            of_service,
            msgspec.structs.replace(of_user, subject="9" * 18, version=2**40),
        ):
            assert tokens.read(key, tokens.sign(key, claims), NOW) == claims

    def test_no_two_tokens_are_the_same(self, make: Make) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        payloads = {_payload(tokens.sign(key, CLAIMS)) for _ in range(20)}
        assert len(payloads) == 20

    def test_a_token_is_good_from_when_it_is_issued_until_it_ends(self, make: Make) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        token = tokens.sign(key, CLAIMS)
        for now in (NOW, CLAIMS.expires_at - timedelta.resolution):
            assert tokens.read(key, token, now) == CLAIMS
        # The clock of who signed it may be ahead, though not by five minutes.
        for now in (
            NOW - 5 * timedelta(minutes=1),
            CLAIMS.expires_at,
            CLAIMS.expires_at + timedelta(days=365),
        ):
            with pytest.raises(NotSignedIn):
                tokens.read(key, token, now)

    def test_no_token_is_good_for_longer_than_it_was_to_be(self, make: Make) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        begins = NOW + timedelta(microseconds=999_999)
        token = tokens.sign(
            key, msgspec.structs.replace(CLAIMS, issued_at=begins, expires_at=begins + MOST_ACCESS)
        )
        claims = tokens.read(key, token, begins)
        assert claims.expires_at <= begins + MOST_ACCESS
        with pytest.raises(NotSignedIn):
            tokens.read(key, token, begins + MOST_ACCESS)

    @pytest.mark.parametrize("good_for", [MOST_ACCESS + _SECOND, timedelta(), -_SECOND])
    def test_a_token_is_good_for_some_time_and_for_a_day_at_most(
        self, make: Make, good_for: timedelta
    ) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        token = tokens.sign(key, msgspec.structs.replace(CLAIMS, expires_at=NOW + good_for))
        with pytest.raises(NotSignedIn):
            tokens.read(key, token, NOW - _SECOND)

    def test_a_token_is_read_by_the_key_that_signed_it_alone(self, make: Make) -> None:
        tokens = make(SECRET)
        one, other = _key(tokens), _key(tokens)
        token = tokens.sign(one, CLAIMS)
        assert tokens.kid(token) == one.kid
        with pytest.raises(NotSignedIn):
            tokens.read(other, token, NOW)
        assert tokens.read(one, token, NOW) == CLAIMS

    def test_no_part_of_a_token_may_be_another(self, make: Make) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        (head, said, signature), other = (
            tokens.sign(key, CLAIMS).split("."),
            tokens.sign(key, msgspec.structs.replace(CLAIMS, subject="8")).split("."),
        )
        admin = said_with(said, role="admin")
        for changed in (
            (head, other[1], signature),
            (head, said, other[2]),
            (head, said, ""),
            (head, admin, signature),
            (head, said, signature[:-2]),
            (head, said, signature + "AA"),
            (said_with(head, alg="none"), said, ""),
            (said_with(head, alg="none"), said, signature),
            (said_with(head, alg="HS256"), said, signature),
            (said_with(head, typ="JWT"), said, signature),
            (said_with(head, crit=["x"]), said, signature),
            (said_with(head, kid="another"), said, signature),
        ):
            with pytest.raises(NotSignedIn) as refused:
                tokens.read(key, ".".join(changed), NOW)
            assert said not in str(refused.value)

    @pytest.mark.parametrize(
        "member",
        [{"alg": "none"}, {"alg": "HS256"}, {"typ": "JWT"}, {"crit": ["x"]}, {"jku": "https://x.example"}],
    )
    def test_a_token_of_another_kind_names_no_key(self, make: Make, member: dict[str, object]) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        head, rest = tokens.sign(key, CLAIMS).split(".", 1)
        assert tokens.kid(f"{head}.{rest}") == key.kid
        with pytest.raises(NotSignedIn):
            tokens.kid(f"{said_with(head, **member)}.{rest}")

    @pytest.mark.parametrize(
        "text",
        ["", ".", "..", "a.b.c", "é.é.é", "\ud800", "x" * 100_000, "a.b", "\0", "e30.e30.e30", "W10.W10.W10"],
    )
    def test_any_text_may_be_read(self, make: Make, text: str) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        with pytest.raises(NotSignedIn):
            tokens.kid(text)
        with pytest.raises(NotSignedIn):
            tokens.read(key, text, NOW)

    def test_a_token_has_one_spelling(self, make: Make) -> None:
        tokens = make(SECRET)
        key = _key(tokens)
        token = tokens.sign(key, CLAIMS)
        for other in (
            token + "=",
            token + " ",
            " " + token,
            token + "\n",
            token.replace(".", "=.", 1),
            "." + token,
        ):
            with pytest.raises(NotSignedIn):
                tokens.read(key, other, NOW)


def said_with(part: str, **members: object) -> str:
    """A part of a token that says something else as well."""
    said = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return urlsafe_b64encode(json.dumps({**said, **members}).encode()).decode().rstrip("=")


def _payload(token: str) -> str:
    return token.split(".")[1]
