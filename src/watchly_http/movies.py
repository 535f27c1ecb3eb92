"""The routes of movies."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from litestar import delete, get, patch, post, put
from litestar.params import FromPath
from msgspec import UNSET, UnsetType

from watchly_core import GenreCount, Movie, MovieDraft, Page
from watchly_core.errors import Fault, InvalidMovie
from watchly_core.imports import decode_json
from watchly_core.movies import CLIENT_FIELDS, Members, MoviePatch
from watchly_core.people import Permission
from watchly_http.answers import Answer, json_answer
from watchly_http.authorization import actor_of
from watchly_http.conditional import conditional_answer, of_movie, precondition, tagged_answer
from watchly_http.filters import CURSOR, FILTERS, LIMIT, SORT, read_query
from watchly_http.forms import FORM, IMAGE, FilePart, read_form
from watchly_http.forms import members as form_members
from watchly_http.idempotency import Sending
from watchly_http.negotiation import preference
from watchly_http.openapi import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    IF_NONE_MATCH,
    MOVIE_ID,
    POSITION,
    PURGE,
    Operation,
    Parameter,
    Reply,
)
from watchly_http.parts import AnyGallery, Catalogue, Reading, Settings
from watchly_http.positions import SEEN, seen_by
from watchly_http.requests import (
    Request,
    flag,
    media_type,
    parameter,
    read_body,
    read_id,
    read_json,
    require_type,
    vary,
)
from watchly_http.routes import Routes

_ADDABLE = ("application/json", FORM)
_MERGE_PATCH = ("application/merge-patch+json", "application/json")

_encode = msgspec.json.Encoder().encode


class MovieForm(MovieDraft, frozen=True, kw_only=True):
    """The fields of a movie, of which empty ones are null, and its image."""

    image: FilePart | UnsetType = UNSET


_PREFER = Parameter(
    "Prefer",
    "`count=exact` adds `total`, the number of movies on all pages together.",
    str,
    "count=exact",
    place="header",
)
_ONE_MOVIE = Reply("The movie.", Movie, headers=("ETag",))
_WRITTEN = Reply("The movie.", Movie, headers=("ETag", POSITION))
_WRITE_PROBLEMS = (
    "malformed_request",
    "malformed_json",
    "not_found",
    "version_conflict",
    "too_large",
    "unsupported_media_type",
    "validation",
)


class MovieController(Routes):
    """Movies, one by one and in pages."""

    path = "/api/movies"

    @post(
        "/",
        opt=Operation(
            "addMovie",
            "Add a movie",
            needs=Permission.WRITE,
            parameters=(IDEMPOTENCY_KEY,),
            body={"application/json": MovieDraft, FORM: MovieForm},
            replies={201: Reply("The movie as it was added.", Movie, headers=("ETag", "Location", POSITION))},
            problems=(
                "malformed_request",
                "malformed_json",
                "too_large",
                "unsupported_media_type",
                "validation",
                "image_unreadable",
            ),
        ).opt(),
    )
    async def add(
        self, request: Request, catalogue: Catalogue, gallery: AnyGallery, settings: Settings
    ) -> Answer:
        """Add a movie, as JSON, or as a form, which can hold its image as well."""
        return await add_movie(request, catalogue, gallery, settings)

    @get(
        "/",
        opt=Operation(
            "listMovies",
            "List movies",
            needs=Permission.READ,
            parameters=(*FILTERS, SORT, LIMIT, CURSOR, _PREFER, SEEN),
            replies={
                200: Reply(
                    "A page of movies; `next_cursor` is null on the last one.",
                    Page,
                    headers=("Preference-Applied", "Vary"),
                )
            },
            problems=("malformed_request", "invalid_parameter"),
        ).opt(),
    )
    async def find(self, request: Request, reading: Reading, settings: Settings) -> Answer:
        """List the movies that the filters let through, a page at a time.

        A cursor belongs to the filters and the sort of the list that gave it.
        """
        return await list_movies(request, reading, settings)

    @get(
        "/{movie_id:str}",
        opt=Operation(
            "getMovie",
            "Get a movie",
            needs=Permission.READ,
            parameters=(MOVIE_ID, IF_NONE_MATCH, SEEN),
            replies={200: _ONE_MOVIE, 304: Reply("The movie is still at that version.", headers=("ETag",))},
            problems=("malformed_request", "not_found"),
        ).opt(),
    )
    async def get(self, request: Request, movie_id: FromPath[str], reading: Reading) -> Answer:
        """Get a movie."""
        return await read_movie(request, movie_id, reading)

    @put(
        "/{movie_id:str}",
        opt=Operation(
            "replaceMovie",
            "Replace a movie",
            needs=Permission.WRITE,
            parameters=(MOVIE_ID, IF_MATCH),
            body={"application/json": MovieDraft},
            replies={200: _WRITTEN},
            problems=_WRITE_PROBLEMS,
        ).opt(),
    )
    async def replace(
        self, request: Request, movie_id: FromPath[str], catalogue: Catalogue, settings: Settings
    ) -> Answer:
        """Replace all fields of a movie; those left out become null."""
        return await replace_movie(request, movie_id, catalogue, settings)

    @patch(
        "/{movie_id:str}",
        opt=Operation(
            "reviseMovie",
            "Revise a movie",
            needs=Permission.WRITE,
            parameters=(MOVIE_ID, IF_MATCH),
            body=dict.fromkeys(_MERGE_PATCH, MoviePatch),
            replies={200: _WRITTEN},
            problems=_WRITE_PROBLEMS,
        ).opt(),
    )
    async def revise(
        self, request: Request, movie_id: FromPath[str], catalogue: Catalogue, settings: Settings
    ) -> Answer:
        """Change the fields that are given (RFC 7396): null clears one, absent keeps it."""
        return await revise_movie(request, movie_id, catalogue, settings)

    @delete(
        "/{movie_id:str}",
        opt=Operation(
            "removeMovie",
            "Remove a movie",
            needs=Permission.WRITE,
            parameters=(MOVIE_ID, PURGE, IF_MATCH),
            replies={204: Reply("The movie is gone.", headers=(POSITION,))},
            problems=("malformed_request", "invalid_parameter", "not_found", "version_conflict"),
        ).opt(),
    )
    async def remove(self, request: Request, movie_id: FromPath[str], catalogue: Catalogue) -> None:
        """Remove a movie; `purge` also removes its images without grace."""
        await remove_movie(request, movie_id, catalogue)


class Genres(msgspec.Struct):
    """How many movies there are of each genre."""

    data: Sequence[GenreCount]


class GenreController(Routes):
    """Genres."""

    path = "/api/genres"

    @get(
        "/",
        opt=Operation(
            "listGenres",
            "List genres",
            needs=Permission.READ,
            parameters=(*FILTERS, SEEN),
            replies={200: Reply("The genres, that of the most movies first, then by name.", Genres)},
            problems=("malformed_request", "invalid_parameter"),
        ).opt(),
    )
    async def find(self, request: Request, reading: Reading, settings: Settings) -> Answer:
        """Count, by genre, the movies that the filters let through."""
        query = read_query(request, FILTERS, settings)
        counts = await seen_by(request, reading).genres(query, actor=actor_of(request))
        return json_answer(_encode(Genres(counts)))


async def read_movie(request: Request, movie_id: str, reading: Reading) -> Answer:
    """The movie that a request is for."""
    found = await seen_by(request, reading).get(read_id(movie_id), actor=actor_of(request))
    return conditional_answer(request, found)


async def list_movies(request: Request, reading: Reading, settings: Settings) -> Answer:
    """The page of movies that a request is for."""
    vary(request, "Prefer")
    query = read_query(request, (*FILTERS, SORT, LIMIT, CURSOR), settings)
    counted = preference(request, "count") == "exact"
    seen, actor = seen_by(request, reading), actor_of(request)
    page = await seen.find(query, actor=actor)
    if not counted:
        return json_answer(_encode(page))
    total = await seen.count(query, actor=actor)
    body = _encode(msgspec.structs.replace(page, total=total))
    return json_answer(body, (b"preference-applied", b"count=exact"))


async def add_movie(
    request: Request, catalogue: Catalogue, gallery: AnyGallery, settings: Settings
) -> Answer:
    """The movie that a request adds."""
    require_type(request, _ADDABLE)
    actor = actor_of(request)
    sending = Sending(request, actor.name)
    if media_type(request) == FORM:
        return await _add_form(request, sending, catalogue, gallery, settings)
    members = _members(decode_json(await read_body(request, settings.max_json_bytes)))
    return await sending.once(
        lambda receipt: catalogue.add(members, actor=actor, receipt=receipt), _added_answer
    )


async def replace_movie(request: Request, movie_id: str, catalogue: Catalogue, settings: Settings) -> Answer:
    """The movie as a request replaces it."""
    value = await read_json(request, settings.max_json_bytes)
    number, version = await _meant(request, movie_id, catalogue)
    members = await _members_for(number, value, catalogue)
    return tagged_answer(await catalogue.replace(number, members, version=version, actor=actor_of(request)))


async def revise_movie(request: Request, movie_id: str, catalogue: Catalogue, settings: Settings) -> Answer:
    """The movie as a request revises it."""
    value = await read_json(request, settings.max_json_bytes, _MERGE_PATCH)
    number, version = await _meant(request, movie_id, catalogue)
    members = await _members_for(number, value, catalogue)
    return tagged_answer(await catalogue.revise(number, members, version=version, actor=actor_of(request)))


async def remove_movie(request: Request, movie_id: str, catalogue: Catalogue) -> None:
    """Remove the movie that a request is for."""
    purge = parameter(request, "purge", flag, default=False)
    number, version = await _meant(request, movie_id, catalogue)
    await catalogue.remove(number, version=version, purge=purge, actor=actor_of(request))


async def _meant(request: Request, movie_id: str, catalogue: Catalogue) -> tuple[int, int | None]:
    """The id of the movie that a write is for, and the version that it is based on."""
    wanted = precondition(request)
    number = read_id(movie_id)
    return number, await wanted.version(of_movie(number, catalogue))


def _added_answer(movie: Movie) -> Answer:
    return tagged_answer(movie, (b"location", b"/api/movies/%d" % movie.id), status=201)


async def _add_form(
    request: Request, sending: Sending, catalogue: Catalogue, gallery: AnyGallery, settings: Settings
) -> Answer:
    async with read_form(
        request,
        fields=CLIENT_FIELDS,
        file=IMAGE,
        largest_text=settings.max_json_bytes,
        largest_file=gallery.max_bytes if gallery else settings.max_image_bytes,
        keeps_files=gallery is not None,
    ) as form:
        members = form_members(form)
        file = form.file
        if file is None or gallery is None:
            return await sending.once(
                lambda receipt: catalogue.add(members, actor=actor_of(request), receipt=receipt),
                _added_answer,
            )
        return await sending.once(
            lambda receipt: gallery.add(
                members, file.spool, file.media_type, actor=actor_of(request), receipt=receipt
            ),
            _added_answer,
        )


def _members(value: object) -> Members:
    if not isinstance(value, dict):
        raise InvalidMovie([Fault("wrong_type", "must be a JSON object", pointer="#")])
    return value


async def _members_for(number: int, value: object, catalogue: Catalogue) -> Members:
    if not isinstance(value, dict):
        await catalogue.get(number)  # a movie that is not there is said first
    return _members(value)
