"""Who a request is from, on the fakes and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import msgspec
import pytest
from tests.households import HERE, PASSWORD, Counting, Household, split
from tests.houses import INSTANT, House

from watchly_core import access
from watchly_core.access import FRESH, MOST_BEARER
from watchly_core.api_keys import ApiKeyDraft
from watchly_core.errors import NotSignedIn, Unavailable
from watchly_core.people import SYSTEM, Actor, Permission, Role, User, UserPatch
from watchly_core.ports import PeopleQueries, Transaction
from watchly_core.sessions import SignedIn
from watchly_core.tokens import ACCESS_FOR, Claims

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "blocking"], indirect=True),
]

NEW = "battery staple horse"
#: In what time whoever may no more is refused at the latest.
PROMISE = dt.timedelta(seconds=5)
#: After which somebody is looked up again.
STALE = dt.timedelta(seconds=FRESH, microseconds=1)


async def refused(household: Household, bearer: str) -> None:
    with pytest.raises(NotSignedIn):
        await household.access.actor(bearer)
    assert household.access.recent(bearer) is None


async def token(household: Household, claims: Claims) -> str:
    return (await household.keys.signer())(claims)


async def claims_of(household: Household, signed_in: SignedIn) -> Claims:
    return await household.keys.read(signed_in.access_token)


async def test_a_token_is_of_its_user(household: Household) -> None:
    user = await household.add("ada", Role.EDITOR)
    bearer = (await household.sign_in()).access_token
    assert household.access.recent(bearer) is None
    assert await household.access.actor(bearer) == user.actor
    assert household.access.recent(bearer) == user.actor


async def test_a_key_is_of_itself_and_its_owner(household: Household) -> None:
    user = await household.add("ada", Role.EDITOR)
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER), actor=user.actor)
    actor = Actor(f"api-key:{issued.key.id}", Role.VIEWER, user.id)
    assert await household.access.actor(issued.secret) == actor
    nobodys = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.ADMIN))
    assert await household.access.actor(nobodys.secret) == Actor(f"api-key:{nobodys.key.id}", Role.ADMIN)


@pytest.mark.parametrize("role", Role)
async def test_a_token_of_the_service_has_the_role_that_it_says(household: Household, role: Role) -> None:
    now = household.house.now
    bearer = await token(household, Claims("system", role, now, now + ACCESS_FOR))
    assert await household.access.actor(bearer) == Actor("system", role)


async def test_what_everybody_may_do_is_what_those_may_do_who_have_signed_in(house: House) -> None:
    everybody = frozenset({Permission.REGISTER})
    household = Household(house, everybody=everybody)
    user = await household.add()
    actor = await household.access.actor((await household.sign_in()).access_token)
    assert actor == msgspec.structs.replace(user.actor, also=everybody)
    assert actor.may(Permission.REGISTER)
    assert household.access.stranger == Actor("anonymous", also=everybody)


@pytest.mark.parametrize(
    "changed",
    [
        {"subject": "999999"},
        {"subject": "system"},
        {"session": None},
        {"session": "0" * 32},
        {"version": None},
        {"version": 2},
    ],
    ids=lambda changed: "-".join(map(str, *changed.items())),
)
async def test_a_token_that_we_signed_says_all_of_it_right_or_is_refused(
    household: Household, changed: dict[str, str | int | None]
) -> None:
    await household.add()
    eve = await household.add("eve")
    claims = await claims_of(household, await household.sign_in())
    assert (await household.access.actor(await token(household, claims))).user_id
    await refused(household, await token(household, msgspec.structs.replace(claims, **changed)))
    await refused(household, await token(household, msgspec.structs.replace(claims, subject=str(eve.id))))


async def test_the_role_of_a_user_is_the_one_of_the_account_whatever_the_token_says(
    household: Household,
) -> None:
    user = await household.add()
    claims = await claims_of(household, await household.sign_in())
    bearer = await token(household, msgspec.structs.replace(claims, role=Role.ADMIN))
    assert await household.access.actor(bearer) == user.actor


@pytest.mark.parametrize(
    "bearer",
    ["", "none", "a.b.c", "watchly_", "é", "\ud800", "x" * (MOST_BEARER + 1), "watchly_" + "0" * 60_000],
    ids=["nothing", "a word", "dots", "prefix", "not ASCII", "no text", "long", "long key"],
)
async def test_what_is_no_bearer_is_refused(household: Household, bearer: str) -> None:
    with pytest.raises(NotSignedIn):
        await household.access.actor(bearer)


async def test_a_token_ends_though_it_was_looked_up_a_moment_ago(household: Household) -> None:
    await household.add()
    bearer = (await household.sign_in()).access_token
    end = (await household.keys.read(bearer)).expires_at
    household.house.wait(end - household.house.now - INSTANT)
    await household.access.actor(bearer)
    household.house.wait(INSTANT)
    await refused(household, bearer)


async def test_a_key_ends_though_it_was_looked_up_a_moment_ago(household: Household) -> None:
    end = household.house.now + dt.timedelta(hours=1)
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER, expires_at=end))
    household.house.wait(dt.timedelta(hours=1) - INSTANT)
    await household.access.actor(issued.secret)
    household.house.wait(INSTANT)
    await refused(household, issued.secret)


# What ends access


ENDS: dict[str, Callable[[Household, User, SignedIn], Awaitable[object]]] = {
    "sign-out": lambda household, _, signed_in: household.sessions.sign_out(signed_in.refresh_token),
    "removal": lambda household, user, _: household.accounts.remove(user.id),
    "another role": lambda household, user, _: household.accounts.revise(
        user.id, UserPatch(role=Role.VIEWER)
    ),
    "another password": lambda household, user, _: household.accounts.revise(
        user.id, UserPatch(password=NEW)
    ),
    "one's own password": lambda household, user, _: household.accounts.change_password(
        PASSWORD, NEW, address=HERE, actor=user.actor
    ),
    "another secret": lambda household, _, __: household.keys.rotate(at_once=True),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
async def test_access_ends_in_every_process_in_the_time_that_was_promised(
    house: House, end: Callable[[Household, User, SignedIn], Awaitable[object]]
) -> None:
    household, other = Household(house), Household(house)
    user = await household.add("ada", Role.EDITOR)
    signed_in, bystander = await household.sign_in(), await household.add("eve")
    for each in (household, other):
        assert await each.access.actor(signed_in.access_token) == user.actor
    await end(household, user, signed_in)
    house.wait(PROMISE)
    for each in (household, other):
        await refused(each, signed_in.access_token)
        hers = (await each.sign_in("eve")).access_token
        assert await each.access.actor(hers) == bystander.actor


async def test_a_key_that_is_revoked_or_whose_owner_goes_is_refused_in_that_time(house: House) -> None:
    household, other = Household(house), Household(house)
    user = await household.add()
    draft = ApiKeyDraft(name="key", role=Role.VIEWER)
    first, second = [await household.api_keys.add(draft, actor=user.actor) for _ in range(2)]
    for issued in (first, second):
        await other.access.actor(issued.secret)
    await household.api_keys.revoke(first.key.id)
    house.wait(PROMISE)
    await refused(other, first.secret)
    assert (await other.access.actor(second.secret)).user_id == user.id
    await household.accounts.remove(user.id)
    house.wait(PROMISE)
    await refused(other, second.secret)


async def test_a_key_follows_the_role_of_its_owner_in_that_time(household: Household) -> None:
    await household.add("admin", Role.ADMIN)
    user = await household.add("ada", Role.ADMIN)
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.ADMIN), actor=user.actor)
    roles = []
    for role in (Role.EDITOR, Role.VIEWER, Role.ADMIN):
        await household.accounts.revise(user.id, UserPatch(role=role))
        household.house.wait(PROMISE)
        roles.append((await household.access.actor(issued.secret)).role)
    assert roles == [Role.EDITOR, Role.VIEWER, Role.ADMIN]


# By the token alone


@pytest.mark.parametrize("role", Role)
async def test_where_nobody_is_asked_a_token_is_of_whom_it_says_until_it_ends(
    house: House, role: Role
) -> None:
    people = Counting(house.store.people)
    household = Household(house)
    elsewhere = Household(house, people=people, tokens_alone=True, everybody=frozenset({Permission.READ}))
    await household.add("admin", Role.ADMIN)
    user = await household.add("ada", role)
    signed_in = await household.sign_in()
    actor = Actor(f"user:{user.id}", role, user.id, also=frozenset({Permission.READ}))
    assert await elsewhere.access.actor(signed_in.access_token) == actor
    await household.accounts.remove(user.id)
    end = (await household.keys.read(signed_in.access_token)).expires_at
    house.wait(end - house.now - INSTANT)
    assert await elsewhere.access.actor(signed_in.access_token) == actor
    house.wait(INSTANT)
    await refused(elsewhere, signed_in.access_token)
    assert set(people.asked) == {"signing_keys"}


async def test_where_nobody_is_asked_the_service_and_keys_are_who_they_are_elsewhere(house: House) -> None:
    household = Household(house, tokens_alone=True)
    now = house.now
    claims = Claims(SYSTEM.name, Role.EDITOR, now, now + ACCESS_FOR)
    assert await household.access.actor(await token(household, claims)) == Actor("system", Role.EDITOR)
    await refused(household, await token(household, msgspec.structs.replace(claims, session="0" * 32)))
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER))
    assert await household.access.actor(issued.secret) == Actor(f"api-key:{issued.key.id}", Role.VIEWER)
    await household.api_keys.revoke(issued.key.id)
    house.wait(PROMISE)
    await refused(household, issued.secret)


# How often somebody is looked up


async def test_somebody_is_looked_up_once_in_a_while(house: House) -> None:
    people = Counting(house.store.people)
    household = Household(house, people=people)
    await household.add()
    bearer = (await household.sign_in()).access_token
    people.asked.clear()
    for _ in range(10):
        await household.access.actor(bearer)
    assert people.asked["session_user"] == 1
    house.wait(STALE)
    await household.access.actor(bearer)
    assert people.asked["session_user"] == 2


@pytest.mark.parametrize("kind", ["session_user", "api_key"])
async def test_requests_that_come_at_once_with_one_bearer_have_one_look_up(house: House, kind: str) -> None:
    people = Counting(house.store.people)
    household = Household(house, people=people)
    user = await household.add()
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER), actor=user.actor)
    bearer = issued.secret if kind == "api_key" else (await household.sign_in()).access_token
    for round_ in (1, 2):
        actors = await asyncio.gather(*(household.access.actor(bearer) for _ in range(100)))
        assert {actor.user_id for actor in actors} == {user.id}
        assert people.asked[kind] == round_
        house.wait(STALE)


async def test_requests_with_different_bearers_are_told_apart(household: Household) -> None:
    users = [await household.add(f"user{number}") for number in range(5)]
    bearers = [(await household.sign_in(f"user{number}")).access_token for number in range(5)]
    actors = await asyncio.gather(*(household.access.actor(bearer) for bearer in bearers * 10))
    assert actors == [user.actor for user in users] * 10


async def test_who_leaves_while_somebody_is_looked_up_takes_nothing_from_the_others(
    household: Household,
) -> None:
    user = await household.add()
    bearer = (await household.sign_in()).access_token
    calls = [asyncio.create_task(household.access.actor(bearer)) for _ in range(3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    done, left = split(await asyncio.gather(*calls, return_exceptions=True))
    assert done == [user.actor, user.actor]
    assert [type(error) for error in left] == [asyncio.CancelledError]


class Failing(Counting):
    """A read side that does not answer when it is told so."""

    down = False

    async def session_user(self, session_id: str) -> User | None:
        if self.down:
            raise Unavailable("database", "is down")
        return await super().session_user(session_id)


async def test_nobody_is_taken_for_who_they_were_when_that_cannot_be_looked_up(house: House) -> None:
    people = Failing(house.store.people)
    household = Household(house, people=people)
    user = await household.add()
    bearer = (await household.sign_in()).access_token
    assert await household.access.actor(bearer) == user.actor
    house.wait(STALE)
    people.down = True
    results = await asyncio.gather(
        *(household.access.actor(bearer) for _ in range(10)), return_exceptions=True
    )
    assert {type(result) for result in results} == {Unavailable}
    people.down = False
    assert await household.access.actor(bearer) == user.actor


async def test_no_more_bearers_are_remembered_than_there_is_room_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_MOST_KNOWN", 3)
    household = Household(house)
    now = house.now
    bearers = [
        await token(household, Claims(SYSTEM.name, Role.VIEWER, now, now + ACCESS_FOR)) for _ in range(5)
    ]
    for bearer in bearers:
        await household.access.actor(bearer)
    known = [household.access.recent(bearer) is not None for bearer in bearers]
    assert known == [False, False, True, True, True]


async def test_who_was_looked_up_last_is_remembered_longest(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "_MOST_KNOWN", 2)
    household = Household(house)
    now = house.now
    claims = Claims(SYSTEM.name, Role.VIEWER, now, now + ACCESS_FOR)
    often, seldom, new = [await token(household, claims) for _ in range(3)]
    for bearer in (often, seldom):
        await household.access.actor(bearer)
    house.wait(STALE)
    for bearer in (seldom, often, new):
        await household.access.actor(bearer)
    known = [household.access.recent(bearer) is not None for bearer in (often, seldom, new)]
    assert known == [True, False, True]


async def test_what_is_refused_takes_no_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_MOST_KNOWN", 3)
    household = Household(house)
    await household.add()
    bearer = (await household.sign_in()).access_token
    await household.access.actor(bearer)
    for number in range(10):
        await refused(household, f"watchly_{number:012x}_" + "A" * 43)
    assert household.access.recent(bearer) is not None


# When a key was used


class Down:
    """The write side of a store that can only be read."""

    def __call__(self) -> AbstractAsyncContextManager[Transaction]:
        raise Unavailable("database", "cannot be written to")


async def last_used(household: Household, key_id: int) -> dt.datetime | None:
    async with household.house.store.transactions() as tx:
        return (await tx.api_keys.get(key_id)).last_used_at


async def test_that_a_key_is_used_is_noted_once_in_a_minute(household: Household) -> None:
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER))
    start = household.house.now
    assert await last_used(household, issued.key.id) is None
    noted = []
    for _ in range(14):
        await household.access.actor(issued.secret)
        noted.append(await last_used(household, issued.key.id))
        household.house.wait(dt.timedelta(seconds=10))
    minute = dt.timedelta(minutes=1)
    assert noted == [start] * 6 + [start + minute] * 6 + [start + 2 * minute] * 2


async def test_that_a_key_is_refused_is_no_use_of_it(household: Household) -> None:
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER))
    await refused(household, issued.secret[:-1] + ("A" if issued.secret[-1] != "A" else "B"))
    assert await last_used(household, issued.key.id) is None


async def test_a_key_is_good_also_when_its_use_cannot_be_noted(house: House) -> None:
    household = Household(house)
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.VIEWER))
    down = Household(house, transactions=Down())
    assert (await down.access.actor(issued.secret)).role is Role.VIEWER
    assert await last_used(household, issued.key.id) is None


class Frozen(Counting):
    """The read side of people, whose first look at a session gets no answer until it is thawed."""

    def __init__(self, real: PeopleQueries) -> None:
        super().__init__(real)
        self.thawed = asyncio.Event()

    async def session_user(self, session_id: str) -> User | None:
        if not self.asked["session_user"]:
            self.asked["session_user"] += 1
            await self.thawed.wait()
        return await super().session_user(session_id)


async def test_who_comes_after_a_look_that_gets_no_answer_is_looked_up_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "PATIENCE", 0.05)
    frozen = Frozen(house.store.people)
    household = Household(house, people=frozen)
    user = await household.add()
    bearer = (await household.sign_in()).access_token

    async with asyncio.timeout(30):
        with pytest.raises(Unavailable):
            await household.access.actor(bearer)
        monkeypatch.setattr(access, "PATIENCE", 20.0)
        assert await household.access.actor(bearer) == user.actor
    frozen.thawed.set()
