"""Movie, MovieDraft, MoviePatch and their invariants.

A `Movie` is one struct from the database row to the JSON reply. Reading never checks it, so rows of
older systems are served as they are. Whatever is written becomes a `MovieDraft` through `drafted` or
`patched` first, and those check every rule, however the value was built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from watchly_core.errors import Fault, InvalidMovie
from watchly_core.images import Image
from watchly_core.json_members import fault_of

__all__ = [
    "CLIENT_FIELDS",
    "MAX_DESCRIPTION",
    "MAX_FAULTS",
    "MAX_GENRE",
    "MAX_ID",
    "MAX_TITLE",
    "MAX_YEAR",
    "MIN_YEAR",
    "READ_ONLY",
    "Members",
    "Moment",
    "Movie",
    "MovieDraft",
    "MoviePatch",
    "client_fields",
    "created",
]

#: Code points of these at most, and the years that a movie can be of; both ends are meant.
MAX_TITLE: Final = 255
MAX_DESCRIPTION: Final = 10_000
MAX_GENRE: Final = 100
MIN_YEAR: Final = 1870
MAX_YEAR: Final = 2200
#: The largest id: SERIAL is a 4-byte integer.
MAX_ID: Final = 2_147_483_647

#: Faults listed for one movie; a body of 1 MB can hold far more unknown members than anybody reads.
MAX_FAULTS: Final = 1_000

#: The code of the fault of saying what only the server sets.
READ_ONLY: Final = "read_only"

#: A movie's members as they come from JSON or a row of CSV, of any type.
Members: TypeAlias = Mapping[str, object]


# What schemas say of the fields; `drafted` and `patched` are what checks them.
Moment: TypeAlias = Annotated[datetime, Meta(tz=True)]
_Title: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE, examples=["Heat"])]
_Description: TypeAlias = Annotated[str, Meta(max_length=MAX_DESCRIPTION)]
_Year: TypeAlias = Annotated[int, Meta(ge=MIN_YEAR, le=MAX_YEAR, examples=[1995])]
_Genre: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_GENRE, examples=["Crime"])]


class Movie(msgspec.Struct, frozen=True):
    """A movie of the catalogue.

    `version` is 1 when it is added and one more after each write that changes it. `image_url` without
    `image` comes from an older system. `created_at` and `updated_at` are in UTC; an older system
    may have left none.
    """

    id: int
    title: str
    description: str | None
    release_year: int | None
    genre: str | None
    image_url: str | None
    image: Image | None
    version: int
    created_at: Moment | None
    updated_at: Moment | None


class MovieDraft(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a movie that clients write, all of them.

    `title` has 1 to 255 code points, `description` at most 10,000, `genre` 1 to 100; the ends of texts are
    trimmed, their lines end in LF, and of control characters only a description has any: LF and tab.
    `release_year` is from 1870 to 2200.
    """

    title: _Title
    description: _Description | None = None
    release_year: _Year | None = None
    genre: _Genre | None = None


class MoviePatch(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a movie to change (RFC 7396): one left out (UNSET) stays, null (None) clears it.

    The rules are those of a whole movie.
    """

    title: _Title | UnsetType = UNSET
    description: _Description | UnsetType | None = UNSET
    release_year: _Year | UnsetType | None = UNSET
    genre: _Genre | UnsetType | None = UNSET


def created(movie_id: int, draft: MovieDraft, at: datetime) -> Movie:
    """The movie that a draft becomes when it is added."""
    return Movie(
        movie_id, draft.title, draft.description, draft.release_year, draft.genre, None, None, 1, at, at
    )


def next_time(movie: Movie, now: datetime) -> datetime:
    """When a version of `movie` is made that follows this one: now, but not before it.

    The clock of the machine that made this one may be fast.
    """
    return now if movie.updated_at is None else max(now, movie.updated_at)


#: What clients write; every other field of Movie is set by the catalogue.
CLIENT_FIELDS: Final = MovieDraft.__struct_fields__
_CLIENT_FIELDS: Final = frozenset(CLIENT_FIELDS)
_SERVER_FIELDS: Final = frozenset(Movie.__struct_fields__) - _CLIENT_FIELDS
#: Server-set members that a movie which is not there yet has already: it has no image.
_ABSENT_YET: Final = frozenset({"image", "image_url"})


def drafted(source: MovieDraft | Members, current: Movie | None = None) -> MovieDraft:
    """What a movie's client fields become when `source` is all that is said of them.

    Texts come back trimmed and with LF line ends. Members that the server sets are ignored when they
    equal those of `current`, the movie to be replaced as clients see it.

    Raises:
        InvalidMovie: listing every broken rule (the first thousand).
    """
    draft, faults = _checked(_members(source), current)
    if faults:
        raise InvalidMovie(faults[:MAX_FAULTS])
    return draft


def patched(movie: Movie, source: MoviePatch | Members) -> MovieDraft:
    """What the client fields of `movie` become when `source` is merged into them (RFC 7396).

    A patch that says only what the movie is already gives back its fields as they are, even those of an
    adopted row that break a rule; any other has to leave a movie that breaks none.

    Raises:
        InvalidMovie: listing every broken rule (the first thousand).
    """
    kept = client_fields(movie)
    given = {name: value for name, value in _members(source).items() if not _restates(name, value, movie)}
    if not given:
        return kept
    draft, faults = _checked({**msgspec.structs.asdict(kept), **given}, movie)
    if faults:
        raise InvalidMovie(faults[:MAX_FAULTS])
    return draft


def client_fields(movie: Movie) -> MovieDraft:
    """The fields of `movie` that clients write, unchecked."""
    return MovieDraft(
        title=movie.title,
        description=movie.description,
        release_year=movie.release_year,
        genre=movie.genre,
    )


def _members(source: MovieDraft | MoviePatch | Members) -> Members:
    if not isinstance(source, MovieDraft | MoviePatch):
        return source
    pairs = ((name, getattr(source, name)) for name in CLIENT_FIELDS)
    return {name: value for name, value in pairs if value is not UNSET}


def _checked(members: Members, current: Movie | None) -> tuple[MovieDraft, list[Fault]]:
    """The draft that `members` make, and what is wrong with it: use it only when nothing is."""
    faults: list[Fault] = []
    draft = MovieDraft(
        title=_text(members, "title", faults, shortest=1, longest=MAX_TITLE, required=True) or "",
        description=_text(members, "description", faults, longest=MAX_DESCRIPTION, multiline=True),
        release_year=_year(members, "release_year", faults),
        genre=_text(members, "genre", faults, shortest=1, longest=MAX_GENRE),
    )
    for name in [name for name in members if name not in _CLIENT_FIELDS]:
        if len(faults) >= MAX_FAULTS:  # more are not listed, and each takes its time
            break
        if name not in _SERVER_FIELDS:
            faults.append(fault_of(name, "unknown_member", "is not a member of a movie"))
        elif not _restates(name, members[name], current):
            faults.append(fault_of(name, READ_ONLY, "is set by the server"))
    return draft, faults


#: Category Cc (U+0000-1F, U+007F-9F) and surrogates, which no UTF-8 text can hold.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FORBIDDEN_IN_LINES: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _text(  # noqa: PLR0913 - the rules of a text, each by name
    members: Members,
    name: str,
    faults: list[Fault],
    *,
    shortest: int = 0,
    longest: int,
    required: bool = False,
    multiline: bool = False,
) -> str | None:
    value = members.get(name)
    if value is None:
        if required:
            faults.append(fault_of(name, "required", "is required"))
        return None
    if not isinstance(value, str):
        faults.append(fault_of(name, "wrong_type", "must be a string" + ("" if required else " or null")))
        return None
    text = value.strip()
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    if len(text) < shortest:
        faults.append(fault_of(name, "too_short", "must not be blank"))
    if len(text) > longest:
        faults.append(fault_of(name, "too_long", f"must have at most {longest} characters"))
    if found := (_FORBIDDEN_IN_LINES if multiline else _FORBIDDEN).search(text):
        kind = (
            "a lone surrogate or broken UTF-8" if "\ud800" <= found[0] <= "\udfff" else "a control character"
        )
        detail = f"must not hold {kind} (U+{ord(found[0]):04X} at character {found.start()})"
        faults.append(fault_of(name, "forbidden_character", detail))
    return text


def _year(members: Members, name: str, faults: list[Fault]) -> int | None:
    value = members.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        faults.append(fault_of(name, "wrong_type", "must be an integer or null"))
        return None
    if value < MIN_YEAR:
        faults.append(fault_of(name, "too_small", f"must be at least {MIN_YEAR}"))
    elif value > MAX_YEAR:
        faults.append(fault_of(name, "too_large", f"must be at most {MAX_YEAR}"))
    return value


def _restates(name: str, value: object, current: Movie | None) -> bool:
    """Whether `value` is what the member `name` is already."""
    if current is None:
        return value is None and name in _ABSENT_YET
    if name not in Movie.__struct_fields__:
        return False
    known: object = getattr(current, name)
    if value is None or known is None:
        return value is known
    # JSON tells 1 from true and 1.0, which Python's == does not.
    told = _canonical(value)
    return told is not None and told == _canonical(known)


def _canonical(value: object) -> bytes | None:
    try:
        return msgspec.json.encode(value, order="sorted")
    except (TypeError, ValueError, RecursionError):
        return None
