"""The routes of the log: the history of a movie, undo, and the changes of all movies."""

from __future__ import annotations

from typing import Final

import msgspec
from litestar import get, post
from litestar.params import FromPath
from litestar.response.base import ASGIResponse

from watchly_core.catalogue import Reverted
from watchly_core.errors import Fault, InvalidMovie
from watchly_core.events import KINDS, MAX_CHANGES, MAX_SEQ, ChangeQuery
from watchly_core.movies import MAX_ID, Movie
from watchly_core.people import Permission
from watchly_core.queries import DEFAULT_LIMIT
from watchly_http.answers import Answer, json_answer
from watchly_http.authorization import actor_of, still_may
from watchly_http.conditional import of_movie, precondition, tagged_answer
from watchly_http.cursors import NumberCursors
from watchly_http.downloads import EventStream
from watchly_http.feed import Change, shown
from watchly_http.idempotency import Sending
from watchly_http.openapi import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    MOVIE_ID,
    POSITION,
    Operation,
    Parameter,
    Reply,
)
from watchly_http.parts import Access, Catalogue, Feed, Reading, Settings
from watchly_http.positions import SEEN, seen_by
from watchly_http.problems import ChangesGoneProblem
from watchly_http.requests import (
    HEAD_ONLY,
    MalformedRequest,
    Parameters,
    Request,
    header_of,
    read_id,
    read_json,
    require_type,
    whole_number,
)
from watchly_http.routes import Routes

_TAG: Final = "Changes"
_AFTER: Final = Parameter("after", "The number of the last change that is known; 0 for none.", int, 0)
_LIMIT: Final = Parameter("limit", "How many changes to list at most.", int, 20)
_CURSOR: Final = Parameter("cursor", "Where to go on: `next_cursor` of the page before.", str)
_OF_MOVIE: Final = Parameter("movie_id", "Only changes of this movie.", int, 7)
_OF_KIND: Final = Parameter(
    "kind", f"Only changes of these kinds: a comma list of {', '.join(sorted(KINDS))}.", str, "movie_added"
)
_LAST_EVENT_ID: Final = Parameter(
    "Last-Event-ID",
    "The id of the last event that arrived; what comes after it is sent, whatever `after` says.",
    str,
    "41",
    place="header",
)
_GONE: Final = Reply("Gone: changes_gone.", ChangesGoneProblem, media_types=("application/problem+json",))

#: They say before which version to go on.
_CURSORS: Final = NumberCursors(b"history", "history", MAX_SEQ)

_encode = msgspec.json.Encoder().encode


class History(msgspec.Struct):
    """Changes of one movie, newest first; `next_cursor` is null with the last of them."""

    data: list[Change]
    next_cursor: str | None


class Changes(msgspec.Struct):
    """Changes in their order; those that follow come after the number `next_after`."""

    data: list[Change]
    next_after: int


class Revert(msgspec.Struct):
    """Which version a movie is to be as again."""

    version: int


class HistoryController(Routes):
    """What happened to one movie."""

    path = "/api/movies/{movie_id:str}"

    @get(
        "/history",
        opt=Operation(
            "getMovieHistory",
            "Get the history of a movie",
            needs=Permission.READ,
            tag=_TAG,
            parameters=(MOVIE_ID, _LIMIT, _CURSOR, SEEN),
            replies={200: Reply("Its changes, newest first.", History)},
            problems=("malformed_request", "invalid_parameter", "not_found"),
        ).opt(),
    )
    async def history(
        self, request: Request, movie_id: FromPath[str], reading: Reading, settings: Settings
    ) -> Answer:
        """List what happened to a movie, newest first, also after it was removed."""
        given = Parameters(request, ("limit", "cursor"))
        limit = _limit(given, settings)
        before = given.get("cursor", _CURSORS.reader(_of(movie_id)), None)
        given.check()
        catalogue = seen_by(request, reading)
        number = read_id(movie_id)
        actor = actor_of(request)
        found = await catalogue.history(number, before=before, limit=limit + 1, actor=actor)
        if not found and before is None:
            await catalogue.get(number, actor=actor)  # it is there without a history, or it never was
        data = [shown(change) for change in found[:limit]]
        cursor = _CURSORS.write(data[-1].version, _of(movie_id)) if len(found) > limit else None
        return json_answer(_encode(History(data, cursor)))

    @post(
        "/revert",
        opt=Operation(
            "revertMovie",
            "Revert a movie",
            needs=Permission.WRITE,
            tag=_TAG,
            parameters=(MOVIE_ID, IF_MATCH, IDEMPOTENCY_KEY),
            body={"application/json": Revert},
            replies={
                200: Reply(
                    "The movie, at a version of its own.", Movie, headers=("ETag", POSITION, "Watchly-Image")
                )
            },
            problems=(
                "malformed_request",
                "malformed_json",
                "invalid_parameter",
                "not_found",
                "version_conflict",
                "too_large",
                "unsupported_media_type",
                "validation",
            ),
        ).opt(),
    )
    async def revert(
        self, request: Request, movie_id: FromPath[str], catalogue: Catalogue, settings: Settings
    ) -> Answer:
        """Make a movie what it was at a version, its image included; one that was removed comes back.

        The version goes on, and for `If-Match` a removed movie is at that of its removal. An image that is
        not kept any more stays away: `Watchly-Image: gone` says so.
        """
        require_type(request)
        Parameters(request, ()).check()
        sending = Sending(request, actor_of(request).name)
        value = await read_json(request, settings.max_json_bytes)
        wanted = precondition(request)
        number = read_id(movie_id)
        try:
            to = _version_in(value)
        except InvalidMovie:
            if not await catalogue.history(number, limit=1):
                await catalogue.get(number)  # a movie that never was is said first
            raise
        version = await wanted.version(of_movie(number, catalogue))
        return await sending.once(
            lambda receipt: catalogue.revert(
                number, to, version=version, actor=actor_of(request), receipt=receipt
            ),
            _reverted_answer,
        )


class ChangeController(Routes):
    """What happened to all movies."""

    path = "/api/changes"

    @get(
        "/",
        opt=Operation(
            "listChanges",
            "List changes",
            needs=Permission.READ,
            tag=_TAG,
            parameters=(_AFTER, _LIMIT, _OF_MOVIE, _OF_KIND),
            replies={200: Reply("The next changes; none when there are no more yet.", Changes), 410: _GONE},
            problems=("invalid_parameter",),
        ).opt(),
    )
    async def find(self, request: Request, catalogue: Catalogue, settings: Settings) -> Answer:
        """List changes of all movies, in one order for everybody, none of which is ever missing.

        Reading goes on with `after` set to `next_after`.
        """
        given = Parameters(request, ("after", "limit", "movie_id", "kind"))
        after = given.get("after", whole_number(0, MAX_SEQ), 0)
        query = _query(given, after, _limit(given, settings))
        given.check()
        found = await catalogue.changes(query, actor=actor_of(request))
        changes = Changes([shown(change) for change in found.data], found.next_after)
        return json_answer(_encode(changes))

    @get(
        "/stream",
        opt=Operation(
            "streamChanges",
            "Follow changes",
            needs=Permission.READ,
            tag=_TAG,
            parameters=(_AFTER, _OF_MOVIE, _OF_KIND, _LAST_EVENT_ID),
            replies={
                200: Reply(
                    "Changes as they happen: `id` is the number, `event` the kind, `data` the change.",
                    bytes,
                    media_types=("text/event-stream",),
                    headers=("Cache-Control",),
                ),
                410: _GONE,
            },
            problems=("malformed_request", "invalid_parameter"),
        ).opt(),
    )
    async def stream(self, request: Request, feed: Feed, access: Access) -> ASGIResponse:
        """Follow changes as Server-Sent Events: from `Last-Event-ID` or `after` on, else only new ones.

        A client that is too slow, or whose service stops, is let go, and misses nothing when it comes back.
        """
        given = Parameters(request, ("after", "movie_id", "kind"))
        after = given.get("after", whole_number(0, MAX_SEQ), None)
        query = _query(given)
        given.check()
        last = header_of(request, "last-event-id")
        stream = await feed.open(
            query,
            after if last is None else _event_id(last),
            actor=actor_of(request),
            still=still_may(request, access, Permission.READ),
        )
        if request.scope.get(HEAD_ONLY):
            stream.end()
        return EventStream(stream)


def _limit(given: Parameters, settings: Settings) -> int:
    largest = min(settings.max_page_limit, MAX_CHANGES)
    return given.get("limit", whole_number(1, largest), min(DEFAULT_LIMIT, largest))


def _query(given: Parameters, after: int = 0, limit: int = 1) -> ChangeQuery:
    movie_id = given.get("movie_id", whole_number(1, MAX_ID), None)
    kinds: frozenset[str] = given.get("kind", _words, frozenset())
    return given.attempt(
        lambda: ChangeQuery(after=after, limit=limit, movie_id=movie_id, kinds=kinds), ChangeQuery()
    )


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split(","))


def _event_id(text: str) -> int:
    try:
        return whole_number(0, MAX_SEQ)(text)
    except ValueError as error:
        raise MalformedRequest(f"Last-Event-ID {error}") from None


def _reverted_answer(reverted: Reverted) -> Answer:
    return tagged_answer(reverted.movie, *([(b"watchly-image", b"gone")] if reverted.image_lost else []))


def _version_in(value: object) -> int:
    """The version that the body of a revert names."""
    if not isinstance(value, dict):
        raise InvalidMovie([Fault("wrong_type", "must be a JSON object", pointer="#")])
    faults = [
        Fault("unknown_member", "is not a member of a revert", pointer=f"#/{name[:100]}")
        for name in list(value)[:20]
        if name != "version"
    ]
    version = value.get("version")
    if "version" not in value:
        faults.append(Fault("required", "is required", pointer="#/version"))
    elif not isinstance(version, int) or isinstance(version, bool):
        faults.append(Fault("wrong_type", "must be an integer", pointer="#/version"))
    if faults or not isinstance(version, int):
        raise InvalidMovie(faults)
    return version


def _of(movie_id: str) -> bytes:
    """What tells the cursors of one movie's history from those of another's."""
    return movie_id.encode() + b" "
