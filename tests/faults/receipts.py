"""Keys sent many times at once to workers that are killed: each is done once, and answered alike.

    python -m tests.faults.receipts --keys 1000 --sends 20 --seed 7

While the requests of every tenth key are under way a worker is killed; senders come back when there is no
reply, and when the reply says so.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psycopg
from tests.faults.checker import read_tables, violations
from tests.faults.havoc import Victims
from tests.faults.runs import SECRET, Outcome, end, options, perform, with_database
from tests.services import Service

SERVICES: Final = 2
WORKERS: Final = 3
#: Keys that are under way at a time, and of how many keys one has a worker killed under it.
_AT_ONCE: Final = 8
_KILL_EVERY: Final = 10
#: Seconds in which a key has to be answered to all, and in which there is a worker to be killed.
_PATIENCE: Final = 120.0

_PROMISE: Final = "a POST with an Idempotency-Key is done once and answered alike, whoever dies meanwhile"
_LEFT: Final = """
    SELECT m.title, count(DISTINCT m.id), count(e.id), bool_and(e.kind = 'movie_added' AND e.version = 1)
    FROM movies m LEFT JOIN events e ON e.movie_id = m.id GROUP BY m.title
"""


class Plan(NamedTuple):
    """A run: how many keys, how often each is sent at once, and the seed of all chance."""

    keys: int
    sends: int
    seed: int


class Run:
    """Sends all keys of a plan to services, and kills their workers meanwhile."""

    def __init__(self, plan: Plan, services: Sequence[Service], client: httpx.AsyncClient) -> None:
        self._plan, self._services, self._client = plan, services, client
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._victims = Victims(*services)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    async def all(self) -> None:
        """Send every key."""
        await asyncio.gather(*(self._key(number) for number in range(self._plan.keys)))

    async def _key(self, number: int) -> None:
        async with self._free:
            chance = random.Random(f"receipts/{self._plan.seed}/{number}")  # noqa: S311 - to be repeated
            struck = number % _KILL_EVERY == 0
            victim = await self._victim(chance) if struck else None
            # Some at the same time, others while the first are answered.
            sends = [self._send(number, turn) for turn in range(self._plan.sends)]
            try:
                async with asyncio.timeout(_PATIENCE):
                    blow = self._kill(victim, chance.uniform(0, 0.08))
                    *replies, _ = await asyncio.gather(*sends, blow)
            except TimeoutError:
                self.wrong.append(f"key {number} was not answered in time")
                return
        if len(set(replies)) != 1:
            self.wrong.append(f"key {number} was answered in {len(set(replies))} ways")
            self.counts["keys answered in several ways"] += 1

    async def _send(self, number: int, sender: int) -> tuple[int, bytes, str, str]:
        """Send a key until it is answered with a success: what that was."""
        chance = random.Random(f"receipts/{self._plan.seed}/{number}/{sender}")  # noqa: S311 - to be repeated
        await asyncio.sleep(chance.choice((0, 0, 0.01)))
        headers = {"Idempotency-Key": f"key-{number}"}
        body = {"title": f"Film {number}", "description": "x" * 500}
        turn = chance.randrange(len(self._services))  # as a gateway would
        while True:
            turn += 1
            url = self._services[turn % len(self._services)].url
            try:
                reply = await self._client.post(f"{url}/api/movies", json=body, headers=headers)
            except httpx.HTTPError:
                self.counts["sends: no reply"] += 1
            else:
                self.counts[f"sends: {reply.status_code}"] += 1
                if reply.is_success:
                    self.counts["replayed"] += reply.headers.get("idempotency-replayed") == "true"
                    return reply.status_code, reply.content, reply.headers["location"], reply.headers["etag"]
                if reply.status_code != 409 and reply.status_code < 500:
                    self.wrong.append(f"key {number} was answered with {reply.status_code}: {reply.text}")
            await asyncio.sleep(chance.uniform(0.005, 0.05))  # as a client that comes back

    async def _victim(self, chance: random.Random) -> int:
        """A worker that may die, once there is one."""
        async with asyncio.timeout(_PATIENCE):
            while (victim := self._victims.choose(chance)) is None:  # noqa: ASYNC110 - a process grows up
                await asyncio.sleep(0.02)  # between looks, not in place of one
            return victim

    async def _kill(self, victim: int | None, delay: float) -> None:
        """Kill a worker while the requests of a key are under way."""
        await asyncio.sleep(delay)
        if victim is not None:
            os.kill(victim, signal.SIGKILL)
            self.counts["workers killed"] += 1


def run(plan: Plan, folder: Path, database_url: str) -> Outcome:
    """Send all keys while workers are killed, then compare what is in the database.

    Args:
        plan: what to do.
        folder: an empty one, for logs.
        database_url: an empty database that runs.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                Service(
                    folder / f"log-{number}",
                    "--workers",
                    str(WORKERS),
                    DATABASE_URL=database_url,
                    SECRET_KEY=SECRET,
                    WATCHLY_HOME=str(folder / "home"),
                    LOG_LEVEL="error",
                )
            )
            for number in range(SERVICES)
        ]

        async def send() -> Run:
            limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
            async with httpx.AsyncClient(limits=limits, timeout=30) as client:
                running = Run(plan, services, client)
                await running.all()
            return running

        done = asyncio.run(send())
        for service in services:
            done.wrong += end(service)
    done.counts["seconds"] = round(time.monotonic() - began)
    with psycopg.connect(database_url) as connection:
        left = connection.execute(_LEFT).fetchall()
    tables = read_tables(database_url)
    receipts = len(tables.receipts)
    done.counts |= {"keys": plan.keys, "movies": sum(row[1] for row in left), "receipts": receipts}
    done.counts["events"] = sum(row[2] for row in left)
    done.wrong += [f"{row}" for row in left if row[1:] != (1, 1, True)]
    if {row[0] for row in left} != {f"Film {number}" for number in range(plan.keys)}:
        done.wrong.append("the movies are not those that were sent")
    if receipts != plan.keys:
        done.wrong.append(f"{receipts} receipts")
    done.wrong += violations(tables)
    held = (
        f"{plan.keys:,} keys, each sent {plan.sends} times at once, "
        f"{done.counts['workers killed']:,} workers killed: {done.counts['movies']:,} movies, "
        f"{done.counts['events']:,} events, {done.counts['keys answered in several ways']} keys with replies "
        "that differ"
    )
    return Outcome(plan, done.counts, done.wrong, _PROMISE, held)


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--sends", type=int, default=20)
    given = parser.parse_args()
    plan = Plan(given.keys, given.sends, given.seed)
    return perform("receipts", _PROMISE, given, with_database(run, plan))


if __name__ == "__main__":
    sys.exit(main())
