"""The use cases of signing in, on the fakes and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import secrets
from base64 import urlsafe_b64encode
from contextlib import AbstractAsyncContextManager

import pytest
from tests.households import CHEAP, DEARER, HERE, PASSWORD, Household, email, split
from tests.houses import INSTANT, House

from watchly_core.errors import NotSignedIn, Unavailable
from watchly_core.passwords import MAX_PASSWORD
from watchly_core.people import Role, UserPatch
from watchly_core.ports import PasswordHasher, Transaction, Transactions
from watchly_core.sessions import MAX_SESSIONS, MOST_SETTLING, REFRESH_FOR, SETTLING
from watchly_core.tokens import ACCESS_FOR

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "blocking"], indirect=True),
]

NEW = "battery staple horse"


async def refused(household: Household, token: str) -> str:
    """What is said to who comes with a refresh token that is not good."""
    with pytest.raises(NotSignedIn) as error:
        await household.sessions.refresh(token)
    return str(error.value)


class Noting:
    """A hasher that notes what it was asked to verify, in front of a real one."""

    def __init__(self, real: PasswordHasher = CHEAP) -> None:
        self._real = real
        self.verified: list[tuple[str | None, str]] = []

    async def hash(self, password: str) -> str:
        return await self._real.hash(password)

    async def verify(self, kept: str | None, password: str) -> bool:
        self.verified.append((kept, password))
        return await self._real.verify(kept, password)

    def outdated(self, kept: str) -> bool:
        return self._real.outdated(kept)


class Losing:
    """The write side of a store that is lost after so many transactions."""

    def __init__(self, real: Transactions, left: int) -> None:
        self._real, self._left = real, left

    def __call__(self) -> AbstractAsyncContextManager[Transaction]:
        if not self._left:
            raise Unavailable("database", "the connection was lost or refused")
        self._left -= 1
        return self._real()


# Signing in


async def test_who_knows_the_password_gets_a_token_that_says_who_they_are(household: Household) -> None:
    user = await household.add("ada", Role.EDITOR)
    signed_in = await household.sign_in()
    claims = await household.keys.read(signed_in.access_token)
    now = household.house.now.replace(microsecond=0)
    assert (claims.subject, claims.role, claims.version) == (str(user.id), Role.EDITOR, 1)
    assert (claims.issued_at, claims.expires_at) == (now, now + ACCESS_FOR)
    assert await household.people.session_user(claims.session or "") == user
    assert signed_in.expires_in == ACCESS_FOR
    assert "ey" not in repr(signed_in)


@pytest.mark.parametrize("spelled", ["ada@films.example", " ADA@Films.example\n", "\uff41da@films.example"])
async def test_an_address_is_known_however_it_is_spelled(household: Household, spelled: str) -> None:
    await household.add()
    assert (await household.sessions.sign_in(spelled, PASSWORD, address=HERE)).access_token


async def test_a_password_is_known_from_every_keyboard(household: Household) -> None:
    user = await household.add()
    await household.accounts.revise(user.id, UserPatch(password="cafe\u0301-et-the\u0301"))
    assert (await household.sign_in(password="café-et-thé")).access_token


@pytest.mark.parametrize(
    ("address", "password"),
    [
        (email("ada"), "another password"),
        (email("ada"), ""),
        (email("ada"), PASSWORD + " "),
        (email("ada"), PASSWORD + "\x00"),
        (email("ada"), "\ud800"),
        (email("ada"), "x" * 1_000_000),
        (email("nobody"), PASSWORD),
        ("", PASSWORD),
        ("none", PASSWORD),
        ("a\x00@b", PASSWORD),
        ("\ud800@b", PASSWORD),
        ("x" * 1_000_000, PASSWORD),
    ],
    ids=[
        "another password",
        "none",
        "more",
        "NUL",
        "no text",
        "long",
        "nobody",
        "no address",
        "a name",
        "NUL in the address",
        "no text in the address",
        "long address",
    ],
)
async def test_all_others_are_refused_in_the_same_words_and_after_the_same_work(
    house: House, address: str, password: str
) -> None:
    hasher = Noting()
    household = Household(house, hasher=hasher)
    await household.add()
    with pytest.raises(NotSignedIn) as error:
        await household.sessions.sign_in(address, password, address=HERE)
    assert str(error.value) == "the email or the password is wrong"
    ((kept, verified),) = hasher.verified
    assert (kept is not None) is (address == email("ada"))
    assert len(verified) <= MAX_PASSWORD + 1


async def test_who_was_removed_or_has_another_password_while_it_was_verified_is_refused(house: House) -> None:
    household = Household(house)
    user = await household.add()

    class Meddling(Noting):
        """Somebody changes the account at the worst moment."""

        def __init__(self, *patches: UserPatch) -> None:
            super().__init__()
            self.patches = patches

        async def verify(self, kept: str | None, password: str) -> bool:
            verified = await super().verify(kept, password)
            for patch in self.patches:
                await household.accounts.revise(user.id, patch)
            if not self.patches:
                await household.accounts.remove(user.id)
            return verified

    demoting = Household(house, hasher=Meddling(UserPatch(role=Role.EDITOR)))
    claims = await household.keys.read((await demoting.sign_in()).access_token)
    assert (claims.role, claims.version) == (Role.EDITOR, 2)
    for meddling, known in (
        (Meddling(UserPatch(password=NEW)), PASSWORD),
        (Meddling(UserPatch(password=NEW)), NEW),
        (Meddling(), NEW),
    ):
        with pytest.raises(NotSignedIn):
            await Household(house, hasher=meddling).sign_in(password=known)
        assert [verified for _, verified in meddling.verified] == [known]


async def test_a_password_is_hashed_anew_when_that_takes_more_trouble_today(house: House) -> None:
    before, after = Household(house), Household(house, hasher=DEARER)
    user = await before.add()
    first = await before.sign_in()
    old = await house.store.people.account(user.email)
    calls = (after.sign_in() for _ in range(5))
    assert len(await asyncio.gather(*calls)) == 5
    new = await house.store.people.account(user.email)
    assert old is not None
    assert new is not None
    assert DEARER.outdated(old.password_hash)
    assert not DEARER.outdated(new.password_hash)
    # It is the same password still: nobody has to sign in again.
    assert new.user == user
    assert await after.access.actor(first.access_token) == user.actor
    # Those who take less trouble leave it as it is.
    await before.sign_in()
    assert await house.store.people.account(user.email) == new


async def test_a_wrong_password_is_not_hashed_anew(house: House) -> None:
    user = await Household(house).add()
    kept = await house.store.people.account(user.email)
    with pytest.raises(NotSignedIn):
        await Household(house, hasher=DEARER).sign_in(password=NEW)
    assert await house.store.people.account(user.email) == kept


# Staying signed in


async def test_a_refresh_token_is_good_once_and_gives_the_next_one(household: Household) -> None:
    await household.add()
    tokens = [await household.sign_in()]
    for _ in range(3):
        household.house.wait()
        tokens.append(await household.sessions.refresh(tokens[-1].refresh_token))
    assert len({each.refresh_token for each in tokens}) == 4
    assert len({each.access_token for each in tokens}) == 4
    claims = [await household.keys.read(each.access_token) for each in tokens]
    assert len({each.session for each in claims}) == 1
    assert claims[-1].issued_at == household.house.now.replace(microsecond=0)


async def test_a_refreshed_token_says_who_the_user_is_by_now(household: Household) -> None:
    user = await household.add()
    signed_in = await household.sign_in()
    await household.accounts.revise(user.id, UserPatch(role=Role.EDITOR))
    claims = await household.keys.read(
        (await household.sessions.refresh(signed_in.refresh_token)).access_token
    )
    assert (claims.role, claims.version) == (Role.EDITOR, 2)


async def test_of_many_uses_of_one_token_at_once_one_is_answered(household: Household) -> None:
    await household.add()
    signed_in = await household.sign_in()
    household.house.wait()
    uses = (household.sessions.refresh(signed_in.refresh_token) for _ in range(50))
    done, errors = split(await asyncio.gather(*uses, return_exceptions=True))
    assert len(done) == 1
    assert [type(error) for error in errors] == [NotSignedIn] * 49
    assert {str(error) for error in errors} == {"the refresh token is in use by another request"}
    household.house.wait()
    assert (await household.sessions.refresh(done[0].refresh_token)).access_token


async def test_uses_that_cross_in_many_rounds_leave_one_that_is_signed_in(household: Household) -> None:
    await household.add()
    current = await household.sign_in()
    for _ in range(10):
        household.house.wait()
        uses = (household.sessions.refresh(current.refresh_token) for _ in range(5))
        done, _ = split(await asyncio.gather(*uses, return_exceptions=True))
        (current,) = done


async def test_who_comes_before_the_next_token_was_handed_out_ends_nothing(household: Household) -> None:
    await household.add()
    first = await household.sign_in()
    household.house.wait()
    second = await household.sessions.refresh(first.refresh_token)
    household.house.wait(SETTLING)
    assert "in use" in await refused(household, first.refresh_token)
    household.house.wait(INSTANT)
    await household.sessions.refresh(second.refresh_token)


async def test_others_keep_the_next_token_back_for_a_while_and_no_longer(household: Household) -> None:
    await household.add()
    first = await household.sign_in()
    household.house.wait()
    await household.sessions.refresh(first.refresh_token)
    came, step = dt.timedelta(), SETTLING - INSTANT
    while came + step <= MOST_SETTLING:
        household.house.wait(step)
        came += step
        assert "in use" in await refused(household, first.refresh_token)
    household.house.wait(step)
    assert "not any more" in await refused(household, first.refresh_token)


async def test_the_next_token_reaches_its_owner_though_the_store_is_lost_meanwhile(
    household: Household,
) -> None:
    """The old one is good no more: whoever gets no other has to sign in again."""
    await household.add()
    first = await household.sign_in()
    household.house.wait()
    losing = Household(household.house, transactions=Losing(household.house.store.transactions, 1))
    second = await losing.sessions.refresh(first.refresh_token)
    await household.sessions.refresh(second.refresh_token)


async def test_the_session_that_was_not_used_for_longest_ends_for_one_too_many(household: Household) -> None:
    await household.add()
    first = await household.sign_in()
    household.house.wait()
    second = await household.sign_in()
    household.house.wait()
    first = await household.sessions.refresh(first.refresh_token)
    for _ in range(MAX_SESSIONS - 1):
        household.house.wait()
        await household.sign_in()
    await refused(household, second.refresh_token)
    await household.sessions.refresh(first.refresh_token)


async def test_who_comes_later_with_an_old_token_ends_the_session_for_all(household: Household) -> None:
    user = await household.add()
    other = await household.sign_in()
    first = await household.sign_in()
    household.house.wait()
    second = await household.sessions.refresh(first.refresh_token)
    assert await household.access.actor(second.access_token) == user.actor
    household.house.wait(SETTLING + INSTANT)
    assert await refused(household, first.refresh_token) == "the refresh token is not good, or not any more"
    assert await refused(household, second.refresh_token) == "the refresh token is not good, or not any more"
    household.house.wait(dt.timedelta(seconds=5))
    for signed_in in (first, second):
        with pytest.raises(NotSignedIn):
            await household.access.actor(signed_in.access_token)
    # Another session of the same user goes on.
    assert await household.access.actor(other.access_token) == user.actor
    await household.sessions.refresh(other.refresh_token)


async def test_a_session_ends_when_it_was_not_gone_on_with_for_long(household: Household) -> None:
    await household.add()
    signed_in = await household.sign_in()
    for _ in range(2):
        household.house.wait(REFRESH_FOR - INSTANT)
        signed_in = await household.sessions.refresh(signed_in.refresh_token)
    household.house.wait(REFRESH_FOR)
    await refused(household, signed_in.refresh_token)
    async with household.house.store.transactions() as tx:
        assert not await tx.sessions.expire(household.house.now, 10)  # it is gone already


def forged(kept: str, change: str) -> str:
    parts = {
        "nothing": "",
        "no prefix": kept.removeprefix("wrt_"),
        "another prefix": "wrx_" + kept.removeprefix("wrt_"),
        "short": kept[:-4],
        "long": kept + "AAAA",
        "no base64": "wrt_" + "!" * 64,
        "no text": "wrt_\ud800" + kept[5:],
        "not ASCII": "wrt_é" + kept[5:],
        "another handle": "wrt_" + urlsafe_b64encode(secrets.token_bytes(48)).decode(),
        "huge": "wrt_" + "A" * 1_000_000,
    }
    return parts[change]


@pytest.mark.parametrize(
    "change",
    [
        "nothing",
        "no prefix",
        "another prefix",
        "short",
        "long",
        "no base64",
        "no text",
        "not ASCII",
        "another handle",
        "huge",
    ],
)
async def test_what_is_no_refresh_token_is_refused_and_ends_nothing(
    household: Household, change: str
) -> None:
    await household.add()
    signed_in = await household.sign_in()
    household.house.wait()
    await refused(household, forged(signed_in.refresh_token, change))
    await household.sessions.sign_out(forged(signed_in.refresh_token, change))
    assert (await household.sessions.refresh(signed_in.refresh_token)).refresh_token


async def test_an_access_token_is_no_refresh_token_and_the_other_way_round(household: Household) -> None:
    await household.add()
    signed_in = await household.sign_in()
    await refused(household, signed_in.access_token)
    with pytest.raises(NotSignedIn):
        await household.access.actor(signed_in.refresh_token)


async def test_what_is_kept_of_a_token_signs_nobody_in(household: Household) -> None:
    await household.add()
    token = (await household.sign_in()).refresh_token
    claims = await household.keys.read((await household.sessions.refresh(token)).access_token)
    assert claims.session is not None
    await refused(household, claims.session)
    assert claims.session not in token


# Signing out


@pytest.mark.parametrize("old", [False, True], ids=["present", "old"])
async def test_who_signs_out_is_signed_out(household: Household, *, old: bool) -> None:
    user = await household.add()
    other, first = await household.sign_in(), await household.sign_in()
    household.house.wait()
    second = await household.sessions.refresh(first.refresh_token)
    await household.access.actor(second.access_token)
    await household.sessions.sign_out((first if old else second).refresh_token)
    await household.sessions.sign_out(second.refresh_token)
    await refused(household, second.refresh_token)
    household.house.wait(dt.timedelta(seconds=5))
    with pytest.raises(NotSignedIn):
        await household.access.actor(second.access_token)
    assert await household.access.actor(other.access_token) == user.actor


async def test_who_is_removed_is_signed_out(household: Household) -> None:
    user = await household.add()
    signed_in = await household.sign_in()
    await household.accounts.remove(user.id)
    await refused(household, signed_in.refresh_token)
    with pytest.raises(NotSignedIn):
        await household.sign_in()


@pytest.mark.parametrize(
    ("patch", "stays"),
    [
        (UserPatch(password=NEW), False),
        (UserPatch(role=Role.EDITOR), True),
        (UserPatch(email=email("eve")), True),
    ],
    ids=["password", "role", "email"],
)
async def test_a_session_outlives_what_is_no_change_of_its_password(
    household: Household, patch: UserPatch, *, stays: bool
) -> None:
    user = await household.add()
    signed_in = await household.sign_in()
    await household.accounts.revise(user.id, patch)
    household.house.wait()
    if stays:
        assert (await household.sessions.refresh(signed_in.refresh_token)).access_token
    else:
        await refused(household, signed_in.refresh_token)
