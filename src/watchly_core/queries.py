"""MovieQuery, Sort, Cursor and Page: what a list of movies is asked with and answered by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property, total_ordering
from typing import Final, Literal, Self, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from watchly_core.errors import Fault, InvalidQuery
from watchly_core.movies import MAX_ID, Movie
from watchly_core.seals import checksum, seal, unseal
from watchly_core.text import Search

__all__ = [
    "DEFAULT_LIMIT",
    "MAX_WORDS",
    "SORT_FIELDS",
    "Column",
    "Cursor",
    "GenreCount",
    "MovieQuery",
    "Order",
    "Page",
    "Position",
    "Sort",
    "SortField",
    "moment",
    "read_sort",
]

#: Movies on a page, where nothing else is said.
DEFAULT_LIMIT: Final = 50
#: Words of one search; each of them has to match.
MAX_WORDS: Final = 32

#: The lowest id that an adopted row can have: new ones start at 1.
_MIN_ID: Final = -2_147_483_648
#: Years that are asked for fit into eight bytes, which is what stores and cursors compare.
_YEARS: Final = 2**63

#: What a list can be sorted by.
SortField: TypeAlias = Literal["id", "title", "release_year", "created_at", "updated_at"]
#: What lists can be sorted by.
SORT_FIELDS: Final[tuple[SortField, ...]] = ("id", "title", "release_year", "created_at", "updated_at")

#: What a list is ordered by in the end: `tier` is the search's, `title_key` what `text` makes of a title.
Column: TypeAlias = Literal["tier", "id", "title_key", "title", "release_year", "created_at", "updated_at"]
#: A movie's values of those columns; times are in microseconds since 1970, UTC.
Position: TypeAlias = tuple[int | str | None, ...]

_COLUMNS: Final[dict[SortField, tuple[Column, ...]]] = {
    "id": ("id",),
    "title": ("title_key", "title"),
    "release_year": ("release_year",),
    "created_at": ("created_at",),
    "updated_at": ("updated_at",),
}


class Sort(msgspec.Struct, frozen=True):
    """One key to sort by; None comes last in both directions."""

    field: SortField
    descending: bool = False


class Order(msgspec.Struct, frozen=True):
    """One column of a list's order; None comes last in both directions."""

    column: Column
    descending: bool = False


def read_sort(text: str) -> tuple[Sort, ...]:
    """The keys that a text such as ``title,-release_year`` names.

    Raises:
        InvalidQuery: it names none, another one, or one twice.
    """
    found: list[Sort] = []
    for name in text.split(","):
        descending = name.startswith("-")
        bare = name.removeprefix("-")
        field = next((field for field in SORT_FIELDS if field == bare), None)
        if field is None:
            raise _invalid("sort", f"must be a list of {', '.join(SORT_FIELDS)}, each with an optional -")
        if any(sort.field == field for sort in found):
            raise _invalid("sort", f"names {field} twice")
        found.append(Sort(field, descending))
    return tuple(found)


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The place after which a page starts: the position of the last movie before it.

    It names a position, not a movie, so it keeps working when that movie is gone. `query` tells the
    filters and the order that it belongs to, `similar` whether its search had to guess words.
    """

    query: bytes
    similar: bool
    position: Position

    def encode(self) -> str:
        """An opaque text for clients: URL-safe, with a checksum against cuts and typing errors."""
        return seal(msgspec.msgpack.encode(self), _PURPOSE)

    @classmethod
    def decode(cls, text: str) -> Self:
        """Read what `encode` gave out.

        Raises:
            InvalidQuery: it gave out no such text.
        """
        try:
            cursor = msgspec.msgpack.decode(unseal(text, _PURPOSE), type=cls)
            # Comparing texts refuses the other spellings that msgpack tolerates.
            sound = cursor.encode() == text
        except (ValueError, OverflowError, msgspec.MsgspecError, RecursionError):
            sound = False
        if not sound:
            raise _invalid("cursor", _NO_CURSOR, code="invalid_cursor")
        return cursor


_NO_CURSOR: Final = "is not a cursor of this list"
_PURPOSE: Final = b"watchly cursor"


def _digest(payload: bytes) -> bytes:
    return checksum(payload, _PURPOSE)


class MovieQuery(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Which movies to list, in which order, from where on.

    Args:
        q: words to search for. Each is the beginning of a word in title or description, without regard to
            case and accents; if no movie of the catalogue matches so, similar words match as well. None
            and blanks search for nothing, anything else without a word finds nothing.
        genre: the whole genre, to the letter.
        release_year, min_release_year, max_release_year: inclusive.
        sort: the keys; without any by relevance if there are words to search for, else by id. What is
            equal is in ascending order of ids.
        limit: movies on a page.
        cursor: `next_cursor` of the page before, read by `Cursor.decode`.

    Raises:
        InvalidQuery: the limit gives no page, there are too many words, a text or a year is one that
            nothing can hold, or the cursor belongs to another query.
    """

    q: str | None = None
    genre: str | None = None
    release_year: int | None = None
    min_release_year: int | None = None
    max_release_year: int | None = None
    sort: tuple[Sort, ...] = ()
    limit: int = DEFAULT_LIMIT
    cursor: Cursor | None = None

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        if faults := list(self._faults()):
            raise InvalidQuery(faults)
        # Only of a query without faults it can be said whether the cursor belongs to it.
        if self.cursor is not None and not self._owns(self.cursor):
            raise _invalid("cursor", _NO_CURSOR, code="invalid_cursor")

    def _faults(self) -> Iterator[Fault]:
        if self.limit < 1:
            yield _fault("limit", "must be at least 1", code="too_small")
        if self.q is not None and not _is_text(self.q):
            yield _fault("q", "must not hold a lone surrogate, which is no UTF-8")
        elif self.search is not None and len(self.search.words) > MAX_WORDS:
            yield _fault("q", f"must have at most {MAX_WORDS} words", code="too_long")
        if self.genre is not None and ("\0" in self.genre or not _is_text(self.genre)):
            yield _fault("genre", "must not hold NUL or a lone surrogate, which is no UTF-8")
        for name, year in (
            ("release_year", self.release_year),
            ("min_release_year", self.min_release_year),
            ("max_release_year", self.max_release_year),
        ):
            if year is not None and not -_YEARS <= year < _YEARS:
                yield _fault(name, f"must be from {-_YEARS} to {_YEARS - 1}")

    @cached_property
    def search(self) -> Search | None:
        """What the words of `q` ask for; None if there is nothing to search for."""
        return Search.of(self.q) if self.q is not None and self.q.strip() else None

    @cached_property
    def order(self) -> tuple[Order, ...]:
        """The columns that the list is ordered by, the last of which is the id."""
        if not self.sort and self.search is not None:
            return (Order("tier"), Order("id"))
        found: list[Order] = []
        for sort in self.sort:
            found += [Order(column, sort.descending) for column in _COLUMNS[sort.field]]
            if sort.field == "id":
                return tuple(found)  # what follows has nothing left to order
        return (*found, Order("id"))

    @cached_property
    def is_whole(self) -> bool:
        """Whether this lists every movie."""
        filters = (self.genre, self.release_year, self.min_release_year, self.max_release_year)
        return self.search is None and filters == (None,) * len(filters)

    @cached_property
    def is_plain(self) -> bool:
        """Whether this lists every movie by ascending id."""
        return self.is_whole and self.order == (Order("id"),)

    def position(self, movie: Movie, *, tier: int, key: str | None) -> Position:
        """Where `movie` stands in the list, by the tier of the search that it is in and its `title_key`.

        The key is None where a store has not made it yet; such movies are the last ones by title.
        """
        values: dict[Column, int | str | None] = {
            "tier": tier,
            "id": movie.id,
            "title_key": key,
            "title": movie.title,
            "release_year": movie.release_year,
            "created_at": _microseconds(movie.created_at),
            "updated_at": _microseconds(movie.updated_at),
        }
        return tuple(values[order.column] for order in self.order)

    def rank(self, position: Position) -> tuple[tuple[bool, object], ...]:
        """What compares as the movies at these positions are ordered."""
        return tuple(
            (value is None, _Downwards(value) if order.descending else value)
            for order, value in zip(self.order, position, strict=True)
        )

    def admits(self, movie: Movie) -> bool:
        """Whether `movie` passes the filters on genre and year."""
        year = movie.release_year
        if self.genre is not None and movie.genre != self.genre:
            return False
        if (self.release_year, self.min_release_year, self.max_release_year) == (None, None, None):
            return True
        return (
            year is not None
            and (self.release_year is None or year == self.release_year)
            and (self.min_release_year is None or year >= self.min_release_year)
            and (self.max_release_year is None or year <= self.max_release_year)
        )

    def cursor_after(self, position: Position, *, similar: bool) -> Cursor:
        """The cursor of the page that starts after `position`."""
        return Cursor(self._fingerprint, similar, position)

    @cached_property
    def _fingerprint(self) -> bytes:
        """What tells this query from others, whatever its page."""
        words = None if self.search is None else self.search.words
        years = (self.release_year, self.min_release_year, self.max_release_year)
        order = [(order.column, order.descending) for order in self.order]
        return _digest(msgspec.msgpack.encode([words, self.genre, list(map(str, years)), order]))

    def _owns(self, cursor: Cursor) -> bool:
        return (
            cursor.query == self._fingerprint
            and len(cursor.position) == len(self.order)
            and all(
                _fits(order.column, value) for order, value in zip(self.order, cursor.position, strict=True)
            )
        )


@total_ordering
class _Downwards:
    """Compares the other way round."""

    def __init__(self, value: int | str | None) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Downwards) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __lt__(self, other: _Downwards) -> bool:
        match self._value, other._value:
            case (int(own), int(theirs)):
                return own > theirs
            case (str(own), str(theirs)):
                return own > theirs
        return False


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FIRST: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LAST: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND


def _microseconds(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The time that a position gives in microseconds."""
    return _EPOCH + microseconds * _MICROSECOND


def _fits(column: Column, value: int | str | None) -> bool:
    """Whether a movie can have this value in `column`: cursors may have been made by anybody."""
    match column:
        case "id":
            return isinstance(value, int) and _MIN_ID <= value <= MAX_ID
        case "tier":
            return isinstance(value, int) and 0 <= value <= MAX_ID
        case "release_year":
            return value is None or (isinstance(value, int) and _MIN_ID <= value <= MAX_ID)
        case "title":
            return isinstance(value, str) and "\0" not in value
        case "title_key":
            return value is None or (isinstance(value, str) and "\0" not in value)
        case "created_at" | "updated_at":
            return value is None or (isinstance(value, int) and _FIRST <= value <= _LAST)


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _fault(parameter: str, detail: str, *, code: str = "invalid_value") -> Fault:
    return Fault(code, detail, parameter=parameter)


def _invalid(parameter: str, detail: str, *, code: str = "invalid_value") -> InvalidQuery:
    return InvalidQuery([_fault(parameter, detail, code=code)])


class Page(msgspec.Struct, frozen=True):
    """Movies in the order of their query; on the last page `next_cursor` is null (None).

    `total` counts the movies of all pages; it is there when it was asked for.
    """

    data: tuple[Movie, ...]
    next_cursor: str | None
    total: int | UnsetType = UNSET

    @classmethod
    def of(cls, found: Sequence[tuple[Movie, Position]], query: MovieQuery, *, similar: bool = False) -> Page:
        """The page that `found` fills, where one movie above the limit says that more follow."""
        shown = found[: query.limit]
        movies = tuple(movie for movie, _ in shown)
        if len(found) <= query.limit:
            return cls(movies, None)
        return cls(movies, query.cursor_after(shown[-1][1], similar=similar).encode())


class GenreCount(msgspec.Struct, frozen=True):
    """How many movies have a genre, spelled to the letter so."""

    genre: str
    movies: int
