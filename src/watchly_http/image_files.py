"""The routes of image files, where the store leaves serving them to this service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

from litestar import Response, get, put
from litestar.params import FromPath

from watchly_core.errors import ImageNotFound
from watchly_core.images import RENDERED, SNIFF_BYTES, VARIANTS, Rendition, Variant, is_key, sniff
from watchly_core.people import Permission
from watchly_core.ports import ImageFile
from watchly_http.answers import Answer, AnyAnswer
from watchly_http.authorization import actor_of
from watchly_http.conditional import matches
from watchly_http.downloads import Download
from watchly_http.negotiation import Representation, acceptable
from watchly_http.openapi import IF_NONE_MATCH, KEY, Operation, Parameter, Reply
from watchly_http.parts import Gallery, Settings
from watchly_http.ranges import applies, content_range, requested
from watchly_http.requests import (
    HEAD_ONLY,
    MalformedRequest,
    Parameters,
    Request,
    header_of,
    media_type,
    parameter,
    require_plain,
    require_size,
    stream,
)
from watchly_http.routes import Routes

_WEBP, _AVIF = (Representation(f"image/{format_}") for format_ in RENDERED)

#: Images of up to so many bytes are read at once and sent as one message: as much as a piece of a larger one.
SMALL_BYTES: Final = 256 * 1024

_PUBLIC: Final = (b"cache-control", b"public, max-age=31536000, immutable")
_PRIVATE: Final = (b"cache-control", b"private, max-age=31536000, immutable")
_RANGES: Final = (b"accept-ranges", b"bytes")


class ImageFileController(Routes):
    """Image files."""

    path = "/images"

    @get(
        "/{key:str}",
        opt=Operation(
            "getImage",
            "Load an image",
            needs=Permission.READ,
            tag="Images",
            parameters=(
                KEY,
                Parameter("variant", f"A smaller image: {' or '.join(VARIANTS)}.", str, "thumbnail"),
                Parameter("Range", "The bytes to send, as one range.", str, "bytes=0-1023", place="header"),
                IF_NONE_MATCH,
            ),
            replies={
                200: Reply("The image.", bytes, media_types=("image/*",), headers=("ETag", "Accept-Ranges")),
                206: Reply(
                    "The bytes that were asked for.",
                    bytes,
                    media_types=("image/*",),
                    headers=("ETag", "Content-Range"),
                ),
                304: Reply("It is unchanged.", headers=("ETag",)),
            },
            problems=("invalid_parameter", "not_found", "not_acceptable", "range_not_satisfiable"),
        ).opt(),
    )
    async def load(
        self, request: Request, key: FromPath[str], gallery: Gallery, settings: Settings
    ) -> AnyAnswer:
        """Load an image as it was accepted, or a variant of it as WebP or AVIF, which the client takes."""
        return await load_image(request, key, gallery, settings)

    @put(
        "/{key:str}",
        opt=Operation(
            "putImage",
            "Upload by a ticket",
            needs=None,
            tag="Images",
            parameters=(
                KEY,
                Parameter("expires", "As the ticket says.", str, "1795000000"),
                Parameter("signature", "As the ticket says.", str, "5e3b…"),
                Parameter(
                    "Content-Range",
                    "Which bytes these are; `bytes */5000`, without a body, asks how many have arrived.",
                    str,
                    "bytes 0-999/5000",
                    place="header",
                ),
            ),
            body={"image/*": bytes},
            replies={
                202: Reply("A part of it is there.", headers=("Upload-Offset",)),
                204: Reply("All of it is there: complete the ticket.", headers=("Upload-Offset",)),
            },
            problems=(
                "malformed_request",
                "invalid_parameter",
                "signature_rejected",
                "not_found",
                "image_conflict",
                "upload_conflict",
                "too_large",
                "unsupported_media_type",
                "image_unreadable",
            ),
        ).opt(),
    )
    async def receive(self, request: Request, key: FromPath[str], gallery: Gallery) -> Response[bytes]:
        """Send an image, or its next bytes, to where a ticket says.

        What has arrived stays: an upload that breaks off goes on with a Content-Range.
        """
        given = Parameters(request, ("expires", "signature"))
        expires, signature = given.get("expires", str, ""), given.get("signature", str, "")
        given.check()
        require_plain(request)
        if not is_key(key):
            raise ImageNotFound("no ticket has this key")
        header = header_of(request, "content-range")
        part, total = content_range(header) if header is not None else (None, None)
        uploads = gallery.uploads
        if part is not None and not part:
            received, wanted = await uploads.received(key, expires=expires, signature=signature)
        else:
            require_size(request, gallery.max_bytes)
            received, wanted = await uploads.receive(
                key,
                stream(request) if part is None else _within(stream(request), part),
                media_type(request),
                expires=expires,
                signature=signature,
                start=0 if part is None else part.start,
                total=total,
            )
        return Response(
            b"",
            status_code=204 if received == wanted else 202,
            headers={"Upload-Offset": str(received)},
        )


async def load_image(request: Request, key: str, gallery: Gallery, settings: Settings) -> AnyAnswer:
    """The image that a request is for, or a part of it."""
    variant = parameter(request, "variant", _variant, default=None)
    if not is_key(key):
        raise ImageNotFound("no image has this key")
    rendition = None if variant is None else Rendition(variant, _format(request))
    # A key names the same bytes for ever.
    tag = f'"{key}"' if rendition is None else f'"{key}.{rendition.name}"'
    headers = ((b"etag", tag.encode()), _PUBLIC if settings.public_read else _PRIVATE, _RANGES)
    actor = actor_of(request)
    known = matches(request, tag)
    content = await gallery.content(key, rendition, at_most=0 if known else SMALL_BYTES, actor=actor)
    if known:
        return Answer(304, headers, b"")
    if content is not None:
        part = _part(request, tag, len(content))
        told = _told(rendition.format if rendition else sniff(content), part, len(content))
        if part is None:
            return Answer(200, headers + told, content)
        return Answer(206, headers + told, content[part.start : part.stop])
    async with AsyncExitStack() as stack:
        file = await stack.enter_async_context(gallery.load(key, rendition, actor=actor))
        part = _part(request, tag, file.size)
        told = _told(rendition.format if rendition else await _sniffed(file), part, file.size)
        body = _body(stack.pop_all(), file, range(file.size) if part is None else part)
        first = await anext(body, b"")
    if request.scope.get(HEAD_ONLY):
        await body.aclose()
    texts = {name.decode(): value.decode() for name, value in headers + told}
    return Download(first, body, texts, status_code=200 if part is None else 206)


def _part(request: Request, tag: str, size: int) -> range | None:
    """The bytes that a request asks for; None for all of them."""
    if not applies(header_of(request, "if-range"), tag):
        return None
    return requested(header_of(request, "range"), size)


def _told(format_: str, part: range | None, size: int) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that tell what the body is."""
    kind = (b"content-type", b"image/" + format_.encode())
    if part is None:
        return (kind, (b"content-length", b"%d" % size))
    place = (b"content-range", b"bytes %d-%d/%d" % (part[0], part[-1], size))
    return (place, kind, (b"content-length", b"%d" % len(part)))


def _variant(text: str) -> Variant | None:
    if text not in VARIANTS:
        raise ValueError(f"must be {' or '.join(VARIANTS)}")
    return VARIANTS[text]


def _format(request: Request) -> str:
    """The format of a variant: AVIF, which is smaller, where the client names it and likes it as much."""
    named = _AVIF.media_type in (header_of(request, "accept") or "").lower()
    chosen = acceptable(request, (_AVIF, _WEBP) if named else (_WEBP, _AVIF))
    return "avif" if chosen is _AVIF else "webp"


async def _within(content: AsyncIterator[bytes], part: range) -> AsyncIterator[bytes]:
    """`content`, which has as many bytes as its Content-Range says, or breaks off before."""
    left = len(part)
    async for chunk in content:
        left -= len(chunk)
        if left < 0:
            raise MalformedRequest("the body has more bytes than its Content-Range says")
        yield chunk


async def _sniffed(file: ImageFile) -> str:
    head = b"".join([chunk async for chunk in file.chunks(0, SNIFF_BYTES)])
    return sniff(head)


async def _body(opened: AsyncExitStack, file: ImageFile, wanted: range) -> AsyncGenerator[bytes, None]:
    async with opened:
        async for chunk in file.chunks(wanted.start, wanted.stop):
            yield chunk
