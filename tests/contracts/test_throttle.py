"""How often somebody may try, on the fakes and on PostgreSQL."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.households import ELSEWHERE, HERE, PASSWORD, Household, email, split
from tests.houses import INSTANT, House

from watchly_adapters.security import Argon2Hasher
from watchly_core.errors import NotSignedIn, Overloaded, TooManyAttempts
from watchly_core.ports import Transaction
from watchly_core.throttle import KNOWN_FOR, PER_ACCOUNT, PER_ACCOUNT_AND_ADDRESS, PER_ADDRESS, WINDOW

pytestmark = pytest.mark.anyio

WRONG = "battery staple horse"


async def fail(household: Household, name: str = "ada", address: str = HERE, *, times: int = 1) -> None:
    """Try so often, as who does not know the password."""
    for _ in range(times):
        with pytest.raises(NotSignedIn):
            await household.sign_in(name, WRONG, address=address)


async def refused(household: Household, name: str = "ada", address: str = HERE) -> int:
    """After how many seconds whoever knows the password may try again."""
    with pytest.raises(TooManyAttempts) as error:
        await household.sign_in(name, PASSWORD, address=address)
    return error.value.retry_after


def addresses(number: int) -> list[str]:
    return [f"2001:db8::{each:x}" for each in range(number)]


async def test_an_account_is_tried_so_often_from_one_address(household: Household) -> None:
    await household.add()
    await household.add("eve")
    await fail(household, times=PER_ACCOUNT_AND_ADDRESS)
    assert await refused(household) == WINDOW.total_seconds()
    # Neither others from there, nor the account from elsewhere, are in the way of that.
    await household.sign_in("eve")
    await household.sign_in(address=ELSEWHERE)


async def test_it_makes_no_difference_whether_there_is_such_an_account(household: Household) -> None:
    await fail(household, "nobody", times=PER_ACCOUNT_AND_ADDRESS)
    assert await refused(household, "nobody") == WINDOW.total_seconds()


async def test_an_address_that_tries_many_accounts_is_refused(household: Household) -> None:
    await household.add()
    for each in range(PER_ADDRESS):
        await fail(household, f"user{each}")
    assert await refused(household) == WINDOW.total_seconds()
    with pytest.raises(TooManyAttempts):
        await household.sessions.sign_in("no address", WRONG, address=HERE)
    await household.sign_in(address=ELSEWHERE)


async def test_attempts_that_name_no_account_count_as_well(household: Household) -> None:
    await household.add()
    for each in range(PER_ACCOUNT_AND_ADDRESS):
        with pytest.raises(NotSignedIn):
            await household.sessions.sign_in(f"no address {each}", WRONG, address=HERE)
    with pytest.raises(TooManyAttempts):
        await household.sessions.sign_in("no address", WRONG, address=HERE)
    await household.sign_in()


async def test_an_account_that_is_tried_from_many_addresses_is_open_to_those_that_know_it(
    household: Household,
) -> None:
    await household.add()
    await household.sign_in()
    for address in addresses(PER_ACCOUNT):
        await fail(household, address=address)
    assert await refused(household, address=ELSEWHERE) == WINDOW.total_seconds()
    # Whoever attacks cannot lock the owner out, who was here before.
    for _ in range(3):
        await household.sign_in()
    # That is no way round the other limits.
    await fail(household, times=PER_ACCOUNT_AND_ADDRESS)
    await refused(household)


async def test_an_address_is_known_for_one_account_only_and_not_for_ever(household: Household) -> None:
    await household.add()
    await household.add("eve")
    await household.sign_in()
    for address in addresses(PER_ACCOUNT):
        await fail(household, "eve", address)
    await refused(household, "eve")
    household.house.wait(KNOWN_FOR)
    for address in addresses(PER_ACCOUNT):
        await fail(household, address=address)
    await refused(household)


async def test_an_address_from_which_nobody_got_in_is_not_known(household: Household) -> None:
    await household.add()
    await fail(household)
    for address in addresses(PER_ACCOUNT - 1):
        await fail(household, address=address)
    await refused(household)


async def test_attempts_count_for_a_while_from_the_first_one_on(household: Household) -> None:
    await household.add()
    await fail(household)
    household.house.wait(dt.timedelta(minutes=10))
    await fail(household, times=PER_ACCOUNT_AND_ADDRESS - 1)
    assert await refused(household) == 300
    household.house.wait(dt.timedelta(minutes=5) - INSTANT)
    assert await refused(household) == 1
    household.house.wait(INSTANT)
    await fail(household, times=PER_ACCOUNT_AND_ADDRESS)
    assert await refused(household) == WINDOW.total_seconds()


async def test_to_be_refused_does_not_make_it_last_longer(household: Household) -> None:
    await household.add()
    await fail(household, times=PER_ACCOUNT_AND_ADDRESS)
    for _ in range(3 * PER_ADDRESS):
        await refused(household)
    await household.add("eve")
    await household.sign_in("eve")
    household.house.wait(WINDOW)
    await household.sign_in()


async def test_attempts_that_succeed_are_given_back(household: Household) -> None:
    await household.add()
    await fail(household, times=PER_ACCOUNT_AND_ADDRESS - 1)
    for _ in range(3):
        await household.sign_in()
    await fail(household)
    await refused(household)


async def test_attempts_that_succeed_at_once_are_all_given_back(household: Household) -> None:
    await household.add()
    await asyncio.gather(*(household.sign_in(address=ELSEWHERE) for _ in range(8)))
    # As many as ever are left to addresses that the account does not know.
    for address in addresses(PER_ACCOUNT // PER_ACCOUNT_AND_ADDRESS):
        await fail(household, address=address, times=PER_ACCOUNT_AND_ADDRESS)
    await refused(household, address="203.0.113.9")


async def test_attempts_that_nobody_looked_at_do_not_lock_their_owner_out(household: Household) -> None:
    await household.add()
    busy = Household(household.house, hasher=Argon2Hasher(limit=1, waiting=-1))  # there is room for none
    for name in ("ada", "nobody"):
        for _ in range(2 * PER_ACCOUNT_AND_ADDRESS):
            with pytest.raises(Overloaded):
                await busy.sign_in(name)
    await household.sign_in()


async def test_a_service_that_signs_in_all_the_time_is_never_refused(household: Household) -> None:
    await household.add()
    for _ in range(PER_ADDRESS + 1):
        await household.sign_in()


async def test_attempts_at_once_are_counted_one_by_one(household: Household) -> None:
    await household.add()
    calls = (household.sign_in(password=WRONG) for _ in range(3 * PER_ACCOUNT_AND_ADDRESS))
    async with asyncio.timeout(60):
        _, errors = split(await asyncio.gather(*calls, return_exceptions=True))
    kinds = [type(error) for error in errors]
    assert kinds.count(NotSignedIn) == PER_ACCOUNT_AND_ADDRESS
    assert kinds.count(TooManyAttempts) == 2 * PER_ACCOUNT_AND_ADDRESS


async def test_who_floods_does_not_keep_the_store_busy(house: House) -> None:
    asked = 0

    @asynccontextmanager
    async def transactions() -> AsyncIterator[Transaction]:
        nonlocal asked
        asked += 1
        async with house.store.transactions() as tx:
            yield tx

    household = Household(house, transactions=transactions)
    await household.add()
    before = asked
    calls = (household.sign_in(password=WRONG) for _ in range(10 * PER_ACCOUNT_AND_ADDRESS))
    await asyncio.gather(*calls, return_exceptions=True)
    assert asked - before <= PER_ACCOUNT_AND_ADDRESS + 2
    # It is no longer than that: another process may have given back what was counted.
    house.wait(dt.timedelta(seconds=1))
    await refused(household)
    assert asked - before <= PER_ACCOUNT_AND_ADDRESS + 3
    await household.sign_in(address=ELSEWHERE)


async def test_attempts_that_cross_do_not_wait_in_a_circle(household: Household) -> None:
    names, places = ["ada", "eve", "grace"], addresses(3)
    for name in names:
        await household.add(name)
    calls = [
        household.sign_in(name, password, address=address)
        for _ in range(3)
        for name in names
        for address in places
        for password in (PASSWORD, WRONG)
    ]
    async with asyncio.timeout(60):
        done, errors = split(await asyncio.gather(*calls, return_exceptions=True))
    assert len(done) == 27
    assert {type(error) for error in errors} == {NotSignedIn}


async def test_all_processes_count_together(house: House) -> None:
    households = [Household(house) for _ in range(PER_ACCOUNT_AND_ADDRESS)]
    await households[0].add()
    for household in households:
        await fail(household)
    await refused(Household(house))


async def test_what_is_kept_of_attempts_names_nobody_and_is_let_go(household: Household) -> None:
    await household.add()
    await fail(household, times=2)
    await household.sign_in()
    async with household.house.store.transactions() as tx:
        for name in (email("ada"), HERE):
            assert not await tx.throttles.find(name, household.house.now)
    household.house.wait(WINDOW)
    async with household.house.store.transactions() as tx:
        assert await tx.throttles.expire(household.house.now, 100) == 3
    household.house.wait(KNOWN_FOR)
    async with household.house.store.transactions() as tx:
        assert await tx.throttles.expire(household.house.now, 100) == 1
