"""Import and export of many films, by the command line and over HTTP, against COPY of the same rows.

COPY gets movies, events and trigrams ready to be sent, and tables with the same indexes. What is compared
runs in alternating rounds on one running embedded database; read the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

import psycopg
from films import write_films

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.postgres import migrate

ROWS: Final = 1_000_000
ROUNDS: Final = 3
BINARIES: Final = Path(sys.executable).parent
TABLES: Final = {
    "movies": "id, title, description, release_year, genre, version, created_at, updated_at, "
    "title_key, search, search_version",
    "events": "kind, movie_id, version, at, actor, movie",
    "trigrams": "trigram, word, size",
}
#: Bytes that are sent at once.
PIECE: Final = 256 * 1024
COPY_OUT: Final = "COPY movies (title, description, release_year, genre) TO {} (FORMAT csv)"

Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]

# A small process in between: a child's peak memory counts what its parent had when it forked.
LAUNCH: Final = """
import os, sys
status = os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:])
import resource
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status)
"""


class Run(NamedTuple):
    """What one round took: seconds, and bytes of memory at the most where that was looked at."""

    seconds: float
    memory: int = 0


class Times:
    """What the rounds took."""

    def __init__(self) -> None:
        self._runs: list[Run] = []

    def add(self, run: Run) -> None:
        """Note one more."""
        self._runs.append(run)

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(run.seconds for run in self._runs)

    def __str__(self) -> str:
        seconds = [run.seconds for run in self._runs]
        memory = max(run.memory for run in self._runs)
        peak = f", peak memory {memory / 1e6:.0f} MB" if memory else ""
        return f"{self.median:8.2f} s ({min(seconds):.2f} to {max(seconds):.2f}){peak}"


@contextmanager
def database(folder: Path) -> Iterator[tuple[str, Path]]:
    """The URL and the home of an embedded database of one's own below `folder`, with the schema.

    Autovacuum is off: it would run beside the work that comes after the one it is for.
    """
    folder.chmod(0o711)  # as root the database runs as another user, who has to reach its home
    home = folder / "home"
    with EmbeddedPostgres(home) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET autovacuum = off")
            connection.execute("SELECT pg_reload_conf()")
        asyncio.run(migrate(url))
        yield url, home


def watchly(home: Path, *arguments: str) -> Run:
    """Run a whole command, start of Python included."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, str(BINARIES / "watchly"), *arguments],
        env={**os.environ, "WATCHLY_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return Run(time.perf_counter() - started, int(done.stdout))


class Server:
    """`watchly serve` with one worker."""

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [str(BINARIES / "watchly"), "serve", "--port", "0", "--workers", "1"],
            env={**os.environ, "WATCHLY_HOME": str(home), "AUTH": "off"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for line in self._process.stderr or ():
            if found := re.search(r"answers at (http://\S+)", line):
                self._host = urlsplit(found[1]).netloc
                return
        raise SystemExit("the server did not start")

    def stop(self) -> None:
        """Wait until it has gone."""
        self._process.terminate()
        self._process.wait()

    def post(self, path: Path) -> Run:
        """Import a file; the memory is that of the largest of its processes."""
        with path.open("rb") as file:
            return self._request(
                "POST",
                "/api/movies/import",
                {"Content-Type": "text/csv", "Content-Length": str(path.stat().st_size)},
                body=file,
            )

    def get(self, media_type: str) -> Run:
        """Export and drop what comes."""
        return self._request("GET", "/api/movies/export", {"Accept": media_type})

    def _request(self, method: str, target: str, headers: dict[str, str], body: object = None) -> Run:
        processes = list(self._processes(self._process.pid))
        for process in processes:
            Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
        connection = HTTPConnection(self._host, blocksize=PIECE)
        started = time.perf_counter()
        connection.request(method, target, body=body, headers=headers)  # type: ignore[arg-type]
        with connection.getresponse() as response:
            if response.status != 200:  # noqa: PLR2004 - OK
                raise SystemExit(f"{method} {target}: {response.status} {response.read(1_000)!r}")
            while response.read(PIECE):
                pass
        seconds = time.perf_counter() - started
        connection.close()
        return Run(seconds, max(map(self._peak, processes)))

    def _processes(self, pid: int) -> Iterator[int]:
        yield pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            yield from self._processes(int(child))

    @staticmethod
    def _peak(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        return int(peak[1]) * 1024 if peak else 0


def taken(connection: Connection) -> dict[str, bytes]:
    """The rows that are in the tables, as COPY reads them."""
    held = {}
    for table, columns in TABLES.items():
        with connection.cursor().copy(f"COPY {table} ({columns}) TO STDOUT".encode()) as copy:
            held[table] = b"".join(bytes(block) for block in copy)
    return held


def copy_in(connection: Connection, held: dict[str, bytes]) -> Run:
    """COPY them in one transaction into empty tables with the same indexes."""
    for table in TABLES:
        connection.execute(f"DROP TABLE IF EXISTS bare_{table}".encode())
        connection.execute(f"CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)".encode())
    settle(connection)
    started = time.perf_counter()
    with connection.transaction():
        for table, columns in TABLES.items():
            rows = memoryview(held[table])
            with connection.cursor().copy(f"COPY bare_{table} ({columns}) FROM STDIN".encode()) as copy:
                for place in range(0, len(rows), PIECE):
                    copy.write(rows[place : place + PIECE])
    run = Run(time.perf_counter() - started)
    for table in TABLES:
        connection.execute(f"DROP TABLE bare_{table}".encode())
    return run


def copy_out(connection: Connection) -> Run:
    """COPY the movies to this process, which drops them."""
    started = time.perf_counter()
    with connection.cursor().copy(COPY_OUT.format("STDOUT").encode()) as copy:
        while copy.read():
            pass
    return Run(time.perf_counter() - started)


def copy_away(connection: Connection) -> Run:
    """COPY them where nobody reads them."""
    started = time.perf_counter()
    connection.execute(COPY_OUT.format("'/dev/null'").encode())
    return Run(time.perf_counter() - started)


def settle(connection: Connection) -> None:
    """Write out what earlier work left behind, so that nobody pays for another's."""
    connection.execute("CHECKPOINT")


def empty(connection: Connection) -> None:
    connection.execute("TRUNCATE movies, events, trigrams RESTART IDENTITY")
    connection.execute("UPDATE change_log SET last_seq = 0, horizon = 0")
    settle(connection)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def imports(connection: Connection, csv: Path, home: Path, rounds: int) -> None:
    """Print what imports take; the rows of the last one stay."""
    command, http, copies = Times(), Times(), Times()
    exported = csv.with_name("exported.csv")
    again = csv.with_name("again.csv")
    held: dict[str, bytes] = {}
    films = 0
    for _ in range(rounds):
        empty(connection)
        command.add(watchly(home, "import", str(csv)))
        if not held:
            held = taken(connection)
            films = held["movies"].count(b"\n")
            watchly(home, "export", "--output", str(exported))
        copies.add(copy_in(connection, held))
        empty(connection)
        server = Server(home)
        try:
            http.add(server.post(exported))
        finally:
            server.stop()
    watchly(home, "export", "--output", str(again))
    copied = copies.median
    megabytes = {table: len(rows) / 1e6 for table, rows in held.items()}
    print(f"Import of {films:,} films, {csv.stat().st_size / 1e6:.0f} MB of CSV; {rounds} alternating rounds")
    print(f"  COPY of movies, events, trigrams {copies}, {films / copied:,.0f} rows/s")
    print(f"       their texts: {', '.join(f'{table} {size:.0f} MB' for table, size in megabytes.items())}")
    print(f"  watchly import (whole command)   {command}, {films / command.median:,.0f} rows/s")
    print(f"  POST /api/movies/import          {http}, {films / http.median:,.0f} rows/s")
    print(f"  rate of the command over COPY's  {copied / command.median:.2f} (wanted: at least 0.50)")
    print(f"  rate over HTTP over COPY's       {copied / http.median:.2f} (wanted: at least 0.50)")
    print(f"  command over twice COPY and 1 s  {command.median / (2 * copied + 1):.2f}")
    same = digest(exported) == digest(again)
    print(f"  an export, imported and exported again, is {'the same' if same else 'ANOTHER'}")


def exports(connection: Connection, folder: Path, home: Path, rounds: int) -> None:
    """Print what exports take."""
    connection.execute("VACUUM (ANALYZE) movies")
    films = connection.execute("SELECT count(*) FROM movies").fetchone()
    count = int(str(films[0])) if films else 0
    server = Server(home)
    file = str(folder / "films.out")
    kinds: dict[str, Callable[[], Run]] = {
        "COPY to a client": lambda: copy_out(connection),
        "COPY to /dev/null": lambda: copy_away(connection),
        "watchly export --format csv": lambda: watchly(home, "export", "--format", "csv", "-o", file),
        "watchly export --format ndjson": lambda: watchly(home, "export", "--format", "ndjson", "-o", file),
        "GET /api/movies/export, CSV": lambda: server.get("text/csv"),
        "GET /api/movies/export, NDJSON": lambda: server.get("application/x-ndjson"),
    }
    times = {name: Times() for name in kinds}
    try:
        for _ in range(rounds):
            for name, export in kinds.items():
                times[name].add(export())
    finally:
        server.stop()
    copied = times["COPY to a client"].median
    print(f"\nExport of {count:,} films after VACUUM ANALYZE; {rounds} alternating rounds")
    for name, taken_by in times.items():
        ratio = f"{copied / taken_by.median:.2f} of the rate of COPY to a client"
        print(f"  {name:32} {taken_by}, {count / taken_by.median:,.0f} rows/s, {ratio}")
    print("  wanted: at least 0.33")


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--rows", type=int, default=ROWS, help="films to move")
    given.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds")
    options = given.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        csv = folder / "films.csv"
        write_films(csv, options.rows)
        with database(folder) as (url, home), psycopg.connect(url, autocommit=True) as connection:
            imports(connection, csv, home, options.rounds)
            exports(connection, folder, home, 3 * options.rounds)  # they are quick
    print("Peak memory is wanted below 150 MB.")


if __name__ == "__main__":
    main()
