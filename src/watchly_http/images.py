"""The routes of images."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack

from litestar import Controller, Response, delete, get, put
from litestar.params import FromPath
from litestar.response import Stream

from watchly_core import Movie
from watchly_core.errors import ImageNotFound
from watchly_core.images import MEDIA_TYPES, claimed_format, is_key, sniff
from watchly_http.conditional import matches, precondition
from watchly_http.movies import ANONYMOUS, movie_reply
from watchly_http.openapi import IF_MATCH, MOVIE_ID, PURGE, Operation, Parameter, Reply
from watchly_http.parts import Catalogue, Gallery, ImageFiles
from watchly_http.requests import (
    HEAD_ONLY,
    Request,
    flag,
    media_type,
    parameter,
    read_id,
    require_plain,
    require_size,
    stream,
)


class MovieImageController(Controller):
    """The image of a movie."""

    path = "/api/movies/{movie_id:str}/image"

    @put(
        "/",
        opt=Operation(
            "putMovieImage",
            "Set the image of a movie",
            tag="Images",
            parameters=(MOVIE_ID, IF_MATCH),
            body=dict.fromkeys(sorted(set(MEDIA_TYPES) - {"image/jpg"}), bytes),
            replies={200: Reply("The movie with its image.", Movie, headers=("ETag",))},
            problems=(
                "malformed_request",
                "not_found",
                "image_conflict",
                "version_conflict",
                "too_large",
                "unsupported_media_type",
                "image_unreadable",
            ),
        ).opt(),
    )
    async def attach(
        self, request: Request, movie_id: FromPath[str], catalogue: Catalogue, gallery: Gallery
    ) -> Response[bytes]:
        """Send the image as the body, its type as the Content-Type."""
        claimed_format(media_type(request))
        require_plain(request)
        wanted = precondition(request)
        number = read_id(movie_id)
        require_size(request, gallery.max_bytes)
        version = await wanted.version(number, catalogue)
        shown = await gallery.attach(
            number, stream(request), media_type(request), version=version, actor=ANONYMOUS
        )
        return movie_reply(shown)

    @delete(
        "/",
        opt=Operation(
            "deleteMovieImage",
            "Remove the image of a movie",
            tag="Images",
            parameters=(MOVIE_ID, PURGE, IF_MATCH),
            replies={204: Reply("The movie has no image any more.")},
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
        version = await wanted.version(number, catalogue)
        await gallery.detach(number, version=version, purge=purge, actor=ANONYMOUS)


class ImageFileController(Controller):
    """Image files, where the store leaves serving them to this service."""

    path = "/images"

    @get(
        "/{key:str}",
        opt=Operation(
            "getImage",
            "Load an image",
            tag="Images",
            parameters=(
                Parameter("key", "The image's key.", str, "0123456789abcdef0123456789abcdef", place="path"),
            ),
            replies={
                200: Reply("The image.", bytes, media_types=("image/*",), headers=("ETag",)),
                304: Reply("It is unchanged."),
            },
            problems=("not_found",),
        ).opt(),
    )
    async def load(self, request: Request, key: FromPath[str], files: ImageFiles) -> Response[bytes] | Stream:
        """Load an image as it was uploaded."""
        headers = {
            # A key names the same bytes for ever.
            "ETag": f'"{key}"',
            "Cache-Control": "public, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
        if not is_key(key):
            raise ImageNotFound("no image has this key")
        async with AsyncExitStack() as stack:
            size, chunks = await stack.enter_async_context(files.read(key))
            if matches(request, headers["ETag"]):
                return Response(b"", status_code=304, headers=headers)
            first = await anext(chunks, b"")
            headers["Content-Length"] = str(size)
            body = _body(stack.pop_all(), first, chunks)
            await anext(body)
        if request.scope.get(HEAD_ONLY):
            await body.aclose()
        return Stream(body, media_type=f"image/{sniff(first)}", headers=headers)


async def _body(
    opened: AsyncExitStack, first: bytes, rest: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    async with opened:
        yield b""  # once begun, the generator closes the file however it ends
        yield first
        async for chunk in rest:
            yield chunk
