"""Keys sent many times at once to workers that are killed: each is done once, and answered alike.

    python -m tests.faults.receipts --keys 1000 --sends 20 --seed 7

While the requests of every tenth key are under way a worker is killed; senders come back when there is no
reply, and when the reply says so.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import psycopg
from tests.faults.havoc import grown_up, workers
from tests.services import Service, folder_in_memory

from watchly_adapters.embedded import EmbeddedPostgres

SERVICES: Final = 2
WORKERS: Final = 3
#: Keys that are under way at a time, and of how many keys one has a worker killed under it.
_AT_ONCE: Final = 8
_KILL_EVERY: Final = 10
#: Seconds in which a key has to be answered to all, and in which there is a worker to be killed.
_PATIENCE: Final = 120.0
_SECRET: Final = "0123456789abcdef" * 4

_LEFT: Final = """
    SELECT m.title, count(DISTINCT m.id), count(e.id), bool_and(e.kind = 'movie_added' AND e.version = 1)
    FROM movies m LEFT JOIN events e ON e.movie_id = m.id GROUP BY m.title
"""
_STRAYS: Final = "SELECT count(*) FROM events e LEFT JOIN movies m ON m.id = e.movie_id WHERE m.id IS NULL"
_RECEIPTS: Final = "SELECT count(*) FROM receipts"


class Plan(NamedTuple):
    """A run: how many keys, how often each is sent at once, and the seed of all chance."""

    keys: int
    sends: int
    seed: int


class Outcome(NamedTuple):
    """What a run came to: `wrong` is all that must not be."""

    plan: Plan
    counts: Mapping[str, int]
    wrong: Sequence[str]

    def __str__(self) -> str:
        lines = [str(self.plan), *(f"{number:7} {what}" for what, number in sorted(self.counts.items()))]
        return "\n".join([*lines, *(f"WRONG {words}" for words in self.wrong), f"{len(self.wrong)} wrong"])


class Run:
    """Sends all keys of a plan to services, and kills their workers meanwhile."""

    def __init__(self, plan: Plan, services: Sequence[Service], client: httpx.AsyncClient) -> None:
        self._plan, self._services, self._client = plan, services, client
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._victims = asyncio.Lock()
        self._first = {pid for service in services for pid in workers(service)}
        self._doomed: set[int] = set()
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
            sends = [self._send(number, chance.choice((0, 0, 0.01))) for _ in range(self._plan.sends)]
            try:
                async with asyncio.timeout(_PATIENCE):
                    blow = self._kill(victim, chance.uniform(0, 0.08))
                    *replies, _ = await asyncio.gather(*sends, blow)
            except TimeoutError:
                self.wrong.append(f"key {number} was not answered in time")
                return
        if len(set(replies)) != 1:
            self.wrong.append(f"key {number} was answered in {len(set(replies))} ways")

    async def _send(self, number: int, delay: float) -> tuple[int, bytes, str, str]:
        """Send a key until it is answered with a success: what that was."""
        await asyncio.sleep(delay)
        headers = {"Idempotency-Key": f"key-{number}"}
        body = {"title": f"Film {number}", "description": "x" * 500}
        turn = random.randrange(len(self._services))  # noqa: S311 - as a gateway would
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
            await asyncio.sleep(random.uniform(0.005, 0.05))  # noqa: S311 - as a client that comes back

    async def _victim(self, chance: random.Random) -> int:
        """A worker that may die: one of the first, or one that is not so young any more."""
        async with self._victims, asyncio.timeout(_PATIENCE):
            while True:
                found = [pid for service in self._services for pid in workers(service)]
                found = [
                    pid for pid in found if pid in self._first or (grown_up(pid) and pid not in self._doomed)
                ]
                if found:
                    victim = chance.choice(found)
                    self._first.discard(victim)
                    self._doomed.add(victim)
                    return victim
                await asyncio.sleep(0.02)  # between looks, not in place of one

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
                    SECRET_KEY=_SECRET,
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
            if (code := service.stop()) != 0:
                done.wrong.append(f"a service ended with {code}: {service.log}")
            done.wrong.extend(line for line in service.log.splitlines() if "Traceback" in line)
    done.counts["seconds"] = round(time.monotonic() - began)
    with psycopg.connect(database_url) as connection:
        left = connection.execute(_LEFT).fetchall()
        ((strays,),) = connection.execute(_STRAYS).fetchall()
        ((receipts,),) = connection.execute(_RECEIPTS).fetchall()
    done.counts |= {"keys": plan.keys, "movies": sum(row[1] for row in left), "receipts": receipts}
    done.counts["events"] = sum(row[2] for row in left)
    done.wrong += [f"{row}" for row in left if row[1:] != (1, 1, True)]
    if {row[0] for row in left} != {f"Film {number}" for number in range(plan.keys)}:
        done.wrong.append("the movies are not those that were sent")
    if strays or receipts != plan.keys:
        done.wrong.append(f"{strays} events without a movie, {receipts} receipts")
    return Outcome(plan, done.counts, done.wrong)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--sends", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    sys.stdout.write(f"seed {seed}\n")
    sys.stdout.flush()
    folder = Path(tempfile.mkdtemp(prefix="watchly-receipts-", dir=folder_in_memory()))
    folder.chmod(0o711)  # the database is another user's
    try:
        with EmbeddedPostgres(folder / "database") as database_url:
            outcome = run(Plan(given.keys, given.sends, seed), folder, database_url)
    finally:
        shutil.rmtree(folder)
    sys.stdout.write(f"{outcome}\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
