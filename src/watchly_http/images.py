"""The routes of the images of movies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import msgspec
from litestar import delete, post, put
from litestar.params import FromPath

from watchly_core import Movie
from watchly_core.errors import Fault, ImageNotFound, InvalidMovie, InvalidTicket
from watchly_core.images import MEDIA_TYPES, Ticket, claimed_format, is_key
from watchly_core.people import Permission
from watchly_core.spools import Spool
from watchly_http.answers import Answer, json_answer
from watchly_http.authorization import actor_of
from watchly_http.conditional import of_movie, precondition, tagged_answer
from watchly_http.forms import FORM, IMAGE, FilePart, read_form
from watchly_http.idempotency import Sending
from watchly_http.openapi import (
    IDEMPOTENCY_KEY,
    IF_MATCH,
    KEY,
    MOVIE_ID,
    POSITION,
    PURGE,
    Operation,
    Reply,
)
from watchly_http.parts import Catalogue, Gallery, Settings
from watchly_http.requests import (
    Parameters,
    Request,
    flag,
    media_type,
    parameter,
    read_id,
    read_json,
    require_plain,
    require_size,
    require_type,
    stream,
)
from watchly_http.routes import Routes

#: What a Content-Length can say.
_MOST_BYTES = 2**53 - 1

_encode = msgspec.json.Encoder().encode


class ImageForm(msgspec.Struct, frozen=True):
    """A form that holds an image."""

    image: FilePart


class TicketRequest(msgspec.Struct, frozen=True):
    """The image that a client wants to upload directly: its media type, and its size in bytes."""

    content_type: str
    bytes: int


class MovieImageController(Routes):
    """The image of a movie."""

    path = "/api/movies/{movie_id:str}/image"

    @put(
        "/",
        opt=Operation(
            "putMovieImage",
            "Set the image of a movie",
            needs=Permission.WRITE,
            tag="Images",
            parameters=(MOVIE_ID, IF_MATCH),
            # The form first: it says what its image is, where generated clients send the first of all types.
            body={FORM: ImageForm, **dict.fromkeys(sorted(set(MEDIA_TYPES) - {"image/jpg"}), bytes)},
            replies={200: Reply("The movie with its image.", Movie, headers=("ETag", POSITION))},
            problems=(
                "malformed_request",
                "not_found",
                "image_conflict",
                "version_conflict",
                "too_large",
                "unsupported_media_type",
                "validation",
                "image_unreadable",
            ),
        ).opt(),
    )
    async def attach(
        self, request: Request, movie_id: FromPath[str], catalogue: Catalogue, gallery: Gallery
    ) -> Answer:
        """Send the image as the body, its type as the Content-Type; or as the part `image` of a form."""
        sent_type: str | None = media_type(request)
        is_form = sent_type == FORM
        if not is_form:
            claimed_format(media_type(request))
        require_plain(request)
        wanted = precondition(request)
        number = read_id(movie_id)
        content: AsyncIterator[bytes] | Spool
        async with AsyncExitStack() as stack:
            if is_form:
                await catalogue.get(number)  # before all of the form is read
                form = await stack.enter_async_context(
                    read_form(request, fields=(), file=IMAGE, largest_text=0, largest_file=gallery.max_bytes)
                )
                if form.file is None:
                    raise InvalidMovie([Fault("required", "must be given", pointer=f"#/{IMAGE}")])
                content, sent_type = form.file.spool, form.file.media_type
            else:
                require_size(request, gallery.max_bytes)
                content = stream(request)
            version = await wanted.version(of_movie(number, catalogue))
            shown = await gallery.attach(number, content, sent_type, version=version, actor=actor_of(request))
        return tagged_answer(shown)

    @delete(
        "/",
        opt=Operation(
            "deleteMovieImage",
            "Remove the image of a movie",
            needs=Permission.WRITE,
            tag="Images",
            parameters=(MOVIE_ID, PURGE, IF_MATCH),
            replies={204: Reply("The movie has no image any more.", headers=(POSITION,))},
            problems=("malformed_request", "invalid_parameter", "not_found", "version_conflict"),
        ).opt(),
    )
    async def detach(
        self, request: Request, movie_id: FromPath[str], catalogue: Catalogue, gallery: Gallery
    ) -> None:
        """Take the image from the movie; `purge` does so without grace."""
        purge = parameter(request, "purge", flag, default=False)
        wanted = precondition(request)
        number = read_id(movie_id)
        version = await wanted.version(of_movie(number, catalogue))
        await gallery.detach(number, version=version, purge=purge, actor=actor_of(request))

    @post(
        "/tickets",
        opt=Operation(
            "issueImageTicket",
            "Get a ticket for a direct upload",
            needs=Permission.WRITE,
            tag="Images",
            parameters=(MOVIE_ID, IDEMPOTENCY_KEY),
            body={"application/json": TicketRequest},
            replies={
                201: Reply("How to send the image straight to where it is kept.", Ticket, headers=(POSITION,))
            },
            problems=(
                "malformed_request",
                "malformed_json",
                "invalid_parameter",
                "not_found",
                "too_large",
                "unsupported_media_type",
                "validation",
            ),
        ).opt(),
    )
    async def issue(
        self,
        request: Request,
        movie_id: FromPath[str],
        catalogue: Catalogue,
        gallery: Gallery,
        settings: Settings,
    ) -> Answer:
        """Get a ticket: with `fields`, send a form of them and of the image, last, as `file`; else the image.

        When it has arrived, complete the ticket. One that is not completed leaves nothing.
        """
        require_type(request)
        Parameters(request, ()).check()
        sending = Sending(request, actor_of(request).name)
        value = await read_json(request, settings.max_json_bytes)
        number = read_id(movie_id)
        try:
            wanted = _ticket_request(value)
        except InvalidTicket:
            await catalogue.get(number)  # a movie that is not there is said first
            raise
        return await sending.once(
            lambda receipt: gallery.uploads.issue(
                number, wanted.content_type, wanted.bytes, actor=actor_of(request), receipt=receipt
            ),
            _ticket_answer,
        )

    @post(
        "/tickets/{key:str}/complete",
        opt=Operation(
            "completeImageTicket",
            "Show what was uploaded directly",
            needs=Permission.WRITE,
            tag="Images",
            parameters=(MOVIE_ID, KEY, IF_MATCH, IDEMPOTENCY_KEY),
            replies={200: Reply("The movie with its image.", Movie, headers=("ETag", POSITION))},
            problems=(
                "malformed_request",
                "invalid_parameter",
                "not_found",
                "image_conflict",
                "upload_conflict",
                "version_conflict",
                "too_large",
                "unsupported_media_type",
                "image_unreadable",
            ),
        ).opt(),
    )
    async def complete(
        self,
        request: Request,
        movie_id: FromPath[str],
        key: FromPath[str],
        catalogue: Catalogue,
        gallery: Gallery,
    ) -> Answer:
        """Make what was uploaded by a ticket the image of the movie, once the store confirms it.

        What is not what the ticket allows is discarded. Completing a ticket again changes nothing.
        """
        Parameters(request, ()).check()
        wanted = precondition(request)
        sending = Sending(request, actor_of(request).name)
        number = read_id(movie_id)
        if not is_key(key):
            raise ImageNotFound("no ticket has this key")
        version = await wanted.version(of_movie(number, catalogue))
        return await sending.once(
            lambda receipt: gallery.uploads.complete(
                number, key, version=version, actor=actor_of(request), receipt=receipt
            ),
            tagged_answer,
        )


def _ticket_answer(ticket: Ticket) -> Answer:
    return json_answer(_encode(ticket), status=201)


def _ticket_request(value: object) -> TicketRequest:
    if not isinstance(value, dict):
        raise InvalidTicket([Fault("wrong_type", "must be a JSON object", pointer="#")])
    faults = [
        Fault("unknown_member", "is not a member of a ticket's request", pointer=f"#/{name[:100]}")
        for name in list(value)[:20]
        if name not in TicketRequest.__struct_fields__
    ]
    kind, size = value.get("content_type"), value.get("bytes")
    if not isinstance(kind, str):
        faults.append(Fault("wrong_type", "must be a media type", pointer="#/content_type"))
    if not isinstance(size, int) or isinstance(size, bool) or not 0 < size <= _MOST_BYTES:
        faults.append(Fault("wrong_type", "must be a number of bytes, 1 or more", pointer="#/bytes"))
    if faults or not isinstance(kind, str) or not isinstance(size, int):
        raise InvalidTicket(faults)
    return TicketRequest(kind, size)
