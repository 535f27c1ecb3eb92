"""Which movies a request is about: the query parameters that lists, facets and exports share."""

from __future__ import annotations

from typing import Final, TypeAlias

from watchly_adapters.settings import Settings
from watchly_core import Cursor, MovieQuery
from watchly_core.queries import DEFAULT_LIMIT, MAX_WORDS, SORT_FIELDS, Sort, read_sort
from watchly_http.openapi import Parameter
from watchly_http.requests import Parameters, Request, whole_number

#: Years are asked for in the range that an adopted row can have.
_year: Final = whole_number(-2_147_483_648, 2_147_483_647)

FILTERS: Final = (
    Parameter(
        "q",
        f"Words (at most {MAX_WORDS}) to search for: each is the beginning of a word in title or description,"
        " whatever its case and accents. If no movie of the catalogue matches so, similar words do.",
        str,
        "godfather",
    ),
    Parameter("genre", "The genre, to the letter.", str, "Drama"),
    Parameter("release_year", "The year of release.", int, 1995),
    Parameter("min_release_year", "The first year of release.", int, 1990),
    Parameter("max_release_year", "The last year of release.", int, 1999),
)
SORT: Final = Parameter(
    "sort",
    f"What to sort by: a comma list of {', '.join(SORT_FIELDS)}, each with - for descending. Movies without"
    " a value come last. Without it, by relevance where there are words to search for, else by id.",
    str,
    "-release_year,title",
)
LIMIT: Final = Parameter("limit", "How many movies to list at most.", int, 20)
CURSOR: Final = Parameter("cursor", "Where to go on: `next_cursor` of the page before.", str)

_NO_SORT: Final[tuple[Sort, ...]] = ()
_EVERYTHING: Final = MovieQuery()

_Taken: TypeAlias = tuple[Parameter, ...]


def read_query(request: Request, taken: _Taken, settings: Settings) -> MovieQuery:
    """The query that `request` states by those of the parameters above that its address takes.

    Raises:
        InvalidQuery: naming every parameter that is unknown, repeated, or means nothing.
    """
    given = Parameters(request, [parameter.name for parameter in taken])
    largest = settings.max_page_limit
    cursor = given.get("cursor", _cursor, None)
    q, genre = given.get("q", str, None), given.get("genre", str, None)
    year = given.get("release_year", _year, None)
    first, last = given.get("min_release_year", _year, None), given.get("max_release_year", _year, None)
    sort = given.get("sort", read_sort, _NO_SORT)
    limit = given.get("limit", whole_number(1, largest), min(DEFAULT_LIMIT, largest))
    query = given.attempt(
        lambda: MovieQuery(
            q=q,
            genre=genre,
            release_year=year,
            min_release_year=first,
            max_release_year=last,
            sort=sort,
            limit=limit,
            # Only of a query without faults it can be said whether the cursor belongs to it.
            cursor=None if given.has_faults else cursor,
        ),
        _EVERYTHING,
    )
    given.check()
    return query


def _cursor(text: str) -> Cursor | None:
    return Cursor.decode(text)
