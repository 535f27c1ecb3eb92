"""Rolling restarts behind the gateway, at a steady load: all is answered, and nothing has to be sent again.

    python -m tests.faults.restarts --restarts 100 --seed 7

In each, both instances are stopped and started again, one after the other in an order of chance, as soon as
the gateway gives requests to both. Reads, writes under keys, uploads that take longer than the notice of a
stop, and edits based on what came of those go on all the while.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from tests.faults.checker import read_tables, violations
from tests.faults.runs import Outcome, options, perform, with_database
from tests.fleets import HOSTS, Fleet
from tests.loads import Clients, Load

#: In a second: about a hundred reads, thirty writes, and two uploads.
_CLIENTS: Final = Clients(readers=5, writers=3, editors=3, rate=20.0)
_PROMISE: Final = "behind the gateway, a rolling restart of two instances under load fails no request"
_TITLES: Final = "SELECT title, count(*) FROM movies WHERE title LIKE 'rolled-%' GROUP BY title"


class Plan(NamedTuple):
    """A run: how many rolling restarts, and the seed of their order."""

    restarts: int
    seed: int


def run(plan: Plan, folder: Path, database_url: str) -> Outcome:
    """Restart the instances while clients work, then compare what is there with what they were told.

    Args:
        plan: what to do.
        folder: an empty one, for logs and images.
        database_url: an empty database that runs.
    """
    chance = random.Random(f"restarts/{plan.seed}")  # noqa: S311 - to be repeated
    with ExitStack() as stack:
        images = folder / "images"
        fleet = Fleet(
            folder,
            stack,
            DATABASE_URL=database_url,
            IMAGE_STORE_URL=f"file://{images}",
            LOG_LEVEL="warning",
        )
        load = Load("rolled", fleet.gateway.url, fleet.key)

        async def roll() -> None:
            for _ in range(plan.restarts):
                for host in chance.sample(HOSTS, len(HOSTS)):
                    await asyncio.to_thread(fleet.restart, host)

        began = time.monotonic()
        asyncio.run(load.beside(_CLIENTS, roll))
        seconds = time.monotonic() - began
        wrong = [
            f"{times} of kind {kind} failed: {why}"
            for kind, failed in load.failed.items()
            for why, times in failed.items()
        ]
        tables = read_tables(database_url)
        keys = {path.name.partition(".")[0] for path in images.rglob("*") if path.is_file()}
        wrong += violations(tables, assets=keys)
    with psycopg.connect(database_url) as connection:
        found = connection.execute(_TITLES).fetchall()
    titles, told = Counter({str(title): int(times) for title, times in found}), Counter(load.written)
    wrong += [f"nobody was told of {title}" for title in titles - told]
    wrong += [f"{title} was told to be there" for title in told - titles]
    for movie, version in load.edited.items():
        if tables.movies[movie].version != version or tables.movies[movie].key is None:
            wrong.append(f"{tables.movies[movie]} was told to be at version {version}, with an image")
    counts = {f"{kind}s": number for kind, number in load.done.items()}
    counts |= {"longest wait, ms": round(1000 * load.longest), "seconds": round(seconds)}
    held = (
        f"{plan.restarts:,} rolling restarts at {load.done.total() / seconds:,.0f} requests a second: {load};"
        " every acknowledged movie is there once"
    )
    return Outcome(plan, counts, wrong, _PROMISE, held)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--restarts", type=int, default=100)
    given = parser.parse_args()
    plan = Plan(given.restarts, given.seed)
    return perform("restarts", _PROMISE, given, with_database(run, plan))


if __name__ == "__main__":
    sys.exit(main())
