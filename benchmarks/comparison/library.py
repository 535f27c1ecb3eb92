"""The catalogue as a library, without HTTP: microseconds of a call, one after another and many at once."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from benchmarks.films import Film

from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase
from watchly_core import Catalogue

#: Tasks that call at once.
TASKS: Final = 32
#: What is told is the median of so many parts: others use the processors as well.
_PARTS: Final = 5
_KEPT: Final = 5_000

_Call: TypeAlias = Callable[[int], Awaitable[object]]


class Timing(NamedTuple):
    """Microseconds of a call: one after another, and by many tasks at once."""

    call: str
    store: str
    alone: float
    together: float


def measure(url: str, ids: Sequence[int], films: Sequence[Film], calls: int) -> list[Timing]:
    """`Catalogue.get` and `Catalogue.add` on the fake and on PostgreSQL."""
    return asyncio.run(_measure(url, ids, films, calls))


async def _measure(url: str, ids: Sequence[int], films: Sequence[Film], calls: int) -> list[Timing]:
    async with MemoryDatabase() as memory:
        catalogue = Catalogue(memory.queries, memory.transactions)
        kept = [(await catalogue.add(film._asdict())).id for film in films[:_KEPT]]
        timings = await _both("memory", catalogue, kept, films, calls * 10)
    async with PostgresDatabase(url) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        timings += await _both("PostgreSQL", catalogue, ids, films, calls)
    return timings


async def _both(
    store: str, catalogue: Catalogue, ids: Sequence[int], films: Sequence[Film], calls: int
) -> list[Timing]:
    chance = random.Random(1895)
    asked = chance.choices(ids, k=calls)
    new = [film._asdict() for film in chance.choices(films, k=calls)]

    async def get(number: int) -> None:
        await catalogue.get(asked[number])

    async def add(number: int) -> None:
        await catalogue.add(new[number])

    found = []
    for name, call, share in (("Catalogue.get", get, 1), ("Catalogue.add", add, 5)):
        part = calls // share // _PARTS
        await _alone(call, part)
        alone = statistics.median([await _alone(call, part) for _ in range(_PARTS)])
        together = statistics.median([await _together(call, part) for _ in range(_PARTS)])
        found.append(Timing(name, store, alone, together))
    return found


async def _alone(call: _Call, calls: int) -> float:
    began = time.perf_counter()
    for number in range(calls):
        await call(number)
    return (time.perf_counter() - began) * 1e6 / calls


async def _together(call: _Call, calls: int) -> float:
    async def some(first: int) -> None:
        for number in range(first, calls, TASKS):
            await call(number)

    began = time.perf_counter()
    await asyncio.gather(*map(some, range(TASKS)))
    return (time.perf_counter() - began) * 1e6 / calls
