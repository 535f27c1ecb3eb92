"""Imports movies from a CSV file, and prints what is there then."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue, MovieQuery, Sort, blocking
from watchly_core.imports import read_csv


def main(path: str) -> None:
    url = os.environ["DATABASE_URL"]
    with blocking.Loop() as loop:
        loop.run(migrate, url)
        database = loop.enter(PostgresDatabase(url))
        movies = blocking.Catalogue(loop, Catalogue(database.queries, database.transactions))

        with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            report = movies.add_many(read_csv(lines), skip_invalid=True)
        for rejection in report.rejected:
            print(f"line {rejection.line}: {'; '.join(map(str, rejection.errors))}", file=sys.stderr)
        print(f"added {report.added}, rejected {report.rejected_total}")

        for found in movies.genres():
            print(f"{found.movies:5} {found.genre}")
        newest = MovieQuery(sort=(Sort("release_year", descending=True),), limit=3)
        for movie in movies.find(newest).data:
            print(f"{movie.release_year or '????'} {movie.title}")


if __name__ == "__main__":
    main(*sys.argv[1:])
