"""What the cache costs and gives: how stale it is, what a hit takes, and a request while Valkey is down.

    python -m benchmarks.cache --writes 200

- A process writes, now and then, and another one reads through the cache, as fast as it can, until it sees
  what was written: from the moment at which the writer was told that it is done.
- What one call of `get` and of `find` takes: from the store, from Valkey, from memory.
- The same from the store while Valkey is killed, and while it hangs.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.services import folder_in_memory
from tests.valkeys import ValkeyServer

from watchly_adapters.cached import CachedQueries
from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_adapters.valkey import ValkeyCache
from watchly_core import Catalogue, MovieQuery

WRITES: Final = 200
CALLS: Final = 2_000
MOVIES: Final = 500
#: Seconds between writes, at most: more than a round of numbering takes.
_PAUSE: Final = 0.1
#: Milliseconds that a request may lose, and that what is read may be old.
_MOST: Final = 50.0
_STALE: Final = 250.0


async def write(url: str) -> None:
    """Revise the first movie with each line of stdin, and print when that was done."""
    async with PostgresDatabase(url) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            await catalogue.revise(1, {"title": f"Heat {line.strip()}"})
            # This clock is the same for all processes.
            print(time.monotonic(), flush=True)


@asynccontextmanager
async def reading(database: PostgresDatabase, cache: ValkeyCache | None) -> AsyncIterator[CachedQueries]:
    """A cache that is in use."""
    cached = CachedQueries(database.queries, database.signal, database.identity, shared=cache)
    async with cached.running():
        await cached.log.told.beyond(0)
        yield cached


async def staleness(url: str, cached: CachedQueries, writes: int) -> list[float]:
    """Seconds from the end of each write in another process to the first read that saw it."""
    command = [sys.executable, "-m", "benchmarks.cache", "--write", url]
    writer = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 20
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    await writer.stdout.readline()
    stale = []
    for number in range(writes):
        await asyncio.sleep(random.uniform(0, _PAUSE))
        version = (await cached.get(1)).version
        writer.stdin.write(b"%d\n" % number)
        while True:
            if (await cached.get(1)).version != version:
                break
            await asyncio.sleep(0)
        seen = time.monotonic()
        stale.append(max(0.0, seen - float(await writer.stdout.readline())))
    writer.stdin.close()
    await writer.wait()
    return stale


async def timed(calls: int, call: Callable[[], Awaitable[object]]) -> list[float]:
    """What each of some calls took."""
    took = []
    for _ in range(calls):
        began = time.perf_counter()
        await call()
        took.append(time.perf_counter() - began)
    return took


def show(what: str, took: Sequence[float], unit: str = "ms") -> None:
    """Print the middle, the worst of a hundred and the worst."""
    factor = {"ms": 1e3, "µs": 1e6}[unit]
    ordered = sorted(factor * seconds for seconds in took)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    print(
        f"{what:<44} p50 {statistics.median(ordered):9.2f} {unit}   p99 {p99:9.2f} {unit}"
        f"   max {ordered[-1]:9.2f} {unit}",
        flush=True,
    )


async def hits(database: PostgresDatabase, server: ValkeyServer, calls: int) -> None:
    """What one call takes, by where the answer is."""
    page = MovieQuery(limit=20)
    show("get: store, no cache", await timed(calls, lambda: database.queries.get(1)), "µs")
    show("find 20: store, no cache", await timed(calls, lambda: database.queries.find(page)), "µs")
    async with reading(database, ValkeyCache(server.url)) as one:
        movies = iter(range(1, MOVIES + 1))
        show("get: missed, and put into Valkey", await timed(MOVIES, lambda: one.get(next(movies))), "µs")
        await one.find(page)
        show("get: from memory", await timed(10 * calls, lambda: one.get(1)), "µs")
        show("find 20: from memory", await timed(calls, lambda: one.find(page)), "µs")
        began = time.perf_counter()
        for _ in range(10 * calls):
            await one.get(1)
        print(f"{'get: from memory, of many':<44} {(time.perf_counter() - began) / calls * 1e5:9.2f} µs")
        await asyncio.sleep(0.2)  # what was read is on its way to Valkey
        async with reading(database, ValkeyCache(server.url)) as other:
            movies = iter(range(1, MOVIES + 1))
            show("get: from Valkey", await timed(MOVIES, lambda: other.get(next(movies))), "µs")


async def trouble(database: PostgresDatabase, server: ValkeyServer) -> float:
    """What a request takes while Valkey is not well; the middle of those few that waited for it, in ms."""
    waited = []
    for what, harm in (("killed", server.stop), ("frozen", server.freeze)):
        async with reading(database, ValkeyCache(server.url)) as cached:
            await cached.get(1)
            movies = iter(range(2, MOVIES + 1))
            await asyncio.sleep(0.1)
            harm()
            took = [(await timed(1, partial(cached.get, next(movies))))[0] for _ in range(100)]
            show(f"get: Valkey is {what}", took)
            waited.append(1e3 * sorted(took)[-2])  # three are tried before it is left alone
        server.stop()
        server.start()
    return max(waited)


async def run(url: str, server: ValkeyServer, writes: int, calls: int) -> list[str]:
    """Print all of it; returns what is wrong."""
    wrong = []
    async with PostgresDatabase(url) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        for number in range(MOVIES):
            await catalogue.add({"title": f"Film {number}", "description": "A thief and a detective. " * 8})
        await hits(database, server, calls)
        for level, cache in (("local", None), ("shared", ValkeyCache(server.url))):
            async with reading(database, cache) as cached:
                stale = await staleness(url, cached, writes)
            show(f"stale in another process, {level}", stale)
            if statistics.median(stale) * 1e3 > _STALE:
                wrong.append(f"stale for more than {_STALE:g} ms")
        if await trouble(database, server) > _MOST:
            wrong.append(f"a request lost more than {_MOST:g} ms to Valkey")
    return wrong


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    given.add_argument("--writes", type=int, default=WRITES)
    given.add_argument("--calls", type=int, default=CALLS)
    given.add_argument("--write", help=argparse.SUPPRESS)
    options = given.parse_args()
    if options.write:
        asyncio.run(write(options.write))
        return
    folder = Path(tempfile.mkdtemp(dir=folder_in_memory()))
    try:
        folder.chmod(0o711)  # the database may run as another user
        with EmbeddedPostgres(folder / "home") as url, ValkeyServer(folder / "valkey") as server:
            asyncio.run(migrate(url))
            wrong = asyncio.run(run(url, server, options.writes, options.calls))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
