"""What a hasher of passwords promises."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from watchly_adapters.testing.suites import Suite
from watchly_core.errors import Overloaded
from watchly_core.ports import PasswordHasher

__all__ = ["Hashers", "PasswordHasherContract"]

PASSWORD = "correct horse battery"  # noqa: S105 - the best known of all


class Hashers(NamedTuple):
    """Hashers of one kind.

    Attributes:
        hasher: the one under test.
        cheaper: one whose hashes cost less to guess.
        most: passwords that `hasher` takes at once, or that wait for their turn; one more is too many.
    """

    hasher: PasswordHasher
    cheaper: PasswordHasher
    most: int


class PasswordHasherContract(Suite):
    """Hashing passwords. Supply `hashers`."""

    @pytest.fixture
    def hashers(self) -> Iterator[Hashers]:
        """The hasher under test, and a cheaper one."""
        raise NotImplementedError("supply a fixture `hashers`: the hasher under test, and a cheaper one")

    async def test_a_hash_is_of_its_password_and_of_no_other(self, hashers: Hashers) -> None:
        hasher, *_ = hashers
        kept = await hasher.hash(PASSWORD)
        assert await hasher.verify(kept, PASSWORD)
        for other in ("", PASSWORD + " ", PASSWORD[:-1], PASSWORD.upper(), kept, "\0", "None"):
            assert not await hasher.verify(kept, other)

    async def test_a_hash_is_a_short_text_that_does_not_tell_the_password(self, hashers: Hashers) -> None:
        kept = await hashers.hasher.hash(PASSWORD)
        assert PASSWORD not in kept
        assert kept.isascii()
        assert kept.isprintable()
        assert len(kept) <= 255

    async def test_a_hash_is_another_each_time(self, hashers: Hashers) -> None:
        hasher, *_ = hashers
        kept = [await hasher.hash(PASSWORD) for _ in range(5)]
        assert len(set(kept)) == len(kept)
        # Not by what is said of it, but by what is kept of the password.
        assert len({each[-20:] for each in kept}) == len(kept)
        for each in kept:
            assert await hasher.verify(each, PASSWORD)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("password\0one", "password\0two"),
            ("password", "password\0"),
            ("password\ud800", "password\ud801"),
            ("password\ud800", "password?"),
            ("Password", "password"),
            (" password", "password"),
            ("caf\u00e9", "cafe\u0301"),
            ("\U0001f3ac" * 8, "\U0001f3ac" * 7),
            ("x" * 1_024, "x" * 1_023 + "y"),
            ("\ufdfa" * 18_450, "\ufdfa" * 18_449),
        ],
    )
    async def test_every_letter_counts_whatever_it_is(self, hashers: Hashers, one: str, other: str) -> None:
        hasher, *_ = hashers
        kept = await hasher.hash(one)
        assert await hasher.verify(kept, one)
        assert not await hasher.verify(kept, other)

    @pytest.mark.parametrize("password", ["", "None", "\0", " ", PASSWORD, "\ud800"])
    async def test_nobody_has_a_password(self, hashers: Hashers, password: str) -> None:
        assert not await hashers.hasher.verify(None, password)

    @pytest.mark.parametrize(
        "kept", ["", "x", "$", PASSWORD, "$argon2id$", "$2b$12$x", "\u00e9", "\ud800", "\0"]
    )
    async def test_what_is_no_hash_is_of_no_password(self, hashers: Hashers, kept: str) -> None:
        for password in (PASSWORD, kept, ""):
            assert not await hashers.hasher.verify(kept, password)

    async def test_a_hash_that_was_changed_is_of_no_password(self, hashers: Hashers) -> None:
        hasher, *_ = hashers
        kept = await hasher.hash(PASSWORD)
        for changed in (kept[:-1], kept[:-5], kept + "A", kept[:-2] + ("AA" if kept[-2:] != "AA" else "BB")):
            assert not await hasher.verify(changed, PASSWORD)

    async def test_hashes_of_cheaper_times_are_good_and_outdated(self, hashers: Hashers) -> None:
        hasher, cheaper, _ = hashers
        before, today = await cheaper.hash(PASSWORD), await hasher.hash(PASSWORD)
        assert await hasher.verify(before, PASSWORD)
        assert not await hasher.verify(before, PASSWORD + "x")
        assert hasher.outdated(before)
        assert not hasher.outdated(today)
        # What takes more trouble than it would today stays as it is.
        assert await cheaper.verify(today, PASSWORD)
        assert not cheaper.outdated(today)
        assert not cheaper.outdated(before)

    async def test_too_many_at_once_are_sent_away(self, hashers: Hashers) -> None:
        hasher, _, most = hashers
        kept = await hasher.hash(PASSWORD)
        calls = [hasher.verify(kept, PASSWORD), hasher.verify(None, PASSWORD)]
        calls += [hasher.verify(kept, PASSWORD + "x") for _ in range(most - 2)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        for late in (hasher.verify(kept, PASSWORD), hasher.verify(None, PASSWORD), hasher.hash(PASSWORD)):
            with pytest.raises(Overloaded):
                await late
        assert await asyncio.gather(*tasks) == [True, *[False] * (most - 1)]
        assert await hasher.verify(kept, PASSWORD)

    async def test_who_leaves_makes_room(self, hashers: Hashers) -> None:
        hasher, _, most = hashers
        for _ in range(3):
            tasks = [asyncio.ensure_future(hasher.hash(PASSWORD)) for _ in range(most)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await hasher.verify(await hasher.hash(PASSWORD), PASSWORD)

    async def test_others_go_on_while_one_is_hashed(self, hashers: Hashers) -> None:
        hasher, *_ = hashers
        kept = await hasher.hash(PASSWORD)
        for call in (hasher.hash(PASSWORD), hasher.verify(kept, PASSWORD), hasher.verify(None, PASSWORD)):
            task, turns = asyncio.ensure_future(call), 0
            while not task.done():
                await asyncio.sleep(0)
                turns += 1
            await task
            assert turns > 2
