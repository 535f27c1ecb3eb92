"""What is sent waits in a file until all of it is there."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import pytest

from watchly_core.errors import Unavailable, WatchlyError
from watchly_core.spools import Pace, spooled

LARGEST = 2_000_000


class TooLarge(WatchlyError):
    """More than that."""


async def stream(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def held(*parts: bytes) -> tuple[bytes, int]:
    async def hold() -> tuple[bytes, int]:
        async with spooled(stream(parts), LARGEST, TooLarge()) as (file, size):
            return file.read(), size

    return asyncio.run(hold())


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"",),
        (b"a", b"", b"bc"),
        (b"x" * 262_144,),
        (b"x" * 262_144, b"y"),
        (b"x" * 100_000,) * 20,
        (b"x" * LARGEST,),
    ],
)
def test_all_of_it_is_there_from_the_start(parts: tuple[bytes, ...]) -> None:
    whole = b"".join(parts)
    assert held(*parts) == (whole, len(whole))


@pytest.mark.parametrize("parts", [(b"x" * (LARGEST + 1),), (b"x" * 100_000,) * 21])
def test_more_is_refused(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(TooLarge):
        held(*parts)


def test_nothing_more_is_read_once_it_is_too_large() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 100_000

    async def hold() -> None:
        async with spooled(stream(endless()), LARGEST, TooLarge()):
            raise AssertionError("it has no end")

    with pytest.raises(TooLarge):
        asyncio.run(hold())


@contextmanager
def no_room_for(size: int) -> Iterator[None]:
    """Keep this process from writing larger files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("parts", [(b"x" * 100_000,) * 15, (b"x" * 262_144, b"y" * 300_000)])
def test_a_full_disk_is_a_part_that_does_not_answer(parts: tuple[bytes, ...]) -> None:
    with no_room_for(500_000), pytest.raises(Unavailable, match="uploads: no room for an upload") as raised:
        held(*parts)
    assert raised.value.dependency == "uploads"


async def arrives(pace: Pace) -> bool:
    """Whether a byte may arrive at a rate of one an hour, or has to wait."""
    arrival = asyncio.create_task(pace.keep(1))
    for _ in range(10):
        await asyncio.sleep(0)
    arrived = arrival.done()
    arrival.cancel()
    return arrived


def test_what_arrives_is_held_to_a_rate_once_the_loop_was_late() -> None:
    async def measure() -> list[bool]:
        pace = Pace(rate=1 / 3600, late=0.01, seconds=3600)
        free = await arrives(pace)
        asyncio.get_running_loop().call_soon(time.sleep, 0.05)
        await pace.keep(1)
        return [free, await arrives(pace)]

    assert asyncio.run(measure()) == [True, False]


def test_what_arrives_is_free_again_when_the_loop_has_been_in_time_for_long_enough() -> None:
    async def measure() -> bool:
        pace = Pace(rate=1 / 3600, late=0.01, seconds=0)
        asyncio.get_running_loop().call_soon(time.sleep, 0.05)
        await pace.keep(1)
        return await arrives(pace)

    assert asyncio.run(measure())
