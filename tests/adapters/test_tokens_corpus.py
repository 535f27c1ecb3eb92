"""Tokens that nobody may take: whatever they are, they are refused in one way."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import forgeries
from tests.forgeries import Forger, compact, unsealed
from tests.publishers import publishing

from watchly_adapters.security import PublishedKeys, SealedTokens
from watchly_core.errors import NotSignedIn
from watchly_core.people import Role
from watchly_core.signing_keys import SigningKey
from watchly_core.tokens import Claims

SECRET: Final = "not a secret, but of more than 32 letters"  # noqa: S105 - as it says
NOW: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECONDS: Final = int(NOW.timestamp())
TOKENS: Final = SealedTokens(SECRET)
KEY: Final = SigningKey(*TOKENS.new_key(), NOW, NOW)
CLAIMS: Final = Claims("7", Role.EDITOR, NOW, NOW + timedelta(minutes=15), "5e55" * 8, 3)
GOOD: Final = TOKENS.sign(KEY, CLAIMS)
FORGER: Final = Forger(GOOD, unsealed(SECRET, KEY))

UNDER_OTHER_HEADERS: Final = dict(forgeries.forged_headers(FORGER))
WITH_OTHER_CLAIMS: Final = dict(forgeries.forged_claims(FORGER, SECONDS))
FORGED: Final = forgeries.all_forgeries(FORGER, SECONDS)


def read(token: str) -> Claims:
    """What a token says, as the service reads it that has the keys."""
    if TOKENS.kid(token) != KEY.kid:
        raise NotSignedIn("the key is not known")
    return TOKENS.read(KEY, token, NOW)


def public() -> jwt.PyJWK:
    (published,) = TOKENS.public([KEY])
    return jwt.PyJWK(dict(published))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[[str], Claims]]:
    """What a token says, as a service reads it that knows of the published keys alone."""
    with publishing() as publisher, asyncio.Runner() as runner:
        publisher.tokens, publisher.keys = TOKENS, [KEY]
        # No time passes: they are asked for once.
        keys = PublishedKeys(publisher.url, timeout=30.0, clock=lambda: NOW, ticks=lambda: 0.0)
        yield lambda token: runner.run(keys.read(token))
        keys.close()
        # Or never, where only tests ran here whose tokens are refused before anybody asks.
        assert publisher.asked <= 1


#: The first text of all takes a while, for which nothing here is to blame.
patiently: Final = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


# ---- good ones ----

#: What differs from a good token, and is good as well; so what is refused below is refused for its fault.
VARIATIONS: Final[Mapping[str, str]] = {
    "as it was signed": GOOD,
    "signed anew": FORGER.signed(),
    "with spaces": FORGER.signed(json.dumps(FORGER.header).encode(), json.dumps(FORGER.payload).encode()),
    "in another order": FORGER.signed(
        compact(dict(reversed(FORGER.header.items()))), compact(dict(reversed(FORGER.payload.items())))
    ),
    "with a claim of later times": FORGER.signed(payload=compact(FORGER.payload | {"x": {"y": [1]}})),
    "good from a while ago": FORGER.signed(payload=compact(FORGER.payload | {"nbf": SECONDS - 1})),
    "by a clock that is a little ahead": FORGER.signed(
        payload=compact(FORGER.payload | {"iat": SECONDS + 50, "nbf": SECONDS + 50})
    ),
}


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_good_token_is_taken(name: str, elsewhere: Callable[[str], Claims]) -> None:
    claims = read(VARIATIONS[name])
    assert (claims.subject, claims.role, claims.session, claims.version) == ("7", Role.EDITOR, "5e55" * 8, 3)
    assert elsewhere(VARIATIONS[name]) == claims


def test_a_token_of_a_second_or_of_a_day_is_taken() -> None:
    for seconds in (1, 86_400):
        payload = compact(FORGER.payload | {"exp": SECONDS + seconds})
        assert read(FORGER.signed(payload=payload)).expires_at == NOW + timedelta(seconds=seconds)


# ---- forged ones ----


def titled(name: str) -> str:
    """The name of a forgery without what is another one each time, so that all workers mean the same test."""
    return re.sub(r"[\w-]{16,}", "…", name)


@pytest.mark.parametrize("name", FORGED, ids=map(titled, FORGED))
def test_a_forged_token_is_refused_in_words_that_quote_nothing_of_it(
    name: str, elsewhere: Callable[[str], Claims]
) -> None:
    token = FORGED[name]
    for ask in (read, elsewhere, lambda token: TOKENS.read(KEY, token, NOW)):
        with pytest.raises(NotSignedIn) as refused:
            ask(token)
        said = str(refused.value)
        assert said.startswith("the ")
        assert said.isascii()
        assert len(said) < 80
        assert not any(part in said for part in token.split(".") if len(part) > 4)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("name", UNDER_OTHER_HEADERS, ids=map(titled, UNDER_OTHER_HEADERS))
def test_a_header_is_refused_before_a_key_is_looked_for(name: str) -> None:
    try:
        kid = TOKENS.kid(UNDER_OTHER_HEADERS[name])
    except NotSignedIn:
        return
    assert name.startswith("kid ")
    assert kid != KEY.kid


def test_claims_are_refused_though_the_signature_is_right() -> None:
    checked = 0
    verifier = jwt.PyJWS(["ES256"])
    for name, token in WITH_OTHER_CLAIMS.items():
        if name != "longer than any":
            assert TOKENS.kid(token) == KEY.kid, name
        verifier.decode(token, public(), ["ES256"])
        checked += 1
    assert checked > 110


def test_there_are_as_many_kinds_as_there_should_be() -> None:
    assert len(FORGED) > 350
    assert GOOD not in FORGED.values()


@given(st.integers(0, len(GOOD) - 1), st.characters())
@patiently
def test_no_letter_of_a_token_can_be_another(index: int, letter: str) -> None:
    changed = GOOD[:index] + letter + GOOD[index + 1 :]
    if changed != GOOD:
        with pytest.raises(NotSignedIn):
            read(changed)


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.text(max_size=5))
@patiently
def test_no_piece_of_a_token_can_be_another(start: int, end: int, text: str) -> None:
    changed = GOOD[:start] + text + GOOD[end:]
    if changed != GOOD:
        with pytest.raises(NotSignedIn):
            read(changed)


@given(
    st.text()
    | st.lists(st.binary(), min_size=3, max_size=3).map(lambda p: ".".join(map(forgeries.spelled, p)))
)
@patiently
def test_no_text_is_taken_or_raises_anything_else(text: str) -> None:
    for ask in (TOKENS.kid, lambda token: TOKENS.read(KEY, token, NOW)):
        with pytest.raises(NotSignedIn):
            ask(text)


JSON: Final = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["watchly", "system", "7", "admin", SECONDS, SECONDS + 900]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES: Final = st.sampled_from([*FORGER.header, *FORGER.payload, "nbf", "crit", "jwk", "\ud800"])
CHANGES: Final = st.dictionaries(NAMES, JSON, min_size=1, max_size=3)


@given(st.binary() | CHANGES.map(lambda changes: compact(FORGER.header | changes)))
@patiently
def test_no_header_raises_anything_else_though_it_is_signed(header: bytes) -> None:
    try:
        read(FORGER.signed(header or b" "))
    except NotSignedIn:
        return
    assert json.loads(header) == FORGER.header


@given(st.binary() | CHANGES.map(lambda changes: compact(FORGER.payload | changes)))
@patiently
def test_no_payload_raises_anything_else_though_it_is_signed(payload: bytes) -> None:
    try:
        claims = read(FORGER.signed(payload=payload or b" "))
    except NotSignedIn:
        return
    assert claims.issued_at <= NOW + timedelta(minutes=1)
    assert NOW < claims.expires_at <= claims.issued_at + timedelta(days=1)
    assert claims.subject == "system" or int(claims.subject) > 0
    assert isinstance(claims.role, Role)
