"""Imports a CSV file of movies, and writes how many there are of each genre in each decade."""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from watchly_adapters.memory import MemoryDatabase
from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue, MovieQuery
from watchly_core.imports import Rejection, Row, read_lines, read_rows
from watchly_core.movies import MAX_YEAR, MIN_YEAR


async def rows_of(source: Path) -> AsyncIterator[Row]:
    """The rows of a CSV file, however long it is."""
    with source.open("rb") as file:
        for row in read_rows(read_lines(file), "csv", ignore_unknown=True):
            yield row


def tell(rejection: Rejection) -> None:
    """Say which row was left out, and why."""
    faults = "; ".join(map(str, rejection.errors))
    print(f"line {rejection.line}: {faults}", file=sys.stderr)


async def report(catalogue: Catalogue, target: Path) -> None:
    """Write the genres of each decade that has movies, that of the most movies first."""
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["decade", "genre", "movies"])
        for decade in range(MIN_YEAR, MAX_YEAR + 1, 10):
            query = MovieQuery(min_release_year=decade, max_release_year=decade + 9)
            writer.writerows([decade, found.genre, found.movies] for found in await catalogue.genres(query))


async def main(source: Path, target: Path, url: str | None) -> None:
    """Import the movies of `source`, and write the report to `target`."""
    if url is not None:
        await migrate(url)
    async with MemoryDatabase() if url is None else PostgresDatabase(url) as database:
        catalogue = Catalogue(database.queries, database.transactions)
        done = await catalogue.add_many(rows_of(source), skip_invalid=True, on_rejected=tell)
        print(f"movies added: {done.added}, rows rejected: {done.rejected_total}")
        await report(catalogue, target)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), os.environ.get("DATABASE_URL")))
