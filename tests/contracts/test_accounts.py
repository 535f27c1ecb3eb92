"""The use cases on users, on the fakes and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest
from tests.households import CHEAP, ELSEWHERE, HERE, PASSWORD, Household, email, split

from watchly_core.errors import (
    EmailTaken,
    InvalidUser,
    LastAdmin,
    NotAllowed,
    NotSignedIn,
    TooManyAttempts,
    UserNotFound,
    VersionConflict,
    WatchlyError,
)
from watchly_core.people import SYSTEM, Actor, Permission, Role, User, UserDraft, UserPatch, stranger
from watchly_core.throttle import PER_ACCOUNT_AND_ADDRESS, SIGN_UPS

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("house", ["memory", "postgres", "blocking"], indirect=True),
]

NEW = "battery staple horse"
NOBODY = 999_999
REGISTERING = stranger(frozenset({Permission.REGISTER}))
EDITOR = Actor("user:7", Role.EDITOR, 7, frozenset({Permission.REGISTER}))
DRAFT = UserDraft(email=" Ada@Films.EXAMPLE", password=PASSWORD)


async def test_an_account_is_made_and_found_by_its_address(household: Household) -> None:
    user = await household.accounts.add(DRAFT)
    assert user == User(user.id, "ada@films.example", Role.VIEWER, household.house.now, 1)
    account = await household.people.account("ada@films.example")
    assert account is not None
    assert account.user == user
    assert PASSWORD not in account.password_hash
    assert await CHEAP.verify(account.password_hash, PASSWORD)
    assert await household.accounts.get(user.id) == user
    assert await household.accounts.me(actor=user.actor) == user


async def test_one_address_has_one_account_however_it_is_spelled(household: Household) -> None:
    await household.accounts.add(DRAFT)
    with pytest.raises(EmailTaken):
        await household.accounts.add(UserDraft(email="ADA@films.example", password=PASSWORD))
    assert len(await household.accounts.find()) == 1


async def test_of_many_who_want_one_address_at_once_one_gets_it(household: Household) -> None:
    calls = (household.accounts.add(DRAFT) for _ in range(10))
    done, refused = split(await asyncio.gather(*calls, return_exceptions=True))
    assert len(done) == 1
    assert {type(error) for error in refused} == {EmailTaken}
    assert await household.accounts.find() == done


async def test_every_fault_of_an_account_is_told_and_nothing_is_kept(household: Household) -> None:
    with pytest.raises(InvalidUser) as invalid:
        await household.accounts.add(UserDraft(email="ada", password="short"))
    assert [(fault.pointer, fault.code) for fault in invalid.value.faults] == [
        ("#/email", "invalid_value"),
        ("#/password", "too_short"),
    ]
    with pytest.raises(InvalidUser, match="must not be the address"):
        await household.accounts.add(UserDraft(email="Adalovelace@b", password="adalovelace"))
    assert not await household.accounts.find()


async def test_users_are_found_in_pages(household: Household) -> None:
    users = [await household.add(f"user{number}") for number in range(5)]
    assert await household.accounts.find(limit=2) == users[:2]
    assert await household.accounts.find(after=users[1].id, limit=2) == users[2:4]
    assert await household.accounts.find(after=users[-1].id) == []


async def test_somebody_may_register_as_a_viewer_and_as_nothing_more(household: Household) -> None:
    assert (await household.accounts.add(DRAFT, address=HERE, actor=REGISTERING)).role is Role.VIEWER
    for role in (Role.EDITOR, Role.ADMIN):
        draft = UserDraft(email=email("eve"), password=PASSWORD, role=role)
        with pytest.raises(NotSignedIn):
            await household.accounts.add(draft, address=HERE, actor=REGISTERING)
        with pytest.raises(NotAllowed):
            await household.accounts.add(draft, address=HERE, actor=EDITOR)
    assert len(await household.accounts.find()) == 1


async def test_one_address_makes_so_many_accounts_in_an_hour(household: Household) -> None:
    async def register(number: int, address: str = HERE) -> None:
        draft = UserDraft(email=email(f"user{number}"), password=PASSWORD)
        await household.accounts.add(draft, address=address, actor=REGISTERING)

    for number in range(SIGN_UPS):
        await register(number)
    with pytest.raises(TooManyAttempts) as refused:
        await register(SIGN_UPS)
    assert refused.value.retry_after == 3_600
    await register(SIGN_UPS, ELSEWHERE)
    admin = await household.add("admin", Role.ADMIN)
    await household.accounts.add(
        UserDraft(email=email("by.admin"), password=PASSWORD), address=HERE, actor=admin.actor
    )
    assert len(await household.accounts.find()) == SIGN_UPS + 3


CALLS: dict[str, Callable[[Household, Actor], Awaitable[object]]] = {
    "add": lambda household, actor: household.accounts.add(
        UserDraft(email="none", password="none"), actor=actor
    ),
    "get": lambda household, actor: household.accounts.get(NOBODY, actor=actor),
    "find": lambda household, actor: household.accounts.find(actor=actor),
    "revise": lambda household, actor: household.accounts.revise(NOBODY, UserPatch(), actor=actor),
    "remove": lambda household, actor: household.accounts.remove(NOBODY, actor=actor),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("role", [None, *Role])
async def test_only_administrators_learn_of_others(
    household: Household, call: Callable[[Household, Actor], Awaitable[object]], role: Role | None
) -> None:
    actor = Actor("user:7", role, 7)
    if role is Role.ADMIN:
        try:
            await call(household, actor)
        except (InvalidUser, UserNotFound):
            return  # it was looked at
        assert call is CALLS["find"]
    else:
        with pytest.raises(NotSignedIn if role is None else NotAllowed):
            await call(household, actor)


@pytest.mark.parametrize(("actor", "error"), [(stranger(), NotSignedIn), (SYSTEM, UserNotFound)])
async def test_who_has_no_account_has_none_of_their_own(
    household: Household, actor: Actor, error: type[WatchlyError]
) -> None:
    with pytest.raises(error):
        await household.accounts.me(actor=actor)
    with pytest.raises(error):
        await household.accounts.change_password(PASSWORD, NEW, address=HERE, actor=actor)


# Changing accounts


async def test_a_change_is_of_what_the_patch_holds_and_makes_the_next_version(household: Household) -> None:
    user = await household.add()
    other = await household.add("grace")
    household.house.wait()
    editor = await household.accounts.revise(user.id, UserPatch(role=Role.EDITOR))
    assert editor == msgspec.structs.replace(user, role=Role.EDITOR, version=2)
    moved = await household.accounts.revise(user.id, UserPatch(email="Lovelace@films.example"))
    assert moved == msgspec.structs.replace(editor, email="lovelace@films.example", version=3)
    assert await household.accounts.find() == [moved, other]
    assert (await household.sign_in("lovelace")).access_token


async def test_what_changes_nothing_makes_no_version(household: Household) -> None:
    user = await household.add()
    for patch in (UserPatch(), UserPatch(role=user.role), UserPatch(email=user.email.upper())):
        assert await household.accounts.revise(user.id, patch) == user
    assert await household.accounts.get(user.id) == user


async def test_a_change_that_cannot_be_leaves_all_as_it_was(household: Household) -> None:
    user, other = await household.add(), await household.add("grace")
    faulty: list[tuple[UserPatch, type[WatchlyError]]] = [
        (UserPatch(email=other.email, role=Role.EDITOR), EmailTaken),
        (UserPatch(email="none", role=Role.EDITOR), InvalidUser),
        (UserPatch(password="short", role=Role.EDITOR), InvalidUser),
        (UserPatch(password=user.email, role=Role.EDITOR), InvalidUser),
    ]
    for patch, error in faulty:
        with pytest.raises(error):
            await household.accounts.revise(user.id, patch)
    assert await household.accounts.find() == [user, other]
    await household.sign_in()


async def test_a_write_based_on_another_version_changes_nothing(household: Household) -> None:
    user = await household.add()
    for version in (0, 2):
        with pytest.raises(VersionConflict) as conflict:
            await household.accounts.revise(user.id, UserPatch(role=Role.EDITOR), version=version)
        assert (conflict.value.id, conflict.value.expected, conflict.value.current) == (user.id, version, 1)
        with pytest.raises(VersionConflict):
            await household.accounts.remove(user.id, version=version)
    assert await household.accounts.get(user.id) == user


async def test_of_many_changes_based_on_one_version_one_is_made(household: Household) -> None:
    user = await household.add()
    calls = (
        household.accounts.revise(user.id, UserPatch(email=email(f"ada{number}")), version=1)
        for number in range(10)
    )
    done, refused = split(await asyncio.gather(*calls, return_exceptions=True))
    assert {type(error) for error in refused} == {VersionConflict}
    assert done == [await household.accounts.get(user.id)]
    assert done[0].version == 2


async def test_who_is_not_there_cannot_be_changed(household: Household) -> None:
    user = await household.add()
    await household.accounts.remove(user.id)
    for user_id in (user.id, 0, -1, NOBODY, 2**31, 2**63, 10**30):
        with pytest.raises(UserNotFound):
            await household.accounts.get(user_id)
        with pytest.raises(UserNotFound):
            await household.accounts.revise(user_id, UserPatch(role=Role.EDITOR))
        with pytest.raises(UserNotFound):
            await household.accounts.remove(user_id)
    assert (await household.add()).id > user.id


# The last administrator


Taking = Callable[[Household, User], Awaitable[object]]
TAKINGS: dict[str, Taking] = {
    "demote": lambda household, user: household.accounts.revise(user.id, UserPatch(role=Role.EDITOR)),
    "remove": lambda household, user: household.accounts.remove(user.id),
}


@pytest.mark.parametrize("take", TAKINGS.values(), ids=TAKINGS.keys())
async def test_the_last_administrator_stays_one(household: Household, take: Taking) -> None:
    await household.add("grace")
    first, last = await household.add("ada", Role.ADMIN), await household.add("eve", Role.ADMIN)
    await take(household, first)
    with pytest.raises(LastAdmin):
        await take(household, last)
    assert await household.accounts.get(last.id) == last
    renamed = await household.accounts.revise(last.id, UserPatch(email=email("evelyn"), password=NEW))
    assert renamed.role is Role.ADMIN


@pytest.mark.parametrize("first", TAKINGS.values(), ids=TAKINGS.keys())
@pytest.mark.parametrize("second", TAKINGS.values(), ids=TAKINGS.keys())
@pytest.mark.parametrize("number", [2, 8])
async def test_of_all_administrators_who_are_taken_away_at_once_one_stays(
    household: Household, first: Taking, second: Taking, number: int
) -> None:
    admins = [await household.add(f"admin{each}", Role.ADMIN) for each in range(number)]
    # Each from both ends, so that two who hold one and wait for the other would wait for ever.
    pairs = zip(admins, reversed(admins), strict=True)
    calls = [call for one, other in pairs for call in (first(household, one), second(household, other))]
    async with asyncio.timeout(60):
        _, refused = split(await asyncio.gather(*calls, return_exceptions=True))
    assert {type(error) for error in refused} <= {LastAdmin, UserNotFound}
    assert LastAdmin in {type(error) for error in refused}
    left = [user for user in await household.accounts.find() if user.role is Role.ADMIN]
    assert len(left) == 1


async def test_administrators_and_their_owners_change_accounts_at_once_and_nobody_waits_in_a_circle(
    household: Household,
) -> None:
    users = [await household.add(f"admin{each}", Role.ADMIN) for each in range(4)]
    signed_in = [await household.sign_in(f"admin{each}") for each in range(4)]
    calls: list[Awaitable[object]] = []
    for number, user in enumerate(users):
        calls += [
            household.accounts.revise(user.id, UserPatch(role=Role.EDITOR, password=NEW)),
            household.accounts.change_password(PASSWORD, NEW + "!", address=HERE, actor=user.actor),
            household.sessions.refresh(signed_in[number].refresh_token),
            household.sign_in(f"admin{number}"),
            household.accounts.remove(users[-1 - number].id),
        ]
    async with asyncio.timeout(60):
        _, refused = split(await asyncio.gather(*calls, return_exceptions=True))
    expected = (LastAdmin, UserNotFound, NotSignedIn, InvalidUser)
    assert [error for error in refused if not isinstance(error, expected)] == []
    assert any(user.role is Role.ADMIN for user in await household.accounts.find())


# One's own password


async def test_who_changes_their_password_signs_in_by_the_new_one(household: Household) -> None:
    user = await household.add()
    before = await household.sign_in()
    await household.accounts.change_password(PASSWORD, NEW, address=HERE, actor=user.actor)
    assert (await household.accounts.get(user.id)).version == 2
    with pytest.raises(NotSignedIn):
        await household.sign_in()
    with pytest.raises(NotSignedIn):
        await household.sessions.refresh(before.refresh_token)
    assert (await household.sign_in(password=NEW)).access_token


@pytest.mark.parametrize(
    ("current", "new", "pointer"),
    [
        (NEW, NEW, "#/current"),
        ("", NEW, "#/current"),
        ("\ud800", NEW, "#/current"),
        ("x" * 1_000_000, NEW, "#/current"),
        (PASSWORD, "short", "#/new"),
        (PASSWORD, "ada@films.example", "#/new"),
    ],
    ids=["another", "none", "no text", "long", "new one short", "new one the address"],
)
async def test_a_password_that_cannot_be_changed_stays(
    household: Household, current: str, new: str, pointer: str
) -> None:
    user = await household.add()
    with pytest.raises(InvalidUser) as invalid:
        await household.accounts.change_password(current, new, address=HERE, actor=user.actor)
    assert [fault.pointer for fault in invalid.value.faults] == [pointer]
    await household.sign_in()
    assert await household.accounts.get(user.id) == user


async def test_of_many_changes_of_a_password_at_once_one_is_made(household: Household) -> None:
    user = await household.add()
    calls = (
        household.accounts.change_password(PASSWORD, f"{NEW} {number}", address=HERE, actor=user.actor)
        for number in range(5)
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [InvalidUser] * 4
    assert (await household.accounts.get(user.id)).version == 2
    assert (await household.sign_in(password=f"{NEW} {results.index(None)}")).access_token


async def test_the_present_password_cannot_be_guessed_by_who_wants_to_change_it(household: Household) -> None:
    user = await household.add()
    for _ in range(PER_ACCOUNT_AND_ADDRESS):
        with pytest.raises(InvalidUser):
            await household.accounts.change_password("wrong", NEW, address=HERE, actor=user.actor)
    with pytest.raises(TooManyAttempts):
        await household.accounts.change_password(PASSWORD, NEW, address=HERE, actor=user.actor)
    await household.accounts.change_password(PASSWORD, NEW, address=ELSEWHERE, actor=user.actor)
