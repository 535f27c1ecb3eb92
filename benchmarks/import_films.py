"""`watchly import` of 58,788 films against COPY of the same rows, and of their events, with the same indexes.

Rounds alternate on one running embedded database; read the ratios, not the seconds.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from films import write_films

from watchly_adapters.embedded import EmbeddedPostgres
from watchly_adapters.postgres import migrate

ROUNDS = 5
WATCHLY = str(Path(sys.executable).with_name("watchly"))
TABLES = {
    "movies": "id, title, description, release_year, genre, version, created_at, updated_at",
    "events": "kind, movie_id, version, at, actor, movie",
}


# A small process in between: a child's peak memory counts what its parent had when it forked.
LAUNCH = """
import os, sys
status = os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:])
import resource
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(status)
"""


def import_films(csv: Path, home: Path) -> tuple[float, int]:
    """Seconds and peak bytes of memory of the whole command, start of Python included."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, WATCHLY, "import", str(csv)],
        env={**os.environ, "WATCHLY_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return time.perf_counter() - started, int(done.stdout)


def copy_films(connection: psycopg.Connection[tuple[object, ...]]) -> float:
    """Seconds to COPY the rows that are in the tables into empty tables with the same indexes."""
    held = {}
    for table, columns in TABLES.items():
        connection.execute(f"DROP TABLE IF EXISTS bare_{table}")
        connection.execute(f"CREATE TABLE bare_{table} (LIKE {table} INCLUDING ALL)")
        with connection.cursor().copy(f"COPY {table} ({columns}) TO STDOUT") as copy:
            held[table] = b"".join(bytes(block) for block in copy)
    started = time.perf_counter()
    with connection.transaction():
        for table, columns in TABLES.items():
            with connection.cursor().copy(f"COPY bare_{table} ({columns}) FROM STDIN") as copy:
                copy.write(held[table])
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        csv, home = Path(folder, "films.csv"), Path(folder, "home")
        films = write_films(csv)
        with EmbeddedPostgres(home) as url, psycopg.connect(url, autocommit=True) as connection:
            asyncio.run(migrate(url))
            imports, copies, memory = [], [], 0
            for _ in range(ROUNDS):
                connection.execute("TRUNCATE movies, events")
                seconds, peak = import_films(csv, home)
                imports.append(seconds)
                memory = max(memory, peak)
                copies.append(copy_films(connection))
    imported, copied = statistics.median(imports), statistics.median(copies)
    print(f"{films} films, medians of {ROUNDS} alternating rounds")
    print(f"watchly import (whole command) {imported:.2f} s, peak memory {memory / 1e6:.0f} MB")
    print(f"COPY of movies and events      {copied:.2f} s; twice that and 1 s: {2 * copied + 1:.2f} s")
    print(f"import over that allowance     {imported / (2 * copied + 1):.2f}")


if __name__ == "__main__":
    main()
