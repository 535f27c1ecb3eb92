"""A shop adds a movie to its catalogue and buys a licence for it: both are there, or neither."""

from __future__ import annotations

import asyncio
import os

import psycopg

from watchly_adapters.postgres import PostgresDatabase, migrate
from watchly_core import Catalogue, Movie, MovieQuery
from watchly_core.errors import VersionConflict


class TooExpensive(Exception):
    """Nobody will pay that."""


async def buy(shop: psycopg.AsyncConnection, catalogue: Catalogue, title: str, euros: int) -> Movie:
    """Add a movie and a licence; whoever calls has begun the transaction of `shop`."""
    movie = await catalogue.add({"title": title})
    await shop.execute("INSERT INTO licences VALUES (%s, %s)", (movie.id, euros))
    try:
        # A use case that is refused is undone alone: the transaction goes on.
        await catalogue.revise(movie.id, {"genre": "Crime"}, version=7)
    except VersionConflict as conflict:
        print(f"refused: {conflict}")
    if euros > 1_000:
        raise TooExpensive
    return movie


async def show(when: str, shop: psycopg.AsyncConnection, database: PostgresDatabase) -> None:
    """Print what is committed."""
    page = await database.queries.find(MovieQuery())
    licences = await (await shop.execute("SELECT euros FROM licences ORDER BY movie_id")).fetchall()
    titles = [movie.title for movie in page.data]
    print(f"{when}: movies {titles}, licences {[euros for (euros,) in licences]}")


async def main(url: str) -> None:
    """Buy one movie, and another one that turns out to be too expensive."""
    await migrate(url)
    async with (
        PostgresDatabase(url) as database,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as shop,
    ):
        await shop.execute("CREATE TABLE licences (movie_id integer PRIMARY KEY, euros integer NOT NULL)")
        joined = database.joined(shop)
        catalogue = Catalogue(joined.queries, joined.transactions)
        await show("at first", shop, database)

        async with shop.transaction():
            heat = await buy(shop, catalogue, "Heat", 500)
            print(f"seen in the transaction alone: {(await catalogue.get(heat.id)).title}")
        await show("committed together", shop, database)

        try:
            async with shop.transaction():
                await buy(shop, catalogue, "Ran", 5_000)
        except TooExpensive:
            await show("rolled back together", shop, database)

        # The log has what was committed, and no gap where something was not.
        await database.committed()
        changes = await catalogue.changes()
        print(f"log: {[(change.seq, change.event.movie.title) for change in changes.data]}")


if __name__ == "__main__":
    asyncio.run(main(os.environ["DATABASE_URL"]))
