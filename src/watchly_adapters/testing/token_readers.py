"""What every reader of tokens promises: what was signed for this service, and is good now, is read."""

from __future__ import annotations

import asyncio
import datetime as dt
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

import msgspec
import pytest

from watchly_adapters.testing.suites import Suite
from watchly_core.clocks import utc_now
from watchly_core.errors import NotSignedIn
from watchly_core.people import Role
from watchly_core.ports import TokenReader
from watchly_core.tokens import ACCESS_FOR, MOST_ACCESS, Claims

__all__ = ["Signing", "TokenReaderContract"]

_SECOND = dt.timedelta(seconds=1)


class Signing(NamedTuple):
    """A reader, and what signs the tokens that it reads; both go by the clock of this machine."""

    reader: TokenReader
    sign: Callable[[Claims], Awaitable[str]]


def _claims(subject: str = "7", good_for: dt.timedelta = ACCESS_FOR) -> Claims:
    now = utc_now().replace(microsecond=0)
    return Claims(subject, Role.EDITOR, now, now + good_for, "5e55" * 8, 3)


class TokenReaderContract(Suite):
    """Supply `signing`."""

    @pytest.fixture
    def signing(self) -> Iterator[Signing]:
        """A reader, and what signs what it reads."""
        raise NotImplementedError("supply a fixture `signing`: a reader, and what signs what it reads")

    @pytest.mark.parametrize("role", Role)
    async def test_what_a_token_says_is_read(self, signing: Signing, role: Role) -> None:
        of_user = msgspec.structs.replace(_claims(), role=role)
        of_service = msgspec.structs.replace(of_user, subject="system", session=None, version=None)
        for claims in (of_user, of_service, msgspec.structs.replace(of_user, subject="9" * 18)):
            assert await signing.reader.read(await signing.sign(claims)) == claims

    async def test_those_who_ask_at_once_are_told_what_each_asks(self, signing: Signing) -> None:
        wanted = [_claims(str(number)) for number in range(1, 21)]
        tokens = [await signing.sign(claims) for claims in wanted]
        assert await asyncio.gather(*map(signing.reader.read, tokens)) == wanted

    async def test_a_token_may_be_good_for_a_day(self, signing: Signing) -> None:
        claims = _claims(good_for=MOST_ACCESS)
        assert await signing.reader.read(await signing.sign(claims)) == claims

    async def test_what_is_not_good_at_this_time_is_refused(self, signing: Signing) -> None:
        good = _claims()
        later = 5 * dt.timedelta(minutes=1)
        for issued_at, expires_at in (
            (good.issued_at - 2 * ACCESS_FOR, good.issued_at - _SECOND),
            (good.issued_at + later, good.expires_at),
            (good.issued_at, good.issued_at + MOST_ACCESS + _SECOND),
            (good.issued_at, good.issued_at),
        ):
            claims = msgspec.structs.replace(good, issued_at=issued_at, expires_at=expires_at)
            await self._refused(signing, await signing.sign(claims))

    async def test_no_part_of_a_token_may_be_another(self, signing: Signing) -> None:
        one, other = [await signing.sign(_claims(subject)) for subject in ("7", "8")]
        head, said, signature = one.split(".")
        for changed in (
            f"{head}.{other.split('.')[1]}.{signature}",
            f"{head}.{said}.{other.split('.')[2]}",
            f"{head}.{said}.",
            f"{head}.{said}",
            f"{_encoded({'alg': 'none', 'typ': 'at+jwt', 'kid': 'x'})}.{said}.",
            f"{_encoded({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'nobody has it'})}.{said}.{signature}",
        ):
            await self._refused(signing, changed)
        assert (await signing.reader.read(one)).subject == "7"

    @pytest.mark.parametrize("text", ["", ".", "..", "a.b.c", "é.é.é", "\ud800", "x" * 100_000, "\0"])
    async def test_any_text_may_be_asked_about(self, signing: Signing, text: str) -> None:
        await self._refused(signing, text)

    async def _refused(self, signing: Signing, token: str) -> None:
        with pytest.raises(NotSignedIn) as refused:
            await signing.reader.read(token)
        assert not token or token not in str(refused.value)


def _encoded(members: dict[str, str]) -> str:
    return urlsafe_b64encode(msgspec.json.encode(members)).decode().rstrip("=")
