"""The use cases on API keys, on the fakes and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import Callable

import pytest
from tests.households import Household, split
from tests.houses import INSTANT

from watchly_core.api_keys import KEPT_FOR, MAX_KEYS, MAX_NAME, ApiKeyDraft, is_api_key, lesser
from watchly_core.errors import ApiKeyNotFound, InvalidApiKey, NotAllowed, NotSignedIn, UserNotFound
from watchly_core.expiry import drop_all
from watchly_core.people import SYSTEM, Actor, Permission, Role, UserPatch, stranger

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "blocking"], indirect=True),
]

DRAFT = ApiKeyDraft(name="nightly import", role=Role.VIEWER)
ROLES = list(Role)


async def test_a_key_is_shown_once_and_only_its_digest_is_kept(household: Household) -> None:
    user = await household.add("ada", Role.EDITOR)
    draft = ApiKeyDraft(name="  nightly import ", role=Role.EDITOR)
    issued = await household.api_keys.add(draft, actor=user.actor)
    assert (issued.key.name, issued.key.role, issued.key.user_id) == ("nightly import", Role.EDITOR, user.id)
    assert issued.key.created_at == household.house.now
    assert is_api_key(issued.secret)
    assert issued.secret.startswith(f"watchly_{issued.key.prefix}_")
    assert issued.key.digest == hashlib.sha256(issued.secret.encode()).digest()
    assert issued.secret not in repr(issued)
    assert await household.api_keys.use(issued.secret) == (issued.key, user)
    assert await household.api_keys.find(actor=user.actor) == [issued.key]


async def test_each_sees_their_own_keys_and_administrators_those_of_nobody_as_well(
    household: Household,
) -> None:
    ada, grace = await household.add("ada"), await household.add("grace")
    admin = await household.add("admin", Role.ADMIN)
    first = await household.api_keys.add(DRAFT, actor=ada.actor)
    nobodys = await household.api_keys.add(DRAFT)
    second = await household.api_keys.add(DRAFT, actor=ada.actor)
    own = await household.api_keys.add(DRAFT, actor=admin.actor)
    assert await household.api_keys.find(actor=ada.actor) == [first.key, second.key]
    assert await household.api_keys.find(actor=grace.actor) == []
    assert await household.api_keys.find(actor=admin.actor) == [nobodys.key, own.key]
    assert await household.api_keys.find(actor=SYSTEM) == [nobodys.key]
    assert nobodys.key.user_id is None


@pytest.mark.parametrize("role", [Role.VIEWER, Role.EDITOR])
@pytest.mark.parametrize("name", ["api-key:3", "system"])
async def test_the_keys_of_nobody_are_those_of_administrators_alone(
    household: Household, role: Role, name: str
) -> None:
    """Else what was given to a service for a day would make itself a key that is good for ever."""
    actor = Actor(name, role)
    issued = await household.api_keys.add(DRAFT)
    with pytest.raises(NotAllowed):
        await household.api_keys.add(DRAFT, actor=actor)
    with pytest.raises(NotAllowed):
        await household.api_keys.find(actor=actor)
    with pytest.raises(ApiKeyNotFound):
        await household.api_keys.revoke(issued.key.id, actor=actor)
    assert await household.api_keys.find(actor=SYSTEM) == [issued.key]


@pytest.mark.parametrize("actor_role", Role)
@pytest.mark.parametrize("role", Role)
async def test_nobody_makes_a_key_that_may_do_more_than_they(
    household: Household, actor_role: Role, role: Role
) -> None:
    user = await household.add("ada", actor_role)
    draft = ApiKeyDraft(name="key", role=role)
    if ROLES.index(role) <= ROLES.index(actor_role):
        assert (await household.api_keys.add(draft, actor=user.actor)).key.role is role
    else:
        with pytest.raises(NotAllowed):
            await household.api_keys.add(draft, actor=user.actor)
        assert await household.api_keys.find(actor=user.actor) == []


async def test_strangers_have_no_keys(household: Household) -> None:
    issued = await household.api_keys.add(DRAFT)
    with pytest.raises(NotSignedIn):
        await household.api_keys.add(DRAFT, actor=stranger())
    with pytest.raises(NotSignedIn):
        await household.api_keys.find(actor=stranger())
    with pytest.raises(NotSignedIn):
        await household.api_keys.revoke(issued.key.id, actor=stranger())


async def test_where_everybody_may_do_everything_a_stranger_does_as_the_operator_does(
    household: Household,
) -> None:
    everybody = stranger(frozenset(Permission))
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.ADMIN), actor=everybody)
    assert await household.api_keys.find(actor=everybody) == [issued.key]
    await household.api_keys.revoke(issued.key.id, actor=everybody)
    assert await household.api_keys.find(actor=everybody) == []


async def test_who_is_gone_gets_no_key(household: Household) -> None:
    user = await household.add()
    await household.accounts.remove(user.id)
    with pytest.raises(UserNotFound):
        await household.api_keys.add(DRAFT, actor=user.actor)


@pytest.mark.parametrize("name", ["", "   ", "x" * (MAX_NAME + 1), "a\x00b", "a\nb", "a\x85b", "a\ud800"])
async def test_a_name_that_cannot_be_shown_is_refused(household: Household, name: str) -> None:
    with pytest.raises(InvalidApiKey) as invalid:
        await household.api_keys.add(ApiKeyDraft(name=name, role=Role.VIEWER, expires_at=household.house.now))
    assert [fault.pointer for fault in invalid.value.faults] == ["#/name", "#/expires_at"]


@pytest.mark.parametrize("name", ["x" * MAX_NAME, "é 🎬", "Robert'); DROP TABLE api_keys;--"])
async def test_a_name_is_kept_as_it_is(household: Household, name: str) -> None:
    issued = await household.api_keys.add(ApiKeyDraft(name=name, role=Role.VIEWER))
    assert [key.name for key in await household.api_keys.find(actor=SYSTEM)] == [name]
    assert issued.key.name == name


async def test_one_owner_has_so_many_keys_and_room_again_after_a_while(household: Household) -> None:
    user = await household.add()
    issued = [await household.api_keys.add(DRAFT, actor=user.actor) for _ in range(MAX_KEYS)]
    await household.api_keys.revoke(issued[0].key.id, actor=user.actor)
    with pytest.raises(InvalidApiKey, match=f"at most {MAX_KEYS}"):
        await household.api_keys.add(DRAFT, actor=user.actor)
    await household.api_keys.add(DRAFT)
    house = household.house

    async def dropped() -> int:
        before = house.now - KEPT_FOR
        return await drop_all(house.store.transactions, lambda tx, limit: tx.api_keys.expire(before, limit))

    house.wait(KEPT_FOR)
    assert await dropped() == 0
    house.wait()
    assert await dropped() == 1
    await household.api_keys.add(DRAFT, actor=user.actor)
    assert len(await household.api_keys.find(actor=user.actor)) == MAX_KEYS


# Using them


@pytest.mark.parametrize(
    "change",
    [
        lambda secret: secret[:-1] + ("A" if secret[-1] != "A" else "B"),
        lambda secret: secret[:8] + "0" * 12 + secret[20:],
        lambda secret: secret.upper(),
        lambda secret: secret + "\n",
        lambda secret: " " + secret,
        lambda secret: secret[:-1],
        lambda secret: secret + "A",
        lambda secret: secret.replace("watchly", "watchlу"),  # noqa: RUF001 - that it looks the same is the point
        lambda _: "watchly_",
        lambda _: "",
        lambda _: "\ud800",
        lambda _: "watchly_" + "0" * 1_000_000,
    ],
)
async def test_what_is_not_exactly_a_key_is_refused(
    household: Household, change: Callable[[str], str]
) -> None:
    issued = await household.api_keys.add(DRAFT)
    with pytest.raises(NotSignedIn):
        await household.api_keys.use(change(issued.secret))
    assert (await household.api_keys.use(issued.secret))[0] == issued.key


async def test_a_key_is_good_until_it_expires(household: Household) -> None:
    end = household.house.now + dt.timedelta(days=1)
    draft = ApiKeyDraft(name="key", role=Role.VIEWER, expires_at=end)
    issued = await household.api_keys.add(draft)
    household.house.wait(dt.timedelta(days=1) - INSTANT)
    assert (await household.api_keys.use(issued.secret))[0].expires_at == end
    household.house.wait(INSTANT)
    with pytest.raises(NotSignedIn):
        await household.api_keys.use(issued.secret)
    # It is listed still, for whoever wonders why a service has stopped.
    assert await household.api_keys.find(actor=SYSTEM) == [issued.key]


async def test_a_key_that_is_revoked_is_good_for_nothing_and_cannot_be_revoked_again(
    household: Household,
) -> None:
    user = await household.add()
    issued = await household.api_keys.add(DRAFT, actor=user.actor)
    await household.api_keys.revoke(issued.key.id, actor=user.actor)
    with pytest.raises(NotSignedIn):
        await household.api_keys.use(issued.secret)
    with pytest.raises(ApiKeyNotFound):
        await household.api_keys.revoke(issued.key.id, actor=user.actor)
    assert await household.api_keys.find(actor=user.actor) == []
    async with household.house.store.transactions() as tx:
        assert (await tx.api_keys.get(issued.key.id)).revoked_at == household.house.now


async def test_of_many_who_revoke_a_key_at_once_one_does(household: Household) -> None:
    issued = await household.api_keys.add(DRAFT)
    calls = (household.api_keys.revoke(issued.key.id) for _ in range(10))
    done, refused = split(await asyncio.gather(*calls, return_exceptions=True))
    assert done == [None]
    assert {type(error) for error in refused} == {ApiKeyNotFound}


async def test_one_s_own_keys_are_revoked_by_oneself_and_by_administrators_alone(
    household: Household,
) -> None:
    ada, eve = await household.add("ada"), await household.add("eve", Role.EDITOR)
    admin = await household.add("admin", Role.ADMIN)
    first, second = [await household.api_keys.add(DRAFT, actor=ada.actor) for _ in range(2)]
    nobodys = await household.api_keys.add(DRAFT)
    for issued in (first, nobodys):
        with pytest.raises(ApiKeyNotFound):
            await household.api_keys.revoke(issued.key.id, actor=eve.actor)
    for key_id in (0, -1, 2**31, 2**63, 10**30):
        with pytest.raises(ApiKeyNotFound):
            await household.api_keys.revoke(key_id, actor=admin.actor)
    await household.api_keys.revoke(first.key.id, actor=ada.actor)
    await household.api_keys.revoke(second.key.id, actor=admin.actor)
    await household.api_keys.revoke(nobodys.key.id, actor=admin.actor)


async def test_a_key_of_a_user_revokes_no_other_key_of_the_user(household: Household) -> None:
    ada = await household.add("ada", Role.EDITOR)
    leaked, other = [await household.api_keys.add(DRAFT, actor=ada.actor) for _ in range(2)]
    thief = leaked.key.actor(ada)
    with pytest.raises(ApiKeyNotFound):
        await household.api_keys.revoke(other.key.id, actor=thief)
    assert len(await household.api_keys.find(actor=ada.actor)) == 2
    await household.api_keys.revoke(leaked.key.id, actor=thief)
    assert [key.id for key in await household.api_keys.find(actor=ada.actor)] == [other.key.id]


@pytest.mark.parametrize("key_role", Role)
@pytest.mark.parametrize("owner_role", Role)
async def test_who_acts_by_a_key_may_do_no_more_than_its_owner_by_now(
    household: Household, key_role: Role, owner_role: Role
) -> None:
    await household.add("admin", Role.ADMIN)
    owner = await household.add("ada", Role.ADMIN)
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=key_role), actor=owner.actor)
    await household.accounts.revise(owner.id, UserPatch(role=owner_role))
    key, user = await household.api_keys.use(issued.secret)
    assert key.actor(user) == Actor(f"api-key:{key.id}", lesser(key_role, owner_role), owner.id)


async def test_a_key_of_nobody_acts_with_its_own_role_and_outlives_all_users(household: Household) -> None:
    ada = await household.add()
    owned = await household.api_keys.add(DRAFT, actor=ada.actor)
    issued = await household.api_keys.add(ApiKeyDraft(name="key", role=Role.ADMIN))
    await household.accounts.remove(ada.id)
    key, user = await household.api_keys.use(issued.secret)
    assert key.actor(user) == Actor(f"api-key:{key.id}", Role.ADMIN)
    with pytest.raises(NotSignedIn):
        await household.api_keys.use(owned.secret)


async def test_what_a_key_is_used_for_does_not_bring_back_what_was_revoked(household: Household) -> None:
    issued = await household.api_keys.add(DRAFT)
    key, _ = await household.api_keys.use(issued.secret)
    await household.api_keys.revoke(key.id)
    await household.api_keys.note_use(key)
    with pytest.raises(NotSignedIn):
        await household.api_keys.use(issued.secret)


# The first one


async def test_the_first_key_is_made_once_and_may_do_everything(household: Household) -> None:
    calls = (household.api_keys.add_first() for _ in range(10))
    made = [issued for issued in await asyncio.gather(*calls) if issued is not None]
    assert len(made) == 1
    key, user = await household.api_keys.use(made[0].secret)
    assert key.actor(user) == Actor(f"api-key:{key.id}", Role.ADMIN)
    await household.api_keys.revoke(key.id)
    assert await household.api_keys.add_first() is None


async def test_where_there_are_users_no_first_key_is_made(household: Household) -> None:
    await household.add()
    assert await household.api_keys.add_first() is None
    assert await household.api_keys.find(actor=SYSTEM) == []
