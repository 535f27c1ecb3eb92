"""The log while everything that writes or reads it is killed: nothing lost, out of order, or done twice.

    python -m tests.faults.relays --events 100000 --kills 200 --seed 7

Writers embed the catalogue, all on the same movies; relays (`watchly relay`, of which one is active) tell
NATS JetStream of their changes; a consumer takes them from there, and a reader straight from the log. Each of
these is a process, killed by SIGKILL now and then, spread evenly over the events, and started anew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import nats.errors
import psycopg
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, DeliverPolicy
from tests.brokers import Nats
from tests.faults.checker import read_tables, violations
from tests.faults.runs import Outcome, options, perform
from tests.services import WATCHLY, as_url, environment

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.nats import STREAM, SUBJECTS
from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue
from watchly_core.errors import InvalidMovie, MovieNotFound, WatchlyError
from watchly_core.events import ChangeQuery, kind

PROMISE: Final = (
    "who follows the log, or is told of it, has every change once and in order, whoever is killed"
)

EVENTS: Final = 100_000
KILLS: Final = 200
WRITERS: Final = 16
RELAYS: Final = 2
#: Movies that writers come back to: few, so that they are often at the same one.
MOVIES: Final = 400
#: What is killed how often.
WEIGHTS: Final = {"writer": 2, "relay": 1, "consumer": 1, "reader": 1}
#: Seconds without any progress after which the run has failed.
PATIENCE: Final = 120.0
#: Changes that a consumer takes in one transaction.
BATCH: Final = 100

#: What consumers have: `done` is their effects in the order in which they had them.
TABLES: Final = """
    CREATE TABLE seen (consumer text, id text, PRIMARY KEY (consumer, id));
    CREATE TABLE done (
        number bigserial PRIMARY KEY, consumer text, movie_id integer, version integer, kind text
    );
    CREATE TABLE positions (consumer text PRIMARY KEY, position bigint NOT NULL);
    CREATE TABLE repeats (consumer text PRIMARY KEY, count bigint NOT NULL);
    INSERT INTO positions VALUES ('consumer', 0), ('reader', 0);
    INSERT INTO repeats VALUES ('consumer', 0), ('reader', 0)
"""
TAKE: Final = """
    WITH given AS (
        SELECT movie_id, version, kind, min(place) AS place
        FROM unnest(%s::integer[], %s::integer[], %s::text[])
            WITH ORDINALITY AS given (movie_id, version, kind, place)
        GROUP BY movie_id, version, kind
    ), new AS (
        INSERT INTO seen SELECT %s, movie_id || '-' || version FROM given ON CONFLICT DO NOTHING RETURNING id
    )
    INSERT INTO done (consumer, movie_id, version, kind)
    SELECT %s, movie_id, version, kind FROM given
    WHERE movie_id || '-' || version IN (SELECT id FROM new) ORDER BY place
"""
DROPPED: Final = "UPDATE repeats SET count = count + %s WHERE consumer = %s"
OUT_OF_ORDER: Final = """
    SELECT count(*) FROM (
        SELECT version, lag(version) OVER (PARTITION BY movie_id ORDER BY number) AS before
        FROM done WHERE consumer = %s
    ) AS steps WHERE version <= before
"""
OUT_OF_ORDER_IN_LOG: Final = """
    SELECT count(*) FROM (
        SELECT version - lag(version, 1, 0) OVER (PARTITION BY movie_id ORDER BY seq) AS step FROM events
    ) AS steps WHERE step <> 1
"""
DONE: Final = "SELECT movie_id, version FROM done WHERE consumer = %s"
REPEATS: Final = "SELECT count FROM repeats WHERE consumer = %s"


class Taken(NamedTuple):
    """A change as a consumer takes it."""

    movie_id: int
    version: int
    kind: str

    @property
    def id(self) -> str:
        """What the message of it is called."""
        return f"{self.movie_id}-{self.version}"


# ---- the processes ----


async def write(url: str, seed: str) -> None:
    """Write for ever; what was acknowledged is told on standard output."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated
    async with PostgresDatabase(url, max_size=2) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        while True:
            movie_id = chance.randint(1, MOVIES)
            try:
                match chance.choices(("add", "revise", "remove", "revert"), (6, 12, 1, 1))[0]:
                    case "add":
                        movie = await catalogue.add({"title": f"Film {chance.random()}"})
                    case "revise":
                        movie = await catalogue.revise(movie_id, {"genre": f"Genre {chance.random()}"})
                    case "remove":
                        await catalogue.remove(movie_id)
                        continue
                    case _:
                        movie = (await catalogue.revert(movie_id, 1)).movie
            except (MovieNotFound, InvalidMovie):
                continue
            os.write(1, f"{movie.id}-{movie.version}\n".encode())


class Consumer:
    """What takes changes, drops those that it knows, and notes where it was."""

    def __init__(self, name: str, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self._name, self._connection = name, connection

    @property
    def position(self) -> int:
        """Up to where it took everything; perhaps further."""
        (found,) = self._connection.execute(
            "SELECT position FROM positions WHERE consumer = %s", (self._name,)
        ).fetchone() or (0,)
        return int(str(found))

    def take(self, changes: Sequence[Taken], position: int) -> None:
        """Do what they ask for once; the position is noted apart, so that a kill in between repeats some."""
        given = [list(column) for column in zip(*changes, strict=True)]
        with self._connection.transaction():
            new = self._connection.execute(TAKE, (*given, self._name, self._name)).rowcount
            self._connection.execute(DROPPED, (len(changes) - new, self._name))
        self._connection.execute(
            "UPDATE positions SET position = %s WHERE consumer = %s", (position, self._name)
        )


async def consume(broker: str, consumer: Consumer) -> None:
    """Take from the broker, for ever; whatever goes wrong, this process ends and is started anew."""
    client = Client()
    await client.connect(broker, allow_reconnect=False)
    stream = client.jetstream()
    while not await stream.streams_info():  # noqa: ASYNC110 - another process makes it, the relay
        await asyncio.sleep(0.1)
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=consumer.position + 1
    )
    subscription = await stream.subscribe(SUBJECTS, stream=STREAM, ordered_consumer=True, config=config)
    while True:
        messages: list[Msg] = []
        with suppress(TimeoutError):
            while len(messages) < BATCH:
                messages.append(await subscription.next_msg(0.05 if messages else 10))
        taken = []
        for message in messages:
            event = msgspec.json.decode(message.data)
            taken.append(Taken(event["data"]["movie_id"], event["data"]["version"], event["data"]["kind"]))
            if event["id"] != taken[-1].id:
                raise SystemExit(f"the id of a message is {event['id']}")
        if messages:
            await asyncio.to_thread(consumer.take, taken, messages[-1].metadata.sequence.stream)


async def read(url: str, consumer: Consumer) -> None:
    """Take from the log, for ever."""
    async with PostgresDatabase(url, max_size=2) as database:
        while True:
            heard = database.signal.count
            found = await database.queries.changes(ChangeQuery(after=consumer.position, limit=BATCH))
            taken = [
                Taken(change.event.movie_id, change.event.version, kind(change.event))
                for change in found.data
            ]
            if taken:
                await asyncio.to_thread(consumer.take, taken, found.next_after)
            if len(taken) < BATCH:
                await database.signal.beyond(heard)


def play(role: str, url: str, taken: str, broker: str, seed: str) -> None:
    """Be one of the processes, until something goes wrong."""
    if role == "writer":
        asyncio.run(write(url, seed))
        return
    with psycopg.connect(taken, autocommit=True) as connection:
        consumer = Consumer(role, connection)
        asyncio.run(consume(broker, consumer) if role == "consumer" else read(url, consumer))


# ---- the run ----


class Run:
    """A run, whose processes live until it is closed.

    Attributes:
        acknowledged: writes of which their writers told.
        counts: how often what happened.
    """

    def __init__(self, url: str, taken: str, broker: str, seed: int) -> None:
        self.acknowledged: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._addresses = url, taken, broker
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated
        self._alive: dict[str, list[subprocess.Popen[bytes]]] = {role: [] for role in WEIGHTS}
        self._outputs = selectors.DefaultSelector()
        self._rests: dict[int, bytes] = {}

    def start(self, role: str) -> None:
        """Start one more of this kind."""
        url, taken, broker = self._addresses
        self.counts[f"{role}s started"] += 1
        words = (sys.executable, "-m", "tests.faults.relays", "--play", role, url, taken, broker)
        process = subprocess.Popen(
            [WATCHLY, "relay"] if role == "relay" else [*words, f"{self._seed}/{self.counts.total()}"],
            env=environment(
                DATABASE_URL=as_url(url),
                NATS_URL=broker,
                SECRET_KEY="kills" * 10,
                LOG_LEVEL="error",
                WATCHLY_HOME="/nonexistent",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if role == "writer" else subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if role == "relay" else None,  # it says each time that it is there
        )
        self._alive[role].append(process)
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._outputs.register(process.stdout, selectors.EVENT_READ)
            self._rests[process.stdout.fileno()] = b""

    def kill(self) -> None:
        """Kill one of them, and start another in its place."""
        (role,) = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        self.end(role, self._alive[role][self._chance.randrange(len(self._alive[role]))])
        self.counts[f"{role}s killed"] += 1
        self.start(role)

    def end(self, role: str, process: subprocess.Popen[bytes]) -> None:
        """Kill one of them."""
        process.kill()
        process.wait()
        self._alive[role].remove(process)
        if process.stdout is not None:
            self._hear(process.stdout.fileno())
            self._outputs.unregister(process.stdout)
            process.stdout.close()

    def replace_fallen(self) -> None:
        """Start anew what ended by itself, as a service manager does."""
        for role, processes in self._alive.items():
            for process in list(processes):
                if process.poll() is not None:
                    self.counts[f"{role}s ended by themselves"] += 1
                    self.end(role, process)
                    self.start(role)

    def listen(self) -> None:
        """Hear what writers have to tell."""
        for key, _ in self._outputs.select(0.05):
            self._hear(key.fd)

    def _hear(self, output: int) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(output, 1 << 16):
                # A writer that was killed may have left a line undone.
                *lines, self._rests[output] = (self._rests[output] + piece).decode().encode().split(b"\n")
                self.acknowledged.update(line.decode() for line in lines)

    def end_all(self, role: str) -> None:
        """Kill all of a kind."""
        for process in list(self._alive[role]):
            self.end(role, process)

    def close(self) -> None:
        """Kill all."""
        for role in self._alive:
            self.end_all(role)


class Plan(NamedTuple):
    """How many events so many writers make, how many processes are killed, and the seed of all chance."""

    events: int
    kills: int
    writers: int
    seed: int


def run(plan: Plan, folder: Path, url: str, taken: str) -> Outcome:
    """Make the events while processes are killed, then compare what everybody has.

    Args:
        plan: what to do.
        folder: an empty one, for the broker.
        url: a migrated database without a row.
        taken: an empty database, for those who follow.
    """
    with ExitStack() as stack:
        log = stack.enter_context(psycopg.connect(url, autocommit=True))
        consumers = stack.enter_context(psycopg.connect(taken, autocommit=True))
        consumers.execute(TABLES)
        broker = stack.enter_context(Nats(folder))
        running = Run(url, taken, broker.url, plan.seed)
        stack.callback(running.close)
        began = time.monotonic()
        for role, count in {"writer": plan.writers, "relay": RELAYS, "consumer": 1, "reader": 1}.items():
            for _ in range(count):
                running.start(role)

        def progress() -> list[int]:
            """Events, and how many of them each consumer has had."""
            (made,) = log.execute("SELECT count(*) FROM events").fetchone() or (0,)
            had = [
                consumers.execute("SELECT count(*) FROM seen WHERE consumer = %s", (role,)).fetchone() or (0,)
                for role in ("consumer", "reader")
            ]
            return [made, *(count for (count,) in had)]

        killed, last, moved = 0, [0], time.monotonic()
        while True:
            running.listen()
            running.replace_fallen()
            if killed < plan.kills and len(running.acknowledged) >= (killed + 0.5) * plan.events / plan.kills:
                running.kill()
                killed += 1
            if len(running.acknowledged) >= plan.events:
                running.end_all("writer")
            if (now := progress()) != last:
                last, moved = now, time.monotonic()
            if killed == plan.kills and len(running.acknowledged) >= plan.events and len(set(now)) == 1:
                break
            if time.monotonic() - moved > PATIENCE:
                break
        running.close()
        running.counts["seconds"] = round(time.monotonic() - began)
        found = compare(plan, running, log, consumers)
        wrong = [f"{count} {what}" for what, count in found.items() if count]
        wrong += violations(read_tables(url))
        return _outcome(plan, running, wrong)


def _outcome(plan: Plan, running: Run, wrong: Sequence[str]) -> Outcome:
    killed = sum(running.counts[f"{role}s killed"] for role in WEIGHTS)
    held = (
        f"{running.counts['events']:,} events, {killed} writers, relays, consumers and readers killed: "
        "0 lost, 0 done twice, 0 out of order"
    )
    return Outcome(plan, running.counts, wrong, PROMISE, held)


def compare(
    plan: Plan,
    running: Run,
    log: psycopg.Connection[tuple[object, ...]],
    consumers: psycopg.Connection[tuple[object, ...]],
) -> Mapping[str, int]:
    """How often what must not be."""

    def number(connection: psycopg.Connection[tuple[object, ...]], query: str, *given: object) -> int:
        (found,) = connection.execute(query.encode(), given).fetchone() or (0,)
        return int(str(found))

    events = log.execute("SELECT movie_id, version FROM events").fetchall()
    made = {f"{movie_id}-{version}" for movie_id, version in events}
    faults = {
        # A run that came to a standstill proves nothing.
        "writes that were to be, and were not": max(0, plan.events - len(running.acknowledged)),
        "kills that were to be, and were not": plan.kills
        - sum(running.counts[f"{role}s killed"] for role in WEIGHTS),
        "acknowledged, and not in the log": len(running.acknowledged - made),
        "numbers of the log missing or double": len(made)
        - number(log, "SELECT count(DISTINCT seq) FROM events WHERE seq BETWEEN 1 AND %s", len(made)),
        "out of order in the log": number(log, OUT_OF_ORDER_IN_LOG),
    }
    for role in ("consumer", "reader"):
        done = consumers.execute(DONE, (role,)).fetchall()
        had = {f"{movie_id}-{version}" for movie_id, version in done}
        faults |= {
            f"lost to the {role}": len(made - had),
            f"made up for the {role}": len(had - made),
            f"done twice by the {role}": len(done) - len(had),
            f"out of order at the {role}": number(consumers, OUT_OF_ORDER, role),
        }
        running.counts[f"repeats that the {role} dropped"] = number(consumers, REPEATS, role)
    running.counts.update({"events": len(made), "acknowledged": len(running.acknowledged)})
    return faults


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--events", type=int, default=EVENTS)
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--writers", type=int, default=WRITERS)
    parser.add_argument("--play", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        try:
            play(*given.play)
        except (WatchlyError, nats.errors.Error, psycopg.Error) as error:
            raise SystemExit(f"a {given.play[0]} ended: {type(error).__name__}: {error}") from None
        return 0
    plan = Plan(given.events, given.kills, given.writers, given.seed)

    def begin(folder: Path) -> Outcome:
        with EmbeddedPostgres(folder / "home") as url:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("CREATE DATABASE taken")
            asyncio.run(migrate(url))
            taken = psycopg.conninfo.make_conninfo(url, dbname="taken")
            return run(plan, folder / "nats", url, taken)

    return perform("relays", PROMISE, given, begin)


if __name__ == "__main__":
    sys.exit(main())
