"""Finding films: what a page costs at its beginning and far down, and search against ILIKE and similarity().

All of it runs on one embedded database of its own, by `Catalogue` on a pool of connections, so that a time
is that of the whole way from the query to the movies. What is compared runs in alternating rounds; read the
ratios, not the milliseconds. Every page far down is compared with what OFFSET gives.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import psycopg
from films import write_films
from psycopg.rows import tuple_row
from transfers import database, watchly

from watchly_adapters.postgres import PostgresDatabase
from watchly_adapters.postgres.movies import COLUMNS, CREATED_AT, UPDATED_AT, as_movie, movie_cursor
from watchly_adapters.postgres.vocabulary import meant
from watchly_core.catalogue import Catalogue
from watchly_core.movies import Movie
from watchly_core.queries import SORT_FIELDS, Column, Cursor, MovieQuery, read_sort
from watchly_core.text import Pattern, Search, entries, matches, words

ROWS: Final = 1_000_000
ROUNDS: Final = 300
PAGE: Final = 20
#: What runs longer than so many seconds in all does not take part in every round, but in so many.
BUDGET: Final = 6.0
LEAST: Final = 5
#: Words that are drawn from titles, frequent ones more often.
DRAWN: Final = 40
#: Runs before the first round, as long as they take no more than a second: connections prepare statements.
WARM: Final = 24

#: Searches by how many films have the words; each film has "minutes", "rated", "by" and "people".
SEARCHES: Final = {
    "a rare word": "casablanca",
    "a middling word": "love",
    "a frequent word": "the",
    "a word of all": "minutes",
    "a short beginning": "a",
    "two words": "star wars",
    "two frequent words": "the man",
    "two words of all": "rated people",
    "a typo": "godfahter",
    "two typos": "shawshenk redemtion",
    "a typo of a word of all": "mintues",
}
FILTERED: Final = {
    "genre, by title": MovieQuery(genre="Drama", sort=read_sort("title"), limit=PAGE),
    "rare genre, latest": MovieQuery(genre="Animation", sort=read_sort("-release_year"), limit=PAGE),
    "year, by title": MovieQuery(release_year=1999, sort=read_sort("title"), limit=PAGE),
    "since 1900, latest": MovieQuery(min_release_year=1900, sort=read_sort("-release_year"), limit=PAGE),
    "since 1900, by title": MovieQuery(min_release_year=1900, sort=read_sort("title"), limit=PAGE),
    "genre, 1990s, newest": MovieQuery(
        genre="Drama",
        min_release_year=1990,
        max_release_year=1999,
        sort=read_sort("-created_at"),
        limit=PAGE,
    ),
    "q=love, by relevance, genre": MovieQuery(q="love", genre="Drama", limit=PAGE),
    "q=love, latest": MovieQuery(q="love", sort=read_sort("-release_year"), limit=PAGE),
    "q=minutes, latest": MovieQuery(q="minutes", sort=read_sort("-release_year"), limit=PAGE),
    "q=the, by title": MovieQuery(q="the", sort=read_sort("title"), limit=PAGE),
}
COUNTED: Final = {
    "genres of all": MovieQuery(),
    "genres since 1990": MovieQuery(min_release_year=1990),
    "genres of q=casablanca": MovieQuery(q="casablanca"),
    "genres of q=love": MovieQuery(q="love"),
    "genres of q=minutes": MovieQuery(q="minutes"),
    "genres of q=godfahter": MovieQuery(q="godfahter"),
    "total of all": MovieQuery(),
    "total of genre=Drama": MovieQuery(genre="Drama"),
    "total of q=love": MovieQuery(q="love"),
    "total of q=minutes": MovieQuery(q="minutes"),
}
SORTS: Final = tuple(sign + field for field in SORT_FIELDS for sign in ("", "-"))
SEVERAL: Final = (
    "-release_year,title",
    "release_year,-title",
    "title,-created_at",
    "-title,release_year",
    "-updated_at,title,-release_year",
    "release_year,-updated_at",
)
ONE_WORD: Final = {
    "rare": "casablanca",
    "middling": "love",
    "frequent": "the",
    "of all": "minutes",
    "very rare": "zzyzx",
    "none": "xqzvw",
}
TYPOS: Final = ("godfahter", "shawshenk redemtion", "casablnca", "mintues", "terminater", "hte")
#: Searches that show each tier, what is folded, words that marks join, and typos.
SHOWN: Final = (
    ("Heat", "the title itself, then titles that begin so"),
    ("star w", "beginnings of titles and of words"),
    ("king kong", "words of titles, in any order"),
    ("waitress montmartre", "words of a description"),
    ("amelie", "accents"),
    ("babettes gaestebud", "letters that some people lack"),
    ("spiderman", "words that marks join"),
    ("8 1/2", "signs for numbers"),
    ("godfahter", "a typo"),
    ("shawshenk redemtion", "two of them"),
)

Call: TypeAlias = Callable[[], Awaitable[object]]
Connection: TypeAlias = psycopg.AsyncConnection[tuple[object, ...]]

# Films come at different times, and some tell no year. The import would give all of them the same time.
SPREAD: Final = """
    CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.created_at := timestamp '2016-01-01' + (hashint4(NEW.id) + 2147483648) * interval '70 ms';
        NEW.updated_at := NEW.created_at + (hashint4(-NEW.id) + 2147483648) * interval '5 ms';
        NEW.release_year := CASE WHEN NEW.id % 100 > 0 THEN NEW.release_year END;
        RETURN NEW;
    END
    $$;
    CREATE TRIGGER spread BEFORE INSERT ON movies FOR EACH ROW EXECUTE FUNCTION spread();
"""
UNSPREAD: Final = "DROP TRIGGER spread ON movies; DROP FUNCTION spread"


class Times(NamedTuple):
    """Milliseconds of each run."""

    runs: list[float]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.runs)

    @property
    def p99(self) -> float:
        """What one in a hundred takes longer than."""
        return sorted(self.runs)[math.ceil(0.99 * len(self.runs)) - 1]

    @property
    def rate(self) -> float:
        """Runs a second."""
        return 1_000 * len(self.runs) / sum(self.runs)

    def __str__(self) -> str:
        return f"{self.median:9.2f} {self.p99:9.2f} {len(self.runs):5}"


async def timed(call: Call) -> float:
    started = time.perf_counter()
    await call()
    return 1_000 * (time.perf_counter() - started)


async def measure(calls: Mapping[str, Call], rounds: int) -> dict[str, Times]:
    """The times of each call, which take turns."""
    for call in calls.values():
        warm = 0.0
        for _ in range(WARM):
            warm += await timed(call)
            if warm > 1_000:  # noqa: PLR2004 - a second
                break
    times: dict[str, Times] = {name: Times([]) for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            runs = times[name].runs
            if len(runs) < LEAST or sum(runs) < 1_000 * BUDGET:
                runs.append(await timed(call))
    return times


class Bench:
    """A loaded database, and what is asked of it."""

    def __init__(self, catalogue: Catalogue, connection: Connection, rows: int, rounds: int) -> None:
        self.catalogue = catalogue
        self.connection = connection
        self.rows = rows
        self.rounds = rounds

    def finds(self, query: MovieQuery) -> Call:
        """The page that a query asks for."""
        return lambda: self.catalogue.find(query)

    def asks(self, statement: str, *parameters: object) -> Call:
        """Movies by a statement of one's own, on one connection, which prepares it as others are."""

        async def ask() -> list[Movie]:
            async with movie_cursor(self.connection) as asked:
                await asked.execute(statement.encode(), parameters)
                return await asked.fetchall()

        return ask

    async def pages(self, title: str, listed: Mapping[str, MovieQuery]) -> None:
        """Print what the first page of each list costs, and the page after nine tenths of all rows.

        Shorter lists are read after nine tenths of their own rows.
        """
        print(
            f"\n{title}, {PAGE} a page\n{'':28}{'':10} {'page one, ms':^25} {'page after row, ms':^36}"
            f" {'ratio':>6} {'OFFSET, ms':^15}\n{'':28}{'films':>10} {'median':>9} {'p99':>9} {'runs':>5}"
            f" {'row':>9} {'median':>9} {'p99':>9} {'runs':>5}  {'':>6} {'median':>9} {'runs':>5}"
        )
        totals, places, calls, wrong = {}, {}, {}, []
        for name, query in listed.items():
            total = totals[name] = await self.catalogue.count(query)
            calls[name, "first"] = self.finds(query)
            place = min(self.rows, total) * 9 // 10
            if total <= 2 * PAGE:
                continue
            places[name] = place
            deep, calls[name, "offset"], right = await self._far_down(query, place)
            calls[name, "deep"] = self.finds(deep)
            if not right:
                wrong.append(name)
        times = await measure({" ".join(name): call for name, call in calls.items()}, self.rounds)
        for name in listed:
            first = times[f"{name} first"]
            line = f"{name:28}{totals[name]:10,} {first}"
            if name in places:
                deep_times, offset = times[f"{name} deep"], times[f"{name} offset"]
                ratio = deep_times.median / first.median
                line += f" {places[name]:9,} {deep_times}  {ratio:6.2f} {offset.median:9.2f}"
                line += f" {len(offset.runs):5}"
            print(line)
        verdict = f"NOT what OFFSET gives: {'; '.join(wrong)}" if wrong else "all what OFFSET gives"
        print(f"pages far down: {len(places)}, {verdict}")

    async def _far_down(self, query: MovieQuery, place: int) -> tuple[MovieQuery, Call, bool]:
        """The page after `place` rows by cursor, by OFFSET, and whether they are the same."""
        statement, parameters = await self._in_order(query)
        last, *_ = await self._rows(statement, parameters, place - 1, 1)
        tier, key, movie = last
        similar = bool(tier and tier > 3)  # noqa: PLR2004 - the last tier of words that match
        position = query.position(movie, tier=tier, key=key)
        deep = MovieQuery(
            q=query.q,
            genre=query.genre,
            release_year=query.release_year,
            min_release_year=query.min_release_year,
            max_release_year=query.max_release_year,
            sort=query.sort,
            limit=query.limit,
            cursor=query.cursor_after(position, similar=similar),
        )
        wanted = [found.id for *_, found in await self._rows(statement, parameters, place, PAGE)]
        page = await self.catalogue.find(deep)

        def by_offset() -> Awaitable[object]:
            return self._rows(statement, parameters, place, PAGE)

        return deep, by_offset, [found.id for found in page.data] == wanted

    async def _rows(
        self, statement: str, parameters: Sequence[object], offset: int, limit: int
    ) -> list[tuple[int, str | None, Movie]]:
        async with self.connection.cursor(binary=True, row_factory=tuple_row) as asked:
            limited = f"{statement} LIMIT {limit} OFFSET {offset}"
            await asked.execute(limited.encode(), parameters)
            return [(tier, key, as_movie(*row)) for tier, key, *row in await asked.fetchall()]

    async def _in_order(self, query: MovieQuery) -> tuple[str, list[object]]:
        """All movies of a query in its order, as one would write it by hand, and the parameters."""
        expressions: dict[Column, str] = {
            "tier": "tier",
            "id": "id",
            "title_key": "title_key",
            "title": 'title COLLATE "C"',
            "release_year": "release_year",
            "created_at": CREATED_AT,
            "updated_at": UPDATED_AT,
        }
        tier, conditions = "0", ["TRUE"]
        parameters: list[object] = []
        if query.search is not None:
            tiers = query.search.tiers()
            page = await self.catalogue.find(query)
            if page.next_cursor is not None and Cursor.decode(page.next_cursor).similar:
                tiers = query.search.similar_tiers(await meant(self.connection, query.search.words))
            texts = [(tier.number, tsquery(tier.pattern)) for tier in tiers]
            cases = [f"WHEN search @@ %s::tsquery THEN {number} " for number, _ in texts]
            tier = f"CASE {''.join(cases)} END"
            parameters += [text for _, text in texts] + [texts[-1][1]]
            conditions.append("search @@ %s::tsquery")
        for condition, value in (
            ("genre = %s", query.genre),
            ("release_year = %s", query.release_year),
            ("release_year >= %s", query.min_release_year),
            ("release_year <= %s", query.max_release_year),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        order = [
            expressions[key.column]
            + (" DESC" if key.descending else "")
            + (" NULLS LAST" if key.descending and key.column not in {"id", "title"} else "")
            for key in query.order
        ]
        selected = f"SELECT {tier} AS tier, title_key, {COLUMNS} FROM movies"
        return f"{selected} WHERE {' AND '.join(conditions)} ORDER BY {', '.join(order)}", parameters

    async def counts(self) -> None:
        """Print what facets and totals cost; they have no depth."""
        print(f"\nFacets and totals\n{'':28}{'median':>20} {'p99':>9} {'runs':>5}")
        calls = {name: self._counts(name, query) for name, query in COUNTED.items()}
        for name, times in (await measure(calls, self.rounds)).items():
            print(f"{name:28}           {times}")

    def _counts(self, name: str, query: MovieQuery) -> Call:
        if name.startswith("genres"):
            return lambda: self.catalogue.genres(query)
        return lambda: self.catalogue.count(query)

    async def against_ilike(self) -> None:
        """Print how many searches by a word there are in the time of one by ILIKE."""
        ilike = f"SELECT {COLUMNS} FROM movies WHERE title ILIKE %s OR description ILIKE %s ORDER BY "
        ranked = f"(title ILIKE %s) DESC, (title ILIKE %s) DESC, id LIMIT {PAGE}"
        print(
            f"\nq=word, the first {PAGE} by relevance, against ILIKE '%word%' on title and description:"
            "\nby id it stops at the first ones that it meets; by relevance (the title itself, what the title"
            "\nholds, then others) it has to read all of them, as whoever wants the best ones first."
            f"\n{'':22}{'films':>10} {'q, per s':>10} {'by id':>9} {'ratio':>8}"
            f" {'by relevance':>13} {'ratio':>7}"
        )
        chance = random.Random(1895)
        found = [chance.choice(await self._words_of(chance.randint(1, self.rows))) for _ in range(DRAWN)]
        drawn = list(dict.fromkeys(found))
        lines = {f"{name}: {word}": [word] for name, word in ONE_WORD.items()}
        for name, asked in {**lines, f"{len(drawn)} drawn from titles": drawn}.items():
            calls: dict[str, Call] = {}
            for word in asked:
                inside = f"%{word}%"
                calls[f"{word} q"] = self.finds(MovieQuery(q=word, limit=PAGE))
                calls[f"{word} id"] = self.asks(f"{ilike} id LIMIT {PAGE}", inside, inside)
                calls[f"{word} ranked"] = self.asks(ilike + ranked, inside, inside, word, inside)
            rounds = self.rounds if len(asked) == 1 else LEAST
            times = await measure(calls, rounds)
            # As many of each: what took its time was run less often.
            q, by_id, by_rank = (
                statistics.mean(statistics.mean(times[f"{word} {kind}"].runs) for word in asked)
                for kind in ("q", "id", "ranked")
            )
            films = f"{await self.catalogue.count(MovieQuery(q=asked[0])):,}" if len(asked) == 1 else ""
            print(
                f"{name:22}{films:>10} {1_000 / q:10.1f} {1_000 / by_id:9.1f} {by_id / q:8.1f}"
                f" {1_000 / by_rank:13.1f} {by_rank / q:7.1f}"
            )
        print("wanted: at least 20")

    async def _words_of(self, movie_id: int) -> list[str]:
        """The words of a movie's title, or of the next one's that has any."""
        movie = await self.catalogue.get(movie_id)
        return words(movie.title) or await self._words_of(movie_id % self.rows + 1)

    async def against_similarity(self) -> None:
        """Print how many searches by a mistyped word there are in the time of one by similarity()."""
        statement = (
            f"SELECT {COLUMNS} FROM movies WHERE similarity(title, %s) > 0.3 "
            f"ORDER BY similarity(title, %s) DESC LIMIT {PAGE}"
        )
        print(
            f"\nTypos: q against similarity(title, q) > 0.3 by similarity, LIMIT {PAGE}, without an index"
            f"\n{'':22}{'q, per s':>10} {'median':>9} {'similarity()':>13} {'median':>9} {'ratio':>8}"
        )
        calls: dict[str, Call] = {}
        for typo in TYPOS:
            calls[f"{typo} q"] = self.finds(MovieQuery(q=typo, limit=PAGE))
            calls[f"{typo} similarity"] = self.asks(statement, typo, typo)
        times = await measure(calls, self.rounds)
        for typo in TYPOS:
            q, similarity = times[f"{typo} q"], times[f"{typo} similarity"]
            print(
                f"{typo:22}{q.rate:10.1f} {q.median:9.2f} {similarity.rate:13.2f} {similarity.median:9.2f}"
                f" {q.rate / similarity.rate:8.1f}"
            )
        print("wanted: at least 5")


def tsquery(pattern: Pattern) -> str:
    """A pattern as PostgreSQL reads it."""
    return " & ".join(
        "(" + " | ".join(f"'{term.text}'" + ":*" * term.prefix for term in terms) + ")" for terms in pattern
    )


async def everything(bench: Bench) -> None:
    await bench.pages(
        "Searches by relevance", {name: MovieQuery(q=q, limit=PAGE) for name, q in SEARCHES.items()}
    )
    await bench.pages("Filtered and sorted pages", FILTERED)
    await bench.pages(
        "One sort key (wanted: a ratio of at most 1.30)",
        {sort: MovieQuery(sort=read_sort(sort), limit=PAGE) for sort in SORTS},
    )
    await bench.pages(
        "Several sort keys", {sort: MovieQuery(sort=read_sort(sort), limit=PAGE) for sort in SEVERAL}
    )
    await bench.counts()
    await bench.against_ilike()
    await bench.against_similarity()


async def show(bench: Bench) -> None:
    """Print ten searches with their first three hits."""
    for q, about in SHOWN:
        page = await bench.catalogue.find(MovieQuery(q=q, limit=3))
        total = await bench.catalogue.count(MovieQuery(q=q))
        print(f"\nq={q} ({about}): {total:,} {'film' if total == 1 else 'films'}")
        for movie in page.data:
            place = place_of(movie, Search.of(q))
            print(f"  {place:15} {movie.title} ({movie.release_year}): {movie.description}")


def place_of(movie: Movie, search: Search) -> str:
    """By which tier of the search a movie was found."""
    names = ("title", "begins so", "words of title", "description")
    found = entries(movie.title, movie.description)
    return next(
        (name for name, tier in zip(names, search.tiers(), strict=True) if matches(found, tier.pattern)),
        "similar",
    )


async def ask(url: str, rows: int, rounds: int, task: Callable[[Bench], Awaitable[None]]) -> None:
    async with (
        PostgresDatabase(url) as postgres,
        await psycopg.AsyncConnection.connect(url, autocommit=True) as connection,
    ):
        catalogue = Catalogue(postgres.queries, postgres.transactions)
        await task(Bench(catalogue, connection, rows, rounds))


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--rows", type=int, default=ROWS, help="films to search")
    given.add_argument("--rounds", type=int, default=ROUNDS, help="alternating rounds of what is quick")
    given.add_argument("--show", action="store_true", help="print ten searches among the real films")
    given.add_argument("--keep", type=Path, help="a folder whose database is made once and used again")
    options = given.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    with ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        url, home = stack.enter_context(database(folder))
        rows = loaded(url, home, folder / "films.csv", None if options.show else options.rows)
        if options.show:
            asyncio.run(ask(url, rows, options.rounds, show))
            return
        print(
            f"up to {options.rounds} alternating rounds, fewer of what took more than {BUDGET:g} s in all; "
            f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
        )
        asyncio.run(ask(url, rows, options.rounds, everything))
        print(f"\nload of the machine at the end {os.getloadavg()[0]:.1f}")


def loaded(url: str, home: Path, csv: Path, rows: int | None) -> int:
    """Fill the database, unless it is full already; how many films there are."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT count(*)::integer FROM movies").fetchone()
        if found and found[0]:
            print(f"{found[0]:,} films of an earlier run")
            return int(found[0])
        films = write_films(csv, rows)
        if rows is None:
            # The real ones have no accents and no stories; those of the sample do.
            watchly(home, "import", "--sample")
            seconds = watchly(home, "import", str(csv)).seconds
        else:
            connection.execute(SPREAD)
            seconds = watchly(home, "import", str(csv)).seconds
            connection.execute(UNSPREAD)
        connection.execute("CREATE EXTENSION pg_trgm")
        connection.execute("VACUUM (ANALYZE)")
    beside = "" if rows else " and those of the sample"
    print(f"{films:,} films{beside}, imported in {seconds:.0f} s, then VACUUM ANALYZE; autovacuum is off")
    return films


if __name__ == "__main__":
    main()
