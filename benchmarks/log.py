"""Creating movies over HTTP with the log of events, and without it, in alternating rounds on one database.

Two servers of one worker each stand on it; that without a log has parts whose events go nowhere.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import psycopg
from dependency_injector import providers
from litestar import Litestar
from transfers import database

from watchly_adapters.container import Container
from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.settings import read_settings
from watchly_core.events import Event
from watchly_core.ports import Transaction
from watchly_http import logs
from watchly_http.app import create_app
from watchly_http.server import serve

MOVIES: Final = 2_000
ROUNDS: Final = 5
CLIENTS: Final = 8
WANTED: Final = 0.75
MOVIE: Final = json.dumps(
    {"title": "Heat", "description": "A thief and a detective. " * 8, "release_year": 1995, "genre": "Crime"}
).encode()


class Silence:
    """An `EventLog` that keeps nothing."""

    async def append(self, *events: Event) -> None:
        """Forget them."""

    async def get(self, *_: object) -> None:
        """Nothing."""

    async def newest(self, *_: object) -> None:
        """Nothing."""

    async def prune(self, *_: object) -> int:
        """Nothing."""
        return 0


class SilentTransaction:
    """A transaction without a log."""

    def __init__(self, loud: Transaction) -> None:
        self.movies, self.images, self.receipts = loud.movies, loud.images, loud.receipts
        self.relays, self.throttles = loud.relays, loud.throttles
        self.users, self.sessions = loud.users, loud.sessions
        self.api_keys, self.signing_keys = loud.api_keys, loud.signing_keys
        self.events = Silence()


class SilentDatabase(PostgresDatabase):
    """A database whose writes leave no events."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._loud = self.transactions
        self.transactions = self._silent  # type: ignore[assignment] # the same port, by another class

    @asynccontextmanager
    async def _silent(self) -> AsyncIterator[SilentTransaction]:
        async with self._loud() as tx:
            yield SilentTransaction(tx)


def run_server(*, silent: bool) -> None:
    """Serve until this process is told to stop."""
    settings = read_settings(os.environ)

    def load() -> Litestar:
        logs.configure(settings)
        container = Container(settings=settings)
        if silent:
            container.database.override(providers.Singleton(SilentDatabase, settings.database_url))
        return create_app(container)

    raise SystemExit(
        serve(
            load,
            host="127.0.0.1",
            port=0,
            workers=1,
            drain_timeout=5,
            on_listening=lambda url: print(url, flush=True),
        )
    )


@contextmanager
def server(url: str, *, silent: bool) -> Iterator[str]:
    """The host and port of a running server."""
    with subprocess.Popen(
        [sys.executable, __file__, "--serve", "silent" if silent else "loud"],
        env={
            **os.environ,
            "DATABASE_URL": url,
            "SECRET_KEY": "benchmark" * 5,
            "AUTH": "off",
            "LOG_LEVEL": "warning",
        },
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.search(r"//([^/\s]+)", line)
            if found is None:
                raise SystemExit("the server did not start")
            yield found[1]
        finally:
            process.terminate()


def create(host: str, movies: int) -> float:
    """How many movies a second were created."""

    def client(_: int) -> None:
        connection = HTTPConnection(host)
        for _ in range(movies // CLIENTS):
            connection.request("POST", "/api/movies", MOVIE, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            reply.read()
            if reply.status != 201:  # noqa: PLR2004 - Created
                raise SystemExit(f"a movie was not created: {reply.status}")

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return movies // CLIENTS * CLIENTS / (time.perf_counter() - started)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--serve", choices=("silent", "loud"), help=argparse.SUPPRESS)
    given.add_argument("--movies", type=int, default=MOVIES, help="that are created in a round")
    given.add_argument("--rounds", type=int, default=ROUNDS)
    options = given.parse_args()
    if options.serve:
        run_server(silent=options.serve == "silent")
    rates: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as name, database(Path(name)) as (url, _):
        with server(url, silent=False) as loud, server(url, silent=True) as silent:
            for host in (loud, silent):
                create(host, CLIENTS * 20)
            for number in range(options.rounds):
                for is_silent in (False, True) if number % 2 else (True, False):
                    rates[is_silent].append(create(silent if is_silent else loud, options.movies))
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM movies), count(*), count(seq), max(seq) FROM events"
            ).fetchone()
    print(f"POST /api/movies, {CLIENTS} connections, {options.rounds} rounds of {options.movies:,} movies")
    for is_silent, title in ((False, "with the log"), (True, "without it")):
        print(f"  {title:14} {statistics.median(rates[is_silent]):7.0f} movies/s")
    ratios = [loud / silent for loud, silent in zip(rates[False], rates[True], strict=True)]
    print(
        f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}; wanted: {WANTED})"
    )
    print("  movies, events, numbered events, last number:", *(row or ()))


if __name__ == "__main__":
    main()
