"""The films in a PostgreSQL of their own, and copies of it."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psycopg
from benchmarks.comparison.servers import BINARIES
from benchmarks.films import write_films
from psycopg.conninfo import conninfo_to_dict

from watchly_adapters.embedded import EmbeddedPostgres

#: Nobody else's queries use these indexes, and each makes every write dearer.
_DROP_OUR_OWN: Final = """
    DROP TRIGGER zzz_watchly_note_foreign_write ON movies;
    DROP TRIGGER zzz_watchly_note_foreign_insert ON movies;
    DROP TRIGGER zzz_watchly_keep_updated_at ON movies;
    DROP INDEX watchly_movies_search, watchly_movies_title, watchly_movies_genre, watchly_movies_unsearched,
        watchly_movies_release_year, watchly_movies_release_year_down,
        watchly_movies_created_at, watchly_movies_created_at_down,
        watchly_movies_updated_at, watchly_movies_updated_at_down;
"""


class Database:
    """An embedded PostgreSQL with the films, and copies of it: each server starts on one of its own."""

    def __init__(self, url: str, home: Path) -> None:
        self.url = url
        self._home = home
        self._secret = secrets.token_urlsafe(32)
        self.images = home.with_name("posters")

    def environment(self, url: str) -> dict[str, str]:
        """What Watchly and the peers are told, the latter as libpq is."""
        parts = conninfo_to_dict(url)
        return {
            "WATCHLY_HOME": str(self._home),
            "DATABASE_URL": url,
            "SECRET_KEY": self._secret,
            "PGHOST": str(parts["host"]),
            "PGPORT": str(parts["port"]),
            "PGUSER": str(parts["user"]),
            "PGDATABASE": str(parts["dbname"]),
            "IMAGES": str(self.images),
        }

    def told(self, url: str, *words: str) -> str:
        """What a command of Watchly's prints."""
        done = subprocess.run(
            [str(BINARIES / "watchly"), *words],
            env={**os.environ, **self.environment(url)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"watchly {' '.join(words)} failed: {done.stderr}")
        return done.stdout.strip()

    def fill(self, folder: Path, count: int | None) -> list[int]:
        """Import the films, or so many of them; their ids."""
        path = folder / "films.csv"
        write_films(path, count)
        self.told(self.url, "migrate")
        self.told(self.url, "import", str(path))
        self.vacuum()
        with psycopg.connect(self.url) as connection:
            return [number for (number,) in connection.execute("SELECT id FROM movies ORDER BY id")]

    def vacuum(self) -> None:
        """Do what autovacuum would begin with a minute later, in the middle of what is measured."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("VACUUM (FREEZE, ANALYZE)")

    def postmaster(self) -> int:
        """Its first process."""
        return int((self._home / "postgres" / "data" / "postmaster.pid").read_text().split()[0])

    @contextmanager
    def copy(self, *, own: bool) -> Iterator[str]:
        """The URL of a copy; one for a peer has none of Watchly's triggers and indexes."""
        url = urlsplit(self.url)._replace(path="/compared").geturl()
        # A connection to a database is in the way of copying it.
        maintenance = urlsplit(self.url)._replace(path="/postgres").geturl()
        with psycopg.connect(maintenance, autocommit=True) as connection:
            connection.execute("CREATE DATABASE compared TEMPLATE watchly")
            try:
                if not own:
                    with psycopg.connect(url, autocommit=True) as copied:
                        copied.execute(_DROP_OUR_OWN)
                connection.execute("CHECKPOINT")
                yield url
            finally:
                connection.execute("DROP DATABASE compared WITH (FORCE)")


@contextmanager
def embedded() -> Iterator[tuple[Database, Path]]:
    """A PostgreSQL of its own, still without films, and the folder that it goes with."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # As root the database runs as another user, who has to reach its home.
        folder.chmod(0o711)
        home = folder / "home"
        with EmbeddedPostgres(home) as url:
            yield Database(url, home), folder
