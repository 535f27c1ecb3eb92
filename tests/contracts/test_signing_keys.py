"""The use cases on the keys that sign tokens, on the fakes and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Sequence

import msgspec
import pytest
from tests.households import Counting, Household, split
from tests.houses import INSTANT, House

from watchly_core.errors import NotSignedIn, Unavailable
from watchly_core.people import SYSTEM, Role
from watchly_core.signing_keys import PUBLISHED_FOR, SigningKey
from watchly_core.tokens import ACCESS_FOR, MOST_ACCESS, Claims

pytestmark = pytest.mark.anyio

#: After which every process knows what the keys are by now.
KNOWN = dt.timedelta(seconds=5)


async def token(household: Household, time: dt.timedelta = ACCESS_FOR) -> str:
    now = household.house.now
    sign = await household.keys.signer()
    return sign(Claims(SYSTEM.name, Role.ADMIN, now, now + time))


async def refused(household: Household, *tokens: str) -> None:
    for each in tokens:
        with pytest.raises(NotSignedIn):
            await household.keys.read(each)


async def kept(household: Household) -> list[SigningKey]:
    return list(await household.people.signing_keys())


async def published(household: Household) -> set[str]:
    return {key["kid"] for key in await household.keys.published()}


async def test_the_first_key_is_made_when_it_is_needed_and_signs(household: Household) -> None:
    assert await kept(household) == []
    signed = await token(household)
    (key,) = await kept(household)
    assert (key.created_at, key.signs_from, key.ends_at) == (household.house.now, household.house.now, None)
    assert household.tokens.kid(signed) == key.kid
    claims = await household.keys.read(signed)
    assert (claims.subject, claims.role, claims.session) == ("system", Role.ADMIN, None)
    assert await published(household) == {key.kid}


async def test_what_is_published_is_there_before_anything_is_signed(household: Household) -> None:
    (only,) = await household.keys.published()
    assert household.tokens.kid(await token(household)) == only["kid"]
    assert set(only) == {"kty", "crv", "x", "y", "use", "alg", "kid"}  # and no "d"


async def test_processes_that_start_at_once_sign_by_one_key(house: House) -> None:
    households = [Household(house, people=Counting(house.store.people)) for _ in range(20)]
    tokens = await asyncio.gather(*(token(household) for household in households))
    assert len(await kept(households[0])) == 1
    for household in households:
        for each in tokens:
            await household.keys.read(each)


async def test_the_keys_are_read_once_for_many_requests_at_once_and_then_now_and_then(house: House) -> None:
    people = Counting(house.store.people)
    household = Household(house, people=people)
    signed = await token(household)
    house.wait(KNOWN)
    people.asked.clear()
    await asyncio.gather(*(household.keys.read(signed) for _ in range(20)))
    assert people.asked == {"signing_keys": 1}
    house.wait(KNOWN)
    await household.keys.read(signed)
    assert people.asked == {"signing_keys": 2}


class Silent(Counting):
    """The read side of people when the database says nothing, until it is given up."""

    async def signing_keys(self) -> Sequence[SigningKey]:
        await super().signing_keys()
        raise Unavailable("database", "it says nothing")


async def test_those_who_ask_while_the_database_is_silent_wait_together(house: House) -> None:
    people = Silent(house.store.people)
    household = Household(house, people=people)
    published = (household.keys.published() for _ in range(20))
    done, failed = split(await asyncio.gather(*published, return_exceptions=True))
    assert done == []
    assert {type(error) for error in failed} == {Unavailable}
    assert people.asked == {"signing_keys": 1}


async def test_a_token_lasts_as_long_as_it_says(household: Household) -> None:
    signed = await token(household)
    household.house.wait(ACCESS_FOR - dt.timedelta(seconds=1))
    await household.keys.read(signed)
    household.house.wait(dt.timedelta(seconds=1))
    await refused(household, signed)


# Rotating them


async def test_a_new_key_is_published_for_long_before_it_signs(house: House) -> None:
    household, other = Household(house), Household(house)
    old = other.tokens.kid(await token(other))
    new = await household.keys.rotate()
    assert await published(household) == {old, new.kid}
    assert household.tokens.kid(await token(household)) == old
    house.wait(KNOWN)
    assert await published(other) == {old, new.kid}
    assert new.signs_from - house.now > PUBLISHED_FOR
    house.wait(new.signs_from - house.now - INSTANT)
    assert other.tokens.kid(await token(other)) == old
    house.wait(INSTANT)
    assert other.tokens.kid(await token(other)) == new.kid
    assert household.tokens.kid(await token(household)) == new.kid


async def test_what_an_old_key_has_signed_is_good_to_its_end(house: House) -> None:
    household = Household(house)
    first = await token(household, MOST_ACCESS)
    new = await household.keys.rotate()
    house.wait(new.signs_from - house.now - INSTANT)
    last = await token(household, MOST_ACCESS)
    assert household.tokens.kid(first) == household.tokens.kid(last) != new.kid
    house.wait(MOST_ACCESS - dt.timedelta(seconds=1))
    assert (await household.keys.read(last)).subject == "system"
    await refused(household, first)
    assert await published(household) == {household.tokens.kid(last), new.kid}
    house.wait(dt.timedelta(seconds=1, microseconds=1))
    await refused(household, last)
    assert await published(household) == {new.kid}


async def test_keys_that_have_ended_are_forgotten_at_the_next_rotation(house: House) -> None:
    household = Household(house)
    await token(household)
    kids = []
    for _ in range(5):
        kids.append((await household.keys.rotate()).kid)
        house.wait(2 * MOST_ACCESS)
    assert {key.kid for key in await kept(household)} == set(kids[-2:])
    assert household.tokens.kid(await token(household)) == kids[-1]


async def test_when_a_key_ends_is_said_once(household: Household) -> None:
    old = household.tokens.kid(await token(household))
    new = await household.keys.rotate()
    household.house.wait()
    await household.keys.rotate()
    ends = {key.kid: key.ends_at for key in await kept(household)}
    assert ends[old] == new.signs_from + MOST_ACCESS


async def test_keys_that_are_rotated_often_sign_in_their_order(house: House) -> None:
    household = Household(house)
    kids = [household.tokens.kid(await token(household))]
    keys = []
    for _ in range(3):
        keys.append(await household.keys.rotate())
        kids.append(keys[-1].kid)
        house.wait()
    tokens, signed_by = [], []
    for key in keys:
        tokens.append(await token(household, MOST_ACCESS))
        signed_by.append(household.tokens.kid(tokens[-1]))
        house.wait(key.signs_from - house.now)
    tokens.append(await token(household, MOST_ACCESS))
    signed_by.append(household.tokens.kid(tokens[-1]))
    assert signed_by == kids
    for each in tokens:
        await household.keys.read(each)


async def test_rotations_at_once_leave_one_key_that_goes_on(house: House) -> None:
    households = [Household(house) for _ in range(5)]
    signed = await token(households[0])
    await asyncio.gather(*(household.keys.rotate() for household in households))
    keys = await kept(households[0])
    assert len(keys) == 6
    assert len([key for key in keys if key.ends_at is None]) == 1
    house.wait(KNOWN)
    for household in households:
        assert household.tokens.kid(await token(household)) == household.tokens.kid(signed)
        await household.keys.read(signed)


async def test_where_a_key_has_leaked_all_that_it_signed_is_refused(house: House) -> None:
    household, other = Household(house), Household(house)
    tokens = [await token(household)]
    leaked = await household.keys.rotate()
    house.wait(leaked.signs_from - house.now)
    tokens.append(await token(other))
    await household.keys.rotate()
    new = await household.keys.rotate(at_once=True)
    await refused(household, *tokens)
    fresh = await token(household)
    assert household.tokens.kid(fresh) == new.kid
    assert await published(household) == {new.kid}
    assert [key.kid for key in await kept(household)] == [new.kid]
    house.wait(KNOWN)
    await refused(other, *tokens)
    assert (await other.keys.read(fresh)).subject == "system"


async def test_a_token_by_a_key_that_is_new_is_good_everywhere_at_once(house: House) -> None:
    household, other = Household(house), Household(house)
    await token(other)
    await household.keys.rotate(at_once=True)
    house.wait(dt.timedelta(seconds=0.5))
    assert (await other.keys.read(await token(household))).subject == "system"


async def test_tokens_by_keys_that_nobody_knows_cause_no_storm_of_reading(house: House) -> None:
    people = Counting(house.store.people)
    household, another = Household(house, people=people), Household(house, secret="of another house")
    unknown = await token(another)
    await token(household)
    house.wait(KNOWN)
    people.asked.clear()
    await asyncio.gather(*(refused(household, unknown) for _ in range(50)))
    for _ in range(50):
        await refused(household, unknown)
    assert people.asked == {"signing_keys": 1}
    house.wait(dt.timedelta(seconds=0.5))
    await asyncio.gather(*(refused(household, unknown) for _ in range(50)))
    assert people.asked == {"signing_keys": 2}


# The secret that seals them


async def test_keys_that_another_secret_has_sealed_are_passed_over(house: House) -> None:
    before, after = Household(house), Household(house, secret="the secret after it was changed")
    old = await token(before)
    await refused(after, old)
    new = await token(after)
    assert (await after.keys.read(new)).subject == "system"
    assert await published(after) == {after.tokens.kid(new)}
    assert await published(before) == {before.tokens.kid(old)}
    await refused(before, new)
    assert len(await kept(after)) == 2
    house.wait(KNOWN)
    rotated = await after.keys.rotate()
    assert rotated.signs_from > house.now


async def test_the_first_rotation_under_another_secret_signs_at_once(house: House) -> None:
    before, after = Household(house), Household(house, secret="the secret after it was changed")
    await token(before)
    new = await after.keys.rotate()
    assert new.signs_from == house.now
    assert after.tokens.kid(await token(after)) == new.kid


async def test_a_sealed_key_under_another_name_is_none(household: Household) -> None:
    await token(household)
    (key,) = await kept(household)
    assert household.tokens.opens(key)
    assert not household.tokens.opens(msgspec.structs.replace(key, kid="another"))
    assert not household.tokens.opens(msgspec.structs.replace(key, sealed=key.sealed[:-1]))
    assert "sealed" not in repr(key)
