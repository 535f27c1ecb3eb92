"""What a store of movies promises of its lists: filters, sorting, pages, counts, exports."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import chain, permutations, product
from typing import Final, TypeAlias

import msgspec
import pytest

from watchly_adapters.testing.stores import BARE, HEAT, LATER, NOON, Store, StoreContract
from watchly_core.movies import Movie, MovieDraft, client_fields
from watchly_core.queries import SORT_FIELDS, Cursor, GenreCount, MovieQuery, Page, Sort, SortField
from watchly_core.text import title_key

__all__ = ["MovieListContract"]

#: Above the number of movies in any test.
_ALL: Final = 5_000

_DAWN: Final = dt.datetime.min.replace(tzinfo=dt.UTC)
_DUSK: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
_BEFORE: Final = dt.datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=dt.UTC)

#: Title, description, year, created, updated: each key with equals, with odd ones, and with None.
_VARIED: Final[Sequence[tuple[str, str | None, int | None, dt.datetime | None, dt.datetime | None]]] = (
    ("heat 2", "Heat again.", 2001, NOON, None),
    ("Élan", "The heat of the night.", None, None, LATER),
    ("Heat", None, 1995, NOON, NOON),
    ("elan", "heat", 1995, LATER, None),
    ("Élan", "Heath, in the heat.", 2001, None, NOON),
    ("\U0001f3ac", "heat", None, _BEFORE, LATER),
    ("HEAT", "thief", -5, _DAWN, _DUSK),
    ("Dead Heat", "", 2_147_483_647, _DUSK, _DAWN),
    ("\u0301", "heat", None, None, None),
    ("Elan", "heat", 1995, NOON, NOON),
    ("heat", "heat", -2_147_483_648, _DAWN, NOON),
    ("", "The heats.", 1995, _BEFORE + dt.timedelta(microseconds=1), LATER),
)

_BOTH: Final = (False, True)
#: Every key alone, both ways, and every order of a search: by its words, by similar ones, by a key.
_ORDERS: Final = (
    *(MovieQuery(sort=(Sort(field, descending),)) for field in SORT_FIELDS for descending in _BOTH),
    MovieQuery(q="heat"),
    MovieQuery(q="heatt"),
    MovieQuery(q="heat", sort=(Sort("title"), Sort("created_at", descending=True))),
    MovieQuery(q="heatt", sort=(Sort("release_year", descending=True),), min_release_year=-10),
)


async def add(store: Store, *drafts: MovieDraft) -> Sequence[Movie]:
    """What is stored for `drafts`, one by one."""
    async with store.transactions() as tx:
        return [await tx.movies.add(draft, NOON) for draft in drafts]


async def listed(store: Store, query: MovieQuery) -> Sequence[Movie]:
    """All that `query` finds, on a single page."""
    page = await store.queries.find(msgspec.structs.replace(query, limit=_ALL))
    assert page.next_cursor is None
    return page.data


async def pages(store: Store, query: MovieQuery) -> AsyncIterator[Page]:
    """The pages of `query`, each asked for when it is its turn."""
    while True:
        page = await store.queries.find(query)
        yield page
        if page.next_cursor is None:
            break
        assert len(page.data) == query.limit
        query = msgspec.structs.replace(query, cursor=Cursor.decode(page.next_cursor))


async def paged(store: Store, query: MovieQuery) -> Sequence[Movie]:
    """All that `query` finds, page by page."""
    seen: list[Movie] = []
    async for page in pages(store, query):
        assert len(page.data) <= query.limit
        seen += page.data
        assert len(seen) <= _ALL
    return seen


async def assert_agreed(store: Store, query: MovieQuery) -> None:
    """That pages, count, genres and export tell the same as the list itself."""
    movies = await listed(store, query)
    assert await paged(store, msgspec.structs.replace(query, limit=2)) == list(movies)
    assert await store.queries.count(query) == len(movies)
    genres = Counter(movie.genre for movie in movies if movie.genre is not None)
    assert {count.genre: count.movies for count in await store.queries.genres(query)} == genres
    assert [draft async for batch in store.queries.export(query) for draft in batch] == list(
        map(client_fields, movies)
    )


async def _varied(store: Store) -> Sequence[Movie]:
    movies = []
    async with store.transactions() as tx:
        for title, description, year, created, updated in _VARIED:
            bare = await tx.movies.add(BARE, NOON)
            movie = msgspec.structs.replace(
                bare,
                title=title,
                description=description,
                release_year=year,
                version=2,
                created_at=created,
                updated_at=updated,
            )
            await tx.movies.replace(movie)
            movies.append(movie)
    return movies


_Value: TypeAlias = tuple[int | str | dt.datetime, ...] | None


def _value(movie: Movie, sort: Sort) -> _Value:
    match sort.field:
        case "id":
            return (movie.id,)
        case "title":
            return (title_key(movie.title), movie.title)
        case "release_year":
            return None if movie.release_year is None else (movie.release_year,)
        case "created_at":
            return None if movie.created_at is None else (movie.created_at,)
        case "updated_at":
            return None if movie.updated_at is None else (movie.updated_at,)


def _sorted(movies: Sequence[Movie], keys: Sequence[Sort]) -> list[Movie]:
    """`movies` in the order that is promised, the slow way: one key after another, the last one first."""
    found = sorted(movies, key=lambda movie: movie.id)
    for key in reversed(keys):
        valued = [(value, movie) for movie in found if (value := _value(movie, key)) is not None]
        without = [movie for movie in found if _value(movie, key) is None]
        valued.sort(key=lambda pair: pair[0], reverse=key.descending)
        found = [movie for _, movie in valued] + without
    return found


def _name(query: MovieQuery) -> str:
    keys = [f"-{sort.field}" if sort.descending else sort.field for sort in query.sort]
    return f"{query.q or ''}:{','.join(keys)}"


class MovieListContract(StoreContract):
    """Filters, sorting, pages, counts and exports. Supply `store`."""

    # Filters

    async def test_a_genre_is_met_to_the_letter(self, store: Store) -> None:
        genres = [
            *(
                "Drama",
                "drama",
                "DRAMA",
                "Drama ",
                "Dramas",
                "Dr\u00e4ma",
                "Dra\u0308ma",
                "Dr%",
                "Dr_ma",
                "%",
            ),
            *("O'Neil", '"', "\\", "", "NULL", "{}", "%s", "\U0001f3ac"),
        ]
        movies = await add(store, BARE, *(MovieDraft(title="x", genre=genre) for genre in genres))
        for movie, genre in zip(movies[1:], genres, strict=True):
            assert await listed(store, MovieQuery(genre=genre)) == (movie,), genre
        assert await listed(store, MovieQuery(genre="dram")) == ()

    @pytest.mark.parametrize(
        ("query", "years"),
        [
            (MovieQuery(release_year=1995), [1995, 1995]),
            (MovieQuery(release_year=1996), []),
            (MovieQuery(min_release_year=1995), [1995, 1995, 2200, 2_147_483_647]),
            (MovieQuery(max_release_year=1995), [-2_147_483_648, 1870, 1995, 1995]),
            (MovieQuery(min_release_year=1870, max_release_year=1995), [1870, 1995, 1995]),
            (MovieQuery(min_release_year=1995, max_release_year=1995), [1995, 1995]),
            (MovieQuery(min_release_year=1996, max_release_year=1995), []),
            (MovieQuery(release_year=1995, min_release_year=1996), []),
            (MovieQuery(release_year=1995, min_release_year=1870, max_release_year=2200), [1995, 1995]),
            (MovieQuery(release_year=2_147_483_647), [2_147_483_647]),
            (MovieQuery(max_release_year=-2_147_483_648), [-2_147_483_648]),
        ],
    )
    async def test_years_are_inclusive_and_no_year_is_in_none(
        self, store: Store, query: MovieQuery, years: list[int]
    ) -> None:
        known = (1995, None, 1870, 2200, 1995, 2_147_483_647, -2_147_483_648)
        await add(store, *(MovieDraft(title="x", release_year=year) for year in known))
        found = await listed(store, query)
        assert sorted(movie.release_year for movie in found if movie.release_year is not None) == years
        await assert_agreed(store, query)

    @pytest.mark.parametrize("far", [2**31, 2**32 + 1995, 2**63 - 1])
    async def test_a_year_may_be_any_integer_of_eight_bytes(self, store: Store, far: int) -> None:
        movies = tuple(await add(store, HEAT, MovieDraft(title="x", release_year=2_147_483_647)))
        await add(store, BARE)
        for year in (far, -far - 1):
            assert await listed(store, MovieQuery(release_year=year)) == ()
        assert await listed(store, MovieQuery(min_release_year=far)) == ()
        assert await listed(store, MovieQuery(max_release_year=-far - 1)) == ()
        assert await listed(store, MovieQuery(max_release_year=far)) == movies
        assert await listed(store, MovieQuery(min_release_year=-far - 1)) == movies
        assert await store.queries.count(MovieQuery(max_release_year=far, q="heat")) == 1
        pages_of_one = MovieQuery(min_release_year=-far - 1, sort=(Sort("release_year"),), limit=1)
        assert await paged(store, pages_of_one) == list(movies)

    async def test_what_is_found_passes_every_filter(self, store: Store) -> None:
        genres, years, titles = ("Crime", "Drama", None), (1995, 2001, None), ("Heat", "The Heat", "Ronin")
        movies = await add(
            store,
            *(
                MovieDraft(title=title, genre=genre, release_year=year)
                for genre, year, title in product(genres, years, titles)
            ),
        )
        crime = MovieQuery(genre="Crime", max_release_year=2000)
        assert await listed(store, crime) == tuple(movies[:3])
        thief = MovieQuery(genre="Crime", min_release_year=1990, q="heat")
        assert await listed(store, thief) == (movies[0], movies[3], movies[1], movies[4])
        for query in (crime, thief, MovieQuery(genre="Drama", release_year=2001, q="haet")):
            await assert_agreed(store, query)

    async def test_each_filter_makes_a_difference_to_whatever_is_asked(self, store: Store) -> None:
        """Also to those who have just been told of another one."""
        genres, years = ("Crime", "Drama", None), (1995, 2001, None)
        movies = await add(
            store,
            *(
                MovieDraft(title=f"{genre} {year}", genre=genre, release_year=year)
                for genre, year in product(genres, years)
            ),
        )
        queries = [
            MovieQuery(),
            MovieQuery(genre="Crime"),
            MovieQuery(release_year=1995),
            MovieQuery(min_release_year=2001),
            MovieQuery(max_release_year=2001),
            MovieQuery(genre="Drama", release_year=2001),
        ]
        for query in queries * 2:
            found = [movie for movie in movies if query.admits(movie)]
            assert await listed(store, query) == tuple(found)
            assert await store.queries.count(query) == len(found)
            counted = Counter(movie.genre for movie in found if movie.genre is not None)
            wanted = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
            assert list(await store.queries.genres(query)) == [GenreCount(*item) for item in wanted]
            exported = [draft async for batch in store.queries.export(query) for draft in batch]
            assert exported == [client_fields(movie) for movie in found]

    # Sorting

    @pytest.mark.parametrize(
        ("descending", "order"), [(False, [4, 2, 0, 3, 5, 1, 6]), (True, [5, 0, 3, 2, 4, 1, 6])]
    )
    async def test_none_is_last_both_ways_and_equals_are_by_ascending_id(
        self, store: Store, descending: bool, order: list[int]
    ) -> None:
        years = (1995, None, 1870, 1995, -1, 2200, None)
        movies = await add(store, *(MovieDraft(title="x", release_year=year) for year in years))
        query = MovieQuery(sort=(Sort("release_year", descending),))
        assert await listed(store, query) == tuple(movies[place] for place in order)

    async def test_titles_are_sorted_folded_then_by_code_point(self, store: Store) -> None:
        in_order = [
            *("", "\u0300", "\u0301", " heat", "!", "100", "1001", "20"),
            *("AMELIE", "Amelie", "Ame\u0301lie", "Am\u00e9lie", "amelie", "\uff21melie", "amelie "),
            *("Das Boot", "das-boot", "dasboot", "Heat", "HEAT 2", "lodz", "\u0141\xf3d\u017a"),
            *("Strasse", "Stra\xdfe", "strasse", "Zebra", "zebra", "\u03a3", "\u03c3", "\u3042"),
            *("\ufffd", "\U0001f3ac", "\U0001f3ac\U0001f3ac"),
        ]
        mixed = [*in_order[::3], *in_order[2::3][::-1], *in_order[1::3]]
        await add(store, *(MovieDraft(title=title) for title in mixed))
        for descending in _BOTH:
            query = MovieQuery(sort=(Sort("title", descending),), limit=4)
            found = [movie.title for movie in await paged(store, query)]
            assert found == (in_order[::-1] if descending else in_order)

    @pytest.mark.parametrize("title", ["\ufdfa" * 255, "\U0001d56c" * 255, "\U0001f3ac" * 255, "\xe9" * 255])
    async def test_the_longest_titles_are_sorted_and_paged(self, store: Store, title: str) -> None:
        (low, *movies, high) = await add(
            store,
            MovieDraft(title="\t"),
            MovieDraft(title=title),
            MovieDraft(title=title[:-1] + "\U0001f3ad"),
            MovieDraft(title=title),
            MovieDraft(title="\U0010fffd"),
        )
        one, other, twin = movies
        ascending, descending = (MovieQuery(sort=(Sort("title", down),), limit=1) for down in _BOTH)
        found = await paged(store, ascending)
        assert found[0] == low
        assert found[-1] == high
        assert sorted(movie.id for movie in found[1:-1]) == [one.id, other.id, twin.id]
        assert found == _sorted([low, *movies, high], ascending.sort)
        assert await paged(store, descending) == _sorted([low, *movies, high], descending.sort)

    @pytest.mark.parametrize("query", _ORDERS, ids=_name)
    async def test_pages_of_any_size_give_the_whole_list(self, store: Store, query: MovieQuery) -> None:
        movies = await _varied(store)
        whole = await listed(store, query)
        assert len(whole) >= 7
        if query.q is None:
            assert list(whole) == _sorted(movies, query.sort)
        for limit in range(1, len(movies) + 2):
            assert await paged(store, msgspec.structs.replace(query, limit=limit)) == list(whole), limit

    async def test_keys_are_sorted_by_one_after_another(self, store: Store) -> None:
        movies = await _varied(store)
        some: Sequence[SortField] = ("release_year", "created_at", "title")
        for fields in chain(permutations(SORT_FIELDS, 2), permutations(some)):
            for directions in product(_BOTH, repeat=len(fields)):
                sort = tuple(Sort(field, down) for field, down in zip(fields, directions, strict=True))
                expected = _sorted(movies, sort)
                for limit in (2, 5):
                    assert await paged(store, MovieQuery(sort=sort, limit=limit)) == expected, sort

    # Pages

    @pytest.mark.parametrize("query", _ORDERS, ids=_name)
    async def test_what_is_there_all_the_time_is_seen_once_whatever_comes_and_goes(
        self, store: Store, query: MovieQuery
    ) -> None:
        await _varied(store)
        whole = await listed(store, query)
        doomed = list(whole[::3])
        kept = [movie for movie in whole if movie not in doomed]
        twins = iter(whole[::2])
        seen: list[Movie] = []
        async for page in pages(store, msgspec.structs.replace(query, limit=2)):
            seen += page.data
            async with store.transactions() as tx:
                if doomed:  # in turns one that may be seen and one that may not
                    await tx.movies.remove(doomed.pop(-(len(seen) // 2 % 2)).id)
                if (twin := next(twins, None)) is not None:
                    fresh = await tx.movies.add(BARE, NOON)
                    await tx.movies.replace(msgspec.structs.replace(twin, id=fresh.id, version=2))
        assert [movie for movie in seen if movie in kept] == kept
        ids = [movie.id for movie in seen]
        assert len(set(ids)) == len(ids)

    @pytest.mark.parametrize("query", _ORDERS, ids=_name)
    async def test_the_movie_that_a_page_ended_with_may_go(self, store: Store, query: MovieQuery) -> None:
        await _varied(store)
        whole = await listed(store, query)
        for size in range(1, len(whole)):
            page = await store.queries.find(msgspec.structs.replace(query, limit=size))
            assert page.data == whole[:size]
            assert page.next_cursor is not None
            last = page.data[-1]
            async with store.transactions() as tx:
                await tx.movies.remove(last.id)
            rest = msgspec.structs.replace(query, cursor=Cursor.decode(page.next_cursor))
            assert await listed(store, rest) == whole[size:]
            async with store.transactions() as tx:  # and something may be put back in its place
                twin = await tx.movies.add(BARE, NOON)
                await tx.movies.replace(msgspec.structs.replace(last, id=twin.id, version=2))
            whole = await listed(store, query)

    # Counts and exports

    async def test_genres_are_the_most_frequent_first_then_by_code_point(self, store: Store) -> None:
        by_code_point = ["", "%", "B", "a", "b", "\xc4", "\ufffd", "\U0001f3ac"]
        genres = [None] * 5 + by_code_point[::-1] * 2 + ["z"] * 3 + ["A"]
        await add(store, *(MovieDraft(title="x", genre=genre) for genre in genres))
        expected = [
            GenreCount("z", 3),
            *(GenreCount(genre, 2) for genre in by_code_point),
            GenreCount("A", 1),
        ]
        assert list(await store.queries.genres(MovieQuery())) == expected

    async def test_counts_and_genres_pay_no_heed_to_page_and_order(self, store: Store) -> None:
        genres = ("Crime", "Drama", None, "Crime", "Crime")
        await add(store, *(MovieDraft(title="Heat", genre=genre) for genre in genres))
        for query in (MovieQuery(), MovieQuery(q="heat"), MovieQuery(q="haet", sort=(Sort("title"),))):
            page = await store.queries.find(msgspec.structs.replace(query, limit=4))
            assert page.next_cursor is not None
            second = msgspec.structs.replace(query, limit=1, cursor=Cursor.decode(page.next_cursor))
            assert await store.queries.count(second) == 5
            assert list(await store.queries.genres(second)) == [
                GenreCount("Crime", 3),
                GenreCount("Drama", 1),
            ]
            assert len([movie async for batch in store.queries.export(second) for movie in batch]) == 5

    async def test_of_nothing_there_are_none(self, store: Store) -> None:
        for query in (MovieQuery(), MovieQuery(q="heat"), MovieQuery(sort=(Sort("title"),), genre="x")):
            assert await listed(store, query) == ()
            assert await store.queries.count(query) == 0
            assert list(await store.queries.genres(query)) == []
            assert [movie async for batch in store.queries.export(query) for movie in batch] == []

    async def test_export_has_the_filters_and_the_order_of_the_list(self, store: Store) -> None:
        drafts = [
            MovieDraft(
                title=f"{'Heat' if number % 2 else 'Ronin'} {number % 100}",
                description=None if number % 3 else "A heath.",
                release_year=None if number % 5 == 0 else 1900 + number % 7,
                genre=("Crime", "Drama", None)[number % 3],
            )
            for number in range(2_403)
        ]
        async with store.transactions() as tx:
            await tx.movies.add_many(drafts, NOON)
        for query, size in (
            (MovieQuery(sort=(Sort("release_year", descending=True), Sort("title"))), 2_403),
            (MovieQuery(q="heat", max_release_year=2_000), 1_281),
            (MovieQuery(q="haet"), 1_201),
            (MovieQuery(genre="Drama", sort=(Sort("title", descending=True),)), 801),
        ):
            movies = await listed(store, query)
            assert len(movies) == size
            assert [draft async for batch in store.queries.export(query) for draft in batch] == list(
                map(client_fields, movies)
            )
            assert await paged(store, msgspec.structs.replace(query, limit=200)) == list(movies)
