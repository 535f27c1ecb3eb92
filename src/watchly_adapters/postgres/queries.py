"""Finding movies in PostgreSQL: every query becomes one statement of constant texts and parameters.

A page is read in steps. Each is a range of one index in the page's order, and is begun only if those
before it did not fill the page; so a page costs the same wherever it starts. A search has a step for each
tier of relevance, other orders have one for each way of coming after the cursor's position.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Final, LiteralString, Self, TypeAlias

import msgspec
from psycopg import sql
from psycopg.rows import args_row, scalar_row, tuple_row

from watchly_adapters.postgres.events import read_changes, read_history, read_last
from watchly_adapters.postgres.merged_reads import MergedReads
from watchly_adapters.postgres.movies import (
    COLUMNS,
    CREATED_AT,
    UPDATED_AT,
    as_movie,
    stored_time,
)
from watchly_adapters.postgres.numbering import number
from watchly_adapters.postgres.pool import HostConnection, Pool, cursor
from watchly_adapters.postgres.positions import read_position
from watchly_adapters.postgres.vocabulary import meant
from watchly_core.errors import MovieNotFound
from watchly_core.events import Change, ChangeQuery, Changes
from watchly_core.movies import MAX_ID, Movie, MovieDraft
from watchly_core.queries import Column, GenreCount, MovieQuery, Order, Page, Position, moment
from watchly_core.text import Pattern, Tier

# Of some hundred rows, because for a single one the planner trusts its luck and reads the whole table.
_FINDS_ANY: Final = """/* queries.finds_any */
    WITH found AS MATERIALIZED (SELECT FROM movies WHERE search @@ %s::tsquery LIMIT 500)
    SELECT EXISTS (SELECT FROM found)
"""
# What statements begin with that are put together for each query.
_PAGE: Final[LiteralString] = "/* queries.page */ WITH "
_COUNT: Final[LiteralString] = "/* queries.count */ SELECT count(*) FROM movies WHERE "
_GENRES: Final[LiteralString] = (
    "/* queries.genres */ SELECT genre, count(*) FROM movies WHERE genre IS NOT NULL AND "
)
_EXPORT: Final[LiteralString] = (
    "/* queries.export */ SELECT title, description, release_year, genre FROM movies WHERE "
)

#: Rows that an export fetches at once.
_EXPORT_BATCH: Final = 500

_EXPRESSIONS: Final[dict[Column, LiteralString]] = {
    "id": "id",
    "title_key": "title_key",
    "title": 'title COLLATE "C"',
    "release_year": "release_year",
    "created_at": CREATED_AT,
    "updated_at": UPDATED_AT,
}
_NULLABLE: Final[frozenset[Column]] = frozenset({"title_key", "release_year", "created_at", "updated_at"})

_Parameter: TypeAlias = str | int | datetime | None
#: A condition, or several, and its parameters.
_Clause: TypeAlias = tuple[LiteralString, tuple[_Parameter, ...]]


#: What the steps of a statement are called, and the columns of what they give.
_NAMES: Final[tuple[LiteralString, ...]] = (
    *("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"),
    *("n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z"),
)
_NAMED: Final[dict[Column, LiteralString]] = {
    **_EXPRESSIONS,
    "tier": "tier",
    "created_at": "created_at",
    "updated_at": "updated_at",
}


class _Step(msgspec.Struct, frozen=True):
    """One range of a page's rows: which ones, and in which order."""

    condition: LiteralString
    parameters: tuple[_Parameter, ...]
    order: LiteralString
    tier: int = 0


class PostgresMovieQueries:
    """Satisfies `ports.MovieQueries`: each call is one statement, and a few before it for mistyped words.

    Calls of the most frequent kinds share their statements, see `MergedReads`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._merged = MergedReads(pool)

    async def close(self) -> None:
        """End the reads that many wait for."""
        await self._merged.close()

    def at(self, position: str) -> Self:
        """See the port; the primary knows of every write."""
        read_position(position)
        return self

    async def get(self, movie_id: int) -> Movie:
        """See the port."""
        movie = await self._merged.get(movie_id)
        if movie is None:
            raise MovieNotFound(movie_id)
        return movie

    async def find(self, query: MovieQuery) -> Page:
        """See the port."""
        if query.is_plain:
            return await self._find_by_id(query)
        return await self._pool.read(lambda connection: read_page(connection, query))

    async def _find_by_id(self, query: MovieQuery) -> Page:
        """The most frequent list."""
        after = -MAX_ID - 2
        if query.cursor is not None:
            (position,) = query.cursor.position
            after = position if isinstance(position, int) else after
        movies = await self._merged.page(after, _at_most(query))
        return Page.of([(movie, (movie.id,)) for movie in movies], query)

    async def count(self, query: MovieQuery) -> int:
        """See the port."""
        return await self._pool.read(lambda connection: read_count(connection, query))

    async def genres(self, query: MovieQuery) -> Sequence[GenreCount]:
        """See the port."""
        return await self._pool.read(lambda connection: read_genres(connection, query))

    async def export(self, query: MovieQuery) -> AsyncGenerator[Sequence[MovieDraft], None]:
        """See the port."""
        async with self._pool.stream() as connection:
            tiers = await _tiers(connection, query)
            condition, parameters = _all(_filters(query) + _searched(tiers))
            order, order_parameters = _in_order(query.order, tiers or ())
            statement: LiteralString = _EXPORT + condition + " ORDER BY " + order
            async with connection.cursor("export", binary=True, row_factory=args_row(_draft)) as asked:
                await asked.execute(statement, parameters + order_parameters)
                while movies := await asked.fetchmany(_EXPORT_BATCH):
                    yield movies

    async def history(
        self, movie_id: int, *, before: int | None = None, limit: int | None = None
    ) -> Sequence[Change]:
        """See the port."""
        await number(self._pool)
        return await self._pool.read(lambda connection: read_history(connection, movie_id, before, limit))

    async def changes(self, query: ChangeQuery) -> Changes:
        """See the port."""
        await number(self._pool)
        return await self._pool.read(lambda connection: read_changes(connection, query))

    async def last_change(self) -> int:
        """See the port."""
        await number(self._pool)
        return await self._pool.read(read_last)


async def read_page(connection: HostConnection, query: MovieQuery) -> Page:
    """One page of a query."""
    if query.search is None:
        return Page.of(await _read_page(connection, query, None), query)
    if not query.search.words:
        return Page((), None)
    tiers = query.search.tiers()
    if query.cursor is None or not query.cursor.similar:
        found = await _read_page(connection, query, tiers)
        if found or query.cursor is not None or await _finds_any(connection, tiers):
            return Page.of(found, query)
    tiers = query.search.similar_tiers(await meant(connection, query.search.words))
    return Page.of(await _read_page(connection, query, tiers), query, similar=True)


async def read_count(connection: HostConnection, query: MovieQuery) -> int:
    """How many movies a query finds."""
    condition, parameters = _all(_filters(query) + _searched(await _tiers(connection, query)))
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_COUNT + condition, parameters, prepare=False)
        count: int | None = await asked.fetchone()
        return count or 0


async def read_genres(connection: HostConnection, query: MovieQuery) -> Sequence[GenreCount]:
    """The genres of a query's movies."""
    condition, parameters = _all(_filters(query) + _searched(await _tiers(connection, query)))
    async with cursor(connection, args_row(GenreCount)) as asked:
        statement: LiteralString = (
            _GENRES + condition + ' GROUP BY genre ORDER BY count(*) DESC, genre COLLATE "C"'
        )
        await asked.execute(statement, parameters, prepare=False)
        return await asked.fetchall()


def _draft(title: str, description: str | None, release_year: int | None, genre: str | None) -> MovieDraft:
    return MovieDraft(title=title, description=description, release_year=release_year, genre=genre)


def _at_most(query: MovieQuery) -> int:
    """One row above the limit, which tells that more follow."""
    return min(query.limit, MAX_ID) + 1


async def _finds_any(connection: HostConnection, tiers: Sequence[Tier]) -> bool:
    """Whether any movie at all is in one of the tiers."""
    async with cursor(connection, scalar_row) as asked:
        await asked.execute(_FINDS_ANY, (_tsquery(tiers[-1].pattern),), prepare=False)
        return bool(await asked.fetchone())


async def _tiers(connection: HostConnection, query: MovieQuery) -> Sequence[Tier] | None:
    """The tiers of a query's search from its first page on; None where there is nothing to search for."""
    if query.search is None:
        return None
    if not query.search.words:
        return ()
    tiers = query.search.tiers()
    if await _finds_any(connection, tiers):
        return tiers
    return query.search.similar_tiers(await meant(connection, query.search.words))


async def _read_page(
    connection: HostConnection, query: MovieQuery, tiers: Sequence[Tier] | None
) -> list[tuple[Movie, Position]]:
    """The movies of a page and one more, with their positions."""
    steps = _tier_steps(query, tiers) if tiers and query.order[0].column == "tier" else _steps(query, tiers)
    if not steps:
        return []
    statement, parameters = _stepwise(steps, query.order, _at_most(query))
    async with cursor(connection, tuple_row, binary=True) as asked:
        # How frequent a word or a genre is decides how to look for it; without any, one plan is for all.
        kept = None if query.is_whole else False
        await asked.execute(statement, parameters, prepare=kept)
        found = [(tier, key, as_movie(*row)) for tier, key, *row in await asked.fetchall()]
    return [(movie, query.position(movie, tier=tier, key=key)) for tier, key, movie in found]


def _stepwise(
    steps: Sequence[_Step], order: Sequence[Order], limit: int
) -> tuple[sql.Composed, list[_Parameter]]:
    """The statement that takes steps until it has so many rows, and its parameters."""
    parts: list[LiteralString] = []
    parameters: list[_Parameter] = []
    taken: LiteralString = ""
    for name, step in zip(_NAMES, steps, strict=False):
        select: LiteralString = (
            "SELECT %s::integer AS tier, title_key,"
            + COLUMNS
            + "FROM movies WHERE "
            + step.condition
            + " ORDER BY "
            + step.order
            + " LIMIT {limit}"
        )
        parameters += [step.tier, *step.parameters]
        if parts:
            # The inner limit is what the planner knows, the outer one what is missing still. In between, a
            # fence, or the planner would take the unknown one for a tenth of the rows.
            select = (
                "WITH step AS MATERIALIZED (" + select + ") "
                "SELECT * FROM step LIMIT greatest(0, {limit}" + taken + ")"
            )
        parts.append(name + " AS MATERIALIZED (" + select + ")")
        taken += " - (SELECT count(*) FROM " + name + ")"
    found: LiteralString = " UNION ALL ".join(["SELECT * FROM " + name for name in _NAMES[: len(parts)]])
    ordered: LiteralString = ", ".join([_directed(_NAMED[key.column], key) for key in order])
    statement: LiteralString = (
        _PAGE + ", ".join(parts) + " SELECT * FROM (" + found + ") AS found ORDER BY " + ordered
    )
    # The limit in its place, for where the plan is kept the planner knows no parameter.
    return sql.SQL(statement).format(limit=sql.Literal(limit)), parameters


def _tier_steps(query: MovieQuery, tiers: Sequence[Tier]) -> list[_Step]:
    """One step for each tier from the cursor's on, by id."""
    filters = _filters(query)
    first, after = query.cursor.position if query.cursor else (0, None)
    steps = []
    before: list[_Clause] = []
    for tier in tiers:
        wanted = (_tsquery(tier.pattern),)
        clauses = [("search @@ %s::tsquery", wanted), *before, *filters]
        if query.cursor and tier.number == first:
            clauses.append(("id > %s", (after,)))
        if not query.cursor or tier.number >= int(first or 0):
            steps.append(_Step(*_all(clauses), "id", tier.number))
        before.append(("NOT search @@ %s::tsquery", wanted))
    return steps


def _steps(query: MovieQuery, tiers: Sequence[Tier] | None) -> list[_Step]:
    """The ways of coming after the cursor in the query's order, the nearest first."""
    clauses, order = _filters(query) + _searched(tiers), query.order
    if query.cursor is None:
        if order[0].column not in _NULLABLE:
            return [_Step(*_all(clauses), _ordered(order))]
        return _beside_nulls(clauses, order)
    steps: list[_Step] = []
    position = query.cursor.position
    end = len(order)
    for depth in reversed(range(len(order))):
        value, key = position[depth], order[depth]
        if value is None:
            end = depth
            continue  # nothing comes after the last
        if depth and position[depth - 1] is not None and _goes_on(order[depth - 1], key):
            continue  # one comparison of rows takes it in
        equal = clauses + [_equal(*pair) for pair in zip(order[:depth], position, strict=False)]
        steps.append(
            _Step(
                *_all([*equal, _beyond(order[depth:end], position[depth:end])]),
                _ordered(order[depth:], first_is_something=True),
            )
        )
        if key.column in _NULLABLE:
            steps.append(_beside_nulls(equal, order[depth:])[1])
        end = depth
    return steps


def _beside_nulls(clauses: list[_Clause], order: Sequence[Order]) -> list[_Step]:
    """Two steps: to where the first key is something, and to where it is nothing."""
    expression = _EXPRESSIONS[order[0].column]
    return [
        _Step(*_all([*clauses, (expression + " IS NOT NULL", ())]), _ordered(order, first_is_something=True)),
        _Step(*_all([*clauses, (expression + " IS NULL", ())]), _ordered(order[1:])),
    ]


def _goes_on(key: Order, following: Order) -> bool:
    """Whether a comparison of rows can hold `following` after `key`: it knows one direction and no nulls."""
    return following.column not in _NULLABLE and following.descending == key.descending


def _beyond(keys: Sequence[Order], position: Position) -> _Clause:
    """What comes after `position` by keys of one direction: a comparison of rows, or of single values."""
    columns: LiteralString = ", ".join([_EXPRESSIONS[key.column] for key in keys])
    values: LiteralString = ", ".join(["%s" for _ in keys])
    direction: LiteralString = ") < (" if keys[0].descending else ") > ("
    stored = (_stored(key.column, value) for key, value in zip(keys, position, strict=True))
    return "(" + columns + direction + values + ")", tuple(stored)


def _equal(key: Order, value: int | str | None) -> _Clause:
    if value is None:
        return _EXPRESSIONS[key.column] + " IS NULL", ()
    return _EXPRESSIONS[key.column] + " = %s", (_stored(key.column, value),)


def _stored(column: Column, value: int | str | None) -> _Parameter:
    """A value of a position as the table holds it."""
    if column in {"created_at", "updated_at"} and isinstance(value, int):
        return stored_time(moment(value))
    return value


def _ordered(order: Sequence[Order], *, first_is_something: bool = False) -> LiteralString:
    """The texts of an order; where its first key is something, it is read off an index in both directions."""
    parts: list[LiteralString] = [_directed(_EXPRESSIONS[key.column], key) for key in order]
    if first_is_something and order[0].descending:
        parts[0] = _EXPRESSIONS[order[0].column] + " DESC"
    return ", ".join(parts)


def _directed(expression: LiteralString, key: Order) -> LiteralString:
    if not key.descending:
        return expression
    return expression + (" DESC NULLS LAST" if key.column in _NULLABLE else " DESC")


def _filters(query: MovieQuery) -> list[_Clause]:
    """What the filters on genre and year ask for."""
    given: list[tuple[LiteralString, _Parameter]] = [
        ("genre = %s", query.genre),
        ("release_year = %s", query.release_year),
        ("release_year >= %s", query.min_release_year),
        ("release_year <= %s", query.max_release_year),
    ]
    return [(condition, (value,)) for condition, value in given if value is not None]


def _searched(tiers: Sequence[Tier] | None) -> list[_Clause]:
    """What a search asks for, where its tiers do not matter: the last one takes in all others."""
    if tiers is None:
        return []
    return [("search @@ %s::tsquery", (_tsquery(tiers[-1].pattern),))] if tiers else [("FALSE", ())]


def _all(clauses: Sequence[_Clause]) -> _Clause:
    """Every one of the clauses."""
    condition: LiteralString = " AND ".join([condition for condition, _ in clauses]) or "TRUE"
    return condition, tuple(value for _, values in clauses for value in values)


def _in_order(order: Sequence[Order], tiers: Sequence[Tier]) -> _Clause:
    """The whole of an order, the tiers of a search included."""
    parts: list[LiteralString] = []
    parameters: list[_Parameter] = []
    for key in order:
        if key.column == "tier":
            # The first tier that fits, as a page has it: of two similar tiers neither takes in the other.
            whens: LiteralString = " ".join(["WHEN search @@ %s::tsquery THEN %s::integer" for _ in tiers])
            if tiers:
                parts.append("CASE " + whens + " END")
            for tier in tiers:
                parameters += [_tsquery(tier.pattern), tier.number]
        else:
            parts.append(_directed(_EXPRESSIONS[key.column], key))
    return ", ".join(parts), tuple(parameters)


def _tsquery(pattern: Pattern) -> str:
    """A pattern as PostgreSQL reads it: its terms hold no quote and no backslash."""
    return " & ".join(
        "(" + " | ".join(f"'{term.text}'" + (":*" if term.prefix else "") for term in terms) + ")"
        for terms in pattern
    )
